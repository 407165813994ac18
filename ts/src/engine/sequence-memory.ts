/**
 * Everything of a sequence that takes linear memory, and the state of what its layers share: accumulators of
 * cross-layer variants, exact windows. Apart from the cache, so that it can be freed after it.
 *
 * @module
 */

import { accumulatorBytes } from '../cache/accumulator.js';
import { ACCUMULATOR_INT8, sinksOf } from '../cache/layout.js';
import { CacheStateError, DisposedError } from '../errors.js';
import { placeTensors, type TensorPlace } from './block-layout.js';
import { BlockStore } from './block-store.js';
import type { CacheHost, CachePlan } from './cache-host.js';
import type { LinearMemory } from './memory.js';
import type { BlockContext } from './plans/plan.js';
import { RecentBlocks } from './recent-blocks.js';

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

/** See the module. */
export class SequenceMemory {
  readonly host: CacheHost;
  readonly plan: CachePlan;
  /** The store of each layer. */
  readonly stores: readonly BlockStore[];
  /** Keys and values of sealed blocks for guesses. */
  readonly recent: RecentBlocks;
  /** Width of an accumulator's rows. */
  readonly accumulatorColumns: number;
  /** Held directly: the host may already be disposed when this is freed. */
  readonly #memory: LinearMemory;
  readonly #windows: (ExactWindow | undefined)[] = [];
  /** By block; blocks that no pass has visited have none. */
  readonly #accumulators: (AccumulatorEntry | undefined)[] = [];
  /** Layout of an int8 accumulator. */
  readonly #int8: TensorPlace | undefined;
  /** Memory of one accumulator; the first one has room for the sinks, too. */
  readonly #accumulatorBytes: number;
  #disposed = false;

  /** @param stores of each layer; empty ones if not given */
  constructor(host: CacheHost, plan: CachePlan, stores?: readonly BlockStore[]) {
    this.host = host;
    this.plan = plan;
    this.#memory = host.memory;
    this.stores = stores ?? plan.layers.map(({ layout }) => new BlockStore(host.memory, layout));
    this.recent = new RecentBlocks(host.memory, plan.layers[0].kvDim, plan.layers.length);
    const { residualWindow, accumulator, predict } = plan.options;
    const columns = plan.layers.at(-1)?.layout.window[0].columns ?? 0;
    this.accumulatorColumns = columns;
    if (accumulator === 'int8') {
      const format = ACCUMULATOR_INT8;
      const { places, bytes } = placeTensors([{ name: 'accumulator', columns, format }], residualWindow);
      this.#int8 = places[0];
      this.#accumulatorBytes = bytes;
    } else {
      this.#accumulatorBytes = Math.max(1, predict) * residualWindow * columns * 4;
    }
    host.retain(plan);
  }

  /** @throws {DisposedError} after {@link dispose} */
  assertUsable(): void {
    if (this.#disposed) throw new DisposedError('cache');
  }

  /**
   * Finished keys and values of a layer's window.
   *
   * @throws {MemoryError} if there is no room
   */
  exactWindow(layer: number): ExactWindow {
    const known = this.#windows[layer];
    if (known) return known;
    const memory = this.#memory;
    const tokens = this.plan.options.residualWindow;
    const { kvDim } = this.plan.layers[layer];
    const keysT = memory.allocate(Math.ceil(tokens / 8) * 8 * kvDim * 4, 'window of the cache');
    try {
      const values = memory.allocate(tokens * kvDim * 4, 'window of the cache');
      return (this.#windows[layer] = { keysT, values });
    } catch (error) {
      memory.free(keysT);
      throw error;
    }
  }

  /**
   * The context for reading or sealing a block of a layer. Notes that the layer's sum will be there.
   *
   * @param sealing whether the block is being written
   * @throws {CacheStateError} if a cross-layer variant is used out of layer order
   * @throws {MemoryError} if there is no room for the accumulator
   */
  context(layer: number, index: number, block: number, sealing: boolean): BlockContext {
    const { layers, options, scratch, calibrated } = this.plan;
    const plan = layers[layer];
    const store = this.stores[layer];
    const common = { store, index, block, places: plan.layout.at(index), scratch };
    if (!plan.accumulates) return { ...common, advance: true };
    const base = calibrated ? 0 : options.baseLayers - 1; // the layer that needs none below
    if (options.accumulator === 'recompute') {
      const below = layers.slice(base, layer).map((other, i) => ({
        plan: other,
        block: this.stores[base + i].block(index),
      }));
      return { ...common, below, advance: true };
    }
    const entry = (this.#accumulators[index] ??= {
      pointer: this.#memory.allocate(this.#accumulatorBytes, 'accumulator of the cache'),
      layer: -1,
    });
    const reached = !sealing && entry.layer === layer && layer !== base;
    if (layer !== base && !reached && entry.layer !== layer - 1) {
      const at = entry.layer < 0 ? 'has not been started' : `stands at layer ${entry.layer}`;
      const reason = `layers must be visited in order, and the accumulator ${at}`;
      throw new CacheStateError(
        'xquant-cl',
        this.stores[0].length,
        `use layer ${layer} of block ${index}`,
        reason,
      );
    }
    entry.layer = layer;
    return { ...common, accumulator: { pointer: entry.pointer, int8: this.#int8 }, advance: !reached };
  }

  /**
   * Forgets the accumulators of blocks from `blocks` on, and how far the others have come.
   */
  resetAccumulators(blocks: number, restart: boolean): void {
    for (const entry of this.#accumulators.splice(blocks)) if (entry) this.#memory.free(entry.pointer);
    if (restart) for (const entry of this.#accumulators) if (entry) entry.layer = -1;
  }

  /** Bytes of scratch that layers share, as the reference counts them. */
  get scratchBytes(): number {
    const { options, layers } = this.plan;
    const { accumulator, predict, residualWindow } = options;
    const kept = Math.min(Math.max(1, predict), layers.length);
    let bytes = this.recent.bytes;
    for (const [index, entry] of this.#accumulators.entries()) {
      const rows = residualWindow - sinksOf(options, index);
      if (entry) bytes += accumulatorBytes(accumulator, rows, this.accumulatorColumns) * kept;
    }
    return bytes;
  }

  /** Bytes of linear memory; shared blocks count in full. */
  get allocatedBytes(): number {
    const { kvDim } = this.plan.layers[0];
    const tokens = this.plan.options.residualWindow;
    const window = (Math.ceil(tokens / 8) * 8 + tokens) * kvDim * 4;
    return (
      this.stores.reduce((sum, store) => sum + store.allocatedBytes, 0) +
      this.#windows.filter((each) => each !== undefined).length * window +
      this.#accumulators.filter((each) => each !== undefined).length * this.#accumulatorBytes +
      this.recent.bytes
    );
  }

  /** Gives everything back. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const store of this.stores) store.dispose();
    for (const window of this.#windows) {
      if (!window) continue;
      this.#memory.free(window.keysT);
      this.#memory.free(window.values);
    }
    this.resetAccumulators(0, false);
    this.recent.dispose();
    this.host.release(this.plan);
  }
}
