/** f32 to f16 and back, and bfloat16: numerics/float16.ts. */

import { floatToHalf, floatToHalfScalar, halfToFloatScalar } from './lanes';

/**
 * `encodeFloat16`. Returns the index of the first value that f16 cannot hold (|v| >= 65520, or NaN), or -1.
 */
export function encodeFloat16(source: usize, target: usize, count: i32): i32 {
  let i = 0;
  let bad = i32x4.splat(0);
  for (; i + 8 <= count; i += 8) {
    const a = v128.load(source + ((i as usize) << 2));
    const b = v128.load(source + ((i as usize) << 2), 16);
    // infinity and NaN have the largest exponents: one integer comparison finds them all
    bad = v128.or(bad, i32x4.ge_s(v128.and(a, i32x4.splat(0x7fffffff)), i32x4.splat(0x477ff000)));
    bad = v128.or(bad, i32x4.ge_s(v128.and(b, i32x4.splat(0x7fffffff)), i32x4.splat(0x477ff000)));
    v128.store(target + ((i as usize) << 1), i16x8.narrow_i32x4_u(floatToHalf(a), floatToHalf(b)));
  }
  for (let j = i; j < count; j++) {
    const value = load<f32>(source + ((j as usize) << 2));
    store<u16>(target + ((j as usize) << 1), floatToHalfScalar(value) as u16);
  }
  if (i == count && !v128.any_true(bad)) return -1;
  for (let j = 0; j < count; j++) {
    if ((load<u32>(source + ((j as usize) << 2)) & 0x7fffffff) >= 0x477ff000) return j;
  }
  return -1;
}

/** One f16 as the bits of an f32, infinities and NaN included. */
// @ts-ignore: decorator
@inline
function decodeAny(bits: u32): u32 {
  const value = reinterpret<u32>(halfToFloatScalar(bits));
  return (bits & 0x7fff) >= 0x7c00 ? value | 0x7f800000 : value;
}

/**
 * Eight f16 to f32, finite ones. Half i goes to the upper half of lane i; the arithmetic shift then puts exponent
 * and fraction in place and leaves copies of the sign, as in `halfToFloat`.
 */
// @ts-ignore: decorator
@inline
function decodeEight(v: v128, target: usize): void {
  const zero = i16x8.splat(0);
  const mask = i32x4.splat(0x8fffffff);
  const factor = i32x4.splat(0x77800000);
  const low = i32x4.shr_s(i16x8.shuffle(zero, v, 0, 8, 1, 9, 2, 10, 3, 11), 3);
  const high = i32x4.shr_s(i16x8.shuffle(zero, v, 4, 12, 5, 13, 6, 14, 7, 15), 3);
  v128.store(target, f32x4.mul(v128.and(low, mask), factor));
  v128.store(target, f32x4.mul(v128.and(high, mask), factor), 16);
}

/** `decodeFloat16`, infinities and NaN included; where there are none, they cost two instructions in sixteen. */
export function decodeFloat16(source: usize, target: usize, count: i32): void {
  const exponent = i16x8.splat(0x7c00);
  let special = i16x8.splat(0);
  const whole = source + (((count & ~15) as usize) << 1);
  let p = source;
  let q = target;
  for (; p < whole; p += 32) {
    const a = v128.load(p);
    const b = v128.load(p, 16);
    special = v128.or(special, i16x8.eq(v128.and(a, exponent), exponent));
    special = v128.or(special, i16x8.eq(v128.and(b, exponent), exponent));
    decodeEight(a, q);
    decodeEight(b, q + 32);
    q += 64;
  }
  // the rest, or everything once more
  if (v128.any_true(special)) {
    p = source;
    q = target;
  }
  for (const end = source + ((count as usize) << 1); p < end; p += 2) {
    store<u32>(q, decodeAny(load<u16>(p)));
    q += 4;
  }
}
