/**
 * The caches of one sequence in linear memory: the reference's bytes, and what the engine needs beside them.
 *
 * Beside the stored tokens there is scratch: the accumulator of the cross-layer variants, and for each layer the
 * finished keys and values of the window, so that a token of the window is rematerialized once and not in every pass.
 *
 * @module
 */

import { type CalibratedPlan, transformBytes } from '../cache/calibration.js';
import type { CacheBytes, ModelCache } from '../cache/contract.js';
import type { CacheOptions } from '../cache/options.js';
import { addBytes, zeroBytes } from '../cache/stored-matrix.js';
import type { BlockStore } from './block-store.js';
import type { CacheHost, CachePlan } from './cache-host.js';
import { SequenceMemory } from './sequence-memory.js';
import { WasmLayerCache } from './wasm-layer-cache.js';

/**
 * Frees what belonged to caches that nobody disposed of. An error here could reach nobody but the process itself,
 * which it would end; the model remembers it, and its next call says so.
 */
const registry = new FinalizationRegistry<SequenceMemory>((memory) => {
  try {
    memory.dispose();
  } catch (error) {
    memory.host.noteFailure(error);
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
  /**
   * Its linear memory.
   *
   * @internal
   */
  readonly memory: SequenceMemory;

  /** @internal */
  constructor(host: CacheHost, plan: CachePlan, stores?: readonly BlockStore[]) {
    this.host = host;
    this.plan = plan;
    this.options = plan.options;
    this.memory = new SequenceMemory(host, plan, stores);
    registry.register(this, this.memory, this);
    this.layers = plan.layers.map((_, index) => new WasmLayerCache(this.memory, index));
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
    for (const layer of this.layers) addBytes(total, layer.bytes());
    total.scratch += this.memory.scratchBytes;
    if (this.calibrated) {
      const { accumulatorColumns } = this.memory;
      total.plan = transformBytes(accumulatorColumns, this.layers.length, this.options.predict);
    }
    return total;
  }

  /** Bytes of linear memory that the sequence holds, scratch included; shared blocks count in full. */
  get allocatedBytes(): number {
    return this.memory.allocatedBytes;
  }

  /** Gives the memory back; the cache cannot be used afterwards. */
  dispose(): void {
    registry.unregister(this);
    this.memory.dispose();
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
    this.memory.assertUsable();
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
    this.memory.resetAccumulators(this.layers[0].store.blocks, true);
  }
}
