/**
 * What layers coded in a learned basis have in common: cache/calibrated.ts on the engine.
 *
 *     store   c = [X Wk | X Wv], which are rows of the pass, or X
 *     seal    Q(c E - p)                     p: the prediction, at least t
 *
 * own-basis-plan.ts reads layers that are coded each on its own, predicted-plan.ts those that are predicted from others.
 *
 * Sinks are exact rows and have no coordinates, but averages need some: those of which the product gives their values.
 * c E is that only as exactly as f16 holds E, so what the product leaves is added once: y := c E + (c - c E D) E.
 *
 * @module
 */

import { basisBlocks, carrierOf } from '../../cache/calibration.js';
import type { LayoutOf } from '../../cache/layout.js';
import type { Transform } from '../../cache/transform.js';
import { linear, type Matrix, matrix, transpose } from '../../numerics/matrix.js';
import { recordStore, type SmallProduct } from '../small-product.js';
import type { Recorder } from '../team.js';
import type { ThreadScratch } from '../thread-scratch.js';
import { BlockProduct, diagonalBlocks } from './basis-product.js';
import type { BlockContext, PassRows, PlanSource } from './plan.js';
import { RowPlan } from './row-plan.js';

/** See the module. */
export abstract class CalibratedLayerPlan extends RowPlan {
  /** n, channels of the carrier. */
  readonly carrierWidth: number;
  /** Channels of each block of the basis. */
  protected readonly blocks: readonly number[];
  /** E: carrier to coordinates. */
  protected readonly encode: BlockProduct;
  /** t, f32 [n]. */
  protected readonly offset: number;
  /** Whether the carrier is keys and values. */
  protected readonly isKeysAndValues: boolean;
  /** D, if the carrier is X and there are sinks. */
  readonly #decode: SmallProduct | undefined;

  constructor(source: PlanSource, layout: LayoutOf<'calibrated'>, transform: Transform) {
    super(source, layout);
    const { options, config, projection } = source;
    this.isKeysAndValues = carrierOf(projection) !== 'x';
    this.carrierWidth = layout.sealed[0].columns;
    this.blocks = basisBlocks(options.basis, config, this.carrierWidth);
    this.offset = this.vector(transform.offset);
    const blocks = diagonalBlocks(transform.encodeTransposed, this.blocks);
    this.encode = new BlockProduct(blocks.map((each) => this.exactProduct(each)));
    if (!this.isKeysAndValues && options.sinks > 0) {
      this.#decode = this.exactProduct(transform.decodeTransposed);
    }
  }

  /** A product with f32 rows, in 14 bits. */
  protected exactProduct(weights: Matrix): SmallProduct {
    return this.product(weights, { tokens: this.options.residualWindow, rows: true, keyWeights: 'exact' });
  }

  /** (D Wk)^T and (D Wv)^T; rows of D^T where the carrier is keys and values. [kvDim, n] each */
  protected keysAndValuesOf(
    { decodeTransposed }: Transform,
    { wK, wV }: PlanSource['projection'],
  ): { keys: Matrix; values: Matrix } {
    if (this.isKeysAndValues) return halves(decodeTransposed);
    const decode = transpose(decodeTransposed);
    return { keys: linear(wK, decode), values: linear(wV, decode) };
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
    if (this.isKeysAndValues) {
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
    if (!this.isKeysAndValues) return super.recordSource(recorder, rows, tensor, first, count, scratch);
    const { kvDim, carrierWidth: width } = this;
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
    const { rows: carrier, otherRows: z, values: predicted } = scratch;
    this.recordLoadRows(recorder, this.layout.window[0], window, sinkRows, count, carrier, scratch);
    this.encode.recordRows(recorder, carrier, count, z, scratch.values, scratch);
    this.recordPrediction(recorder, context, predicted);
    recorder.call('subtractInto', z, predicted, count * this.carrierWidth);
    recordStore(recorder, sealed, z, block, count, scratch, this.groupError(sealed, context));
  }

  /** Records p of a block: f32 [rows, n] into `target`. */
  protected recordPrediction(recorder: Recorder, { places }: BlockContext, target: number): void {
    const { carrierWidth: width, offset } = this;
    recorder.call('copyRows', offset, 0, target, width, places.rows, width);
  }

  protected recordExact(
    recorder: Recorder,
    rows: number,
    count: number,
    keys: number,
    values: number,
    scratch: ThreadScratch,
  ): void {
    if (!this.isKeysAndValues) {
      this.recordProjection(recorder, rows, count, keys, values, scratch);
      return;
    }
    const { kvDim, carrierWidth } = this;
    recorder.call('copyRows', rows, carrierWidth, keys, kvDim, count, kvDim);
    recorder.call('copyRows', rows + kvDim * 4, carrierWidth, values, kvDim, count, kvDim);
  }

  /**
   * Records keys of a block's sinks, and coordinates in a joint basis that give their values. Overwrites `rows` and
   * `otherRows`.
   *
   * @param values y to values
   */
  protected recordJointSinks(
    recorder: Recorder,
    context: BlockContext,
    keys: number,
    y: number,
    values: SmallProduct,
  ): void {
    const { scratch } = context;
    const { sinkRows: count } = context.places;
    if (count === 0) return;
    const { rows: carrier, otherRows: decoded } = scratch;
    const { carrierWidth: width, kvDim } = this;
    const encode = this.encode.part(0);
    this.recordSinkKeys(recorder, context, keys); // loads the carrier
    if (this.isKeysAndValues) {
      // Their keys are known: what is averaged need not have them, and large ones would blur the values.
      for (let row = 0; row < count; row++) recorder.call('scaleBy', carrier + row * width * 4, 0, kvDim);
    }
    encode.recordRows(recorder, carrier, count, y, scratch);
    if (this.#decode) {
      this.#decode.recordRows(recorder, y, count, decoded, scratch);
    } else {
      recorder.call('copyBytes', carrier, decoded, count * width * 4);
      values.recordRows(recorder, y, count, decoded + kvDim * 4, scratch, { stride: width });
    }
    recorder.call('subtractInto', carrier, decoded, count * width);
    encode.recordRows(recorder, carrier, count, y, scratch, { accumulate: true });
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
