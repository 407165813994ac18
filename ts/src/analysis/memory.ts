/**
 * What a cache takes, by formula: the sizes of XQuant §3 and Table 1, exact and as the paper rounds them.
 *
 * The formula knows which tensors a variant stores and how wide they are; how many bytes a tensor takes it
 * asks of the quantizer's own layout. A test holds it equal to the bytes counted from real caches, for
 * every variant.
 *
 * @module
 */

import { bitsOfCode, layerBits, quantizedFormat } from '../cache/format.js';
import { kvquantFormats } from '../cache/kvquant.js';
import type { CacheModelShape, CacheOptions, CacheRequest } from '../cache/options.js';
import { resolveCacheOptions } from '../cache/presets.js';
import type { StorageFormat } from '../cache/stored-matrix.js';
import { storedBytes, zeroBytes } from '../cache/stored-matrix.js';
import type { CacheBytes } from '../cache/types.js';
import { assertIndex, ConfigError } from '../errors.js';
import { groupedSizes } from '../quant/grouped.js';
import { expectedNuqBytes, type NuqFormat } from '../quant/nuq.js';
import type { Bits } from '../quant/uniform.js';

/** Sizes of well-known models, for `xquant memory` without a file. */
export const NAMED_SHAPES = {
  'llama-2-7b': shape(4096, 32, 32, 32, 128, 4096),
  'llama-2-13b': shape(5120, 40, 40, 40, 128, 4096),
  'llama-3.1-8b': shape(4096, 32, 32, 8, 128, 131072),
  'mistral-7b': shape(4096, 32, 32, 8, 128, 32768),
  'smollm2-135m': shape(576, 30, 9, 3, 64, 8192),
} as const satisfies Record<string, MemoryShape>;

/** A key of {@link NAMED_SHAPES}. */
export type ShapeName = keyof typeof NAMED_SHAPES;

/** Sizes that decide what a cache takes, and the longest sequence. */
export interface MemoryShape extends CacheModelShape {
  /** Longest sequence, in tokens. */
  readonly maxPositionEmbeddings: number;
}

/** Caches of the table unless others are asked for: the rows of xquant.md's size table, and our default. */
export const TABLE_CACHES: readonly string[] = [
  'kv',
  'kivi:4',
  'kivi:3',
  'kivi:2',
  'xquant:4@paper',
  'xquant:3@paper',
  'xquant:2@paper',
  'xquant-cl:4@paper',
  'xquant-cl:3@paper',
  'xquant-cl:2@paper',
  'xquant-cl:2@tuned',
  'xquant-cl:2@tuned?baseBits=2',
];

/** One tensor that a layer stores of every sealed token. */
export interface TensorLayout {
  readonly name: string;
  /** Channels. */
  readonly columns: number;
  readonly format: StorageFormat;
}

/** One tensor in levels of KVQuant. */
export interface NonUniformLayout {
  readonly name: string;
  /** Channels. */
  readonly columns: number;
  readonly format: NuqFormat;
}

/** What one layer stores. */
export interface LayerLayout {
  /** Of sealed tokens. */
  readonly sealed: readonly TensorLayout[];
  /** What `kvquant` stores instead, of tokens after its sink. */
  readonly nonUniform?: readonly NonUniformLayout[];
  /** Channels of a token that is not sealed yet. */
  readonly windowColumns: number;
  /** Whether sealed bytes are booked as base layers. */
  readonly isBase: boolean;
  /** Bits of a code, as the paper counts them for this layer. */
  readonly nominalBits: number;
}

/** What a cache takes for one model and length. */
export interface CacheSize {
  /** By kind; equal to `ModelCache.bytes()` after a pass. */
  readonly bytes: CacheBytes;
  /** All kinds but scratch. */
  readonly storedBytes: number;
  /** Stored bytes divided by tokens. */
  readonly bytesPerToken: number;
  /** Accumulator bytes divided by tokens. */
  readonly scratchBytesPerToken: number;
  /**
   * Bits for each number that the variant stores: scales, minima, window and wider layers included, averaged
   * over layers. `b + 32/groupSize` for uniform quantization.
   */
  readonly bitsPerElement: number;
  /** Stored bytes against f16 keys and values of the same tokens. */
  readonly fraction: number;
  /** 1 / fraction. */
  readonly compression: number;
  /** The fraction as the paper counts (no window, base layer of the latent form not wider), two decimals. */
  readonly paperFraction: number;
  /** 1 / paperFraction, one decimal: the paper's "7.7x" is 1 / 0.13. */
  readonly paperCompression: number;
}

/**
 * Tensors, widths and formats of every layer.
 *
 * @param options resolved for the model
 * @see XQuant §3.1 - §3.3
 */
export function cacheLayout(options: CacheOptions, model: CacheModelShape): LayerLayout[] {
  return Array.from({ length: model.numHiddenLayers }, (_, layer) => layerLayout(options, model, layer));
}

/**
 * Bytes of a cache. How many outliers `kvquant` keeps depends on the data; the expected number is counted here.
 *
 * @param options resolved for the model
 * @param tokens stored
 * @returns what `ModelCache.bytes()` counts after a pass
 * @throws {RangeError} if `tokens` is not an integer from 0
 */
export function cacheBytes(options: CacheOptions, model: CacheModelShape, tokens: number): CacheBytes {
  assertIndex(tokens, Number.MAX_SAFE_INTEGER, 'tokens');
  const block = options.residualWindow;
  const blocks = Math.floor(tokens / block);
  const windowTokens = tokens - blocks * block;
  const total = zeroBytes();
  for (const { sealed, nonUniform, windowColumns, isBase } of cacheLayout(options, model)) {
    if (nonUniform) addNonUniform(total, nonUniform, options, blocks);
    const one = zeroBytes();
    for (const { columns, format } of sealed) addMatrix(one, block, columns, format);
    if (isBase) {
      total.baseLayers += blocks * storedBytes(one);
    } else {
      total.codes += blocks * one.codes;
      total.scales += blocks * one.scales;
      total.mins += blocks * one.mins;
      total.outliers += blocks * one.outliers;
    }
    total.window += windowTokens * windowColumns * (options.quantizer === 'identity' ? 4 : 2);
  }
  total.scratch = blocks * accumulatorBlockBytes(options, model.hiddenSize);
  return total;
}

/**
 * Numbers that a cache stores for each token, over all layers: the denominator of `bitsPerElement`.
 *
 * @param options resolved for the model
 */
export function elementsPerToken(options: CacheOptions, model: CacheModelShape): number {
  let total = 0;
  for (const { sealed, nonUniform = [] } of cacheLayout(options, model)) {
    for (const { columns } of [...sealed, ...nonUniform]) total += columns;
  }
  return total;
}

/** Bytes of f16 keys and values: what everything is compared with. */
export function float16KeyValueBytes(model: CacheModelShape, tokens: number): number {
  return 2 * 2 * kvDimOf(model) * model.numHiddenLayers * tokens;
}

/**
 * One row of the size table.
 *
 * @param request variant and options, or the text of a cache argument
 * @param tokens stored, at least 1
 * @throws {ConfigError | RangeError} if the request does not fit the model, or `tokens` is out of range
 */
export function cacheSize(request: CacheRequest | string, model: CacheModelShape, tokens: number): CacheSize {
  if (tokens === 0) throw new RangeError('"tokens" must be a positive integer, got 0');
  const options = resolveCacheOptions(request, model);
  const bytes = cacheBytes(options, model, tokens);
  const stored = storedBytes(bytes);
  const fraction = stored / float16KeyValueBytes(model, tokens);
  // Half up: 40 layers give 0.075, which is printed as 0.08.
  const paperFraction = Math.round(paperSize(options, model) * 100) / 100;
  return {
    bytes,
    storedBytes: stored,
    bytesPerToken: stored / tokens,
    scratchBytesPerToken: bytes.scratch / tokens,
    bitsPerElement: (8 * stored) / (tokens * elementsPerToken(options, model)),
    fraction,
    compression: 1 / fraction,
    paperFraction,
    paperCompression: Number((1 / paperFraction).toFixed(1)),
  };
}

/**
 * The sizes of a named shape.
 *
 * @throws {ConfigError} if there is none of that name
 */
export function namedShape(name: string): MemoryShape {
  if (!Object.hasOwn(NAMED_SHAPES, name)) {
    throw new ConfigError('shape', name, `one of ${Object.keys(NAMED_SHAPES).join(', ')}`);
  }
  return NAMED_SHAPES[name as ShapeName];
}

function layerLayout(options: CacheOptions, model: CacheModelShape, layer: number): LayerLayout {
  const { variant, form } = options;
  const { hiddenSize, numHiddenLayers } = model;
  const kvDim = kvDimOf(model);
  const bits = (nominal: Bits) => layerBits(options, layer, numHiddenLayers, nominal);
  switch (variant) {
    case 'kv': {
      const format = options.quantizer === 'identity' ? 'f32' : 'f16';
      return {
        sealed: [tensor('keys', kvDim, format), tensor('values', kvDim, format)],
        windowColumns: 2 * kvDim,
        isBase: false,
        nominalBits: format === 'f32' ? 32 : 16,
      };
    }
    case 'kivi': {
      const [keys, values] = [bits(options.keyBits), bits(options.valueBits)];
      return {
        sealed: [
          tensor('keys', kvDim, quantizedFormat(options, keys, options.keyGrouping)),
          tensor('values', kvDim, quantizedFormat(options, values, options.valueGrouping)),
        ],
        windowColumns: 2 * kvDim,
        isBase: false,
        nominalBits: (keys + values) / 2,
      };
    }
    case 'kvquant': {
      if (options.quantizer === 'identity') {
        const stored = [tensor('keys', kvDim, 'f32'), tensor('values', kvDim, 'f32')];
        return { sealed: stored, windowColumns: 2 * kvDim, isBase: false, nominalBits: 32 };
      }
      const { keys, values } = kvquantFormats(options);
      return {
        sealed: [],
        nonUniform: [
          { name: 'keys', columns: kvDim, format: keys },
          { name: 'values', columns: kvDim, format: values },
        ],
        windowColumns: 2 * kvDim,
        isBase: false,
        nominalBits: options.bits,
      };
    }
    case 'xquant':
      if (form === 'latent') {
        return latentLayout(options, model, bits(options.keyBits), bits(options.valueBits), false);
      }
      return {
        sealed: [
          tensor('x', hiddenSize, quantizedFormat(options, bits(bitsOfCode(options)), options.grouping)),
        ],
        windowColumns: hiddenSize,
        isBase: false,
        nominalBits: bits(bitsOfCode(options)),
      };
    case 'xquant-cl': {
      const base = options.baseLayers - 1;
      if (form === 'latent' && layer < base) {
        return latentLayout(options, model, options.baseBits, options.baseBits, true);
      }
      const isBase = layer <= base;
      const isFullWidth = form === 'x' || (layer === base && options.baseStore === 'x');
      const columns = isFullWidth ? hiddenSize : Math.min(hiddenSize, 2 * kvDim);
      const nominalBits = isBase ? options.baseBits : bitsOfCode(options);
      return {
        sealed: [
          tensor(
            isBase && isFullWidth ? 'x' : 'delta',
            columns,
            quantizedFormat(options, nominalBits, options.grouping),
          ),
        ],
        windowColumns: hiddenSize,
        isBase,
        nominalBits,
      };
    }
  }
}

/** X Uk and X Uv, apart (XQuant §3.3.1). */
function latentLayout(
  options: CacheOptions,
  model: CacheModelShape,
  keyBits: Bits,
  valueBits: Bits,
  isBase: boolean,
): LayerLayout {
  const latentRank = Math.min(model.hiddenSize, kvDimOf(model));
  const keyFormat = quantizedFormat(options, keyBits, options.keyGrouping);
  const keys =
    options.outlierChannel === 'f16'
      ? [tensor('keyOutlier', 1, 'f16'), tensor('keyLatent', latentRank - 1, keyFormat)]
      : [tensor('keyLatent', latentRank, keyFormat)];
  const valueFormat = quantizedFormat(options, valueBits, options.valueGrouping);
  return {
    sealed: [...keys, tensor('valueLatent', latentRank, valueFormat)],
    windowColumns: 2 * latentRank,
    isBase,
    nominalBits: (keyBits + valueBits) / 2,
  };
}

/** Adds one matrix to a count. */
function addMatrix(bytes: CacheBytes, rows: number, columns: number, format: StorageFormat): void {
  if (typeof format === 'string') {
    bytes.outliers += rows * columns * (format === 'f16' ? 2 : 4);
    return;
  }
  const { groups, packedBytes } = groupedSizes(rows, columns, format);
  bytes.codes += packedBytes;
  bytes.scales += groups * 2;
  bytes.mins += groups * 2;
}

/** Adds the blocks of a `kvquant` layer to a count; the sinks of the first block stay in f16. */
function addNonUniform(
  bytes: CacheBytes,
  tensors: readonly NonUniformLayout[],
  { residualWindow, sinks }: CacheOptions,
  blocks: number,
): void {
  if (blocks === 0) return;
  for (const { columns, format } of tensors) {
    const first = expectedNuqBytes(residualWindow - sinks, columns, format);
    const other = expectedNuqBytes(residualWindow, columns, format);
    for (const kind of ['codes', 'scales', 'mins', 'outliers'] as const) {
      bytes[kind] += first[kind] + (blocks - 1) * other[kind];
    }
    bytes.outliers += 2 * sinks * columns;
  }
}

/** Bytes of the cross-layer accumulator for one sealed block. */
function accumulatorBlockBytes(options: CacheOptions, hiddenSize: number): number {
  const { variant, accumulator, residualWindow } = options;
  if (variant !== 'xquant-cl' || accumulator === 'recompute') return 0;
  const bytes = zeroBytes();
  const int8 = { bits: 8, groupSize: 128, grouping: 'perToken', range: 'minmax' } as const;
  addMatrix(bytes, residualWindow, hiddenSize, accumulator === 'int8' ? int8 : 'f32');
  return storedBytes(bytes);
}

/**
 * The size as the paper counts it, against f16 keys and values: `(bits + 32 / groupSize) / 16` for what is
 * as wide as K and V, half of that for X of an MHA model, averaged over layers (XQuant Table 1 and 4).
 */
function paperSize(options: CacheOptions, model: CacheModelShape): number {
  const keyValueWidth = 2 * kvDimOf(model);
  const storesX = options.form === 'x' && (options.variant === 'xquant' || options.variant === 'xquant-cl');
  const elements = storesX ? model.hiddenSize : keyValueWidth;
  let sum = 0;
  for (const { nominalBits, nonUniform } of cacheLayout(options, model)) {
    if (nonUniform) sum += nonUniformBits(nonUniform);
    else sum += nominalBits >= 16 ? nominalBits : nominalBits + 32 / options.groupSize;
  }
  return ((sum / model.numHiddenLayers) * elements) / (16 * keyValueWidth);
}

/** Average over tensors of the bits an element takes, in blocks long enough for counts to be whole. */
function nonUniformBits(tensors: readonly NonUniformLayout[]): number {
  const rows = 1000;
  let [bits, elements] = [0, 0];
  for (const { columns, format } of tensors) {
    const { codes, scales, mins, outliers } = expectedNuqBytes(rows, columns, format);
    bits += 8 * (codes + scales + mins + outliers);
    elements += rows * columns;
  }
  return bits / elements;
}

function tensor(name: string, columns: number, format: StorageFormat): TensorLayout {
  return { name, columns, format };
}

function kvDimOf(model: CacheModelShape): number {
  return model.numKeyValueHeads * model.headDim;
}

function shape(
  hiddenSize: number,
  numHiddenLayers: number,
  numAttentionHeads: number,
  numKeyValueHeads: number,
  headDim: number,
  maxPositionEmbeddings: number,
): MemoryShape {
  return {
    hiddenSize,
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    maxPositionEmbeddings,
  };
}
