/**
 * Layers whose window is one tensor, from whose rows keys and values are rebuilt: what x-plan.ts, cross-layer-plan.ts
 * and calibrated-plan.ts share.
 *
 * @module
 */

import { recordLoad } from '../small-product.js';
import type { Recorder } from '../team.js';
import type { ThreadScratch } from '../thread-scratch.js';
import { type BlockContext, LayerPlan } from './plan.js';

/** See the module. */
export abstract class RowPlan extends LayerPlan {
  readonly storesFinished = false;

  /**
   * Records keys and values of exact rows, as {@link recordReadWindow} gives them.
   *
   * @param rows f32 [count, columns of the window], may be overwritten
   */
  protected abstract recordExact(
    recorder: Recorder,
    rows: number,
    count: number,
    keys: number,
    values: number,
    scratch: ThreadScratch,
  ): void;

  recordReadWindow(
    recorder: Recorder,
    window: number,
    first: number,
    count: number,
    keys: number,
    values: number,
    scratch: ThreadScratch,
  ): void {
    const { rows } = scratch;
    this.recordLoadRows(recorder, this.layout.window[0], window, first, count, rows, scratch);
    this.recordExact(recorder, rows, count, keys, values, scratch);
  }

  /** Records the keys of a block's sinks, from exact rows: f32 [sinkRows, kvDim]. Overwrites `rows` and `otherRows`. */
  protected recordSinkKeys(recorder: Recorder, { block, places, scratch }: BlockContext, keys: number): void {
    const { sinkRows, sinks } = places;
    if (sinkRows === 0) return;
    const { rows, otherRows } = scratch;
    recordLoad(recorder, sinks[0], block, sinkRows, rows, scratch);
    this.recordExact(recorder, rows, sinkRows, keys, otherRows, scratch);
  }
}
