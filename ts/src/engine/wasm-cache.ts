/**
 * The caches of one sequence in linear memory: the reference's bytes, and what the engine needs beside them.
 *
 * Beside the stored tokens there is scratch: the accumulator of the cross-layer variants, and for each layer the
 * finished keys and values of the window, so that a token of the window is rematerialized once and not in every pass.
 *
 * @module
 */

import { accumulatorBytes } from '../cache/accumulator.js';
import { type CalibratedPlan, transformBytes } from '../cache/calibration.js';
import type { CacheBytes, KeysAndValues, LayerCache, LayerInput, ModelCache } from '../cache/contract.js';
import { ACCUMULATOR_INT8, sinksOf } from '../cache/layout.js';
import type { CacheOptions } from '../cache/options.js';
import type { LayerState } from '../cache/state.js';
import { addBytes, billAsBase, zeroBytes } from '../cache/stored-matrix.js';
import { CacheStateError, DisposedError, ShapeError } from '../errors.js';
import { type Matrix, matrix } from '../numerics/matrix.js';
import { placeTensors, type TensorPlace } from './block-layout.js';
import { BlockStore } from './block-store.js';
import type { LinearMemory } from './memory.js';
import type { BlockContext, LayerPlan, PassRows } from './plans/plan.js';
import { RecentBlocks } from './recent-blocks.js';
import type { Recorder } from './team.js';
import type { ThreadScratch } from './thread-scratch.js';

/** What all sequences with the same options share. */
export interface CachePlan {
  readonly options: CacheOptions;
  readonly layers: readonly LayerPlan[];
  readonly scratch: ThreadScratch;
  /** How layers are coded, if the caches are calibrated. */
  readonly calibrated?: CalibratedPlan;
}

/** The model, as far as its caches know it. */
export interface CacheHost {
  readonly memory: LinearMemory;
  /**
   * Makes sure that kernels can be called now.
   *
   * @returns makes calls at once
   * @throws {CacheStateError} if a forward pass is running
   * @throws {DisposedError} if the model is gone
   */
  direct(plan: CachePlan): Recorder;
  /** Computes the rows that a layer's cache may store, from a layer's input. Pointers are in `free`, too. */
  passRows(layer: number, plan: CachePlan, input: LayerInput): { rows: PassRows; free: readonly number[] };
  /** Adds bias, norm of heads to keys and bias to values, where a plan leaves them out. */
  finishRows(layer: number, plan: CachePlan, keys: number, values: number, tokens: number): void;
  /** Told what went wrong outside a pass; after an error from inside, the model refuses to go on. */
  noteFailure(error: unknown): void;
  /** Keeps a plan alive, or lets it go. */
  retain(plan: CachePlan): void;
  release(plan: CachePlan): void;
}

/** Finished keys and values of the window. */
export interface ExactWindow {
  /** f32 [kvDim, residualWindow rounded up to a multiple of 8] */
  readonly keysT: number;
  /** f32 [residualWindow, kvDim] */
  readonly values: number;
}

interface AccumulatorEntry {
  readonly pointer: number;
  /** The layer up to which it is summed; -1: none. */
  layer: number;
}

/** Everything of a sequence that takes linear memory. Apart from the cache, so that it can be freed after it. */
class CacheResources {
  readonly stores: readonly BlockStore[];
  readonly windows: (ExactWindow | undefined)[] = [];
  /** By block; blocks that no pass has visited have none. */
  readonly accumulators: (AccumulatorEntry | undefined)[] = [];
  readonly recent: RecentBlocks;
  readonly host: CacheHost;
  /** Not by way of the host, which may be gone when this is freed. */
  readonly #memory: LinearMemory;
  readonly #plan: CachePlan;
  #disposed = false;

  constructor(host: CacheHost, plan: CachePlan, stores: readonly BlockStore[]) {
    this.host = host;
    this.#memory = host.memory;
    this.#plan = plan;
    this.stores = stores;
    this.recent = new RecentBlocks(host.memory, plan.layers[0].kvDim, plan.layers.length);
    host.retain(plan);
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  truncateAccumulators(blocks: number): void {
    for (const entry of this.accumulators.splice(blocks)) if (entry) this.#memory.free(entry.pointer);
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const store of this.stores) store.dispose();
    for (const window of this.windows) {
      if (!window) continue;
      this.#memory.free(window.keysT);
      this.#memory.free(window.values);
    }
    this.truncateAccumulators(0);
    this.recent.dispose();
    this.host.release(this.#plan);
  }
}

/**
 * Frees what belonged to caches that nobody disposed of. An error here could reach nobody but the process itself,
 * which it would end; the model remembers it, and its next call says so.
 */
const registry = new FinalizationRegistry<CacheResources>((resources) => {
  try {
    resources.dispose();
  } catch (error) {
    resources.host.noteFailure(error);
  }
});

/** The caches of one sequence. */
export class WasmCache implements ModelCache {
  readonly backend = 'wasm';
  readonly options: CacheOptions;
  readonly layers: readonly WasmLayerCache[];
  /** @internal */
  readonly plan: CachePlan;
  /**
   * The model it belongs to.
   *
   * @internal
   */
  readonly host: CacheHost;
  readonly #resources: CacheResources;
  /** How an int8 accumulator lies in memory. */
  readonly #int8: TensorPlace | undefined;
  readonly #accumulatorColumns: number;
  /** Memory of one accumulator; the first one has room for the sinks, too. */
  readonly #accumulatorBytes: number;

  /** @internal */
  constructor(host: CacheHost, plan: CachePlan, stores?: readonly BlockStore[]) {
    this.host = host;
    this.plan = plan;
    this.options = plan.options;
    const own = stores ?? plan.layers.map(({ layout }) => new BlockStore(host.memory, layout));
    this.#resources = new CacheResources(host, plan, own);
    registry.register(this, this.#resources, this);
    this.layers = plan.layers.map((layer, index) => new WasmLayerCache(this, layer, own[index]));
    const { residualWindow, accumulator, predict } = plan.options;
    const columns = plan.layers.at(-1)?.layout.window[0].columns ?? 0;
    this.#accumulatorColumns = columns;
    if (accumulator === 'int8') {
      const format = ACCUMULATOR_INT8;
      const { places, bytes } = placeTensors([{ name: 'accumulator', columns, format }], residualWindow);
      this.#int8 = places[0];
      this.#accumulatorBytes = bytes;
    } else {
      this.#accumulatorBytes = Math.max(1, predict) * residualWindow * columns * 4;
    }
  }

  get length(): number {
    return this.layers[0].length;
  }

  get calibrated(): CalibratedPlan | undefined {
    return this.plan.calibrated;
  }

  trim(length: number): void {
    this.assertUsable();
    for (const layer of this.layers) layer.trim(length);
  }

  clone(): WasmCache {
    this.assertUsable();
    const copies: BlockStore[] = [];
    try {
      for (const layer of this.layers) copies.push(layer.store.clone());
    } catch (error) {
      for (const copy of copies) copy.dispose();
      throw error;
    }
    return new WasmCache(this.host, this.plan, copies);
  }

  bytes(): CacheBytes {
    const total = zeroBytes();
    const { accumulator, predict } = this.options;
    for (const layer of this.layers) addBytes(total, layer.bytes());
    for (const [index, entry] of this.#resources.accumulators.entries()) {
      if (!entry) continue;
      const rows = this.options.residualWindow - sinksOf(this.options, index);
      const summed = accumulatorBytes(accumulator, rows, this.#accumulatorColumns);
      total.scratch += summed * Math.min(Math.max(1, predict), this.layers.length);
    }
    if (this.calibrated) {
      total.plan = transformBytes(this.#accumulatorColumns, this.layers.length, predict);
    }
    total.scratch += this.recent.bytes;
    return total;
  }

  /** Bytes of linear memory that the sequence holds, scratch included; shared blocks count in full. */
  get allocatedBytes(): number {
    const { stores, windows, accumulators } = this.#resources;
    const { kvDim } = this.plan.layers[0];
    const tokens = this.options.residualWindow;
    const window = (Math.ceil(tokens / 8) * 8 + tokens) * kvDim * 4;
    return (
      stores.reduce((sum, store) => sum + store.allocatedBytes, 0) +
      windows.filter((each) => each !== undefined).length * window +
      accumulators.filter((each) => each !== undefined).length * this.#accumulatorBytes +
      this.recent.bytes
    );
  }

  /**
   * What guesses attend to of sealed blocks.
   *
   * @internal
   */
  get recent(): RecentBlocks {
    return this.#resources.recent;
  }

  /** Gives the memory back; the cache cannot be used afterwards. */
  dispose(): void {
    registry.unregister(this);
    this.#resources.dispose();
  }

  /** The same, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /**
   * @throws {DisposedError} after {@link dispose}
   * @internal
   */
  assertUsable(): void {
    if (this.#resources.disposed) throw new DisposedError('cache');
  }

  /**
   * Finished keys and values of a layer's window.
   *
   * @throws {MemoryError} if there is no room
   * @internal
   */
  exactWindow(layer: number): ExactWindow {
    const known = this.#resources.windows[layer];
    if (known) return known;
    const { memory } = this.host;
    const tokens = this.options.residualWindow;
    const { kvDim } = this.plan.layers[layer];
    const keysT = memory.allocate(Math.ceil(tokens / 8) * 8 * kvDim * 4, 'window of the cache');
    try {
      const values = memory.allocate(tokens * kvDim * 4, 'window of the cache');
      return (this.#resources.windows[layer] = { keysT, values });
    } catch (error) {
      memory.free(keysT);
      throw error;
    }
  }

  /**
   * What reading or sealing a block of a layer needs, noting that the layer's sum will be there.
   *
   * @param sealing whether the block is being written
   * @throws {CacheStateError} if a cross-layer variant is used out of layer order
   * @throws {MemoryError} if there is no room for the accumulator
   * @internal
   */
  context(layer: number, index: number, block: number, sealing: boolean): BlockContext {
    const plan = this.plan.layers[layer];
    const { store } = this.layers[layer];
    const common = { store, index, block, places: plan.layout.at(index), scratch: this.plan.scratch };
    if (!plan.accumulates) return { ...common, advance: true };
    const base = this.calibrated ? 0 : this.options.baseLayers - 1; // the layer that needs none below
    if (this.options.accumulator === 'recompute') {
      const below = this.layers.slice(base, layer).map((other) => ({
        plan: other.plan,
        block: other.store.block(index),
      }));
      return { ...common, below, advance: true };
    }
    const entry = (this.#resources.accumulators[index] ??= {
      pointer: this.host.memory.allocate(this.#accumulatorBytes, 'accumulator of the cache'),
      layer: -1,
    });
    const reached = !sealing && entry.layer === layer && layer !== base;
    if (layer !== base && !reached && entry.layer !== layer - 1) {
      const at = entry.layer < 0 ? 'has not been started' : `stands at layer ${entry.layer}`;
      const reason = `layers must be visited in order, and the accumulator ${at}`;
      throw new CacheStateError('xquant-cl', this.length, `use layer ${layer} of block ${index}`, reason);
    }
    entry.layer = layer;
    return { ...common, accumulator: { pointer: entry.pointer, int8: this.#int8 }, advance: !reached };
  }

  /**
   * Forgets the accumulators of blocks from `blocks` on, and how far the others have come.
   *
   * @internal
   */
  resetAccumulators(blocks: number, restart: boolean): void {
    this.#resources.truncateAccumulators(blocks);
    if (restart) for (const entry of this.#resources.accumulators) if (entry) entry.layer = -1;
  }

  /**
   * Remembers the contents of all layers.
   *
   * @internal
   */
  begin(): void {
    for (const { store } of this.layers) store.begin();
  }

  /**
   * Keeps what was done since {@link begin}.
   *
   * @internal
   */
  commit(): void {
    for (const { store } of this.layers) store.commit();
  }

  /**
   * Takes back what was done since {@link begin}.
   *
   * @internal
   */
  rollback(): void {
    for (const layer of this.layers) layer.rollback();
    this.resetAccumulators(this.layers[0].store.blocks, true);
  }
}

/** The cache of one layer. */
export class WasmLayerCache implements LayerCache {
  readonly plan: LayerPlan;
  readonly store: BlockStore;
  readonly #cache: WasmCache;
  /** Tokens of the exact window that are as the window stores them, and the block they will be part of. */
  #exactTokens = 0;
  #exactBlock = -1;

  constructor(cache: WasmCache, plan: LayerPlan, store: BlockStore) {
    this.#cache = cache;
    this.plan = plan;
    this.store = store;
  }

  get length(): number {
    return this.store.length;
  }

  append(input: LayerInput): void {
    this.#cache.assertUsable();
    const { layer } = this.plan;
    const { host, plan } = this.#cache;
    const tokens = input.x.rows;
    assertInput(input, plan.layers[layer].hiddenSize);
    const recorder = host.direct(plan);
    const { rows, free } = host.passRows(layer, plan, input);
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
    this.#cache.assertUsable();
    const { host, plan } = this.#cache;
    const { memory } = host;
    const { kvDim } = this.plan;
    const tokens = this.options.residualWindow;
    const recorder = host.direct(plan);
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
        const context = this.#cache.context(this.plan.layer, index, this.store.block(index), false);
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
    this.#cache.assertUsable();
    const blocks = this.store.blocks;
    this.store.trim(length);
    if (this.store.blocks !== blocks) this.#exactBlock = -1;
    this.#exactTokens = Math.min(this.#exactTokens, this.store.windowTokens);
    this.#cache.recent.truncate(this.plan.layer, this.store.blocks);
    if (this.plan.accumulates) this.#cache.resetAccumulators(this.store.blocks, false);
  }

  bytes(): CacheBytes {
    const bytes = this.store.bytes();
    return this.plan.isBase ? billAsBase(bytes) : bytes;
  }

  state(): LayerState {
    this.#cache.assertUsable();
    return this.store.state();
  }

  restore(state: LayerState): void {
    this.#cache.assertUsable();
    this.store.restore(state);
    this.#exactBlock = -1;
    this.#cache.recent.truncate(this.plan.layer, 0);
    this.#cache.resetAccumulators(this.store.blocks, true);
  }

  /** Takes back what was done since the store's `begin`. */
  rollback(): void {
    this.store.rollback();
    this.#exactBlock = -1;
    this.#cache.recent.truncate(this.plan.layer, 0); // some may never have been filled
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
    const { scratch } = this.#cache.plan;
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
        const context = this.#cache.context(plan.layer, index, block, true);
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
    return this.#cache.options;
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
