/**
 * What each layer of a cache stores: the only place that answers this question.
 *
 * Caches of both backends, byte counts, snapshots and files of factors all read it. A row below is one kind of layer:
 *
 *     kind              sealed tensors                          window rows            part in the accumulator
 *     keysAndValues     keys, values                            keys, values           -        kv, kivi
 *     nonUniform        keys, values in levels of KVQuant       keys, values           -        kvquant
 *     x                 x                                       x                      -        xquant (§3.1)
 *     latents           [keyOutlier] keyLatent, valueLatent     keyLatent, valueLatent -        xquant on GQA (§3.3.1)
 *     baseX             x                                       x, normalized, stream  starts   xquant-cl (§3.2)
 *     delta             delta                                   x, normalized, stream  adds     xquant-cl (§3.2)
 *     latentDelta       delta                                   x or normalized        either   xquant-cl on GQA (§3.3.2)
 *     calibrated        delta, channels of 0 to 8 bits          carrier: K and V, or x -        @calibrated
 *
 * (§ of XQuant, arXiv 2508.10395.)
 *
 * @module
 */

import type { GroupedOptions, Grouping } from '../quant/grouped.js';
import { assertNuqBits, type NuqFormat } from '../quant/nuq.js';
import type { SymmetricFormat } from '../quant/symmetric.js';
import { assertBits, type Bits } from '../quant/uniform.js';
import { type CalibratedPlan, carrierOf, carrierWidth } from './calibration.js';
import type { CacheModelShape, CacheOptions, DeltaSpace } from './options.js';
import type { FactoredMatrix } from './projection.js';
import type { StorageFormat } from './stored-matrix.js';

/** Sizes of a model that decide what its layers store. */
export interface LayoutSizes {
  readonly hiddenSize: number;
  /** numKeyValueHeads * headDim */
  readonly kvDim: number;
  readonly numHiddenLayers: number;
}

/** One tensor that a layer stores of every sealed token. */
export interface TensorLayout<Format = StorageFormat> {
  readonly name: string;
  /** Channels. */
  readonly columns: number;
  readonly format: Format;
}

/** Rows of a layer input, or made of it, that a cache stores. */
export type RowSource = 'keys' | 'values' | 'keyLatent' | 'valueLatent' | 'carrier' | DeltaSpace;

/** One tensor of the tokens that are not sealed yet; in f16, or in f32 with the identity quantizer. */
export interface WindowTensor {
  readonly name: string;
  /** Channels. */
  readonly columns: number;
  /** The rows that are stored. */
  readonly source: RowSource;
}

/** The layout of a layer, whatever its kind. */
export interface AnyLayer {
  readonly window: readonly WindowTensor[];
  /** Matrices whose factors the layer needs, computed offline (XQuant §3.3). */
  readonly factors: readonly FactoredMatrix[];
  /** Whether its X^ starts the cross-layer sum, or its difference adds to it (XQuant §3.2). */
  readonly sum: 'none' | 'starts' | 'adds';
  /** Whether sealed bytes are booked as base layers. */
  readonly isBase: boolean;
}

/** The sealed tensors of each kind of layer, in the order in which they are stored. */
export interface SealedTensors {
  keysAndValues: readonly [keys: TensorLayout, values: TensorLayout];
  nonUniform: readonly [keys: TensorLayout<NuqFormat>, values: TensorLayout<NuqFormat>];
  x: readonly [x: TensorLayout];
  latents:
    | readonly [keyLatent: TensorLayout, valueLatent: TensorLayout]
    | readonly [keyOutlier: TensorLayout, keyLatent: TensorLayout, valueLatent: TensorLayout];
  baseX: readonly [x: TensorLayout];
  delta: readonly [delta: TensorLayout];
  latentDelta: readonly [delta: TensorLayout];
  calibrated: readonly [delta: TensorLayout<CalibratedFormat>];
}

/** Symmetric codes, or f32 with the identity quantizer; without a calibration the average is all that is known. */
export type CalibratedFormat = SymmetricFormat | AverageFormat | 'f32';

/** Symmetric codes of channels whose bits are not known. */
export interface AverageFormat {
  readonly groupSize: number;
  /** Bits that a token takes in a layer, on average over all layers, scales included. */
  readonly tokenBits: number;
}

/** Formats of all kinds of layers. */
export type SealedFormat = StorageFormat | NuqFormat | CalibratedFormat;

/** Kinds of layers; see the table above. */
export type LayerKind = keyof SealedTensors;

/** The layout of a layer of some kind, or of one of several kinds. */
export type LayoutOf<Kind extends LayerKind> = {
  [K in Kind]: AnyLayer & { readonly kind: K; readonly sealed: SealedTensors[K] };
}[Kind];

/** What one layer stores. */
export type LayerLayout = LayoutOf<LayerKind>;

/** How accumulator policy `int8` keeps the sum of a block. */
export const ACCUMULATOR_INT8: GroupedOptions = {
  bits: 8,
  groupSize: 128,
  grouping: 'perToken',
  range: 'minmax',
};

/** The sizes that decide what layers store. */
export function layoutSizes(shape: CacheModelShape): LayoutSizes {
  const { hiddenSize, numHiddenLayers, numKeyValueHeads, headDim } = shape;
  return { hiddenSize, numHiddenLayers, kvDim: numKeyValueHeads * headDim };
}

/**
 * What every layer stores.
 *
 * @param options resolved for the model
 * @param plan of a calibrated cache; without it the bits of its channels are not known
 */
export function cacheLayout(options: CacheOptions, sizes: LayoutSizes, plan?: CalibratedPlan): LayerLayout[] {
  return Array.from({ length: sizes.numHiddenLayers }, (_, layer) =>
    layerLayout(options, sizes, layer, plan),
  );
}

/**
 * What one layer stores.
 *
 * @param options resolved for the model
 * @param layer 0 to numHiddenLayers - 1
 * @param plan as for {@link cacheLayout}
 */
export function layerLayout(
  options: CacheOptions,
  sizes: LayoutSizes,
  layer: number,
  plan?: CalibratedPlan,
): LayerLayout {
  if (options.form === 'calibrated') return calibrated(options, sizes, layer, plan);
  switch (options.variant) {
    case 'kv': {
      const format = exactFormat(options);
      return keysAndValues(sizes, format, format);
    }
    case 'kivi': {
      const keys = layerBits(options, sizes, layer, options.keyBits);
      const values = layerBits(options, sizes, layer, options.valueBits);
      return keysAndValues(
        sizes,
        quantizedFormat(options, keys, options.keyGrouping),
        quantizedFormat(options, values, options.valueGrouping),
      );
    }
    case 'kvquant':
      return nonUniform(options, sizes);
    case 'xquant': {
      if (options.form === 'latent') {
        const keys = layerBits(options, sizes, layer, options.keyBits);
        const values = layerBits(options, sizes, layer, options.valueBits);
        return latents(options, sizes, keys, values, false);
      }
      const { hiddenSize } = sizes;
      const bits = layerBits(options, sizes, layer, codeBits(options));
      return {
        kind: 'x',
        sealed: [tensor('x', hiddenSize, quantizedFormat(options, bits, options.grouping))],
        window: [{ name: 'x', columns: hiddenSize, source: 'x' }],
        factors: [],
        sum: 'none',
        isBase: false,
      };
    }
    case 'xquant-cl':
      return crossLayer(options, sizes, layer);
  }
}

/** XQuant §3.2 for form `x`, §3.3.2 for form `latent`. */
function crossLayer(options: CacheOptions, sizes: LayoutSizes, layer: number): LayerLayout {
  const { form, baseBits, baseStore, deltaSpace, grouping } = options;
  const { hiddenSize, kvDim } = sizes;
  const base = options.baseLayers - 1;
  if (form === 'latent' && layer < base) return latents(options, sizes, baseBits, baseBits, true);

  const isBase = layer <= base;
  const format = quantizedFormat(options, isBase ? baseBits : codeBits(options), grouping);
  const common = {
    window: [{ name: 'x', columns: hiddenSize, source: deltaSpace }],
    sum: layer < base ? 'none' : layer === base ? 'starts' : 'adds',
    isBase,
  } as const;
  if (form === 'latent' && !(isBase && baseStore === 'x')) {
    return {
      ...common,
      kind: 'latentDelta',
      sealed: [tensor('delta', Math.min(hiddenSize, 2 * kvDim), format)],
      factors: [deltaSpace === 'x' ? 'keyValue' : 'keyValueWithGain'],
    };
  }
  return isBase
    ? { ...common, kind: 'baseX', sealed: [tensor('x', hiddenSize, format)], factors: [] }
    : { ...common, kind: 'delta', sealed: [tensor('delta', hiddenSize, format)], factors: [] };
}

function keysAndValues({ kvDim }: LayoutSizes, keys: StorageFormat, values: StorageFormat): LayerLayout {
  return {
    kind: 'keysAndValues',
    sealed: [tensor('keys', kvDim, keys), tensor('values', kvDim, values)],
    window: keyValueWindow(kvDim),
    factors: [],
    sum: 'none',
    isBase: false,
  };
}

/** KVQuant; with the identity quantizer it stores what everybody stores. */
function nonUniform(options: CacheOptions, sizes: LayoutSizes): LayerLayout {
  if (options.quantizer === 'identity') return keysAndValues(sizes, 'f32', 'f32');
  const { bits, outlierFraction } = options;
  assertNuqBits(bits);
  const { kvDim } = sizes;
  return {
    kind: 'nonUniform',
    sealed: [
      tensor('keys', kvDim, { bits, outlierFraction, rowRanges: false }),
      tensor('values', kvDim, { bits, outlierFraction, rowRanges: true }),
    ],
    window: keyValueWindow(kvDim),
    factors: [],
    sum: 'none',
    isBase: false,
  };
}

/** X Uk and X Uv, apart (XQuant §3.3.1). */
function latents(
  options: CacheOptions,
  { hiddenSize, kvDim }: LayoutSizes,
  keyBits: Bits,
  valueBits: Bits,
  isBase: boolean,
): LayerLayout {
  const rank = Math.min(hiddenSize, kvDim);
  const keyFormat = quantizedFormat(options, keyBits, options.keyGrouping);
  const values = tensor('valueLatent', rank, quantizedFormat(options, valueBits, options.valueGrouping));
  return {
    kind: 'latents',
    sealed:
      options.outlierChannel === 'f16'
        ? [tensor('keyOutlier', 1, exactFormat(options)), tensor('keyLatent', rank - 1, keyFormat), values]
        : [tensor('keyLatent', rank, keyFormat), values],
    window: [
      { name: 'keyLatent', columns: rank, source: 'keyLatent' },
      { name: 'valueLatent', columns: rank, source: 'valueLatent' },
    ],
    factors: ['key', 'value'],
    sum: 'none',
    isBase,
  };
}

/** Coordinates of the carrier, each with bits of its own. */
function calibrated(
  options: CacheOptions,
  sizes: LayoutSizes,
  layer: number,
  plan: CalibratedPlan | undefined,
): LayerLayout {
  const { groupSize, bits } = options;
  const columns = carrierWidth(sizes);
  const format = plan
    ? { groupSize, channelBits: plan.channelBits[layer] }
    : { groupSize, tokenBits: bits * 2 * sizes.kvDim };
  return {
    kind: 'calibrated',
    sealed: [tensor('delta', columns, options.quantizer === 'identity' ? 'f32' : format)],
    window: [{ name: 'carrier', columns, source: carrierOf(sizes) === 'x' ? 'x' : 'carrier' }],
    factors: [],
    sum: 'none',
    isBase: false,
  };
}

function keyValueWindow(columns: number): readonly WindowTensor[] {
  return [
    { name: 'keys', columns, source: 'keys' },
    { name: 'values', columns, source: 'values' },
  ];
}

/** The name in a sealed block of the sinks of a window's tensor. */
export function sinkName(name: string): string {
  return `sink${name[0].toUpperCase()}${name.slice(1)}`;
}

/** Whether a tensor of a sealed block holds sinks. */
export function isSinkName(name: string): boolean {
  return /^sink[A-Z]/.test(name);
}

/** How many rows at the start of a block are sinks: they keep the format of the window. */
export function sinksOf({ sinks }: CacheOptions, block: number): number {
  return block === 0 ? sinks : 0;
}

/** The format of rows that are not quantized: of the window, of sinks, of outliers. */
export function exactFormat({ quantizer }: CacheOptions): 'f16' | 'f32' {
  return quantizer === 'identity' ? 'f32' : 'f16';
}

function quantizedFormat(options: CacheOptions, bits: Bits, grouping: Grouping): StorageFormat {
  if (options.quantizer === 'identity') return 'f32';
  return { bits, grouping, groupSize: options.groupSize, range: options.range };
}

/** Bits of a code; not an average, which only calibrated caches can have. */
function codeBits({ bits }: CacheOptions): Bits {
  assertBits(bits);
  return bits;
}

/**
 * Bits of a layer: `nominal`, unless it is one of the first or last layers with widths of their own (XQuant Table 4
 * keeps the first three layers at 4 bits).
 */
function layerBits(
  { firstLayers, firstBits, lastLayers, lastBits }: CacheOptions,
  { numHiddenLayers }: LayoutSizes,
  layer: number,
  nominal: Bits,
): Bits {
  if (layer < firstLayers) return firstBits;
  if (layer >= numHiddenLayers - lastLayers) return lastBits;
  return nominal;
}

function tensor<Format>(name: string, columns: number, format: Format): TensorLayout<Format> {
  return { name, columns, format };
}
