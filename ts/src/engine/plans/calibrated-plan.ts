/**
 * Layers coded in a learned basis, predicted from those below: cache/calibrated.ts on the engine.
 *
 *     store   c = [X Wk | X Wv], which are rows of the pass, or X
 *     seal    Q(c E - p)                     p = t + y_(i-1) M_1 + y_(i-2) M_2,  y_i := p + z^
 *     read    y, brought up from the layers below     K = y D Wk; attention averages y, then multiplies by D Wv once
 *
 * (With c = [K | V], D Wk and D Wv are the columns of D that keys and values have.) The coordinates y of a block that
 * layers above need are kept in the place of the accumulator, one slot for each layer that a prediction reads.
 *
 * Sinks are exact rows and have no coordinates, but averages need some: those of which the product gives their values.
 * c E is that only as exactly as f16 holds E, so what the product leaves is added once: y := c E + (c - c E D) E.
 *
 * @module
 */

import { carrierOf } from '../../cache/calibration.js';
import type { LayoutOf } from '../../cache/layout.js';
import { Transform } from '../../cache/transform.js';
import { linear, type Matrix, matrix, transpose } from '../../numerics/matrix.js';
import { recordDequantize, recordStore, type SmallProduct } from '../small-product.js';
import type { Recorder } from '../team.js';
import type { ThreadScratch } from '../thread-scratch.js';
import type { BlockContext, PassRows, PlanSource, ReadBlock } from './plan.js';
import { RowPlan } from './row-plan.js';

/** See the module. */
export class CalibratedLayerPlan extends RowPlan {
  /** n, channels of the carrier. */
  readonly latentWidth: number;
  /** y to values. */
  override readonly valueProduct: SmallProduct;
  /** E: carrier to coordinates. */
  readonly #encode: SmallProduct;
  /** M_p, p = 1 first; fewer in the lowest layers. */
  readonly #predict: readonly SmallProduct[];
  /** t, f32 [n]. */
  readonly #offset: number;
  /** y to keys. */
  readonly #keyProduct: SmallProduct;
  /** D, if the carrier is X and there are sinks. */
  readonly #decode: SmallProduct | undefined;
  /** Whether the carrier is keys and values. */
  readonly #isKeysAndValues: boolean;

  constructor(source: PlanSource, layout: LayoutOf<'calibrated'>) {
    super(source, layout);
    const { options, keyWeights, projection, calibrated } = source;
    if (!calibrated) throw new TypeError('a calibrated cache without a plan');
    const transform = new Transform(calibrated.set.layers[this.layer]);
    const tokens = options.residualWindow;
    const exact = { tokens, rows: true, keyWeights: 'exact' } as const;
    this.#isKeysAndValues = carrierOf(projection) !== 'x';
    this.latentWidth = layout.sealed[0].columns;
    this.#offset = this.vector(transform.offset);
    this.#encode = this.product(transform.encodeTransposed, exact);
    this.#predict = transform.predictTransposed.map((each) => this.product(each, exact));
    const { decodeTransposed } = transform;
    const { keys, values } = this.#isKeysAndValues
      ? halves(decodeTransposed)
      : foldDecode(decodeTransposed, projection);
    this.#keyProduct = this.product(keys, { tokens, rows: true, keyWeights });
    this.valueProduct = this.product(values, exact);
    if (!this.#isKeysAndValues && options.sinks > 0) this.#decode = this.product(decodeTransposed, exact);
  }

  override recordWindow(
    recorder: Recorder,
    rows: PassRows,
    first: number,
    count: number,
    window: number,
    slot: number,
    position: number,
    scratch: ThreadScratch,
  ): void {
    // A NaN would not survive the integers of the projections.
    if (this.#isKeysAndValues) {
      this.recordFiniteCheck(recorder, rows.x + first * this.hiddenSize * 4, count, position);
    }
    super.recordWindow(recorder, rows, first, count, window, slot, position, scratch);
  }

  protected override recordSource(
    recorder: Recorder,
    rows: PassRows,
    tensor: number,
    first: number,
    count: number,
    scratch: ThreadScratch,
  ): { source: number; origin: (element: number) => number } {
    if (!this.#isKeysAndValues) return super.recordSource(recorder, rows, tensor, first, count, scratch);
    const { kvDim, latentWidth: width } = this;
    const { rows: source } = scratch;
    const [keys, values] = [rows.keys, rows.values].map((each) => each + first * kvDim * 4);
    recorder.call('copyRows', keys, kvDim, source, width, count, kvDim);
    recorder.call('copyRows', values, kvDim, source + kvDim * 4, width, count, kvDim);
    const origin = (element: number) => {
      const [row, channel] = [Math.floor(element / width), element % width];
      const part = channel < kvDim ? keys : values;
      return part + (row * kvDim + (channel % kvDim)) * 4;
    };
    return { source, origin };
  }

  protected recordSealCoded(recorder: Recorder, window: number, context: BlockContext): void {
    const { block, scratch, places } = context;
    const { sinkRows, rows: count } = places;
    const [sealed] = places.sealed;
    const { rows: carrier, otherRows: z, values: y } = scratch;
    this.recordLoadRows(recorder, this.layout.window[0], window, sinkRows, count, carrier, scratch);
    this.#encode.recordRows(recorder, carrier, count, z, scratch);
    this.#recordPrediction(recorder, context, y);
    recorder.call('subtractInto', z, y, count * this.latentWidth);
    recordStore(recorder, sealed, z, block, count, scratch, this.groupError(sealed, context));
    if (!this.accumulates) return;
    this.#recordAddStored(recorder, context, y);
    this.#recordKeep(recorder, context, y);
  }

  recordReadRows(recorder: Recorder, context: BlockContext, keys: number, values: number): ReadBlock {
    const { scratch, places } = context;
    const { sinkRows, rows: count } = places;
    const { latentWidth, kvDim } = this;
    const latents = scratch.values;
    const y = latents + sinkRows * latentWidth * 4;
    this.#recordSinks(recorder, context, keys, latents);
    this.#recordCoordinates(recorder, context, y);
    this.#keyProduct.recordRows(recorder, y, count, keys + sinkRows * kvDim * 4, scratch);
    if (!values) return { values: latents, stride: latentWidth };
    this.valueProduct.recordRows(recorder, latents, sinkRows + count, values, scratch);
    return { values, stride: kvDim };
  }

  protected recordExact(
    recorder: Recorder,
    rows: number,
    count: number,
    keys: number,
    values: number,
    scratch: ThreadScratch,
  ): void {
    if (!this.#isKeysAndValues) {
      this.recordProjection(recorder, rows, count, keys, values, scratch);
      return;
    }
    const { kvDim, latentWidth } = this;
    recorder.call('copyRows', rows, latentWidth, keys, kvDim, count, kvDim);
    recorder.call('copyRows', rows + kvDim * 4, latentWidth, values, kvDim, count, kvDim);
  }

  /** Records y of a block: from the slot of the layer, or from those of the layers below and what is stored. */
  #recordCoordinates(recorder: Recorder, context: BlockContext, y: number): void {
    if (!context.advance) {
      const bytes = context.places.rows * this.latentWidth * 4;
      recorder.call('copyBytes', this.#slot(context, this.layer), y, bytes);
      return;
    }
    this.#recordPrediction(recorder, context, y);
    this.#recordAddStored(recorder, context, y);
    if (this.accumulates) this.#recordKeep(recorder, context, y);
  }

  /** Records p of a block. */
  #recordPrediction(recorder: Recorder, context: BlockContext, target: number): void {
    const { places, scratch } = context;
    const { latentWidth } = this;
    recorder.call('copyRows', this.#offset, 0, target, latentWidth, places.rows, latentWidth);
    for (const [i, product] of this.#predict.entries()) {
      const below = this.#slot(context, this.layer - 1 - i);
      product.recordRows(recorder, below, places.rows, target, scratch, { accumulate: true });
    }
  }

  /** Records the addition of z^. */
  #recordAddStored(recorder: Recorder, { block, places, scratch }: BlockContext, target: number): void {
    const [sealed] = places.sealed;
    const elements = places.rows * this.latentWidth;
    if (sealed.format === 'f32') recorder.call('addInto', target, block + sealed.data, elements);
    else recordDequantize(recorder, sealed, block, places.rows, target, scratch, true);
  }

  /** Records the keeping of y for the layers above. It takes the place of the lowest layer that this one is predicted from. */
  #recordKeep(recorder: Recorder, context: BlockContext, y: number): void {
    const bytes = context.places.rows * this.latentWidth * 4;
    recorder.call('copyBytes', y, this.#slot(context, this.layer), bytes);
  }

  /** The place in which y of a layer is kept. */
  #slot({ accumulator }: BlockContext, layer: number): number {
    if (!accumulator) throw new TypeError('no coordinates are kept');
    const { predict, residualWindow } = this.options;
    return accumulator.pointer + (layer % predict) * residualWindow * this.latentWidth * 4;
  }

  /** Records keys of a block's sinks, and coordinates that give their values. Overwrites `rows` and `otherRows`. */
  #recordSinks(recorder: Recorder, context: BlockContext, keys: number, y: number): void {
    const { places, scratch } = context;
    const { sinkRows: count } = places;
    if (count === 0) return;
    const { rows: carrier, otherRows: decoded } = scratch;
    const { latentWidth: width, kvDim } = this;
    this.recordSinkKeys(recorder, context, keys); // loads the carrier
    if (this.#isKeysAndValues) {
      // Their keys are known: what is averaged need not have them, and large ones would blur the values.
      for (let row = 0; row < count; row++) recorder.call('scaleBy', carrier + row * width * 4, 0, kvDim);
    }
    this.#encode.recordRows(recorder, carrier, count, y, scratch);
    if (this.#decode) {
      this.#decode.recordRows(recorder, y, count, decoded, scratch);
    } else {
      recorder.call('copyBytes', carrier, decoded, count * width * 4);
      this.valueProduct.recordRows(recorder, y, count, decoded + kvDim * 4, scratch, { stride: width });
    }
    recorder.call('subtractInto', carrier, decoded, count * width);
    this.#encode.recordRows(recorder, carrier, count, y, scratch, { accumulate: true });
  }
}

/** The rows of D^T for keys, and those for values. */
function halves({ rows, columns, data }: Matrix): { keys: Matrix; values: Matrix } {
  const middle = (rows / 2) * columns;
  return {
    keys: matrix(rows / 2, columns, data.subarray(0, middle)),
    values: matrix(rows / 2, columns, data.subarray(middle)),
  };
}

/** (D Wk)^T and (D Wv)^T. */
function foldDecode(
  decodeTransposed: Matrix,
  { wK, wV }: PlanSource['projection'],
): { keys: Matrix; values: Matrix } {
  const decode = transpose(decodeTransposed);
  return { keys: linear(wK, decode), values: linear(wV, decode) };
}
