/**
 * Layers coded as what a prediction from the layers below leaves: the calibrated `xquant-cl` of cache/calibrated.ts on the
 * engine.
 *
 *     seal    Q(c E - p)                     p = t + y_(i-1) M_1 + y_(i-2) M_2,  y_i := p + z^
 *     read    y, brought up from the layers below     K = y D Wk; attention averages y, then multiplies by D Wv once
 *
 * (With c = [K | V], D Wk and D Wv are the columns of D that keys and values have.) The coordinates y of a block that
 * layers above need are kept in the place of the accumulator, one slot for each layer that a prediction reads.
 *
 * @module
 */

import type { LayoutOf } from '../../cache/layout.js';
import { Transform } from '../../cache/transform.js';
import { recordDequantize, type SmallProduct } from '../small-product.js';
import type { Recorder } from '../team.js';
import { CalibratedLayerPlan } from './calibrated-plan.js';
import type { BlockContext, PlanSource, ReadBlock } from './plan.js';

/** See the module. */
export class PredictedPlan extends CalibratedLayerPlan {
  readonly latentWidth: number;
  /** y to values. */
  override readonly valueProduct: SmallProduct;
  /** M_p, p = 1 first; fewer in the lowest layers. */
  readonly #predict: readonly SmallProduct[];
  /** y to keys. */
  readonly #keyProduct: SmallProduct;

  constructor(source: PlanSource, layout: LayoutOf<'calibrated'>) {
    const { options, keyWeights, projection, calibrated } = source;
    if (!calibrated) throw new TypeError('a calibrated cache without a plan');
    const transform = new Transform(calibrated.set.layers[projection.layer]);
    super(source, layout, transform);
    this.latentWidth = this.carrierWidth;
    this.#predict = transform.predictTransposed.map((each) => this.exactProduct(each));
    const { keys, values } = this.keysAndValuesOf(transform, projection);
    this.#keyProduct = this.product(keys, { tokens: options.residualWindow, rows: true, keyWeights });
    this.valueProduct = this.exactProduct(values);
  }

  protected override recordSealCoded(recorder: Recorder, window: number, context: BlockContext): void {
    super.recordSealCoded(recorder, window, context);
    const { values: y } = context.scratch; // where the prediction is
    this.#recordAddStored(recorder, context, y);
    this.#recordKeep(recorder, context, y);
  }

  recordReadRows(recorder: Recorder, context: BlockContext, keys: number, values: number): ReadBlock {
    const { scratch, places } = context;
    const { sinkRows, rows: count } = places;
    const { latentWidth, kvDim } = this;
    const latents = scratch.values;
    const y = latents + sinkRows * latentWidth * 4;
    this.recordJointSinks(recorder, context, keys, latents, this.valueProduct);
    this.#recordCoordinates(recorder, context, y);
    this.#keyProduct.recordRows(recorder, y, count, keys + sinkRows * kvDim * 4, scratch);
    if (!values) return { values: latents, stride: latentWidth };
    this.valueProduct.recordRows(recorder, latents, sinkRows + count, values, scratch);
    return { values, stride: kvDim };
  }

  /** Records y of a block: from the slot of the layer, or from those of the layers below and what is stored. */
  #recordCoordinates(recorder: Recorder, context: BlockContext, y: number): void {
    if (!context.advance) {
      const bytes = context.places.rows * this.latentWidth * 4;
      recorder.call('copyBytes', this.#slot(context, this.layer), y, bytes);
      return;
    }
    this.recordPrediction(recorder, context, y);
    this.#recordAddStored(recorder, context, y);
    this.#recordKeep(recorder, context, y);
  }

  protected override recordPrediction(recorder: Recorder, context: BlockContext, target: number): void {
    super.recordPrediction(recorder, context, target);
    const { places, scratch } = context;
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

  /** Where y of a layer is kept. */
  #slot({ accumulator }: BlockContext, layer: number): number {
    if (!accumulator) throw new TypeError('no coordinates are kept');
    const { predict, residualWindow } = this.options;
    return accumulator.pointer + (layer % predict) * residualWindow * this.latentWidth * 4;
  }
}
