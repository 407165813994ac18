/**
 * Layers that store X: cache/xquant.ts on the engine (XQuant §3.1), and the layers of cache/xquant-cl.ts below the one
 * that starts the accumulator.
 *
 *     seal    Q(X H)                         H: the rotation, if there is one
 *     read    K = codes(X H) (H^T Wk)        without dequantizing
 *             latents X^ H                   attention averages them, then multiplies by H^T Wv once
 *
 * Under `deltaSpace` other than `x`, the weights have the gain of the norm folded in; rows of the `stream` are
 * normalized after reading, which needs them in f32.
 *
 * @module
 */

import { foldProjection } from '../../cache/fold.js';
import type { LayoutOf } from '../../cache/layout.js';
import { recordLoad, recordStore, type SmallProduct } from '../small-product.js';
import type { Recorder } from '../team.js';
import type { ThreadScratch } from '../thread-scratch.js';
import type { BlockContext, PlanSource, ReadBlock } from './plan.js';
import { RowPlan } from './row-plan.js';

/** The common part of layers that store X, its differences, or latents of them. */
export abstract class FullWidthPlan extends RowPlan {
  readonly latentWidth: number;

  constructor(source: PlanSource, layout: LayoutOf<'x' | 'baseX' | 'delta' | 'latentDelta'>) {
    super(source, layout);
    this.latentWidth = source.config.hiddenSize;
  }

  /** Wk and Wv for the rows that are stored: with the gain that they lack, rotated. */
  protected foldedWeights({ projection, options }: PlanSource): ReturnType<typeof foldProjection> {
    return foldProjection(projection, this.sources[0] !== 'x', options.rotation);
  }

  /** Whether stored rows are of the residual stream, before the norm. */
  protected get isStream(): boolean {
    return this.sources[0] === 'stream';
  }

  /** Rows become x in place. */
  protected recordExact(
    recorder: Recorder,
    rows: number,
    count: number,
    keys: number,
    values: number,
    scratch: ThreadScratch,
  ): void {
    const { rmsNormEps } = this.config;
    const gain = this.weights.attentionNorm;
    const [source] = this.sources;
    if (source === 'normalized') recorder.call('multiplyRows', rows, gain, count, this.hiddenSize);
    if (this.isStream) recorder.call('rmsNorm', rows, count, this.hiddenSize, gain, rmsNormEps, 0, rows);
    this.recordProjection(recorder, rows, count, keys, values, scratch);
  }

  /** Records rows of the window in the space of the stored ones: rotated, if the cache rotates. */
  protected recordLoadRotated(
    recorder: Recorder,
    window: number,
    first: number,
    count: number,
    target: number,
    scratch: ThreadScratch,
  ): void {
    this.recordLoadRows(recorder, this.layout.window[0], window, first, count, target, scratch);
    this.#recordRotate(recorder, target, count);
  }

  /** Records the sinks of a block in the space of the stored rows: f32 [sinkRows, hiddenSize] into `target`. */
  protected recordLoadSinks(recorder: Recorder, context: BlockContext, target: number): void {
    const { block, places, scratch } = context;
    if (places.sinkRows === 0) return;
    recordLoad(recorder, places.sinks[0], block, places.sinkRows, target, scratch);
    this.#recordRotate(recorder, target, places.sinkRows);
  }

  /** Records the norm without its gain; rows may be normalized in place. */
  protected recordNormalize(recorder: Recorder, rows: number, count: number, target: number): void {
    const { hiddenSize, rmsNormEps } = this.config;
    recorder.call('rmsNorm', rows, count, hiddenSize, 0, rmsNormEps, target, 0);
  }

  #recordRotate(recorder: Recorder, rows: number, count: number): void {
    if (this.options.rotation === 'hadamard') recorder.call('hadamardRows', rows, count, this.hiddenSize);
  }
}

/** See the module. */
export class XPlan extends FullWidthPlan {
  override readonly valueProduct: SmallProduct;
  /** Stored X to keys; for the stream, normalized rows to keys. */
  readonly #keyProduct: SmallProduct;

  constructor(source: PlanSource, layout: LayoutOf<'x' | 'baseX'>) {
    super(source, layout);
    const { options, keyWeights } = source;
    const tokens = options.residualWindow;
    const { wK, wV } = this.foldedWeights(source);
    const [{ format }] = this.layout.places.sealed;
    this.#keyProduct = this.product(wK, {
      tokens,
      rows: this.isStream,
      keyWeights,
      format: this.isStream ? undefined : format,
    });
    this.valueProduct = this.product(wV, { tokens, rows: true, keyWeights: 'exact' });
  }

  protected recordSealCoded(recorder: Recorder, window: number, context: BlockContext): void {
    const { block, scratch, places } = context;
    const [sealed] = places.sealed;
    this.recordLoadRotated(recorder, window, places.sinkRows, places.rows, scratch.rows, scratch);
    const fail = this.groupError(sealed, context);
    recordStore(recorder, sealed, scratch.rows, block, places.rows, scratch, fail);
  }

  recordReadRows(recorder: Recorder, context: BlockContext, keys: number, values: number): ReadBlock {
    const { block, scratch, places } = context;
    const { sinkRows, rows: count } = places;
    const tokens = sinkRows + count;
    const [sealed] = places.sealed;
    const latents = values ? scratch.rows : scratch.values;
    const coded = latents + sinkRows * this.hiddenSize * 4;
    if (this.isStream) {
      this.recordLoadSinks(recorder, context, latents);
      recordLoad(recorder, sealed, block, count, coded, scratch);
      this.recordNormalize(recorder, latents, tokens, latents);
      this.#keyProduct.recordRows(recorder, latents, tokens, keys, scratch);
    } else {
      const codedKeys = keys + sinkRows * this.kvDim * 4;
      this.#keyProduct.recordStored(recorder, sealed, block, count, codedKeys, scratch);
      this.recordSinkKeys(recorder, context, keys);
      this.recordLoadSinks(recorder, context, latents);
      recordLoad(recorder, sealed, block, count, coded, scratch);
    }
    if (!values) return { values: latents, stride: this.latentWidth };
    this.valueProduct.recordRows(recorder, latents, tokens, values, scratch);
    return { values, stride: this.kvDim };
  }
}
