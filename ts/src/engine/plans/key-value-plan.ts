/**
 * Layers that store finished keys and values: cache/kv.ts on the engine.
 *
 *     seal    f16: copied from the window          quantized: Q(K), Q(V)
 *     read    f16: attention reads the block       quantized: dequantize
 *
 * @module
 */

import type { LayoutOf } from '../../cache/layout.js';
import { recordLoad, recordStore } from '../small-product.js';
import type { Recorder } from '../team.js';
import type { ThreadScratch } from '../thread-scratch.js';
import { type BlockContext, LayerPlan, type PlanSource, type ReadBlock } from './plan.js';

/** See the module. */
export class KeyValuePlan extends LayerPlan {
  readonly storesFinished = true;
  readonly latentWidth = 0;

  constructor(source: PlanSource, layout: LayoutOf<'keysAndValues'>) {
    super(source, layout);
  }

  override get f16Places(): { keys: number; values: number } | undefined {
    const { places } = this.layout;
    const [keys, values] = places.sealed;
    if (keys.format !== 'f16' || values.format !== 'f16') return undefined;
    return { keys: keys.data, values: values.data };
  }

  protected recordSealCoded(recorder: Recorder, window: number, context: BlockContext): void {
    const { block, scratch, places } = context;
    const { sinkRows, rows } = places;
    this.layout.window.forEach((place, index) => {
      const sealed = places.sealed[index];
      this.recordLoadRows(recorder, place, window, sinkRows, rows, scratch.rows, scratch);
      recordStore(recorder, sealed, scratch.rows, block, rows, scratch, this.groupError(sealed, context));
    });
  }

  recordReadRows(recorder: Recorder, context: BlockContext, keys: number, values: number): ReadBlock {
    const { block, scratch, places } = context;
    const { sinkRows, rows } = places;
    const targets = [keys, values || scratch.values];
    const sinkBytes = sinkRows * this.kvDim * 4;
    for (const [index, target] of targets.entries()) {
      const sinks = places.sinks.at(index);
      if (sinks) recordLoad(recorder, sinks, block, sinkRows, target, scratch);
      recordLoad(recorder, places.sealed[index], block, rows, target + sinkBytes, scratch);
    }
    return { values: targets[1], stride: this.kvDim };
  }

  recordReadWindow(
    recorder: Recorder,
    window: number,
    first: number,
    count: number,
    keys: number,
    values: number,
    scratch: ThreadScratch,
  ): void {
    const [keyPlace, valuePlace] = this.layout.window;
    this.recordLoadRows(recorder, keyPlace, window, first, count, keys, scratch);
    this.recordLoadRows(recorder, valuePlace, window, first, count, values, scratch);
  }
}
