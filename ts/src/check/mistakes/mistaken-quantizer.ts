/**
 * A quantizer that makes one known mistake on purpose, so that a dump can be compared with it.
 *
 * With no mistake switched on it gives what quant/ gives, bit for bit, which a test holds it to. It is
 * written for variety and not for reading: the quantizer to read is quant/uniform.ts.
 *
 * @module
 */

import { fromFloat16Bits, roundToFloat16, toFloat16Bits } from '../../numerics/float16.js';
import { type Matrix, matrix } from '../../numerics/matrix.js';
import { roundHalfEven } from '../../numerics/round.js';
import type { GroupedOptions, Grouping } from '../../quant/grouped.js';
import { type Bits, MSE_RANGE_FACTORS, type RangeRule } from '../../quant/uniform.js';

const fround = Math.fround;

/** How codes become bytes. `specified` is quant/pack.ts. */
export type PackingOrder =
  | 'specified'
  | 'mostSignificantFirst'
  | 'halves'
  | 'highPlaneFirst'
  | 'threeBitStream'
  | 'threeBitPlanes';

/** Every way to be wrong, each off unless given. */
export interface QuantizerMistakes {
  /** Ties away from zero (for codes, which are not negative, the same as half up), or no rounding at all. */
  readonly rounding?: 'halfUp' | 'truncate';
  /** Multiplies by `1 / scale`: after the subtraction, or with the product `min * (1 / scale)` subtracted. */
  readonly reciprocal?: 'scaled' | 'fused';
  /** Computes codes from parameters before they are rounded to f16. */
  readonly unrounded?: 'scale' | 'min' | 'both';
  /** Rounds every operation to f16. */
  readonly halfArithmetic?: boolean;
  /** Rounds the zero point to a code, clamped to the range of codes or not; stores it as a value or as a code. */
  readonly integerZeroPoint?: 'clamped' | 'free' | 'clampedCode' | 'freeCode';
  /** A range symmetric about zero: of all levels, or of signed codes (with the offset stored, or no minimum). */
  readonly symmetric?: 'range' | 'signed' | 'signedWithoutMin';
  readonly range?: RangeRule;
  readonly grouping?: Grouping;
  readonly groupSize?: number;
  /** Elements in the first group, counting from the wrong token (or channel); then whole groups. */
  readonly firstGroup?: number;
  /** Groups per channel are written channel by channel, not block by block. */
  readonly channelMajor?: boolean;
  /** Fills the last group up with zeros, which enter its range (and, with `bytes`, the packed codes). */
  readonly zeroPadding?: 'statistics' | 'bytes';
  readonly packing?: PackingOrder;
  /** Codes in two's complement. */
  readonly signedCodes?: boolean;
  /** Bytes per word that is written most significant byte first. */
  readonly bigEndianWords?: 2 | 4 | 8;
  readonly bigEndianParameters?: boolean;
  /** Keeps a minimum of -0. */
  readonly negativeZero?: boolean;
}

/** What the mistaken quantizer gives. */
export interface MistakenMatrix {
  readonly packed: Uint8Array;
  /** f16 bits. */
  readonly scales: Uint16Array;
  /** f16 bits. */
  readonly mins: Uint16Array;
  /** [tokens, channels] */
  readonly codes: Uint8Array;
  readonly values: Matrix;
}

interface Group {
  /** Offset of each element in the row-major data. */
  readonly elements: readonly number[];
  /** Zeros that are added. */
  readonly padding: number;
}

interface Parameters {
  /** As used for codes. */
  scale: number;
  min: number;
  /** As stored. */
  scaleBits: number;
  minBits: number;
  /** Offset of codes: zero for a float minimum. */
  zero: number;
}

/**
 * Quantizes a matrix with mistakes.
 *
 * @param source [tokens, channels], finite
 */
export function quantizeMistakenly(
  source: Matrix,
  options: GroupedOptions,
  mistakes: QuantizerMistakes = {},
): MistakenMatrix {
  const range = mistakes.range ?? options.range;
  const groups = cutGroups(source, options, mistakes);
  const codes = new Uint8Array(source.data.length);
  const values = matrix(source.rows, source.columns);
  const scales = new Uint16Array(groups.length);
  const mins = new Uint16Array(groups.length);
  const packedGroups: Uint8Array[] = [];
  const last = 2 ** options.bits - 1;

  for (const [index, group] of groups.entries()) {
    const x = new Float32Array(group.elements.length + group.padding);
    group.elements.forEach((at, i) => {
      x[i] = mistakes.halfArithmetic ? roundToFloat16(source.data[at]) : source.data[at];
    });
    const { parameters, groupCodes } = encodeBest(x, last, range, mistakes);
    scales[index] = parameters.scaleBits;
    mins[index] = parameters.minBits;
    group.elements.forEach((at, i) => {
      codes[at] = groupCodes[i];
      values.data[at] = decodeOne(groupCodes[i], parameters, mistakes);
    });
    const stored =
      mistakes.zeroPadding === 'bytes' ? groupCodes : groupCodes.subarray(0, group.elements.length);
    packedGroups.push(packMistakenly(signed(stored, options.bits, mistakes), options.bits, mistakes.packing));
  }

  const packed = new Uint8Array(packedGroups.reduce((length, bytes) => length + bytes.length, 0));
  let at = 0;
  for (const bytes of packedGroups) {
    packed.set(bytes, at);
    at += bytes.length;
  }
  if (mistakes.bigEndianWords) swapBytes(packed, mistakes.bigEndianWords);
  if (mistakes.bigEndianParameters) {
    for (const array of [scales, mins]) {
      swapBytes(new Uint8Array(array.buffer, array.byteOffset, array.byteLength), 2);
    }
  }
  return { packed, scales, mins, codes, values };
}

/**
 * Packs the codes of one group in a wrong order.
 *
 * @param codes [n], each below 2^bits
 * @returns fresh
 */
export function packMistakenly(codes: Uint8Array, bits: Bits, order: PackingOrder = 'specified'): Uint8Array {
  const n = codes.length;
  if (bits === 3) {
    if (order === 'threeBitStream') return bitStream(codes, 3, (i) => i * 3);
    if (order === 'threeBitPlanes') {
      return joined(
        [0, 1, 2].map((plane) =>
          bitStream(
            codes.map((code) => (code >> plane) & 1),
            1,
            (i) => i,
          ),
        ),
      );
    }
    const low = bitStream(
      codes.map((code) => code & 3),
      2,
      (i) => positionInByte(i, 2, order),
    );
    const high = bitStream(
      codes.map((code) => code >> 2),
      1,
      (i) => positionInByte(i, 1, order),
    );
    return joined(order === 'highPlaneFirst' ? [high, low] : [low, high]);
  }
  if (order === 'halves' && bits < 8) {
    // Byte j holds codes j, j + n/2 (4 bits); j, j + n/4, ... (2 bits): as llama.cpp lays out q4_0.
    const parts = 8 / bits;
    const stride = Math.ceil(n / parts);
    return bitStream(codes, bits, (i) => (i % stride) * 8 + Math.floor(i / stride) * bits);
  }
  return bitStream(codes, bits, (i) => positionInByte(i, bits, order));
}

/**
 * Reads the codes of one group in a wrong order: the inverse of {@link packMistakenly}.
 *
 * @param packed bytes of one group, read
 * @returns fresh, [count]
 */
export function unpackMistakenly(
  packed: Uint8Array,
  bits: Bits,
  count: number,
  order: PackingOrder,
): Uint8Array {
  const codes = new Uint8Array(count);
  const single = new Uint8Array(count);
  // Which bits of the bytes a code owns follows from packing a single one of each bit.
  for (let i = 0; i < count; i++) {
    for (let bit = 0; bit < bits; bit++) {
      single[i] = 1 << bit;
      const at = packMistakenly(single, bits, order).findIndex((byte) => byte !== 0);
      const mask = packMistakenly(single, bits, order)[at];
      if (packed[at] & mask) codes[i] |= 1 << bit;
    }
    single[i] = 0;
  }
  return codes;
}

/** First bit of code i in its stream. */
function positionInByte(i: number, bits: number, order: PackingOrder): number {
  if (order !== 'mostSignificantFirst') return i * bits;
  const perByte = 8 / bits;
  return Math.floor(i / perByte) * 8 + (perByte - 1 - (i % perByte)) * bits;
}

function bitStream(codes: Uint8Array, bits: number, position: (i: number) => number): Uint8Array {
  const bytes = new Uint8Array(Math.ceil((codes.length * bits) / 8));
  for (let i = 0; i < codes.length; i++) {
    const at = position(i);
    const word = codes[i] << (at & 7);
    bytes[at >> 3] |= word;
    if (word > 255) bytes[(at >> 3) + 1] |= word >> 8;
  }
  return bytes;
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const result = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

/**
 * Reverses the bytes of every word in place; an incomplete word at the end is left.
 *
 * @param bytes overwritten
 */
export function swapBytes(bytes: Uint8Array, wordBytes: number): void {
  for (let at = 0; at + wordBytes <= bytes.length; at += wordBytes)
    bytes.subarray(at, at + wordBytes).reverse();
}

function signed(codes: Uint8Array, bits: Bits, { signedCodes }: QuantizerMistakes): Uint8Array {
  return signedCodes ? codes.map((code) => code ^ (1 << (bits - 1))) : codes;
}

function cutGroups(source: Matrix, options: GroupedOptions, mistakes: QuantizerMistakes): Group[] {
  const grouping = mistakes.grouping ?? options.grouping;
  const groupSize = mistakes.groupSize ?? options.groupSize;
  const { rows, columns } = source;
  // `along` runs inside a group, `across` from group to group.
  const [along, across] = grouping === 'perToken' ? [columns, rows] : [rows, columns];
  const offset = (across1: number, along1: number) =>
    grouping === 'perToken' ? across1 * columns + along1 : along1 * columns + across1;
  const runs: [from: number, to: number][] = [];
  let from = 0;
  let to = Math.min(mistakes.firstGroup ?? groupSize, along);
  while (from < along) {
    runs.push([from, to]);
    [from, to] = [to, Math.min(to + groupSize, along)];
  }
  const group = (line: number, [start, end]: [number, number]): Group => ({
    elements: Array.from({ length: end - start }, (_, i) => offset(line, start + i)),
    padding: mistakes.zeroPadding ? groupSize - (end - start) : 0,
  });
  const lines = Array.from({ length: across }, (_, line) => line);
  return grouping === 'perToken' || mistakes.channelMajor
    ? lines.flatMap((line) => runs.map((run) => group(line, run)))
    : runs.flatMap((run) => lines.map((line) => group(line, run)));
}

function encodeBest(
  x: Float32Array,
  last: number,
  range: RangeRule,
  mistakes: QuantizerMistakes,
): { parameters: Parameters; groupCodes: Uint8Array } {
  let min = x[0];
  let max = x[0];
  for (const value of x) {
    if (value < min) min = value;
    if (value > max) max = value;
  }
  const hasNegativeZero = min === 0 && x.some((value) => Object.is(value, -0));
  min = mistakes.negativeZero && hasNegativeZero ? -0 : min + 0;
  max += 0;
  let parameters = parametersOf(min, max, last, mistakes);
  let groupCodes = encode(x, parameters, last, mistakes);
  if (range === 'minmax' || parameters.scale === 0) return { parameters, groupCodes };
  let best = squaredError(x, groupCodes, parameters, mistakes);
  const mid = fround(fround(min + max) * 0.5);
  for (const factor of MSE_RANGE_FACTORS.subarray(1)) {
    const low = fround(mid - fround(factor * fround(mid - min)));
    const high = fround(mid + fround(factor * fround(max - mid)));
    const candidate = parametersOf(low, high, last, mistakes);
    if (candidate.scale === 0) continue;
    const candidateCodes = encode(x, candidate, last, mistakes);
    const error = squaredError(x, candidateCodes, candidate, mistakes);
    if (error < best) {
      best = error;
      parameters = candidate;
      groupCodes = candidateCodes;
    }
  }
  return { parameters, groupCodes };
}

function parametersOf(min: number, max: number, last: number, mistakes: QuantizerMistakes): Parameters {
  const rounded = mistakes.halfArithmetic ? roundToFloat16 : fround;
  let [low, high] = [min, max];
  if (mistakes.symmetric === 'range') {
    high = Math.max(Math.abs(min), Math.abs(max));
    low = -high;
  }
  let exactScale = rounded(rounded(high - low) / last);
  let exactMin = low;
  let zero = 0;
  if (mistakes.symmetric === 'signed' || mistakes.symmetric === 'signedWithoutMin') {
    const positive = Math.max(1, (last - 1) / 2); // 127 of 255, 7 of 15
    exactScale = fround(Math.max(Math.abs(min), Math.abs(max)) / positive);
    zero = (last + 1) / 2;
    exactMin = mistakes.symmetric === 'signedWithoutMin' ? 0 : -zero * roundToFloat16(exactScale);
  }
  const scaleBits = toFloat16Bits(exactScale);
  const storedScale = fromFloat16Bits(scaleBits);
  if (mistakes.integerZeroPoint && storedScale !== 0) {
    zero = roundHalfEven(-low / storedScale);
    if (mistakes.integerZeroPoint.startsWith('clamped')) zero = Math.min(Math.max(zero, 0), last);
    exactMin = mistakes.integerZeroPoint.endsWith('Code') ? zero : -zero * storedScale + 0;
  }
  const minBits = toFloat16Bits(exactMin);
  const { unrounded } = mistakes;
  return {
    scale: unrounded === 'scale' || unrounded === 'both' ? exactScale : storedScale,
    min: unrounded === 'min' || unrounded === 'both' ? exactMin : fromFloat16Bits(minBits),
    scaleBits,
    minBits,
    zero,
  };
}

function encode(
  x: Float32Array,
  parameters: Parameters,
  last: number,
  mistakes: QuantizerMistakes,
): Uint8Array {
  const { scale, min, zero } = parameters;
  const codes = new Uint8Array(x.length);
  if (fromFloat16Bits(parameters.scaleBits) === 0) return codes;
  const rounded = mistakes.halfArithmetic ? roundToFloat16 : fround;
  const inverse = fround(1 / scale);
  const shifted = mistakes.integerZeroPoint !== undefined || mistakes.symmetric?.startsWith('signed');
  for (let i = 0; i < x.length; i++) {
    let level: number;
    if (shifted) level = roundWith(fround(x[i] / scale), mistakes) + zero;
    else if (mistakes.reciprocal === 'fused') level = fround(fround(x[i] * inverse) - fround(min * inverse));
    else if (mistakes.reciprocal) level = fround(fround(x[i] - min) * inverse);
    else level = rounded(rounded(x[i] - min) / scale);
    codes[i] = roundWith(Math.min(Math.max(level, 0), last), mistakes);
  }
  return codes;
}

function roundWith(level: number, { rounding }: QuantizerMistakes): number {
  if (rounding === 'truncate') return Math.trunc(level);
  if (rounding === 'halfUp') return Math.sign(level) * Math.floor(Math.abs(level) + 0.5);
  return roundHalfEven(level);
}

function decodeOne(code: number, parameters: Parameters, mistakes: QuantizerMistakes): number {
  const scale = fromFloat16Bits(parameters.scaleBits);
  if (mistakes.integerZeroPoint || mistakes.symmetric?.startsWith('signed')) {
    if (scale !== 0) return fround((code - parameters.zero) * scale);
  }
  const min = fromFloat16Bits(parameters.minBits);
  if (mistakes.halfArithmetic) return roundToFloat16(roundToFloat16(code * scale) + min);
  return fround(code * scale + min);
}

function squaredError(
  x: Float32Array,
  codes: Uint8Array,
  parameters: Parameters,
  mistakes: QuantizerMistakes,
): number {
  const lanes = new Float32Array(4);
  for (let i = 0; i < x.length; i++) {
    const difference = fround(x[i] - decodeOne(codes[i], parameters, mistakes));
    lanes[i & 3] += fround(difference * difference);
  }
  return fround(fround(lanes[0] + lanes[1]) + fround(lanes[2] + lanes[3]));
}
