/**
 * Layers that store X in the singular directions of Wk and Wv: cache/xquant-gqa.ts on the engine (XQuant §3.3.1).
 *
 *     store   X Uk, X Uv                     products of the pass, beside queries
 *     seal    Q(X Uk), Q(X Uv)               channel 0 of the keys apart, if it stays in f16
 *     read    K = codes(X Uk) (Sk Bk^T)      without dequantizing; with channel 0 in f16, from rows
 *             latents (X Uv)^                attention averages them, then multiplies by Sv Bv^T once
 *
 * @module
 */

import type { LayoutOf } from '../../cache/layout.js';
import { rotateLatent } from '../../cache/xquant-gqa.js';
import type { TensorPlace } from '../block-layout.js';
import { recordLoad, recordStore, type SmallProduct } from '../small-product.js';
import type { Recorder } from '../team.js';
import type { ThreadScratch } from '../thread-scratch.js';
import { type BlockContext, LayerPlan, type PlanSource, type ReadBlock } from './plan.js';

/** See the module. */
export class LatentPlan extends LayerPlan {
  readonly storesFinished = false;
  readonly latentWidth: number;
  override readonly down: readonly SmallProduct[];
  override readonly valueProduct: SmallProduct;
  /** Stored latents to keys. */
  readonly #keyProduct: SmallProduct;
  /** f32 latents to keys. */
  readonly #keyRowsProduct: SmallProduct;

  constructor(source: PlanSource, layout: LayoutOf<'latents'>) {
    super(source, layout);
    const { options, factors, projection, keyWeights } = source;
    const keys = rotateLatent(factors.factors(projection.layer, 'key'), options);
    const values = rotateLatent(factors.factors(projection.layer, 'value'), options);
    this.latentWidth = values.downProjection.rows;
    const tokens = options.residualWindow;
    const exact = { tokens, rows: true, keyWeights: 'exact' } as const;
    this.down = [keys, values].map(({ downProjection }) => this.product(downProjection, exact));
    const { keyOutlier, keyLatent } = latentPlaces(this.layout.places.sealed);
    const dequantize = keyOutlier !== undefined;
    const stored = { tokens, rows: false, keyWeights, format: keyLatent.format, dequantize };
    this.#keyProduct = this.product(keys.upProjection, stored);
    this.#keyRowsProduct = this.product(keys.upProjection, exact);
    this.valueProduct = this.product(values.upProjection, exact);
  }

  protected recordSealCoded(recorder: Recorder, window: number, context: BlockContext): void {
    const { block, scratch, places } = context;
    const { sinkRows, rows: count } = places;
    const [keyPlace, valuePlace] = this.layout.window;
    const { keyOutlier, keyLatent, valueLatent } = latentPlaces(places.sealed);
    const store = (place: TensorPlace, source: number) =>
      recordStore(recorder, place, source, block, count, scratch, this.groupError(place, context));
    const { rows } = scratch;

    this.recordLoadRows(recorder, keyPlace, window, sinkRows, count, rows, scratch);
    if (keyOutlier) {
      const width = keyPlace.columns;
      recorder.call('copyRows', rows, width, scratch.values, 1, count, 1);
      recorder.call('copyRows', rows + 4, width, scratch.otherRows, width - 1, count, width - 1);
      store(keyOutlier, scratch.values);
      store(keyLatent, scratch.otherRows);
    } else {
      store(keyLatent, rows);
    }
    this.recordLoadRows(recorder, valuePlace, window, sinkRows, count, rows, scratch);
    store(valueLatent, rows);
  }

  recordReadRows(recorder: Recorder, context: BlockContext, keys: number, values: number): ReadBlock {
    const { block, scratch, places } = context;
    const { sinkRows, rows: count } = places;
    const [keySinks, valueSinks] = places.sinks;
    const { keyOutlier, keyLatent, valueLatent } = latentPlaces(places.sealed);

    if (sinkRows > 0) {
      recordLoad(recorder, keySinks, block, sinkRows, scratch.rows, scratch);
      this.#keyRowsProduct.recordRows(recorder, scratch.rows, sinkRows, keys, scratch);
    }
    const codedKeys = keys + sinkRows * this.kvDim * 4;
    if (keyOutlier) {
      const { rows, otherRows } = scratch;
      const width = this.#keyProduct.inputs;
      recordLoad(recorder, keyOutlier, block, count, scratch.values, scratch);
      recordLoad(recorder, keyLatent, block, count, otherRows, scratch);
      recorder.call('copyRows', scratch.values, 1, rows, width, count, 1);
      recorder.call('copyRows', otherRows, width - 1, rows + 4, width, count, width - 1);
      this.#keyRowsProduct.recordRows(recorder, rows, count, codedKeys, scratch);
    } else {
      this.#keyProduct.recordStored(recorder, keyLatent, block, count, codedKeys, scratch);
    }

    const latents = values ? scratch.rows : scratch.values;
    if (sinkRows > 0) recordLoad(recorder, valueSinks, block, sinkRows, latents, scratch);
    const codedLatents = latents + sinkRows * this.latentWidth * 4;
    recordLoad(recorder, valueLatent, block, count, codedLatents, scratch);
    if (!values) return { values: latents, stride: this.latentWidth };
    this.valueProduct.recordRows(recorder, latents, sinkRows + count, values, scratch);
    return { values, stride: this.kvDim };
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
    const { rows } = scratch;
    this.recordLoadRows(recorder, keyPlace, window, first, count, rows, scratch);
    this.#keyRowsProduct.recordRows(recorder, rows, count, keys, scratch);
    this.recordLoadRows(recorder, valuePlace, window, first, count, rows, scratch);
    this.valueProduct.recordRows(recorder, rows, count, values, scratch);
  }
}

/** The sealed tensors by name; `keyOutlier` only if channel 0 stays in f16. */
function latentPlaces(sealed: readonly TensorPlace[]): {
  keyOutlier?: TensorPlace;
  keyLatent: TensorPlace;
  valueLatent: TensorPlace;
} {
  if (sealed.length === 2) return { keyLatent: sealed[0], valueLatent: sealed[1] };
  const [keyOutlier, keyLatent, valueLatent] = sealed;
  return { keyOutlier, keyLatent, valueLatent };
}
