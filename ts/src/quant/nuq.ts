/**
 * The non-uniform quantizer of KVQuant (arXiv 2401.18079): a few levels per layer, fitted offline, and the
 * extremes kept exactly.
 *
 *     value ~ level[code] * radius + center        or itself, if it is an outlier
 *
 * A *row* is what one token stores: all channels of its keys or of its values. Center and radius map the
 * range of a value to [-1, 1], where the levels live:
 *
 *     keys      per channel, from thresholds calibrated offline; an outlier lies beyond them (strictly)
 *     values    per token, from the row itself; an outlier lies on or beyond its quantiles
 *
 * How levels are fitted is in nuq-fit.ts.
 *
 * @module
 */

import { ConfigError, ShapeError } from '../errors.js';
import { decodeFloat16, fromFloat16Bits, toFloat16Bits } from '../numerics/float16.js';
import { type Matrix, matrix, row } from '../numerics/matrix.js';
import { packCodes, packedBytes, unpackCodes } from './pack.js';

const fround = Math.fround;

/** Bits of a code of a non-uniform quantizer. */
export type NuqBits = 2 | 3 | 4;

/** The code widths for which levels are calibrated. */
export const NUQ_BITS: readonly NuqBits[] = [2, 3, 4];

/** The levels that all rows of one tensor of one layer share. */
export interface NuqCodebook {
  /** Ascending: what codes are chosen by. [2^bits] */
  readonly levels: Float32Array;
  /** The decoded value of each code: the levels, or with Q-Norm `scale * level + shift`. [2^bits] */
  readonly decoded: Float32Array;
}

/** Thresholds of every channel of the keys, calibrated offline. */
export interface NuqRanges {
  /** [channels] */
  readonly lower: Float32Array;
  /** [channels] */
  readonly upper: Float32Array;
}

/** The inner range of one row of values, and the values outside it. */
export interface NuqRowRange {
  /** Middle of the inner values; f32. */
  readonly center: number;
  /** Half of their extent; f32. */
  readonly radius: number;
  /** Channels of the outliers, ascending. */
  readonly outliers: readonly number[];
}

/** Rows as a cache keeps them: codes, and outliers in a sparse matrix compressed by token. */
export interface NuqMatrix {
  /** Tokens. */
  readonly rows: number;
  /** Channels. */
  readonly columns: number;
  readonly bits: NuqBits;
  /** Codes of all channels, outliers included (their nearest level); each row starts on a byte, see quant/pack.ts. */
  readonly rowCodes: Uint8Array;
  /** f16 bits, per token; empty for keys, whose ranges belong to the calibration. [rows] or [0] */
  readonly centers: Uint16Array;
  /** Likewise. [rows] or [0] */
  readonly radii: Uint16Array;
  /** Where the outliers of each token begin in the two arrays below. [rows], or [0] in the dense variant */
  readonly outlierStarts: Uint32Array;
  /** Channel of each outlier, ascending within a token. [outliers] */
  readonly outlierChannels: Uint16Array;
  /** f16 bits of each outlier. [outliers] */
  readonly outlierValues: Uint16Array;
}

/** How a {@link NuqMatrix} is made. */
export interface NuqFormat {
  readonly bits: NuqBits;
  /** Fraction of values kept exactly, from 0 (dense) to below 1. */
  readonly outlierFraction: number;
  /** Whether center and radius are stored with every row, as for values. */
  readonly rowRanges: boolean;
}

/**
 * @throws {ConfigError} if `bits` is not 2, 3 or 4
 */
export function assertNuqBits(bits: number, option = 'bits'): asserts bits is NuqBits {
  if (!NUQ_BITS.includes(bits as NuqBits)) throw new ConfigError(option, bits, 'one of 2, 3, 4 for kvquant');
}

/**
 * The code of a normalized value: the nearest level, the lower one of two that are equally near.
 *
 * @param levels ascending
 * @param value in the space of the levels
 */
export function nearestLevel(levels: Float32Array, value: number): number {
  let best = 0;
  let bestDistance = Math.abs(fround(value - levels[0]));
  for (let code = 1; code < levels.length; code++) {
    const distance = Math.abs(fround(value - levels[code]));
    if (distance > bestDistance) break; // levels ascend: it only gets farther
    if (distance < bestDistance) {
      best = code;
      bestDistance = distance;
    }
  }
  return best;
}

/**
 * Splits a row of values into outliers and an inner range: thresholds are quantiles of the row, interpolated
 * linearly at ranks `(p/2)(n-1)` and `(1-p/2)(n-1)`; values on or beyond them are outliers.
 *
 * @param values [channels], finite, read
 * @param outlierFraction p; 0 keeps everything inside
 */
export function nuqRowRange(values: Float32Array, outlierFraction: number): NuqRowRange {
  const outliers: number[] = [];
  let [lower, upper] = [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
  if (outlierFraction > 0) {
    // Only the ends of the order matter: sorting a row would take longer than everything else that is done to it.
    const n = values.length;
    const count = Math.min(n, Math.floor((outlierFraction / 2) * (n - 1)) + 2);
    const [lowest, highest] = [smallest(values, count, 1), smallest(values, count, -1)];
    upper = quantile(n, 1 - outlierFraction / 2, (rank) => -highest[n - 1 - rank]);
    lower = quantile(n, outlierFraction / 2, (rank) => lowest[rank]);
  }
  let [min, max] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (let c = 0; c < values.length; c++) {
    const value = values[c];
    if (value >= upper || value <= lower) {
      outliers.push(c);
      continue;
    }
    if (value < min) min = value;
    if (value > max) max = value;
  }
  // A constant row is all outliers; there is no inner range to describe.
  if (outliers.length === values.length) return { center: 0, radius: 0, outliers };
  return {
    center: fround(fround(max + min) * 0.5) + 0,
    radius: fround(fround(max - min) * 0.5),
    outliers,
  };
}

/**
 * The value at a fraction of the way through sorted values, interpolated linearly between neighbours.
 *
 * @param sorted ascending, [n], n at least 1
 * @param fraction 0 to 1
 */
export function quantileOfSorted(sorted: ArrayLike<number>, fraction: number): number {
  return quantile(sorted.length, fraction, (rank) => sorted[rank]);
}

/** The same for `n` values; `at` gives the value of a rank. */
function quantile(n: number, fraction: number, at: (rank: number) => number): number {
  const rank = fraction * (n - 1);
  const below = Math.floor(rank);
  const above = Math.min(below + 1, n - 1);
  return at(below) + (rank - below) * (at(above) - at(below));
}

/**
 * The smallest of `sign * value`, by insertion.
 *
 * @param count at most [n]
 * @returns ascending, [count]
 */
function smallest(values: Float32Array, count: number, sign: 1 | -1): Float32Array {
  const found = new Float32Array(count).fill(Number.POSITIVE_INFINITY);
  for (let i = 0; i < values.length; i++) {
    const value = sign * values[i];
    if (value >= found[count - 1]) continue;
    let at = count - 1;
    for (; at > 0 && found[at - 1] > value; at--) found[at] = found[at - 1];
    found[at] = value;
  }
  return found;
}

/**
 * Code of a value in the range `center`, `radius`. A range without extent has code 0.
 *
 * @returns 0 to 2^bits - 1
 */
export function encodeNuq(codebook: NuqCodebook, value: number, center: number, radius: number): number {
  if (radius === 0) return 0;
  return nearestLevel(codebook.levels, fround(fround(value - center) / radius));
}

/** Value of a code in the range `center`, `radius`: two roundings, no fused multiply-add. */
export function decodeNuq(codebook: NuqCodebook, code: number, center: number, radius: number): number {
  return fround(fround(codebook.decoded[code] * radius) + center);
}

/**
 * Quantizes rows with a range of their own: the values of KVQuant.
 *
 * @param source [tokens, channels], finite in f16, read
 * @returns fresh
 */
export function quantizeNuqRows(
  source: Matrix,
  bits: NuqBits,
  codebook: NuqCodebook,
  outlierFraction: number,
): NuqMatrix {
  const centers = new Uint16Array(source.rows);
  const radii = new Uint16Array(source.rows);
  const rowCenters = new Float32Array(source.columns);
  const rowRadii = new Float32Array(source.columns);
  return encodeRows(source, bits, codebook, outlierFraction > 0, { centers, radii }, (values, token) => {
    const range = nuqRowRange(values, outlierFraction);
    centers[token] = toFloat16Bits(range.center);
    radii[token] = toFloat16Bits(range.radius);
    // Codes are taken against the stored parameters, because those are what the reader will use.
    rowCenters.fill(fromFloat16Bits(centers[token]));
    rowRadii.fill(fromFloat16Bits(radii[token]));
    return { outliers: range.outliers, centers: rowCenters, radii: rowRadii };
  });
}

/**
 * Quantizes rows with ranges calibrated per channel: the keys of KVQuant.
 *
 * @param source [tokens, channels], finite in f16, read
 * @param isSparse whether values beyond the thresholds are kept exactly; otherwise they take an end level
 * @returns fresh
 * @throws {ShapeError} if there are ranges for another number of channels
 */
export function quantizeNuqChannels(
  source: Matrix,
  bits: NuqBits,
  codebook: NuqCodebook,
  ranges: NuqRanges,
  isSparse: boolean,
): NuqMatrix {
  const { columns } = source;
  if (ranges.lower.length !== columns || ranges.upper.length !== columns) {
    throw new ShapeError('quantizeNuqChannels', 'ranges', [columns], [ranges.lower.length]);
  }
  const { centers, radii } = channelRanges(ranges);
  const none = { centers: new Uint16Array(0), radii: new Uint16Array(0) };
  return encodeRows(source, bits, codebook, isSparse, none, (values) => {
    const outliers: number[] = [];
    if (isSparse) {
      for (let c = 0; c < columns; c++) {
        if (values[c] > ranges.upper[c] || values[c] < ranges.lower[c]) outliers.push(c);
      }
    }
    return { outliers, centers, radii };
  });
}

/**
 * The values of stored rows.
 *
 * @param ranges of the channels, for rows without ranges of their own
 * @returns fresh, [tokens, channels]
 */
export function dequantizeNuq(source: NuqMatrix, codebook: NuqCodebook, ranges?: NuqRanges): Matrix {
  const { rows, columns, bits, outlierStarts, outlierChannels } = source;
  const result = matrix(rows, columns);
  const codes = new Uint8Array(columns);
  const rowBytes = packedBytes(columns, bits);
  const channel = ranges && channelRanges(ranges);
  const exact = decodeFloat16(source.outlierValues);
  const [rowCenters, rowRadii] = [decodeFloat16(source.centers), decodeFloat16(source.radii)];
  for (let t = 0; t < rows; t++) {
    unpackCodes(source.rowCodes.subarray(t * rowBytes, (t + 1) * rowBytes), bits, codes);
    const values = row(result, t);
    for (let c = 0; c < columns; c++) {
      const center = channel ? channel.centers[c] : rowCenters[t];
      const radius = channel ? channel.radii[c] : rowRadii[t];
      values[c] = decodeNuq(codebook, codes[c], center, radius);
    }
    if (outlierStarts.length === 0) continue;
    const end = t + 1 < rows ? outlierStarts[t + 1] : exact.length;
    for (let i = outlierStarts[t]; i < end; i++) values[outlierChannels[i]] = exact[i];
  }
  return result;
}

/** Bytes of stored rows by what they hold. */
export function nuqBytes(source: NuqMatrix): {
  codes: number;
  scales: number;
  mins: number;
  outliers: number;
} {
  const { outlierStarts, outlierChannels, outlierValues } = source;
  return {
    codes: source.rowCodes.byteLength,
    scales: source.radii.byteLength,
    mins: source.centers.byteLength,
    outliers: outlierStarts.byteLength + outlierChannels.byteLength + outlierValues.byteLength,
  };
}

/**
 * Expected bytes of `rows` rows. What rows store beside outliers is exact; how many outliers there are
 * depends on the data: for values `channels - ceil((1 - p/2)(channels - 1))` on each side, ties and exact hits
 * aside; for keys the calibrated fraction, which holds on text like that of the calibration.
 */
export function expectedNuqBytes(
  rows: number,
  columns: number,
  { bits, outlierFraction, rowRanges }: NuqFormat,
): ReturnType<typeof nuqBytes> {
  const parameters = rowRanges ? 2 * rows : 0;
  let outliers = 0;
  if (outlierFraction > 0) {
    const perSide = columns - Math.ceil((1 - outlierFraction / 2) * (columns - 1));
    outliers = rows * 4 + 4 * (rowRanges ? rows * 2 * perSide : Math.round(rows * columns * outlierFraction));
  }
  return { codes: rows * packedBytes(columns, bits), scales: parameters, mins: parameters, outliers };
}

/** Middle and half extent of every channel, in f16 like everything that is stored. */
function channelRanges({ lower, upper }: NuqRanges): { centers: Float32Array; radii: Float32Array } {
  const half = (value: number) => fromFloat16Bits(toFloat16Bits(fround(fround(value) * 0.5)));
  return {
    centers: lower.map((low, c) => half(upper[c] + low)),
    radii: lower.map((low, c) => half(upper[c] - low)),
  };
}

/** Where a row's outliers are, and center and radius of each of its channels. */
interface RowPlan {
  readonly outliers: readonly number[];
  readonly centers: Float32Array;
  readonly radii: Float32Array;
}

function encodeRows(
  source: Matrix,
  bits: NuqBits,
  codebook: NuqCodebook,
  isSparse: boolean,
  ranges: Pick<NuqMatrix, 'centers' | 'radii'>,
  plan: (values: Float32Array, token: number) => RowPlan,
): NuqMatrix {
  const { rows, columns } = source;
  const rowBytes = packedBytes(columns, bits);
  const rowCodes = new Uint8Array(rows * rowBytes);
  const codes = new Uint8Array(columns);
  const starts: number[] = [];
  const channels: number[] = [];
  const values: number[] = [];
  for (let t = 0; t < rows; t++) {
    const from = row(source, t);
    const { outliers, centers, radii } = plan(from, t);
    for (let c = 0; c < columns; c++) codes[c] = encodeNuq(codebook, from[c], centers[c], radii[c]);
    packCodes(codes, bits, rowCodes.subarray(t * rowBytes, (t + 1) * rowBytes));
    if (isSparse) starts.push(channels.length);
    for (const c of outliers) {
      channels.push(c);
      values.push(toFloat16Bits(from[c]));
    }
  }
  return {
    rows,
    columns,
    bits,
    rowCodes,
    ...ranges,
    outlierStarts: Uint32Array.from(starts),
    outlierChannels: Uint16Array.from(channels),
    outlierValues: Uint16Array.from(values),
  };
}

/** KVQuant's optional correction of the levels at reading time. */
export interface QNorm {
  readonly scale: number;
  readonly shift: number;
}

/**
 * The levels with and without Q-Norm.
 *
 * @param levels ascending, kept
 */
export function nuqCodebook(levels: Float32Array, qNorm?: QNorm): NuqCodebook {
  const decoded = qNorm ? levels.map((level) => fround(qNorm.scale * level + qNorm.shift)) : levels;
  return { levels, decoded };
}
