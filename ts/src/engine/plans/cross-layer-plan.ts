/**
 * Layers that add to the cross-layer sum, and the one that starts it: cache/xquant-cl.ts and cache/xquant-cl-gqa.ts
 * on the engine (XQuant §3.2, §3.3.2).
 *
 *     seal    D = Q(X - A), or Q((X - A) U)         A := A + D^, or A + D^ U^T
 *     read    A, brought up from the layer below    K = A Wk; attention averages A, then multiplies by Wv once
 *
 * The accumulator of a block holds its sinks, too, in the rows before the coded ones, so that keys and averages are
 * one product over the whole block. The sinks are those of the layer, not a sum.
 *
 * @module
 */

import type { LayoutOf } from '../../cache/layout.js';
import { rotateLatent } from '../../cache/xquant-gqa.js';
import { rotateRows } from '../../numerics/hadamard.js';
import { transpose } from '../../numerics/matrix.js';
import { isGrouped, type TensorPlace } from '../block-layout.js';
import { RANGE_CODES } from '../kernels.js';
import { recordDequantize, recordLoad, recordStore, type SmallProduct } from '../small-product.js';
import type { Recorder } from '../team.js';
import type { BlockContext, PlanSource, ReadBlock } from './plan.js';
import { FullWidthPlan } from './x-plan.js';

/** See the module. */
export class CrossLayerPlan extends FullWidthPlan {
  override readonly valueProduct: SmallProduct;
  /** A to keys. */
  readonly #keyProduct: SmallProduct;
  /** Latents only: U^T, differences to their latents, and U, stored latents back to full width. */
  readonly #latent: { readonly down: SmallProduct; readonly up: SmallProduct } | undefined;
  readonly #startsSum: boolean;

  constructor(source: PlanSource, layout: LayoutOf<'baseX' | 'delta' | 'latentDelta'>) {
    super(source, layout);
    const { options, keyWeights, factors } = source;
    this.#startsSum = layout.sum === 'starts';
    const tokens = options.residualWindow;
    const exact = { tokens, rows: true, keyWeights: 'exact' } as const;
    if (layout.kind === 'latentDelta') {
      const rotated = rotateLatent(factors.factors(this.layer, layout.factors[0]), options);
      const down = rotateRows(rotated.downProjection, options.rotation);
      const [{ format }] = layout.sealed;
      this.#latent = {
        down: this.product(down, exact),
        up: this.product(transpose(down), { tokens, rows: false, keyWeights, format }),
      };
    }
    const { wK, wV } = this.foldedWeights(source);
    this.#keyProduct = this.product(wK, { tokens, rows: true, keyWeights });
    this.valueProduct = this.product(wV, exact);
  }

  protected recordSealCoded(recorder: Recorder, window: number, context: BlockContext): void {
    const { block, scratch, places } = context;
    const { sinkRows, rows: count } = places;
    const [sealed] = places.sealed;
    const fail = this.groupError(sealed, context);
    const { rows } = scratch;
    const elements = count * this.hiddenSize;
    const sum = this.#sumRows(context);

    if (!this.#startsSum) this.#recordBelow(recorder, context, sum);
    this.recordLoadRotated(recorder, window, sinkRows, count, rows, scratch);
    if (this.#startsSum || this.#latent || typeof sealed.format === 'string') {
      if (!this.#startsSum) recorder.call('subtractInto', rows, sum, elements);
      let source = rows;
      if (this.#latent) {
        source = scratch.values;
        this.#latent.down.recordRows(recorder, rows, count, source, scratch);
      }
      recordStore(recorder, sealed, source, block, count, scratch, fail);
      if (!this.#keepsSum) return;
      this.#recordIncrement(recorder, context, block, sum, !this.#startsSum);
    } else {
      this.#recordEncode(recorder, context, sealed, sum);
    }
    this.#recordKeep(recorder, context, sum, false);
  }

  recordReadRows(recorder: Recorder, context: BlockContext, keys: number, values: number): ReadBlock {
    const { scratch, places } = context;
    const tokens = places.sinkRows + places.rows;
    let latents = this.#recordAccumulator(recorder, context);
    if (this.isStream) {
      this.recordNormalize(recorder, latents, tokens, scratch.values);
      latents = scratch.values;
    }
    this.#keyProduct.recordRows(recorder, latents, tokens, keys, scratch);
    if (!values) return { values: latents, stride: this.latentWidth };
    this.valueProduct.recordRows(recorder, latents, tokens, values, scratch);
    return { values, stride: this.kvDim };
  }

  /** Whether the sum stays between layers, in f32 or in 8 bits. */
  get #keepsSum(): boolean {
    return this.options.accumulator !== 'recompute';
  }

  /** The coded rows of a sum: in the accumulator, where it is kept in f32, or else in scratch. */
  #sumRows({ accumulator, places, scratch }: BlockContext): number {
    // Not in `scratch.rows`, which products of stored tensors may overwrite.
    const start = accumulator && !accumulator.int8 ? accumulator.pointer : scratch.otherRows;
    return start + places.sinkRows * this.hiddenSize * 4;
  }

  /** Records the increment of this layer to the sum of a block, in full width: its base X^ or its difference. */
  #recordIncrement(
    recorder: Recorder,
    { places, scratch }: BlockContext,
    block: number,
    target: number,
    add: boolean,
  ): void {
    const [sealed] = places.sealed;
    const elements = places.rows * this.hiddenSize;
    if (this.#latent) {
      const increment = add ? scratch.values : target;
      this.#latent.up.recordStored(recorder, sealed, block, places.rows, increment, scratch);
      if (add) recorder.call('addInto', target, increment, elements);
    } else if (typeof sealed.format !== 'string') {
      recordDequantize(recorder, sealed, block, places.rows, target, scratch, add);
    } else if (add) {
      recorder.call('addInto', target, block + sealed.data, elements);
    } else {
      recorder.call('copyBytes', block + sealed.data, target, elements * 4);
    }
  }

  /** Records the sum of a block up to the layer below into `target`, unless it is kept there. */
  #recordBelow(recorder: Recorder, context: BlockContext, target: number): void {
    const { accumulator, below = [], places, scratch } = context;
    for (const [index, { plan, block }] of below.entries()) {
      if (!(plan instanceof CrossLayerPlan)) throw new TypeError(`layer ${plan.layer} adds to no sum`);
      // The layers below have blocks of their own, and layouts of their own.
      const places = plan.layout.at(context.index);
      plan.#recordIncrement(recorder, { ...context, places }, block, target, index > 0);
    }
    if (accumulator?.int8) {
      recordLoad(recorder, accumulator.int8, accumulator.pointer, places.rows, target, scratch);
    }
  }

  /** Records the keeping of a sum; `int8` keeps a rounded one, and reads give that back. */
  #recordKeep(recorder: Recorder, context: BlockContext, sum: number, reread: boolean): void {
    const { accumulator, places, scratch } = context;
    if (!accumulator?.int8) return;
    const { int8, pointer } = accumulator;
    const fail = this.groupError({ ...int8, name: 'accumulator' }, context);
    recordStore(recorder, int8, sum, pointer, places.rows, scratch, fail);
    if (reread) recordLoad(recorder, int8, pointer, places.rows, sum, scratch);
  }

  /**
   * Records the sum of a block up to this layer, and the layer's sinks before it.
   *
   * @returns where it is, f32 [tokens, hiddenSize]; not to be overwritten
   */
  #recordAccumulator(recorder: Recorder, context: BlockContext): number {
    const { advance, block, places } = context;
    const sum = this.#sumRows(context);
    const start = sum - places.sinkRows * this.hiddenSize * 4;
    this.recordLoadSinks(recorder, context, start);
    if (!this.#startsSum || !advance) this.#recordBelow(recorder, context, sum);
    if (advance) {
      this.#recordIncrement(recorder, context, block, sum, !this.#startsSum);
      this.#recordKeep(recorder, context, sum, true);
    }
    return start;
  }

  /** Records the difference and the new sum in one kernel. */
  #recordEncode(recorder: Recorder, context: BlockContext, sealed: TensorPlace, sum: number): void {
    const { block, scratch, places } = context;
    if (!isGrouped(sealed.format)) throw new TypeError('an exact difference is not encoded');
    const { bits, groupSize, grouping, range } = sealed.format;
    recorder.check(this.groupError(sealed, context), 'crossLayerEncode', {
      packed: block + sealed.data,
      scales: block + sealed.scales,
      mins: block + sealed.mins,
      rows: places.rows,
      columns: sealed.columns,
      bits,
      groupSize,
      scratch: scratch.quantize,
      source: scratch.rows,
      range: RANGE_CODES[range],
      accumulator: sum,
      perChannel: grouping === 'perChannel' ? 1 : 0,
    });
  }
}
