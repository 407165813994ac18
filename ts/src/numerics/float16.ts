/**
 * IEEE 754 binary16 ("f16"): 1 sign bit, 5 exponent bits, 10 fraction bits, and the bfloat16 reader.
 *
 * Node 20 has neither `Float16Array` nor `Math.f16round`, so the conversions are here. An f16 travels
 * through the package as its 16 bits in a `Uint16Array`.
 *
 * @module
 */

import { roundHalfEven } from './round.js';

/** The smallest magnitude that rounds to infinity in f16. */
export const FLOAT16_OVERFLOW = 65520;

/** Distance between neighbouring f16 numbers below 2^-14, where f16 is subnormal. */
const SUBNORMAL_STEP = 2 ** -24;

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

/**
 * Rounds a number to f16, ties to even, subnormals kept, `|value| >= 65520` to infinity.
 *
 * @param value read as f32 first, as every stored number in this package is
 * @returns the 16 bits
 */
export function toFloat16Bits(value: number): number {
  scratchFloat[0] = value;
  const bits = scratchBits[0];
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = Math.abs(scratchFloat[0]);
  if (Number.isNaN(magnitude)) return sign | 0x7e00;
  if (magnitude >= FLOAT16_OVERFLOW) return sign | 0x7c00;
  if (magnitude < 2 ** -14) {
    // Subnormal: the bits are the count of steps. 1024 steps carry into the first normal number.
    return sign | roundHalfEven(magnitude / SUBNORMAL_STEP);
  }
  // Normal: drop 13 fraction bits of the f32. Adding half of the dropped part (less one unit when the
  // kept part is even) rounds half to even; a carry runs on into the exponent, which is what we want.
  const magnitudeBits = bits & 0x7fffffff;
  const rounded = magnitudeBits + 0x0fff + ((magnitudeBits >>> 13) & 1);
  return sign | ((rounded >>> 13) - ((127 - 15) << 10));
}

/**
 * The exact value of 16 f16 bits.
 *
 * @param bits 0 to 0xffff
 */
export function fromFloat16Bits(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * SUBNORMAL_STEP;
  if (exponent === 0x1f) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * 2 ** (exponent - 15) * (1 + fraction / 1024);
}

/** Rounds a number to the nearest f16 and returns it as a number. */
export function roundToFloat16(value: number): number {
  return fromFloat16Bits(toFloat16Bits(value));
}

/**
 * Rounds an array to f16 bits.
 *
 * @param values read
 * @returns fresh, same length
 */
export function encodeFloat16(values: ArrayLike<number>): Uint16Array {
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) bits[i] = toFloat16Bits(values[i]);
  return bits;
}

// All 65,536 values, built on first use: weights and windows are decoded by the million.
let decodeTable: Float32Array | undefined;

/**
 * Decodes f16 bits.
 *
 * @param bits read
 * @returns fresh, same length
 */
export function decodeFloat16(bits: Uint16Array): Float32Array {
  decodeTable ??= Float32Array.from({ length: 0x10000 }, (_, i) => fromFloat16Bits(i));
  const values = new Float32Array(bits.length);
  for (let i = 0; i < values.length; i++) values[i] = decodeTable[bits[i]];
  return values;
}

/**
 * Decodes bfloat16 bits: the upper half of an f32.
 *
 * @param bits read
 * @returns fresh, same length
 */
export function decodeBfloat16(bits: Uint16Array): Float32Array {
  const words = new Uint32Array(bits.length);
  for (let i = 0; i < words.length; i++) words[i] = bits[i] << 16;
  return new Float32Array(words.buffer);
}
