/**
 * What a cache variant does with one layer: which rows it stores, how a block is sealed, and how keys and values
 * (or latents to be averaged) come back. The definitions are the classes of ts/src/cache; here they become
 * sequences of kernel calls.
 *
 * A plan belongs to a model and a set of options, and serves all sequences with those options.
 *
 * @module
 */

import { foldProjection } from '../cache/fold.js';
import { layerLayout, layoutSizes, type RowSource } from '../cache/layout.js';
import type { CacheOptions } from '../cache/options.js';
import type { FactorSource, KeyValueProjection } from '../cache/types.js';
import { rotateLatent } from '../cache/xquant-gqa.js';
import { NumericError } from '../errors.js';
import type { ModelConfig } from '../model/config.js';
import { derivedSizes } from '../model/config.js';
import { rotateRows } from '../numerics/hadamard.js';
import { transpose } from '../numerics/matrix.js';
import { type BlockLayout, type BlockStore, blockLayout, type TensorPlace } from './block-store.js';
import { type RopeTables, recordFinishKeys } from './calls.js';
import { ACTIVATION_TILE, RANGE_CODES } from './kernels.js';
import type { LinearMemory } from './memory.js';
import { type PlacedMatrix, takesTile } from './placed-weights.js';
import { type KeyWeights, recordDequantize, recordLoad, recordStore, SmallProduct } from './small-product.js';
import type { Recorder } from './team.js';
import type { ThreadScratch } from './thread-scratch.js';

/** Pointers to the rows of a pass, f32; 0 where the plan does not need them. */
export type PassRows = Readonly<Record<RowSource, number>>;

/** Weights of one layer that attention needs, in linear memory; 0 where the model has none. */
export interface AttentionWeights {
  readonly wK: PlacedMatrix;
  readonly wV: PlacedMatrix;
  readonly bK: number;
  readonly bV: number;
  readonly keyNorm: number;
  readonly attentionNorm: number;
}

/** Where the accumulator of a block lies, and how it is stored. */
export interface AccumulatorBlock {
  readonly pointer: number;
  /** Absent for f32 (and for `recompute`, which keeps nothing). */
  readonly int8?: TensorPlace;
}

/** What sealing or reading a block needs besides the block itself. */
export interface BlockContext {
  readonly store: BlockStore;
  /** Number of the block. */
  readonly index: number;
  /** Pointer to the block. */
  readonly block: number;
  readonly scratch: ThreadScratch;
  /** Cross-layer variants: the block's accumulator. */
  readonly accumulator?: AccumulatorBlock;
  /** Cross-layer variants, policy `recompute`: the same block of the layers below, from the base layer on. */
  readonly below?: readonly { plan: LayerPlan; block: number }[];
  /** Whether the accumulator has to be brought up from the layer below; not if this pass sealed the block. */
  readonly advance: boolean;
}

/** Where the latents (or values) of a block are after {@link LayerPlan.recordRead}. */
export interface ReadBlock {
  readonly values: number;
  /** Elements from token to token. */
  readonly stride: number;
}

type Kind = 'direct' | 'x' | 'latent' | 'crossLayer';

/** See the module. */
export class LayerPlan {
  readonly layer: number;
  readonly layout: BlockLayout;
  readonly options: CacheOptions;
  readonly kind: Kind;
  /** Whether blocks have an accumulator. */
  readonly accumulates: boolean;
  /** Whether sealed bytes are booked as base layers. */
  readonly isBase: boolean;
  /** Where each tensor of the window comes from. */
  readonly sources: readonly RowSource[];
  /** Width of what is averaged with the attention weights in place of values; 0 if values are stored as such. */
  readonly latentWidth: number;
  /** Projections of x that are stored; `latent` only. */
  readonly down: readonly SmallProduct[];
  /** Latents (or X^) to values; not for `direct`. */
  readonly valueProduct: SmallProduct | undefined;
  readonly #keyProduct: SmallProduct | undefined;
  /** Cross-layer latents: U, [hiddenSize, latentRank], and U^T. */
  readonly #up: SmallProduct | undefined;
  readonly #downDelta: SmallProduct | undefined;
  readonly #config: ModelConfig;
  readonly #weights: AttentionWeights;
  readonly #startsSum: boolean;
  /** Latent keys of the window, f32, to keys. */
  readonly #keyRowsProduct: SmallProduct | undefined;

  /**
   * @param projection of the layer, for the weights that are folded
   * @throws {MemoryError} if there is no room for folded weights
   */
  constructor(
    memory: LinearMemory,
    direct: Recorder,
    config: ModelConfig,
    options: CacheOptions,
    keyWeights: KeyWeights,
    projection: KeyValueProjection,
    weights: AttentionWeights,
    factors: FactorSource,
  ) {
    const { layer } = projection;
    const { hiddenSize } = config;
    this.layer = layer;
    this.options = options;
    this.#config = config;
    this.#weights = weights;
    const tokens = options.residualWindow;
    const stored = layerLayout(options, layoutSizes(config), layer);
    if (stored.kind === 'nonUniform') throw new TypeError('kvquant runs on the reference');
    this.layout = blockLayout(options, stored.sealed, stored.window);
    this.sources = stored.window.map(({ source }) => source);
    this.accumulates = stored.sum !== 'none';
    this.isBase = stored.isBase;
    this.#startsSum = stored.sum === 'starts';
    this.down = [];
    this.latentWidth = hiddenSize;
    const exactProduct = { tokens, rows: true, keyWeights: 'exact' } as const;
    if (stored.kind === 'keysAndValues') {
      this.kind = 'direct';
      this.latentWidth = 0;
      return;
    }
    if (stored.kind === 'latents') {
      this.kind = 'latent';
      const keys = rotateLatent(factors.factors(layer, 'key'), options);
      const values = rotateLatent(factors.factors(layer, 'value'), options);
      this.latentWidth = values.downProjection.rows;
      this.down = [keys, values].map(
        ({ downProjection }) => new SmallProduct(memory, direct, downProjection, exactProduct),
      );
      const outlier = stored.sealed.length === 3;
      this.#keyProduct = new SmallProduct(memory, direct, keys.upProjection, {
        tokens,
        rows: false,
        keyWeights,
        stored: this.layout.sealed[outlier ? 1 : 0],
        dequantize: outlier,
      });
      this.#keyRowsProduct = new SmallProduct(memory, direct, keys.upProjection, exactProduct);
      this.valueProduct = new SmallProduct(memory, direct, values.upProjection, exactProduct);
      return;
    }
    this.kind = stored.kind === 'x' ? 'x' : 'crossLayer';
    const crossLayer = this.kind === 'crossLayer';
    if (stored.kind === 'latentDelta') {
      const rotated = rotateLatent(factors.factors(layer, stored.factors[0]), options);
      const down = rotateRows(rotated.downProjection, options.rotation);
      this.#downDelta = new SmallProduct(memory, direct, down, exactProduct);
      this.#up = new SmallProduct(memory, direct, transpose(down), {
        tokens,
        rows: false,
        keyWeights,
        stored: this.layout.sealed[0],
      });
    }
    const folded = foldProjection(projection, crossLayer && options.deltaSpace !== 'x', options.rotation);
    // A cross-layer block from the base on is read from the accumulator, which is f32.
    const fromCodes = !crossLayer || (!this.accumulates && options.deltaSpace !== 'stream');
    this.#keyProduct = new SmallProduct(memory, direct, folded.wK, {
      tokens,
      rows: !fromCodes,
      keyWeights,
      stored: fromCodes ? this.layout.sealed[0] : undefined,
    });
    this.valueProduct = new SmallProduct(memory, direct, folded.wV, exactProduct);
  }

  /** Width of keys and of values. */
  get kvDim(): number {
    return derivedSizes(this.#config).kvDim;
  }

  /** Width of the layer's input. */
  get hiddenSize(): number {
    return this.#config.hiddenSize;
  }

  /** Whether finished keys and values are stored (`kv`, `kivi`). */
  get direct(): boolean {
    return this.kind === 'direct';
  }

  /**
   * Whether a sealed block holds f16 keys and values, which attention can read as they are.
   *
   * @returns how far from the block's pointer they lie, or `undefined`
   */
  get halfPlaces(): { keys: number; values: number } | undefined {
    const [keys, values] = this.layout.sealed;
    if (!this.direct || keys.format !== 'f16' || values.format !== 'f16') return undefined;
    return { keys: keys.data, values: values.data };
  }

  /** Bytes of folded weights. */
  get bytes(): number {
    return this.#products().reduce((sum, product) => sum + product.bytes, 0);
  }

  /** Gives the folded weights back. */
  dispose(): void {
    for (const product of this.#products()) product.dispose();
  }

  /**
   * Records the check that inputs of a product with integers are finite: integers would hide it.
   *
   * @param x f32 [count, hiddenSize]
   * @param position of the first row in the sequence, for errors
   */
  recordFiniteCheck(
    recorder: Recorder,
    memory: LinearMemory,
    x: number,
    count: number,
    position: number,
  ): void {
    const { hiddenSize } = this.#config;
    const fail = (bad: number): Error => {
      const place = {
        layer: this.layer,
        tensor: 'x',
        token: position + Math.floor(bad / hiddenSize),
        channel: bad % hiddenSize,
      };
      return new NumericError('append', memory.f32[x / 4 + bad], place, 'not a finite number');
    };
    recorder.check(fail, 'findNonFinite', x, count * hiddenSize);
  }

  /**
   * Records the storing of rows in the window's format.
   *
   * @param rows of the pass
   * @param first row of the pass
   * @param count rows
   * @param window pointer to a window
   * @param slot which token of the window the first row becomes
   * @param position of the first row in the sequence, for errors
   */
  recordWindow(
    recorder: Recorder,
    memory: LinearMemory,
    rows: PassRows,
    first: number,
    count: number,
    window: number,
    slot: number,
    position: number,
  ): void {
    this.layout.window.forEach(({ columns, format, data, name }, index) => {
      const source = rows[this.sources[index]] + first * columns * 4;
      const half = format === 'f16';
      const target = window + data + slot * columns * (half ? 2 : 4);
      const fail = (bad: number): Error => {
        const value = memory.f32[source / 4 + bad];
        const place = {
          layer: this.layer,
          tensor: name,
          token: position + Math.floor(bad / columns),
          channel: bad % columns,
        };
        const reason = Number.isFinite(value) ? 'the value does not fit in f16' : 'not a finite number';
        return new NumericError('append', value, place, reason);
      };
      if (half) recorder.check(fail, 'encodeFloat16', source, target, count * columns);
      else {
        recorder.check(fail, 'findNonFinite', source, count * columns);
        recorder.call('copyBytes', source, target, count * columns * 4);
      }
    });
  }

  /**
   * Records the sealing of a complete window.
   *
   * @param window pointer to it
   */
  recordSeal(recorder: Recorder, window: number, context: BlockContext): void {
    const { block, scratch } = context;
    const tokens = this.options.residualWindow;
    const { rows } = scratch;
    const [first, second] = this.layout.window;
    const fail = (tensor: TensorPlace, columns = tensor.columns) =>
      this.#groupError(tensor, context.index, columns);
    const load = (place: TensorPlace) => recordLoad(recorder, place, window, tokens, rows, scratch);

    if (this.kind === 'direct') {
      [first, second].forEach((place, index) => {
        const sealed = this.layout.sealed[index];
        if (sealed.format === place.format) {
          recorder.call('copyBytes', window + place.data, block + sealed.data, sealed.dataBytes);
          return;
        }
        load(place);
        recordStore(recorder, sealed, rows, block, tokens, scratch, fail(sealed));
      });
      return;
    }
    if (this.kind === 'latent') {
      const sealed = Object.fromEntries(this.layout.sealed.map((place) => [place.name, place]));
      load(first);
      let keys = rows;
      if (sealed.keyOutlier) {
        keys = scratch.otherRows;
        const rest = first.columns - 1;
        const outlier = scratch.values;
        recorder.call('copyRows', rows, first.columns, outlier, 1, tokens, 1);
        recorder.call('copyRows', rows + 4, first.columns, keys, rest, tokens, rest);
        recordStore(recorder, sealed.keyOutlier, outlier, block, tokens, scratch, fail(sealed.keyOutlier));
      }
      recordStore(recorder, sealed.keyLatent, keys, block, tokens, scratch, fail(sealed.keyLatent));
      load(second);
      recordStore(recorder, sealed.valueLatent, rows, block, tokens, scratch, fail(sealed.valueLatent));
      return;
    }

    load(first);
    if (this.options.rotation === 'hadamard') recorder.call('hadamardRows', rows, tokens, first.columns);
    const [sealed] = this.layout.sealed;
    if (!this.accumulates) {
      recordStore(recorder, sealed, rows, block, tokens, scratch, fail(sealed));
      return;
    }
    this.#recordSealDelta(recorder, context, sealed, fail(sealed));
  }

  /**
   * Records the reading of a sealed block: finished keys, and latents or values.
   *
   * @param positions where the block's tokens stand in the RoPE tables
   * @param keysT f32 [kvDim, tokens rounded up to a multiple of 8], overwritten
   * @param values f32 [tokens, kvDim], overwritten with values; 0: latents are wanted, wherever they come to lie
   * @returns where to find what was asked for
   */
  recordRead(
    recorder: Recorder,
    context: BlockContext,
    positions: RopeTables,
    keysT: number,
    values: number,
  ): ReadBlock {
    const { scratch } = context;
    const { kvDim } = derivedSizes(this.#config);
    const read = this.recordReadRows(recorder, context, scratch.keys, values);
    this.recordFinishKeys(recorder, scratch.keys, this.options.residualWindow, positions, keysT);
    return read ?? { values, stride: kvDim };
  }

  /**
   * Records the reading of a sealed block before RoPE: keys as the product gives them (bias and norm of heads to
   * come, unless they are stored as such), and latents or values (their bias to come likewise).
   *
   * @param keys f32 [tokens, kvDim], overwritten
   * @param values as in {@link recordRead}
   */
  recordReadRows(
    recorder: Recorder,
    context: BlockContext,
    keys: number,
    values: number,
  ): ReadBlock | undefined {
    const { block, scratch } = context;
    const tokens = this.options.residualWindow;
    const { kvDim } = derivedSizes(this.#config);
    const load = (place: TensorPlace, target: number) =>
      recordLoad(recorder, place, block, tokens, target, scratch);
    const { sealed } = this.layout;

    if (this.kind === 'direct') {
      const target = values || scratch.values;
      load(sealed[0], keys);
      load(sealed[1], target);
      return { values: target, stride: kvDim };
    }
    const keyProduct = this.#keyProduct as SmallProduct;
    const valueProduct = this.valueProduct as SmallProduct;
    let latents: number;
    if (this.kind === 'latent') {
      const valuePlace = sealed[sealed.length - 1];
      if (sealed.length === 3) {
        const width = keyProduct.inputs;
        load(sealed[0], scratch.values);
        load(sealed[1], scratch.otherRows);
        recorder.call('copyRows', scratch.values, 1, scratch.rows, width, tokens, 1);
        recorder.call('copyRows', scratch.otherRows, width - 1, scratch.rows + 4, width, tokens, width - 1);
        (this.#keyRowsProduct as SmallProduct).recordRows(recorder, scratch.rows, tokens, keys, scratch);
      } else {
        keyProduct.recordStored(recorder, block, keys, scratch);
      }
      latents = scratch.values;
      if (values) latents = scratch.rows;
      load(valuePlace, latents);
    } else if (!this.accumulates) {
      latents = values ? scratch.rows : scratch.values;
      if (this.options.deltaSpace === 'stream' && this.kind === 'crossLayer') {
        load(sealed[0], latents);
        this.#recordNormalize(recorder, latents, latents);
        (this.#keyProduct as SmallProduct).recordRows(recorder, latents, tokens, keys, scratch);
      } else {
        keyProduct.recordStored(recorder, block, keys, scratch);
        load(sealed[0], latents);
      }
    } else {
      latents = this.#recordAccumulator(recorder, context);
      if (this.options.deltaSpace === 'stream') {
        this.#recordNormalize(recorder, latents, scratch.values);
        latents = scratch.values;
      }
      keyProduct.recordRows(recorder, latents, tokens, keys, scratch);
    }
    if (!values) return { values: latents, stride: this.latentWidth };
    valueProduct.recordRows(recorder, latents, tokens, values, scratch);
    return { values, stride: kvDim };
  }

  /**
   * Records what stands between a key product and attention: bias, norm of heads, RoPE, transposition.
   *
   * @param keys f32 [tokens, kvDim], overwritten
   */
  recordFinishKeys(
    recorder: Recorder,
    keys: number,
    tokens: number,
    positions: RopeTables,
    keysT: number,
  ): void {
    const { bK: bias, keyNorm: norm } = this.#weights;
    const due = this.direct ? { bias: 0, norm: 0 } : { bias, norm };
    recordFinishKeys(recorder, this.#config, due, keys, tokens, positions, keysT);
  }

  /**
   * Records keys and values of tokens of the window, as a later pass sees them: from the stored f16.
   *
   * @param window pointer
   * @param first token of the window
   * @param count tokens
   * @param keys f32 [count, kvDim], overwritten with keys as the product gives them
   * @param values f32 [count, kvDim], overwritten; without bias, unless stored as such
   */
  recordReadWindow(
    recorder: Recorder,
    window: number,
    first: number,
    count: number,
    keys: number,
    values: number,
    scratch: ThreadScratch,
  ): void {
    const [one, two] = this.layout.window;
    const load = (place: TensorPlace, target: number) => {
      const size = place.format === 'f16' ? 2 : 4;
      const data = place.data + first * place.columns * size;
      recordLoad(recorder, { ...place, data }, window, count, target, scratch);
    };
    if (this.kind === 'direct') {
      load(one, keys);
      load(two, values);
      return;
    }
    const { rows } = scratch;
    load(one, rows);
    if (this.kind === 'latent') {
      (this.#keyRowsProduct as SmallProduct).recordRows(recorder, rows, count, keys, scratch);
      load(two, rows);
      (this.valueProduct as SmallProduct).recordRows(recorder, rows, count, values, scratch);
      return;
    }
    const { hiddenSize, rmsNormEps } = this.#config;
    const gain = this.#weights.attentionNorm;
    const [source] = this.sources;
    if (source === 'normalized') recorder.call('multiplyRows', rows, gain, count, hiddenSize);
    if (source === 'stream') recorder.call('rmsNorm', rows, count, hiddenSize, gain, rmsNormEps, 0, rows);
    this.recordProjection(recorder, rows, count, keys, values, scratch);
  }

  /** Records keys and values of rows of x, by the weights of the file. */
  recordProjection(
    recorder: Recorder,
    x: number,
    count: number,
    keys: number,
    values: number,
    scratch: ThreadScratch,
  ): void {
    const { wK, wV } = this.#weights;
    const { block, limit } = ACTIVATION_TILE;
    if (takesTile(wK.type) || takesTile(wV.type)) {
      recorder.call('quantizeTile', x, count, wK.columns, block, limit, scratch.tile);
    }
    for (const [weights, out] of [
      [wK, keys],
      [wV, values],
    ] as const) {
      const { type, rows, columns, pointer } = weights;
      const source = takesTile(type) ? scratch.tile : x;
      recorder.call(
        `matmul${type}`,
        pointer,
        source,
        count,
        rows,
        columns,
        0,
        rows,
        out,
        rows,
        scratch.matmul,
      );
    }
  }

  #products(): SmallProduct[] {
    const all = [
      ...this.down,
      this.valueProduct,
      this.#keyProduct,
      this.#keyRowsProduct,
      this.#up,
      this.#downDelta,
    ];
    return all.filter((product) => product !== undefined);
  }

  #recordNormalize(recorder: Recorder, rows: number, target: number): void {
    const { hiddenSize, rmsNormEps } = this.#config;
    recorder.call('rmsNorm', rows, this.options.residualWindow, hiddenSize, 0, rmsNormEps, target, 0);
  }

  /** Records what this layer adds to the sum of a block: its base X^ or its delta, in full width. */
  #recordIncrement(
    recorder: Recorder,
    block: number,
    target: number,
    scratch: ThreadScratch,
    add: boolean,
  ): void {
    const tokens = this.options.residualWindow;
    const [sealed] = this.layout.sealed;
    const { hiddenSize } = this.#config;
    const count = tokens * hiddenSize;
    if (this.#up) {
      const increment = scratch.values;
      this.#up.recordStored(recorder, block, add ? increment : target, scratch);
      if (add) recorder.call('addInto', target, increment, count);
    } else if (typeof sealed.format !== 'string') {
      recordDequantize(recorder, sealed, block, tokens, target, scratch, add);
    } else if (add) {
      recorder.call('addInto', target, block + sealed.data, count);
    } else {
      recorder.call('copyBytes', block + sealed.data, target, count * 4);
    }
  }

  /**
   * Records the sum of a block up to the layer below, into rows that may be overwritten.
   *
   * @returns where it is
   */
  #recordBelow(recorder: Recorder, { accumulator, below, scratch }: BlockContext, target: number): number {
    if (this.options.accumulator === 'recompute') {
      (below ?? []).forEach(({ plan, block }, index) => {
        plan.#recordIncrement(recorder, block, target, scratch, index > 0);
      });
      return target;
    }
    const { pointer, int8 } = accumulator as AccumulatorBlock;
    if (!int8) return pointer;
    recordLoad(recorder, int8, pointer, this.options.residualWindow, target, scratch);
    return target;
  }

  /** Records the keeping of a sum; `int8` keeps a rounded one, and reads give that back. */
  #recordKeep(recorder: Recorder, context: BlockContext, sum: number, reread: boolean): void {
    const int8 = context.accumulator?.int8;
    if (!int8 || this.options.accumulator === 'recompute') return;
    const { pointer } = context.accumulator as AccumulatorBlock;
    const tokens = this.options.residualWindow;
    const fail = this.#groupError({ ...int8, name: 'accumulator' }, context.index, int8.columns);
    recordStore(recorder, int8, sum, pointer, tokens, context.scratch, fail);
    if (reread) recordLoad(recorder, int8, pointer, tokens, sum, context.scratch);
  }

  /**
   * Records the sum of a block up to this layer.
   *
   * @returns where it is; not to be overwritten
   */
  #recordAccumulator(recorder: Recorder, context: BlockContext): number {
    const { accumulator, advance, block, scratch } = context;
    const kept = this.options.accumulator !== 'recompute';
    const direct = kept && !accumulator?.int8 ? (accumulator as AccumulatorBlock).pointer : 0;
    const target = direct || scratch.rows;
    if (kept && !advance) return this.#recordBelow(recorder, context, scratch.rows);
    if (this.#startsSum) {
      this.#recordIncrement(recorder, block, target, scratch, false);
    } else {
      this.#recordBelow(recorder, context, target);
      this.#recordIncrement(recorder, block, target, scratch, true);
    }
    this.#recordKeep(recorder, context, target, true);
    return target;
  }

  /** Rows in `scratch.rows` become the sealed tensor of a layer that accumulates, and its accumulator. */
  #recordSealDelta(
    recorder: Recorder,
    context: BlockContext,
    sealed: TensorPlace,
    fail: (result: number) => Error,
  ): void {
    const { block, scratch, accumulator } = context;
    const tokens = this.options.residualWindow;
    const count = tokens * this.#config.hiddenSize;
    const { rows } = scratch;
    const kept = this.options.accumulator !== 'recompute';
    const pointer =
      kept && !accumulator?.int8 ? (accumulator as AccumulatorBlock).pointer : scratch.otherRows;

    const sum = this.#startsSum ? 0 : this.#recordBelow(recorder, context, pointer);
    if (this.#downDelta) {
      if (sum) recorder.call('subtractInto', rows, sum, count);
      this.#downDelta.recordRows(recorder, rows, tokens, scratch.values, scratch);
      recordStore(recorder, sealed, scratch.values, block, tokens, scratch, fail);
    } else if (sum && typeof sealed.format !== 'string') {
      const { bits, groupSize, grouping, range } = sealed.format;
      const perChannel = grouping === 'perChannel' ? 1 : 0;
      const scales = block + sealed.scales;
      const mins = block + sealed.mins;
      recorder.check(
        fail,
        'crossLayerEncode',
        rows,
        sum,
        tokens,
        sealed.columns,
        bits,
        groupSize,
        perChannel,
        RANGE_CODES[range],
        block + sealed.data,
        scales,
        mins,
        scratch.quantize,
      );
      this.#recordKeep(recorder, context, sum, false);
      return;
    } else {
      if (sum) recorder.call('subtractInto', rows, sum, count);
      recordStore(recorder, sealed, rows, block, tokens, scratch, fail);
    }
    if (!kept) return;
    this.#recordIncrement(recorder, block, pointer, scratch, sum !== 0);
    this.#recordKeep(recorder, context, pointer, false);
  }

  /** Makes the error for a group of a block that the quantizer could not store. */
  #groupError(place: TensorPlace, index: number, columns: number): (group: number) => Error {
    return (group) => {
      const { format, name } = place;
      const first = index * this.options.residualWindow;
      const tensor = { layer: this.layer, tensor: name };
      if (typeof format === 'string') {
        const at = { ...tensor, token: first + Math.floor(group / columns), channel: group % columns };
        return new NumericError('append', Number.NaN, at, 'the value does not fit in f16');
      }
      const perRow = format.grouping === 'perToken' ? Math.ceil(columns / format.groupSize) : columns;
      const tokenStep = format.grouping === 'perToken' ? 1 : format.groupSize;
      const channelStep = format.grouping === 'perToken' ? format.groupSize : 1;
      const at = {
        ...tensor,
        token: first + Math.floor(group / perRow) * tokenStep,
        channel: (group % perRow) * channelStep,
      };
      return new NumericError('quantize', Number.NaN, at, 'the range of the group does not fit in f16');
    };
  }
}
