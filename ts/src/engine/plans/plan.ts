/**
 * The work of a cache's layer in the engine: which rows it stores, how a block is sealed, and how keys and values
 * (or latents to be averaged) come back.
 *
 * The definitions are the classes of ts/src/cache; here they become sequences of kernel calls, one file for each:
 *
 *     kv.ts                                  key-value-plan.ts
 *     xquant.ts                              x-plan.ts              also layers of xquant-cl below its base
 *     xquant-gqa.ts                          latent-plan.ts
 *     xquant-cl.ts, xquant-cl-gqa.ts         cross-layer-plan.ts
 *     calibrated.ts                          predicted-plan.ts, own-basis-plan.ts
 *
 * A plan belongs to a model and a set of options, and serves all sequences with those options.
 *
 * @module
 */

import type { CalibratedPlan as Calibrated } from '../../cache/calibration.js';
import type { LayerLayout, RowSource, SealedFormat, TensorLayout } from '../../cache/layout.js';
import type { CacheOptions } from '../../cache/options.js';
import type { FactorSource, KeyValueProjection } from '../../cache/projection.js';
import { NumericError } from '../../errors.js';
import { derivedSizes, type ModelConfig } from '../../model/config.js';
import type { Matrix } from '../../numerics/matrix.js';
import { BlockLayout, type BlockPlaces, type PlacedFormat, type TensorPlace } from '../block-layout.js';
import type { BlockStore } from '../block-store.js';
import { type RopeTables, recordFinishKeys } from '../calls.js';
import { ACTIVATION_TILE } from '../kernels.js';
import type { LinearMemory } from '../memory.js';
import type { PlacedLayer } from '../placed-model.js';
import { takesTile } from '../placed-weights.js';
import { type KeyWeights, recordLoad, SmallProduct, type SmallProductUse } from '../small-product.js';
import type { Recorder } from '../team.js';
import type { ThreadScratch } from '../thread-scratch.js';
import { elementPlace, groupError } from './store-errors.js';

/** Pointers to the rows of a pass, f32; 0 where the plan does not need them. A `carrier` is made of keys and values. */
export type PassRows = Readonly<Record<Exclude<RowSource, 'carrier'>, number>>;

/** Weights of one layer that attention needs, in linear memory; 0 where the model has none. */
export type AttentionWeights = Pick<PlacedLayer, 'wK' | 'wV' | 'bK' | 'bV' | 'keyNorm' | 'attentionNorm'>;

/** The inputs of a plan. */
export interface PlanSource {
  readonly memory: LinearMemory;
  /** Makes calls at once. */
  readonly recorder: Recorder;
  readonly config: ModelConfig;
  readonly options: CacheOptions;
  readonly keyWeights: KeyWeights;
  /** The layer's projection, for weights that are folded. */
  readonly projection: KeyValueProjection;
  readonly weights: AttentionWeights;
  readonly factors: FactorSource;
  /** How layers are coded, if the cache is a calibrated one. */
  readonly calibrated?: Calibrated;
}

/** The accumulator of a block, and its format. */
export interface AccumulatorBlock {
  readonly pointer: number;
  /** Absent for f32 (and for `recompute`, which keeps nothing). */
  readonly int8?: TensorPlace;
}

/** The same block of a layer below. */
export interface BlockBelow {
  readonly plan: LayerPlan;
  readonly block: number;
}

/** A block to be sealed or read, with everything that this takes. */
export interface BlockContext {
  readonly store: BlockStore;
  /** Number of the block. */
  readonly index: number;
  /** Pointer to the block. */
  readonly block: number;
  /** The places of its tensors. */
  readonly places: BlockPlaces;
  readonly scratch: ThreadScratch;
  /** Cross-layer variants: the block's accumulator. Of calibrated caches: coordinates of the layers that predict. */
  readonly accumulator?: AccumulatorBlock;
  /** Cross-layer variants, policy `recompute`: the same block of the layers below, from the base layer on. */
  readonly below?: readonly BlockBelow[];
  /** Whether the accumulator has to be brought up from the layer below; not if this pass sealed the block. */
  readonly advance: boolean;
}

/** The latents (or values) of a block after {@link LayerPlan.recordRead}. */
export interface ReadBlock {
  readonly values: number;
  /** Elements from token to token. */
  readonly stride: number;
}

/** See the module. */
export abstract class LayerPlan {
  readonly layer: number;
  readonly layout: BlockLayout;
  readonly options: CacheOptions;
  /** Whether blocks have an accumulator. */
  readonly accumulates: boolean;
  /** Whether sealed bytes are booked as base layers. */
  readonly isBase: boolean;
  /** Width of keys and of values. */
  readonly kvDim: number;
  /** Width of the layer's input. */
  readonly hiddenSize: number;
  /** Whether finished keys and values are stored (`kv`, `kivi`). */
  abstract readonly storesFinished: boolean;
  /** Width of what is averaged with the attention weights in place of values; 0 if values are stored as such. */
  abstract readonly latentWidth: number;
  /** Elements from what is averaged for one KV head to that of the next; 0 where all heads share it. */
  readonly latentHeadStride: number = 0;
  /** Projections of x that are stored. */
  readonly down: readonly SmallProduct[] = [];
  /** Latents (or X^) to values; absent if values are stored as such. */
  readonly valueProduct: SmallProduct | undefined = undefined;
  protected readonly config: ModelConfig;
  protected readonly weights: AttentionWeights;
  /** The rows that each tensor of the window comes from. */
  protected readonly sources: readonly RowSource[];
  readonly #memory: LinearMemory;
  readonly #recorder: Recorder;
  readonly #products: SmallProduct[] = [];
  readonly #vectors: { readonly pointer: number; readonly bytes: number }[] = [];

  /**
   * @param layout of the layer
   * @throws {MemoryError} if there is no room for folded weights
   */
  constructor(source: PlanSource, layout: Exclude<LayerLayout, { kind: 'nonUniform' }>) {
    const { config, options, projection, weights } = source;
    this.#memory = source.memory;
    this.#recorder = source.recorder;
    this.config = config;
    this.options = options;
    this.weights = weights;
    this.layer = projection.layer;
    this.layout = new BlockLayout(options, layout.sealed.map(placedTensor), layout.window);
    this.sources = layout.window.map((tensor) => tensor.source);
    this.accumulates = layout.sum !== 'none' || options.predict > 0;
    this.isBase = layout.isBase;
    this.kvDim = derivedSizes(config).kvDim;
    this.hiddenSize = config.hiddenSize;
  }

  /**
   * Records the sealing of a complete window, less its sinks.
   *
   * @param window pointer to it
   */
  protected abstract recordSealCoded(recorder: Recorder, window: number, context: BlockContext): void;

  /**
   * Records the reading of a sealed block before RoPE: keys as the product gives them (bias and norm of heads to
   * come, unless they are stored as such), and latents or values (their bias to come likewise).
   *
   * @param keys f32 [tokens, kvDim], overwritten
   * @param values as in {@link recordRead}
   */
  abstract recordReadRows(recorder: Recorder, context: BlockContext, keys: number, values: number): ReadBlock;

  /**
   * Records keys and values of tokens of the window, as a later pass sees them: from the stored f16.
   *
   * @param window pointer
   * @param first token of the window
   * @param count tokens
   * @param keys f32 [count, kvDim], overwritten with keys as the product gives them
   * @param values f32 [count, kvDim], overwritten; without bias, unless stored as such
   */
  abstract recordReadWindow(
    recorder: Recorder,
    window: number,
    first: number,
    count: number,
    keys: number,
    values: number,
    scratch: ThreadScratch,
  ): void;

  /**
   * Whether a sealed block holds f16 keys and values, which attention can read as they are.
   *
   * @returns how far from the block's pointer they are, or `undefined`
   */
  get f16Places(): { keys: number; values: number } | undefined {
    return undefined;
  }

  /** Bytes of folded weights. */
  get bytes(): number {
    return [...this.#products, ...this.#vectors].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** Whether X Wk and X Wv are stored, or made into what is. */
  get storesProjections(): boolean {
    return this.sources.some((source) => source === 'keys' || source === 'values' || source === 'carrier');
  }

  /** Gives the folded weights back. */
  dispose(): void {
    for (const product of this.#products) product.dispose();
    for (const { pointer } of this.#vectors.splice(0)) this.#memory.free(pointer);
  }

  /**
   * Records the check that inputs of a product with integers are finite: integers would hide it.
   *
   * @param x f32 [count, hiddenSize]
   * @param position of the first row in the sequence, for errors
   */
  recordFiniteCheck(recorder: Recorder, x: number, count: number, position: number): void {
    const fail = (bad: number): Error => {
      const at = elementPlace('x', bad, this.hiddenSize, { layer: this.layer, token: position });
      return new NumericError('append', this.#memory.f32[x / 4 + bad], at, 'not a finite number');
    };
    recorder.check(fail, 'findNonFinite', x, count * this.hiddenSize);
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
    rows: PassRows,
    first: number,
    count: number,
    window: number,
    slot: number,
    position: number,
    scratch: ThreadScratch,
  ): void {
    this.layout.window.forEach((place, index) => {
      const { columns, format, name } = place;
      const { source, origin } = this.recordSource(recorder, rows, index, first, count, scratch);
      const target = window + rowsFrom(place, slot).data;
      const fail = (bad: number): Error => {
        const value = this.#memory.f32[origin(bad) / 4];
        const reason = Number.isFinite(value) ? 'the value does not fit in f16' : 'not a finite number';
        const at = elementPlace(name, bad, columns, { layer: this.layer, token: position });
        return new NumericError('append', value, at, reason);
      };
      if (format === 'f16') {
        recorder.check(fail, 'encodeFloat16', source, target, count * columns);
      } else {
        recorder.check(fail, 'findNonFinite', source, count * columns);
        recorder.call('copyBytes', source, target, count * columns * 4);
      }
    });
  }

  /**
   * Records whatever makes the rows that a tensor of the window stores.
   *
   * @param tensor of the window
   * @returns where they are, dense, and where the pass has each element
   */
  protected recordSource(
    _recorder: Recorder,
    rows: PassRows,
    tensor: number,
    first: number,
    _count: number,
    _scratch: ThreadScratch,
  ): { source: number; origin: (element: number) => number } {
    const from = this.sources[tensor];
    if (from === 'carrier') throw new TypeError('a carrier that is not made');
    const source = rows[from] + first * this.layout.window[tensor].columns * 4;
    return { source, origin: (element) => source + 4 * element };
  }

  /**
   * Records the sealing of a complete window.
   *
   * @param window pointer to it
   */
  recordSeal(recorder: Recorder, window: number, context: BlockContext): void {
    const { block, places } = context;
    for (const [index, sinks] of places.sinks.entries()) {
      recorder.call(
        'copyBytes',
        window + this.layout.window[index].data,
        block + sinks.data,
        sinks.dataBytes,
      );
    }
    this.recordSealCoded(recorder, window, context);
  }

  /**
   * Records the reading of a sealed block: finished keys, and latents or values.
   *
   * @param positions the RoPE tables from the block's first token on
   * @param keysT f32 [kvDim, tokens rounded up to a multiple of 8], overwritten
   * @param values f32 [tokens, kvDim], overwritten with values; 0 to get latents instead: the result says where they are
   */
  recordRead(
    recorder: Recorder,
    context: BlockContext,
    positions: RopeTables,
    keysT: number,
    values: number,
  ): ReadBlock {
    const { scratch } = context;
    const read = this.recordReadRows(recorder, context, scratch.keys, values);
    this.recordFinishKeys(recorder, scratch.keys, this.options.residualWindow, positions, keysT);
    return read;
  }

  /**
   * Records the steps between a key product and attention: bias, norm of heads, RoPE, transposition.
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
    const { bK: bias, keyNorm: norm } = this.weights;
    const due = this.storesFinished ? { bias: 0, norm: 0 } : { bias, norm };
    recordFinishKeys(recorder, this.config, due, keys, tokens, positions, keysT);
  }

  /**
   * Records the values of a KV head from averages of its latents.
   *
   * @param averages f32 [count, latentWidth], read
   * @param out f32 [count, headDim], overwritten; there is room for kvDim numbers before it
   */
  recordHeadValues(
    recorder: Recorder,
    head: number,
    averages: number,
    count: number,
    out: number,
    scratch: ThreadScratch,
  ): void {
    const { headDim } = this.config;
    const from = head * headDim;
    const outputs = { from, to: from + headDim, stride: headDim };
    this.valueProduct?.recordRows(recorder, averages, count, out - from * 4, scratch, outputs);
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
    const { wK, wV } = this.weights;
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
      const kernel = `matmul${type}` as const;
      recorder.call(kernel, pointer, source, count, columns, rows, out, rows, scratch.matmul);
    }
  }

  /**
   * A product with a small matrix, which belongs to the plan.
   *
   * @throws {MemoryError} if there is no room; the plan is disposed of then
   */
  protected product(weights: Matrix, use: SmallProductUse): SmallProduct {
    try {
      const product = new SmallProduct(this.#memory, this.#recorder, weights, use);
      this.#products.push(product);
      return product;
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /**
   * A vector in linear memory, which belongs to the plan.
   *
   * @throws {MemoryError} if there is no room; the plan is disposed of then
   */
  protected vector(values: Float32Array | Uint8Array): number {
    try {
      const memory = this.#memory;
      const pointer = memory.write(memory.allocate(values.byteLength, 'weights of the cache'), values);
      this.#vectors.push({ pointer, bytes: values.byteLength });
      return pointer;
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** Records the rows of a window from `first` on: f32 [count, columns] into `target`. */
  protected recordLoadRows(
    recorder: Recorder,
    place: TensorPlace,
    pointer: number,
    first: number,
    count: number,
    target: number,
    scratch: ThreadScratch,
  ): void {
    recordLoad(recorder, rowsFrom(place, first), pointer, count, target, scratch);
  }

  /** Makes the error for a group of a block that the quantizer could not store. */
  protected groupError(place: TensorPlace, { index, places }: BlockContext): (group: number) => Error {
    const token = index * this.options.residualWindow + places.sinkRows;
    return (group) => groupError(place, group, places.rows, { layer: this.layer, token });
  }
}

/** A tensor of exact rows, from a row on. */
function rowsFrom(place: TensorPlace, row: number): TensorPlace {
  const size = place.format === 'f16' ? 2 : 4;
  return { ...place, data: place.data + row * place.columns * size };
}

/** @throws {TypeError} if the bits of a calibrated tensor are not known */
function placedTensor({ format, ...tensor }: TensorLayout<SealedFormat>): TensorLayout<PlacedFormat> {
  if (typeof format === 'object' && ('tokenBits' in format || 'outlierFraction' in format)) {
    throw new TypeError('a layout without a plan');
  }
  return { ...tensor, format };
}
