/**
 * A matrix cut into groups, each quantized on its own: per token or per channel.
 *
 *     perToken: a group is `groupSize` neighbouring channels of one token
 *     perChannel: a group is `groupSize` neighbouring tokens of one channel, counted from the first row
 *
 * KIVI (arXiv 2402.02750) and XQuant §3.3 quantize keys per channel, because outliers sit in fixed
 * channels, and values and X per token. A last group may be short; it is a group of its own, never padded.
 *
 * @module
 */

import { assertPositiveInteger, ConfigError } from '../errors.js';
import { type Matrix, matrix } from '../numerics/matrix.js';
import { packCodes, packedBytes, unpackCodes } from './pack.js';
import {
  assertBits,
  type Bits,
  dequantizeGroup,
  type GroupPlace,
  quantizeGroup,
  RANGE_RULES,
  type RangeRule,
} from './uniform.js';

/** Which elements share a scale. */
export type Grouping = 'perToken' | 'perChannel';

/** The choices of {@link Grouping}. */
export const GROUPINGS: readonly Grouping[] = ['perToken', 'perChannel'];

/** How a matrix is cut and coded. */
export interface GroupedFormat {
  readonly bits: Bits;
  /** Elements that share one scale and minimum. */
  readonly groupSize: number;
  readonly grouping: Grouping;
}

/** {@link GroupedFormat} and how the encoder chooses ranges, which the reader need not know. */
export interface GroupedOptions extends GroupedFormat {
  readonly range: RangeRule;
}

/**
 * A quantized matrix: what a cache keeps and a kernel exchanges.
 *
 * Groups are numbered token-major, then by channel group (`perToken`), or by block of tokens, then by
 * channel (`perChannel`). `packed` holds the groups in that order, each starting on a byte.
 */
export interface QuantizedMatrix extends GroupedFormat {
  /** Tokens. */
  readonly rows: number;
  /** Channels. */
  readonly columns: number;
  /** Codes of all groups, see quant/pack.ts. */
  readonly packed: Uint8Array;
  /** [groups], f16 bits. */
  readonly scales: Uint16Array;
  /** [groups], f16 bits. */
  readonly mins: Uint16Array;
}

/** One group of a matrix: where its elements, its parameters and its bytes are. */
export interface GroupSlot {
  /** Position in `scales` and `mins`. */
  index: number;
  /** First row of the group. */
  token: number;
  /** First column of the group. */
  channel: number;
  /** Elements in the group. */
  count: number;
  /** Offset of the first element in the row-major data, in elements. */
  start: number;
  /** Distance between neighbouring elements of the group in the row-major data. */
  stride: number;
  /** First byte in `packed`. */
  byteOffset: number;
  /** Bytes in `packed`. */
  byteLength: number;
}

/**
 * @throws {ConfigError | RangeError} if an option is outside its set
 */
function assertGroupedOptions(options: GroupedOptions): void {
  assertBits(options.bits);
  assertPositiveInteger(options.groupSize, 'groupSize');
  if (!GROUPINGS.includes(options.grouping)) {
    throw new ConfigError('grouping', options.grouping, GROUPINGS.join(' or '));
  }
  if (!RANGE_RULES.includes(options.range)) {
    throw new ConfigError('range', options.range, RANGE_RULES.join(' or '));
  }
}

/**
 * Visits the groups of a matrix in stored order. This is the one definition of the layout.
 *
 * @param visit receives the same object each time, with its fields changed
 */
export function forEachGroup(
  rows: number,
  columns: number,
  format: GroupedFormat,
  visit: (slot: GroupSlot) => void,
): void {
  const { bits, groupSize, grouping } = format;
  const slot: GroupSlot = {
    index: 0,
    token: 0,
    channel: 0,
    count: 0,
    start: 0,
    stride: grouping === 'perToken' ? 1 : columns,
    byteOffset: 0,
    byteLength: 0,
  };
  const tokenStep = grouping === 'perToken' ? 1 : groupSize;
  const channelStep = grouping === 'perToken' ? groupSize : 1;
  for (slot.token = 0; slot.token < rows; slot.token += tokenStep) {
    for (slot.channel = 0; slot.channel < columns; slot.channel += channelStep) {
      slot.count = Math.min(groupSize, grouping === 'perToken' ? columns - slot.channel : rows - slot.token);
      slot.start = slot.token * columns + slot.channel;
      slot.byteLength = packedBytes(slot.count, bits);
      visit(slot);
      slot.index++;
      slot.byteOffset += slot.byteLength;
    }
  }
}

/** Sizes of the stored arrays of a matrix. */
export function groupedSizes(
  rows: number,
  columns: number,
  format: GroupedFormat,
): { groups: number; packedBytes: number } {
  const { bits, groupSize, grouping } = format;
  // Groups run along rows of `length` values, of which there are `lines`; the last group of each may be shorter.
  const [length, lines] = grouping === 'perToken' ? [columns, rows] : [rows, columns];
  const whole = Math.floor(length / groupSize);
  const rest = length % groupSize;
  return {
    groups: lines * (whole + (rest > 0 ? 1 : 0)),
    packedBytes: lines * (whole * packedBytes(groupSize, bits) + packedBytes(rest, bits)),
  };
}

/**
 * Quantizes and packs a matrix.
 *
 * @param source [tokens, channels], finite, read
 * @param place layer and tensor name, for error messages
 * @returns fresh
 * @throws {ConfigError | RangeError} if an option is outside its set
 * @throws {NumericError} if a value is NaN or infinite or a range does not fit in f16; names the token and channel
 */
export function quantizeMatrix(
  source: Matrix,
  options: GroupedOptions,
  place: GroupPlace = {},
): QuantizedMatrix {
  assertGroupedOptions(options);
  const { rows, columns, data } = source;
  const { bits, groupSize, grouping, range } = options;
  const sizes = groupedSizes(rows, columns, options);
  const packed = new Uint8Array(sizes.packedBytes);
  const scales = new Uint16Array(sizes.groups);
  const mins = new Uint16Array(sizes.groups);
  const values = new Float32Array(groupSize);
  const codes = new Uint8Array(groupSize);

  forEachGroup(rows, columns, options, (slot) => {
    const groupValues = values.subarray(0, slot.count);
    const groupCodes = codes.subarray(0, slot.count);
    for (let i = 0; i < slot.count; i++) groupValues[i] = data[slot.start + i * slot.stride];
    const at = { ...place, ...firstNonFinite(groupValues, slot) };
    const parameters = quantizeGroup(groupValues, bits, range, groupCodes, at);
    scales[slot.index] = parameters.scale;
    mins[slot.index] = parameters.min;
    packCodes(groupCodes, bits, packed.subarray(slot.byteOffset, slot.byteOffset + slot.byteLength));
  });
  return { rows, columns, bits, groupSize, grouping, packed, scales, mins };
}

/**
 * Unpacks and dequantizes a matrix.
 *
 * @returns fresh, [tokens, channels]
 */
export function dequantizeMatrix(source: QuantizedMatrix): Matrix {
  const result = matrix(source.rows, source.columns);
  const values = new Float32Array(source.groupSize);
  forEachCodes(source, (slot, codes) => {
    const groupValues = values.subarray(0, slot.count);
    const parameters = { scale: source.scales[slot.index], min: source.mins[slot.index] };
    dequantizeGroup(codes, parameters, groupValues);
    for (let i = 0; i < slot.count; i++) result.data[slot.start + i * slot.stride] = groupValues[i];
  });
  return result;
}

/**
 * The codes of a quantized matrix, unpacked.
 *
 * @returns fresh, [tokens, channels] row-major, whatever the grouping
 */
export function unpackMatrix(source: QuantizedMatrix): Uint8Array {
  const result = new Uint8Array(source.rows * source.columns);
  forEachCodes(source, (slot, codes) => {
    for (let i = 0; i < slot.count; i++) result[slot.start + i * slot.stride] = codes[i];
  });
  return result;
}

/** Bytes of codes and parameters. */
export function quantizedBytes(source: QuantizedMatrix): { codes: number; scales: number; mins: number } {
  return {
    codes: source.packed.byteLength,
    scales: source.scales.byteLength,
    mins: source.mins.byteLength,
  };
}

function forEachCodes(source: QuantizedMatrix, visit: (slot: GroupSlot, codes: Uint8Array) => void): void {
  const codes = new Uint8Array(source.groupSize);
  forEachGroup(source.rows, source.columns, source, (slot) => {
    const groupCodes = codes.subarray(0, slot.count);
    const bytes = source.packed.subarray(slot.byteOffset, slot.byteOffset + slot.byteLength);
    unpackCodes(bytes, source.bits, groupCodes);
    visit(slot, groupCodes);
  });
}

/** The element that an error would be about: the first non-finite one, otherwise the first of the group. */
function firstNonFinite(values: Float32Array, slot: GroupSlot): GroupPlace {
  const bad = values.findIndex((value) => !Number.isFinite(value));
  const offset = Math.max(bad, 0);
  return slot.stride === 1
    ? { token: slot.token, channel: slot.channel + offset }
    : { token: slot.token + offset, channel: slot.channel };
}
