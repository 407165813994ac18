/**
 * The quantizer of the calibrated caches: per channel, symmetric about zero, a width of its own for every channel.
 *
 *     group     `groupSize` neighbouring tokens of one channel, counted from the first row; a last one may be short
 *     stored    one f16 scale a group and a code of b bits a value; no minimum
 *     value     (code + 1/2 - 2^(b-1)) * scale           code in 0 .. 2^b - 1
 *
 *     b = 2     code     0      1   |   2      3
 *               value  -1.5s  -.5s  0  .5s   1.5s        zero lies between two levels
 *
 * The channels are coordinates of a learned basis, each close to normally distributed with mean zero, so that
 * there is no minimum to store, and the best uniform step of a normal variable is where the search for the
 * scale begins. A channel of 0 bits is not stored; it is read as zero.
 *
 * Everything here decides bits: every operation is rounded to f32 (`fround`) in the order that is written.
 * docs/numerics.md ("The symmetric quantizer") has the same as numbered steps, with worked cases.
 *
 * @module
 */

import { assertPositiveInteger, ConfigError, NumericError, ShapeError } from '../errors.js';
import { fromFloat16Bits, toFloat16Bits } from '../numerics/float16.js';
import { type Matrix, matrix } from '../numerics/matrix.js';
import { packCodes, packedBytes, unpackCodes } from './pack.js';
import { BITS, type Bits, type GroupPlace, maxCode } from './uniform.js';

const fround = Math.fround;

/** Bits of one channel; 0 leaves it out. */
export type ChannelBits = 0 | Bits;

/** The widths that a channel can have, ascending. */
export const CHANNEL_BITS: readonly ChannelBits[] = [0, ...BITS];

/** Step of the uniform quantizer of 2^bits levels with the least squared error for a normal variable of variance 1. */
export const NORMAL_STEP: Readonly<Record<Bits, number>> = {
  1: fround(1.596),
  2: fround(0.9957),
  3: fround(0.586),
  4: fround(0.3352),
  8: fround(0.0308),
};

/** Multiples of that step that are tried for a group, in this order. A later one wins only if it is strictly better. */
export const STEP_FACTORS: Float32Array = Float32Array.of(0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.35, 1.5);

/** How a matrix is cut and coded. */
export interface SymmetricFormat {
  /** Tokens that share one scale. */
  readonly groupSize: number;
  /** [columns] */
  readonly channelBits: readonly ChannelBits[];
}

/**
 * A matrix in symmetric codes. Groups are numbered by block of tokens, then by channel, without the channels
 * of 0 bits. The bits of the channels are part of a calibration and are not kept here.
 */
export interface SymmetricMatrix {
  /** Tokens. */
  readonly rows: number;
  /** Channels, those of 0 bits included. */
  readonly columns: number;
  readonly groupSize: number;
  /** Codes of all groups, each starting on a byte, see quant/pack.ts. */
  readonly channelCodes: Uint8Array;
  /** [groups], f16 bits. */
  readonly scales: Uint16Array;
}

/** One group of a matrix: where its elements, its scale and its bytes are. */
export interface ChannelGroup {
  /** Position in `scales`. */
  index: number;
  /** First row. */
  token: number;
  channel: number;
  bits: Bits;
  /** Elements in the group. */
  count: number;
  /** First byte in `channelCodes`. */
  byteOffset: number;
  /** Bytes in `channelCodes`. */
  byteLength: number;
}

/**
 * Quantizes one group.
 *
 * @param values [n], finite f32 values, read
 * @param codes [n], overwritten with codes in `0 .. 2^bits - 1`
 * @param place named in errors
 * @returns f16 bits of the scale; zero for a group of zeros
 * @throws {NumericError} if a value is NaN or infinite, or a scale does not fit in f16
 */
export function quantizeSymmetricGroup(
  values: Float32Array,
  bits: Bits,
  codes: Uint8Array,
  place: GroupPlace = {},
): number {
  const rms = rootMeanSquare(values, place);
  const candidate = new Uint8Array(codes.length);
  let best = 0;
  let bestError = Number.POSITIVE_INFINITY;
  for (const factor of STEP_FACTORS) {
    const step = fround(fround(factor * NORMAL_STEP[bits]) * rms);
    const scale = toFloat16Bits(step);
    if (!Number.isFinite(fromFloat16Bits(scale))) {
      throw new NumericError('quantize', step, place, 'the scale of the group does not fit in f16');
    }
    encodeSymmetricGroup(values, scale, bits, candidate);
    const error = squaredError(values, candidate, scale, bits);
    if (error < bestError) {
      bestError = error;
      best = scale;
      codes.set(candidate);
    }
  }
  return best;
}

/**
 * Codes of a group with a given scale: the cell of each value. A true division, and a value on the
 * border of two cells belongs to the upper one.
 *
 * @param values [n], read
 * @param scale f16 bits; with 0 every code is 2^(bits-1), the one of zero
 * @param codes [n], overwritten
 */
export function encodeSymmetricGroup(
  values: Float32Array,
  scale: number,
  bits: Bits,
  codes: Uint8Array,
): void {
  const step = fromFloat16Bits(scale);
  const half = 2 ** (bits - 1);
  if (step === 0) {
    codes.fill(half);
    return;
  }
  const last = maxCode(bits);
  for (let i = 0; i < values.length; i++) {
    const cell = Math.floor(fround(values[i] / step)) + half;
    codes[i] = Math.min(Math.max(cell, 0), last);
  }
}

/**
 * Values of a group: the middles of the cells. Exact in f32, since a middle has at most 9 bits and a scale 11.
 *
 * @param codes [n], read
 * @param scale f16 bits
 * @param values [n], overwritten
 */
export function dequantizeSymmetricGroup(
  codes: Uint8Array,
  scale: number,
  bits: Bits,
  values: Float32Array,
): void {
  const step = fromFloat16Bits(scale);
  const middle = 0.5 - 2 ** (bits - 1);
  for (let i = 0; i < codes.length; i++) values[i] = (codes[i] + middle) * step;
}

/**
 * Quantizes and packs a matrix.
 *
 * @param source [tokens, channels], finite, read
 * @param place layer and tensor name, for error messages
 * @returns fresh
 * @throws {ConfigError | RangeError} if a width is not 0, 1, 2, 3, 4 or 8, or the group size no positive integer
 * @throws {ShapeError} if there is not one width a channel
 * @throws {NumericError} if a value is NaN or infinite, or a scale does not fit in f16; names token and channel
 */
export function quantizeSymmetric(
  source: Matrix,
  format: SymmetricFormat,
  place: GroupPlace = {},
): SymmetricMatrix {
  const { rows, columns, data } = source;
  assertSymmetricFormat('quantizeSymmetric', format, columns);
  assertFinite(source, place);
  const sizes = symmetricSizes(rows, format);
  const channelCodes = new Uint8Array(sizes.codeBytes);
  const scales = new Uint16Array(sizes.groups);
  const values = new Float32Array(format.groupSize);
  const codes = new Uint8Array(format.groupSize);
  forEachChannelGroup(rows, format, ({ index, token, channel, bits, count, byteOffset, byteLength }) => {
    const groupValues = values.subarray(0, count);
    const groupCodes = codes.subarray(0, count);
    for (let i = 0; i < count; i++) groupValues[i] = data[(token + i) * columns + channel];
    scales[index] = quantizeSymmetricGroup(groupValues, bits, groupCodes, { ...place, token, channel });
    packCodes(groupCodes, bits, channelCodes.subarray(byteOffset, byteOffset + byteLength));
  });
  return { rows, columns, groupSize: format.groupSize, channelCodes, scales };
}

/**
 * Unpacks and dequantizes a matrix.
 *
 * @param channelBits those with which it was quantized, [columns]
 * @returns fresh, [tokens, channels]; channels of 0 bits are zero
 * @throws {ShapeError} if the sizes of the stored arrays do not fit these bits
 */
export function dequantizeSymmetric(source: SymmetricMatrix, channelBits: readonly ChannelBits[]): Matrix {
  const { rows, columns, groupSize, channelCodes, scales } = source;
  const format = { groupSize, channelBits };
  assertSymmetricFormat('dequantizeSymmetric', format, columns);
  const { groups, codeBytes } = symmetricSizes(rows, format);
  if (scales.length !== groups || channelCodes.length !== codeBytes) {
    const actual = [scales.length, channelCodes.length];
    throw new ShapeError('dequantizeSymmetric', 'scales, channelCodes', [groups, codeBytes], actual);
  }
  const result = matrix(rows, columns);
  const values = new Float32Array(groupSize);
  const codes = new Uint8Array(groupSize);
  forEachChannelGroup(rows, format, ({ index, token, channel, bits, count, byteOffset, byteLength }) => {
    const groupValues = values.subarray(0, count);
    const groupCodes = codes.subarray(0, count);
    unpackCodes(channelCodes.subarray(byteOffset, byteOffset + byteLength), bits, groupCodes);
    dequantizeSymmetricGroup(groupCodes, scales[index], bits, groupValues);
    for (let i = 0; i < count; i++) result.data[(token + i) * columns + channel] = groupValues[i];
  });
  return result;
}

/**
 * Sizes of the stored arrays of a matrix.
 *
 * @param rows tokens
 */
export function symmetricSizes(rows: number, format: SymmetricFormat): { groups: number; codeBytes: number } {
  const sizes = { groups: 0, codeBytes: 0 };
  forEachChannelGroup(rows, format, ({ byteLength }) => {
    sizes.groups++;
    sizes.codeBytes += byteLength;
  });
  return sizes;
}

/** All groups in stored order, fresh. */
export function symmetricGroups(rows: number, format: SymmetricFormat): ChannelGroup[] {
  const groups: ChannelGroup[] = [];
  forEachChannelGroup(rows, format, (group) => groups.push({ ...group }));
  return groups;
}

/** Groups that lie one after another: neighbouring channels with the same bits. */
export interface ChannelRun extends ChannelGroup {
  /** Groups; all other fields are of the first, `byteLength` too. */
  channels: number;
}

/**
 * The groups in stored order, as few runs as they make; fresh.
 *
 * @param first channel; groups of those before it are left out
 */
export function symmetricRuns(rows: number, format: SymmetricFormat, first = 0): ChannelRun[] {
  const runs: ChannelRun[] = [];
  forEachChannelGroup(rows, format, (group) => {
    if (group.channel < first) return;
    const last = runs.at(-1);
    const continues =
      last?.token === group.token &&
      last.bits === group.bits &&
      last.channel + last.channels === group.channel;
    if (last && continues) last.channels++;
    else runs.push({ ...group, channels: 1 });
  });
  return runs;
}

/**
 * Unpacks without dequantizing.
 *
 * @param channelBits those with which it was quantized, [columns]
 * @returns fresh, [tokens, channels]; 0 in channels of 0 bits
 */
export function symmetricCodes(source: SymmetricMatrix, channelBits: readonly ChannelBits[]): Uint8Array {
  const { rows, columns, groupSize, channelCodes } = source;
  const result = new Uint8Array(rows * columns);
  const codes = new Uint8Array(groupSize);
  forEachChannelGroup(
    rows,
    { groupSize, channelBits },
    ({ token, channel, bits, count, byteOffset, byteLength }) => {
      const groupCodes = codes.subarray(0, count);
      unpackCodes(channelCodes.subarray(byteOffset, byteOffset + byteLength), bits, groupCodes);
      for (let i = 0; i < count; i++) result[(token + i) * columns + channel] = groupCodes[i];
    },
  );
  return result;
}

/** Visits the groups in stored order, each time with the same object. This is the one definition of the layout. */
function forEachChannelGroup(
  rows: number,
  { groupSize, channelBits }: SymmetricFormat,
  visit: (group: ChannelGroup) => void,
): void {
  const group: ChannelGroup = {
    index: 0,
    token: 0,
    channel: 0,
    bits: 1,
    count: 0,
    byteOffset: 0,
    byteLength: 0,
  };
  for (group.token = 0; group.token < rows; group.token += groupSize) {
    group.count = Math.min(groupSize, rows - group.token);
    for (group.channel = 0; group.channel < channelBits.length; group.channel++) {
      const bits = channelBits[group.channel];
      if (bits === 0) continue;
      group.bits = bits;
      group.byteLength = packedBytes(group.count, bits);
      visit(group);
      group.index++;
      group.byteOffset += group.byteLength;
    }
  }
}

function assertSymmetricFormat(
  op: string,
  { groupSize, channelBits }: SymmetricFormat,
  columns: number,
): void {
  assertPositiveInteger(groupSize, 'groupSize');
  if (channelBits.length !== columns) {
    throw new ShapeError(op, 'channelBits', [columns], [channelBits.length]);
  }
  const bad = channelBits.find((bits) => !CHANNEL_BITS.includes(bits));
  if (bad !== undefined) throw new ConfigError('channelBits', bad, `one of ${CHANNEL_BITS.join(', ')}`);
}

/** Also in channels of 0 bits, where a NaN would otherwise vanish without a word. */
function assertFinite({ columns, data }: Matrix, place: GroupPlace): void {
  const bad = data.findIndex((value) => !Number.isFinite(value));
  if (bad < 0) return;
  const at = { ...place, token: Math.floor(bad / columns), channel: bad % columns };
  throw new NumericError('quantize', data[bad], at, 'not a finite number');
}

// Sums run in four lanes, as in a SIMD register of four floats: lane = index mod 4.
const lanes = new Float32Array(4);

function rootMeanSquare(values: Float32Array, place: GroupPlace): number {
  lanes.fill(0);
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (!Number.isFinite(value)) throw new NumericError('quantize', value, place, 'not a finite number');
    lanes[i & 3] += fround(value * value);
  }
  return fround(Math.sqrt(fround(sumOfLanes() / values.length)));
}

function squaredError(values: Float32Array, codes: Uint8Array, scale: number, bits: Bits): number {
  const step = fromFloat16Bits(scale);
  const middle = 0.5 - 2 ** (bits - 1);
  lanes.fill(0);
  for (let i = 0; i < values.length; i++) {
    const difference = fround(values[i] - (codes[i] + middle) * step);
    lanes[i & 3] += fround(difference * difference);
  }
  return sumOfLanes();
}

function sumOfLanes(): number {
  return fround(fround(lanes[0] + lanes[1]) + fround(lanes[2] + lanes[3]));
}
