/**
 * The cache of one layer of one sequence in linear memory.
 *
 * @module
 */

import type { CacheBytes, KeysAndValues, LayerCache, LayerInput } from '../cache/contract.js';
import type { CacheOptions } from '../cache/options.js';
import type { LayerState } from '../cache/state.js';
import { billAsBase } from '../cache/stored-matrix.js';
import { ShapeError } from '../errors.js';
import { type Matrix, matrix } from '../numerics/matrix.js';
import type { BlockStore } from './block-store.js';
import type { LayerPlan, PassRows } from './plans/plan.js';
import type { SequenceMemory } from './sequence-memory.js';
import type { Recorder } from './team.js';

/** See the module. */
export class WasmLayerCache implements LayerCache {
  readonly plan: LayerPlan;
  readonly store: BlockStore;
  readonly #sequence: SequenceMemory;
  /** Tokens of the exact window that are as the window stores them, and the block they will be part of. */
  #exactTokens = 0;
  #exactBlock = -1;

  constructor(sequence: SequenceMemory, layer: number) {
    this.#sequence = sequence;
    this.plan = sequence.plan.layers[layer];
    this.store = sequence.stores[layer];
  }

  get length(): number {
    return this.store.length;
  }

  append(input: LayerInput): void {
    this.#sequence.assertUsable();
    const { layer } = this.plan;
    const { host, plan } = this.#sequence;
    const tokens = input.x.rows;
    assertInput(input, plan.layers[layer].hiddenSize);
    const recorder = host.immediate(plan);
    const { rows, free } = host.inputRows(layer, plan, input);
    this.store.begin();
    try {
      this.recordAppend(recorder, rows, 0, tokens);
      this.store.commit();
    } catch (error) {
      host.noteFailure(error);
      this.rollback();
      throw error;
    } finally {
      for (const pointer of free) host.memory.free(pointer);
    }
  }

  keysAndValues(): KeysAndValues {
    this.#sequence.assertUsable();
    const { host, plan } = this.#sequence;
    const { memory } = host;
    const { kvDim } = this.plan;
    const tokens = this.options.residualWindow;
    const recorder = host.immediate(plan);
    const keys = matrix(this.length, kvDim);
    const values = matrix(this.length, kvDim);
    const size = tokens * kvDim * 4;
    const buffer = memory.allocate(2 * size, 'scratch');
    const take = (first: number, count: number): void => {
      host.finishRows(this.plan.layer, plan, buffer, buffer + size, count);
      keys.data.set(memory.readFloats(buffer, count * kvDim), first * kvDim);
      values.data.set(memory.readFloats(buffer + size, count * kvDim), first * kvDim);
    };
    try {
      for (let index = 0; index < this.store.blocks; index++) {
        const context = this.#sequence.context(this.plan.layer, index, this.store.block(index), false);
        this.plan.recordReadRows(recorder, context, buffer, buffer + size);
        take(index * tokens, tokens);
      }
      const { windowTokens, sealedTokens } = this.store;
      if (windowTokens > 0) {
        const window = this.store.window();
        this.plan.recordReadWindow(recorder, window, 0, windowTokens, buffer, buffer + size, plan.scratch);
        take(sealedTokens, windowTokens);
      }
    } catch (error) {
      host.noteFailure(error);
      throw error;
    } finally {
      memory.free(buffer);
    }
    return { keys, values };
  }

  trim(length: number): void {
    this.#sequence.assertUsable();
    const blocks = this.store.blocks;
    this.store.trim(length);
    if (this.store.blocks !== blocks) this.#exactBlock = -1;
    this.#exactTokens = Math.min(this.#exactTokens, this.store.windowTokens);
    this.#sequence.recent.truncate(this.plan.layer, this.store.blocks);
    if (this.plan.accumulates) this.#sequence.resetAccumulators(this.store.blocks, false);
  }

  bytes(): CacheBytes {
    const bytes = this.store.bytes();
    return this.plan.isBase ? billAsBase(bytes) : bytes;
  }

  state(): LayerState {
    this.#sequence.assertUsable();
    return this.store.state();
  }

  restore(state: LayerState): void {
    this.#sequence.assertUsable();
    this.store.restore(state);
    this.#exactBlock = -1;
    this.#sequence.recent.truncate(this.plan.layer, 0);
    this.#sequence.resetAccumulators(this.store.blocks, true);
  }

  /** Takes back what was done since the store's `begin`. */
  rollback(): void {
    this.store.rollback();
    this.#exactBlock = -1;
    this.#sequence.recent.truncate(this.plan.layer, 0); // some may never have been filled
  }

  /**
   * Records the storing of rows as the next tokens, as tasks of the current stage; blocks that become complete are
   * sealed.
   *
   * @param first row of `rows`
   * @throws {MemoryError} if there is no room; `store.rollback` is then due
   * @throws {CacheStateError} if a cross-layer variant is used out of layer order
   */
  recordAppend(recorder: Recorder, rows: PassRows, first: number, count: number): void {
    const { store, plan } = this;
    const tokens = this.options.residualWindow;
    const { scratch } = this.#sequence.plan;
    for (let done = 0; done < count; ) {
      const slot = store.windowTokens;
      const taken = Math.min(tokens - slot, count - done);
      const whole = taken === tokens;
      const window = whole ? scratch.window : store.window();
      recorder.task();
      if (plan.down.length > 0) {
        const x = rows.x + (first + done) * plan.hiddenSize * 4;
        plan.recordFiniteCheck(recorder, x, taken, store.length);
      }
      plan.recordWindow(recorder, rows, first + done, taken, window, slot, store.length, scratch);
      if (slot + taken === tokens) {
        const index = store.blocks;
        const block = store.newBlock();
        store.seal(block, !whole);
        const context = this.#sequence.context(plan.layer, index, block, true);
        plan.recordSeal(recorder, window, context);
      }
      done += taken;
      store.setLength(store.length + taken);
    }
  }

  /**
   * Tells which tokens of the exact window have to be computed before it can be read, and notes that they will be.
   *
   * @returns first token of the window that is missing
   */
  takeMissing(): number {
    if (this.#exactBlock !== this.store.blocks) {
      this.#exactBlock = this.store.blocks;
      this.#exactTokens = 0;
    }
    const first = this.#exactTokens;
    this.#exactTokens = this.store.windowTokens;
    return first;
  }

  private get options(): CacheOptions {
    return this.#sequence.plan.options;
  }
}

function assertInput(input: LayerInput, hiddenSize: number): void {
  for (const name of ['x', 'normalized', 'stream'] as const) {
    const { rows, columns }: Matrix = input[name];
    if (rows !== input.x.rows || columns !== hiddenSize) {
      throw new ShapeError('append', name, [input.x.rows, hiddenSize], [rows, columns]);
    }
  }
}
