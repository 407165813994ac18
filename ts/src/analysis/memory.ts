/**
 * The size of a cache by formula: the sizes of XQuant §3 and Table 1, exact and as the paper rounds them.
 *
 * The formula knows which tensors a variant stores and how wide they are; how many bytes a tensor takes it
 * asks of the quantizer's own layout. A test holds it equal to the bytes counted from real caches, for
 * every variant.
 *
 * @module
 */

import { accumulatorBytes } from '../cache/accumulator.js';
import {
  type CalibratedPlan,
  type Calibration,
  calibratedPlan,
  carrierWidth,
  transformBytes,
} from '../cache/calibration.js';
import type { CacheBytes } from '../cache/contract.js';
import {
  cacheLayout,
  exactFormat,
  type LayerLayout,
  layoutSizes,
  type SealedFormat,
} from '../cache/layout.js';
import { type CacheModelShape, type CacheOptions, type CacheRequest, XQUANT } from '../cache/options.js';
import { resolveCacheOptions } from '../cache/presets.js';
import { addBytes, billAsBase, storedBytes, zeroBytes } from '../cache/stored-matrix.js';
import { assertIndex, ConfigError } from '../errors.js';
import { groupedSizes } from '../quant/grouped.js';
import { expectedNuqBytes, type NuqFormat } from '../quant/nuq.js';
import { symmetricSizes } from '../quant/symmetric.js';

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

/** Caches of the table unless others are asked for: the rows of the paper's Table 1, and our default. */
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

/** The size of a cache for one model and length. */
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
 * Bytes of a cache. How many outliers `kvquant` keeps depends on the data; the expected number is counted here.
 *
 * @param options resolved for the model
 * @param tokens stored
 * @param plan of a calibrated cache; without it, scales are counted as if every channel had bits
 * @returns what `ModelCache.bytes()` counts after a pass
 * @throws {RangeError} if `tokens` is not an integer from 0
 */
export function cacheBytes(
  options: CacheOptions,
  model: CacheModelShape,
  tokens: number,
  plan?: CalibratedPlan,
): CacheBytes {
  assertIndex(tokens, Number.MAX_SAFE_INTEGER, 'tokens');
  const { residualWindow: block, sinks } = options;
  const blocks = Math.floor(tokens / block);
  const first = Math.min(blocks, 1);
  const windowTokens = tokens - blocks * block;
  const elementBytes = exactFormat(options) === 'f32' ? 4 : 2;
  const total = zeroBytes();
  for (const { sealed, window, isBase } of cacheLayout(options, layoutSizes(model), plan)) {
    const layer = zeroBytes();
    for (const { columns, format } of sealed) {
      addMatrix(layer, first, block - sinks, columns, format);
      addMatrix(layer, blocks - first, block, columns, format);
    }
    const columns = window.reduce((sum, tensor) => sum + tensor.columns, 0);
    layer.outliers += first * sinks * columns * elementBytes;
    layer.window = windowTokens * columns * elementBytes;
    addBytes(total, isBase ? billAsBase(layer) : layer);
  }
  const handedOn = (rows: number) => handedOnBytes(options, rows, model);
  total.scratch = first * handedOn(block - sinks) + (blocks - first) * handedOn(block);
  if (options.form === 'calibrated') {
    total.plan = transformBytes(carrierWidth(layoutSizes(model)), model.numHiddenLayers, options.predict);
  }
  return total;
}

/**
 * Numbers that a cache stores for each token, over all layers: the denominator of `bitsPerElement`. For a calibrated cache
 * those of keys and values, of which its bits are an average.
 *
 * @param options resolved for the model
 */
export function elementsPerToken(options: CacheOptions, model: CacheModelShape): number {
  if (options.form === 'calibrated') return 2 * kvDimOf(model) * model.numHiddenLayers;
  let total = 0;
  for (const { sealed } of cacheLayout(options, layoutSizes(model))) {
    for (const { columns } of sealed) total += columns;
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
 * @param calibration of the model, for calibrated caches; see {@link cacheBytes} for what is counted without it
 * @throws {ConfigError | RangeError} if the request does not fit the model, or `tokens` is out of range
 */
export function cacheSize(
  request: CacheRequest | string,
  model: CacheModelShape,
  tokens: number,
  calibration?: Calibration,
): CacheSize {
  if (tokens === 0) throw new RangeError('"tokens" must be a positive integer, got 0');
  const options = resolveCacheOptions(request, model);
  const isCalibrated = calibration && options.form === 'calibrated';
  const plan = isCalibrated ? calibratedPlan(calibration, options, kvDimOf(model)) : undefined;
  const bytes = cacheBytes(options, model, tokens, plan);
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

/** Adds matrices of one format to a count. */
function addMatrix(
  bytes: CacheBytes,
  count: number,
  rows: number,
  columns: number,
  format: SealedFormat,
): void {
  if (typeof format === 'string') {
    bytes.outliers += count * rows * columns * (format === 'f16' ? 2 : 4);
  } else if (isNonUniform(format)) {
    const parts = expectedNuqBytes(rows, columns, format);
    bytes.codes += count * parts.codes;
    bytes.scales += count * parts.scales;
    bytes.mins += count * parts.mins;
    bytes.outliers += count * parts.outliers;
  } else if ('channelBits' in format) {
    const { groups, codeBytes } = symmetricSizes(rows, format);
    bytes.codes += count * codeBytes;
    bytes.scales += count * groups * 2;
  } else if ('tokenBits' in format) {
    const scales = 2 * columns * Math.ceil(rows / format.groupSize);
    bytes.codes += count * Math.max(0, Math.floor((rows * format.tokenBits) / 8) - scales);
    bytes.scales += count * scales;
  } else {
    const { groups, packedBytes } = groupedSizes(rows, columns, format);
    bytes.codes += count * packedBytes;
    bytes.scales += count * groups * 2;
    bytes.mins += count * groups * 2;
  }
}

/** Bytes of what layers hand on for the rows of one sealed block: the accumulator, or coordinates. */
function handedOnBytes(
  { variant, accumulator, form, predict }: CacheOptions,
  rows: number,
  model: CacheModelShape,
): number {
  const { hiddenSize, numHiddenLayers } = model;
  if (form === 'calibrated') {
    return 4 * rows * carrierWidth(layoutSizes(model)) * Math.min(predict, numHiddenLayers);
  }
  return variant === 'xquant-cl' ? accumulatorBytes(accumulator, rows, hiddenSize) : 0;
}

/**
 * The size as the paper counts it, against f16 keys and values: `(bits + 32 / groupSize) / 16` for what is
 * as wide as K and V, half of that for X of an MHA model, averaged over layers (XQuant Table 1 and 4).
 */
function paperSize(options: CacheOptions, model: CacheModelShape): number {
  const keyValueWidth = 2 * kvDimOf(model);
  const storesX = options.form === 'x' && XQUANT.includes(options.variant);
  const elements = storesX ? model.hiddenSize : keyValueWidth;
  if (options.form === 'calibrated') return options.bits / 16; // an average with everything in it
  const layouts = cacheLayout(options, layoutSizes(model));
  const sum = layouts.reduce((bits, { sealed }) => bits + paperBits(sealed), 0);
  return ((sum / model.numHiddenLayers) * elements) / (16 * keyValueWidth);
}

/** Bits of an element of a layer, averaged over its tensors. A channel that stays in f16 is not counted. */
function paperBits(sealed: LayerLayout['sealed']): number {
  const counted = sealed.filter(({ columns }) => columns > 1);
  return counted.reduce((sum, { columns, format }) => sum + elementBits(columns, format), 0) / counted.length;
}

/** Bits that an element takes, in blocks long enough for counts to be whole. */
function elementBits(columns: number, format: SealedFormat): number {
  if (format === 'f16' || format === 'f32') return format === 'f16' ? 16 : 32;
  if ('channelBits' in format || 'tokenBits' in format) throw new TypeError('calibrated bits are an average');
  if (!isNonUniform(format)) return format.bits + 32 / format.groupSize;
  const rows = 1000;
  const { codes, scales, mins, outliers } = expectedNuqBytes(rows, columns, format);
  return (8 * (codes + scales + mins + outliers)) / (rows * columns);
}

function isNonUniform(format: SealedFormat): format is NuqFormat {
  return typeof format !== 'string' && 'rowRanges' in format;
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
