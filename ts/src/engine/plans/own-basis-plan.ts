/**
 * Layers coded each on its own in a learned basis: the calibrated `xquant` of cache/calibrated.ts on the engine.
 *
 *     seal    Q(c E - t)
 *     read    K = (t + z^) D Wk from the codes; attention averages y = t + z^, then multiplies by D Wv once
 *
 * Only channels with bits meet the weights of the keys. With basis `tensor` or `head` the matrices have blocks along
 * their diagonal, one for the keys and one for the values (of each head), and only these are multiplied:
 *
 *     joint     keys from all channels                averages of all channels, shared by the heads
 *     tensor    keys from the first half              averages of the second half, shared by the heads
 *     head      keys of a head from headDim channels  averages of headDim channels for each KV head
 *
 * @module
 */

import type { LayoutOf } from '../../cache/layout.js';
import { Transform } from '../../cache/transform.js';
import type { Matrix } from '../../numerics/matrix.js';
import { type ChannelRun, type SymmetricFormat, symmetricRuns } from '../../quant/symmetric.js';
import { isGrouped } from '../block-layout.js';
import { recordRuns, type SmallProduct } from '../small-product.js';
import type { Recorder } from '../team.js';
import type { ThreadScratch } from '../thread-scratch.js';
import { BlockProduct, ChannelProduct, diagonalBlocks } from './basis-product.js';
import { CalibratedLayerPlan } from './calibrated-plan.js';
import type { BlockContext, PlanSource, ReadBlock } from './plan.js';

/** The product that gives some of the keys. */
interface KeyPart {
  /** First of these keys. */
  readonly from: number;
  readonly product: ChannelProduct;
}

/** Neighbouring channels without bits. */
interface ChannelGap {
  readonly channel: number;
  channels: number;
}

/** See the module. */
export class OwnBasisPlan extends CalibratedLayerPlan {
  readonly latentWidth: number;
  override readonly latentHeadStride: number;
  override readonly valueProduct: SmallProduct | undefined = undefined;
  /** How z is stored; undefined for the identity quantizer, which stores it in f32. */
  readonly #format: SymmetricFormat | undefined;
  /** First channel that is averaged; those before it are of keys alone. */
  readonly #firstLatent: number;
  /** Channels that are averaged, of all heads. */
  readonly #latents: number;
  readonly #keyParts: readonly KeyPart[];
  /** y to all keys, where z is stored in f32. */
  readonly #keyProduct: SmallProduct | undefined;
  /** Of values alone, where the basis has blocks: values to y, and back. */
  readonly #blocked: { readonly encode: BlockProduct; readonly decode: BlockProduct } | undefined;
  /** Averaged channels without bits, which are t. */
  readonly #gaps: readonly ChannelGap[];
  /** Runs of averaged channels with bits, by the rows of the tensor. */
  readonly #runs = new Map<number, readonly ChannelRun[]>();

  constructor(source: PlanSource, layout: LayoutOf<'calibrated'>) {
    const { options, config, keyWeights, projection, calibrated } = source;
    if (!calibrated) throw new TypeError('a calibrated cache without a plan');
    const transform = new Transform(calibrated.set.layers[projection.layer]);
    super(source, layout, transform);
    const isJoint = options.basis === 'joint';
    const { keys, values } = this.keysAndValuesOf(transform, projection);
    const { format } = this.layout.places.sealed[0];
    this.#firstLatent = isJoint ? 0 : this.kvDim;
    this.#latents = this.carrierWidth - this.#firstLatent;
    const perHead = options.basis === 'head';
    this.latentWidth = perHead ? config.headDim : this.#latents;
    this.latentHeadStride = perHead ? config.headDim : 0;
    if (typeof format === 'string') {
      const use = { tokens: options.residualWindow, rows: true, keyWeights };
      this.#keyProduct = this.product(keys, use);
      this.#keyParts = [];
      this.#gaps = [];
    } else {
      if (isGrouped(format)) throw new TypeError('a layout without a plan');
      this.#format = format;
      this.#gaps = channelGaps(format, this.#firstLatent);
      this.#keyParts = this.#keyProducts(keys, transform.offset, format);
    }
    if (isJoint) {
      this.valueProduct = this.exactProduct(values);
    } else {
      const sizes = this.blocks.slice(this.blocks.length / 2);
      const blocks = diagonalBlocks(transform.decodeTransposed, sizes, this.#firstLatent);
      const products = blocks.map((each) => this.exactProduct(each));
      if (!perHead) [this.valueProduct] = products;
      this.#blocked = { encode: this.encode.secondHalf(), decode: new BlockProduct(products) };
    }
  }

  /** Products for the keys: one for all of them, or one for each head. */
  #keyProducts(weights: Matrix, offset: Float32Array, format: SymmetricFormat): KeyPart[] {
    const isJoint = this.blocks.length === 1;
    const sizes = isJoint ? this.blocks : this.blocks.slice(0, this.blocks.length / 2);
    let first = 0;
    return sizes.map((size) => {
      const end = first + size;
      const outputs = isJoint ? ([0, this.kvDim] as const) : ([first, end] as const);
      const channels = { format, first, end, weights, outputs, offset };
      first = end;
      return { from: outputs[0], product: new ChannelProduct(channels, (values) => this.vector(values)) };
    });
  }

  recordReadRows(recorder: Recorder, context: BlockContext, keys: number, values: number): ReadBlock {
    const { block, scratch, places } = context;
    const { sinkRows, rows: count } = places;
    const { kvDim } = this;
    const [sealed] = places.sealed;
    const stride = this.#latents;
    const latents = scratch.values;
    const codedKeys = keys + sinkRows * kvDim * 4;
    this.#recordSinks(recorder, context, keys, latents);
    for (const { from, product } of this.#keyParts) {
      product.record(recorder, sealed, block, count, codedKeys + from * 4, kvDim, scratch);
    }
    this.#recordCoordinates(recorder, context, latents + sinkRows * stride * 4, codedKeys);
    if (!values) return { values: latents, stride };
    const tokens = sinkRows + count;
    if (this.valueProduct) this.valueProduct.recordRows(recorder, latents, tokens, values, scratch);
    else this.#blocked?.decode.recordRows(recorder, latents, tokens, values, scratch.rows, scratch);
    return { values, stride: kvDim };
  }

  override recordHeadValues(
    recorder: Recorder,
    head: number,
    averages: number,
    count: number,
    out: number,
    scratch: ThreadScratch,
  ): void {
    if (this.latentHeadStride === 0) super.recordHeadValues(recorder, head, averages, count, out, scratch);
    else this.#blocked?.decode.part(head).recordRows(recorder, averages, count, out, scratch);
  }

  /** Records the averaged channels of y = t + z^; where z is stored in f32, the keys, too. */
  #recordCoordinates(recorder: Recorder, context: BlockContext, y: number, keys: number): void {
    const { block, scratch, places } = context;
    const { rows: count } = places;
    const [sealed] = places.sealed;
    const { carrierWidth: width } = this;
    const first = this.#firstLatent;
    const latents = this.#latents;
    if (this.#format) {
      const to = y - first * 4;
      for (const { channel, channels } of this.#gaps) {
        recorder.call('copyRows', this.offset + channel * 4, 0, to + channel * 4, latents, count, channels);
      }
      const runs = this.#runsOf(count, this.#format);
      recordRuns(recorder, sealed, runs, block, to, latents, scratch, this.offset);
      return;
    }
    const { rows } = scratch;
    this.recordPrediction(recorder, context, rows);
    recorder.call('addInto', rows, block + sealed.data, count * width);
    this.#keyProduct?.recordRows(recorder, rows, count, keys, scratch);
    recorder.call('copyRows', rows + first * 4, width, y, latents, count, latents);
  }

  #runsOf(rows: number, format: SymmetricFormat): readonly ChannelRun[] {
    const known = this.#runs.get(rows) ?? symmetricRuns(rows, format, this.#firstLatent);
    this.#runs.set(rows, known);
    return known;
  }

  /** Records keys of a block's sinks, and what is averaged of them. Overwrites `rows`, `otherRows` and `keysT`. */
  #recordSinks(recorder: Recorder, context: BlockContext, keys: number, latents: number): void {
    const { scratch, places } = context;
    const { sinkRows: count } = places;
    if (count === 0) return;
    if (!this.#blocked) {
      if (this.valueProduct) this.recordJointSinks(recorder, context, keys, latents, this.valueProduct);
      return;
    }
    const { encode, decode } = this.#blocked;
    const { carrierWidth: width, kvDim } = this;
    const { rows, otherRows: exact, keysT: slice } = scratch;
    this.recordSinkKeys(recorder, context, keys); // loads the carrier
    recorder.call('copyRows', rows + kvDim * 4, width, exact, kvDim, count, kvDim);
    encode.recordRows(recorder, exact, count, latents, slice, scratch);
    decode.recordRows(recorder, latents, count, rows, slice, scratch);
    recorder.call('subtractInto', exact, rows, count * kvDim);
    encode.recordRows(recorder, exact, count, latents, slice, scratch, true);
  }
}

/** Channels without bits from `first` on, as few gaps as they make. */
function channelGaps({ channelBits }: SymmetricFormat, first: number): ChannelGap[] {
  const gaps: ChannelGap[] = [];
  for (let channel = first; channel < channelBits.length; channel++) {
    if (channelBits[channel] > 0) continue;
    const last = gaps.at(-1);
    if (last && last.channel + last.channels === channel) last.channels++;
    else gaps.push({ channel, channels: 1 });
  }
  return gaps;
}
