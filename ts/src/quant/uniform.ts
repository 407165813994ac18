/**
 * One group: range -> scale and minimum -> codes -> values. The page to read first.
 *
 * The uniform asymmetric quantizer of KIVI (arXiv 2402.02750) and XQuant (§4): a group of values is
 * described by two f16 numbers, its minimum and the distance between levels, and a code per value that
 * says which level is nearest:
 *
 *     value ~ code * scale + min        code in 0 .. 2^bits - 1
 *
 * Everything here decides bits, so every operation is rounded to f32 (`fround`) and its order is fixed:
 * a kernel on any machine with IEEE 754 arithmetic can produce the same bytes. The worked cases E1 to E10
 * of the tests show where a shortcut (a reciprocal, an unrounded scale, another tie rule) shows.
 *
 * @module
 */

import { ConfigError, NumericError } from '../errors.js';
import { fromFloat16Bits, toFloat16Bits } from '../numerics/float16.js';
import { roundHalfEven } from '../numerics/round.js';

const fround = Math.fround;

/** Bits of one code. */
export type Bits = 1 | 2 | 3 | 4 | 8;

/** The code widths that the packed format has. */
export const BITS: readonly Bits[] = [1, 2, 3, 4, 8];

/**
 * How the range of a group is chosen: its full extent, or the part of it that gives the smallest squared
 * error (`mse`, worth most at 2 bits, where min..max spends half of the levels on the tails).
 */
export type RangeRule = 'minmax' | 'mse';

/** The choices of {@link RangeRule}. */
export const RANGE_RULES: readonly RangeRule[] = ['minmax', 'mse'];

/** The parameters that a group stores besides its codes: two f16 numbers, as bits. */
export interface GroupParameters {
  /** f16 bits of the distance between two levels. Zero for a constant group. */
  scale: number;
  /** f16 bits of the value of code 0. */
  min: number;
}

/** Where a group comes from; only error messages read it. */
export interface GroupPlace {
  tensor?: string;
  layer?: number;
  token?: number;
  channel?: number;
}

/**
 * The fractions of its full range that `range: 'mse'` tries for a group, widest first.
 * A narrower one wins only if it is strictly better.
 */
export const MSE_RANGE_FACTORS: Float32Array = Float32Array.of(
  1.0,
  0.95,
  0.9,
  0.85,
  0.8,
  0.75,
  0.7,
  0.65,
  0.6,
  0.55,
  0.5,
  0.45,
  0.4,
);

/** The largest code: `2^bits - 1`. */
export function maxCode(bits: Bits): number {
  return 2 ** bits - 1;
}

/**
 * @throws {ConfigError} if `bits` is not 1, 2, 3, 4 or 8
 */
export function assertBits(bits: number, option = 'bits'): asserts bits is Bits {
  if (!BITS.includes(bits as Bits)) throw new ConfigError(option, bits, 'one of 1, 2, 3, 4, 8');
}

/**
 * Quantizes one group.
 *
 * @param values [n], finite f32 values, read
 * @param codes [n], overwritten with codes in `0 .. 2^bits - 1`
 * @param place named in errors
 * @returns scale and minimum, as stored
 * @throws {NumericError} if a value is NaN or infinite, or the range does not fit in f16
 * @see XQuant §4
 */
export function quantizeGroup(
  values: Float32Array,
  bits: Bits,
  range: RangeRule,
  codes: Uint8Array,
  place: GroupPlace = {},
): GroupParameters {
  const [min, max] = extent(values, place);
  let best = parametersOfRange(min, max, bits, place);
  encodeGroup(values, best, bits, codes);
  // A constant group is as good as it gets, and with min..max alone there is nothing to choose.
  if (range === 'minmax' || best.scale === 0) return best;

  let bestError = squaredError(values, codes, best);
  const candidate = new Uint8Array(codes.length);
  const mid = fround(fround(min + max) * 0.5);
  for (const factor of MSE_RANGE_FACTORS.subarray(1)) {
    const low = fround(mid - fround(factor * fround(mid - min)));
    const high = fround(mid + fround(factor * fround(max - mid)));
    const parameters = parametersOfRange(low, high, bits, place);
    if (parameters.scale === 0) continue; // a range that f16 cannot divide describes nothing
    encodeGroup(values, parameters, bits, candidate);
    const error = squaredError(values, candidate, parameters);
    if (error < bestError) {
      bestError = error;
      best = parameters;
      codes.set(candidate);
    }
  }
  return best;
}

/**
 * Codes of a group whose parameters are given: the nearest level, ties to the even code.
 *
 * The codes are taken against the *stored*, f16-rounded parameters, because those are what the reader
 * will use. A true division: `x * (1 / s)` gives other codes (case E10).
 *
 * @param values [n], read
 * @param codes [n], overwritten
 */
export function encodeGroup(
  values: Float32Array,
  parameters: GroupParameters,
  bits: Bits,
  codes: Uint8Array,
): void {
  const scale = fromFloat16Bits(parameters.scale);
  const min = fromFloat16Bits(parameters.min);
  if (scale === 0) {
    codes.fill(0);
    return;
  }
  const last = maxCode(bits);
  for (let i = 0; i < values.length; i++) {
    const level = fround(fround(values[i] - min) / scale);
    codes[i] = roundHalfEven(Math.min(Math.max(level, 0), last));
  }
}

/**
 * Values of a group: `code * scale + min`. The product is exact in f32 (at most 8 + 11 bits), so there is
 * one rounding and a fused multiply-add gives the same bits.
 *
 * @param codes [n], read
 * @param values [n], overwritten
 */
export function dequantizeGroup(codes: Uint8Array, parameters: GroupParameters, values: Float32Array): void {
  const scale = fromFloat16Bits(parameters.scale);
  const min = fromFloat16Bits(parameters.min);
  for (let i = 0; i < codes.length; i++) values[i] = codes[i] * scale + min;
}

/** Smallest and largest value; a zero is returned as +0, so that its f16 bits do not depend on the order. */
function extent(values: Float32Array, place: GroupPlace): [min: number, max: number] {
  let min = values[0];
  let max = values[0];
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (!Number.isFinite(value)) throw new NumericError('quantize', value, place, 'not a finite number');
    if (value < min) min = value;
    if (value > max) max = value;
  }
  return [min + 0, max + 0];
}

function parametersOfRange(min: number, max: number, bits: Bits, place: GroupPlace): GroupParameters {
  const scale = toFloat16Bits(fround(fround(max - min) / maxCode(bits)));
  const stored = { scale, min: toFloat16Bits(min) };
  if (!Number.isFinite(fromFloat16Bits(stored.min))) {
    throw new NumericError('quantize', min, place, 'the minimum of the group does not fit in f16');
  }
  if (!Number.isFinite(fromFloat16Bits(scale))) {
    throw new NumericError('quantize', max - min, place, 'the range of the group does not fit in f16');
  }
  return stored;
}

// Summed in four lanes, as a SIMD register of four floats does it: lane = index mod 4.
const lanes = new Float32Array(4);

function squaredError(values: Float32Array, codes: Uint8Array, parameters: GroupParameters): number {
  const scale = fromFloat16Bits(parameters.scale);
  const min = fromFloat16Bits(parameters.min);
  lanes.fill(0);
  for (let i = 0; i < values.length; i++) {
    const difference = fround(values[i] - fround(codes[i] * scale + min));
    lanes[i & 3] += fround(difference * difference);
  }
  return fround(fround(lanes[0] + lanes[1]) + fround(lanes[2] + lanes[3]));
}
