/** f32 to f16 and back, and bfloat16: numerics/float16.ts. */

import { floatToHalf, floatToHalfScalar, halfToFloat, halfToFloatScalar } from './lanes';

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

/** `decodeFloat16`, infinities and NaN included. */
export function decodeFloat16(source: usize, target: usize, count: i32): void {
  let i = 0;
  for (; i + 4 <= count; i += 4) {
    const half = v128.load16x4_s(source + ((i as usize) << 1));
    const special = i32x4.ge_s(v128.and(half, i32x4.splat(0x7fff)), i32x4.splat(0x7c00));
    const value = v128.or(halfToFloat(half), v128.and(special, i32x4.splat(0x7f800000)));
    v128.store(target + ((i as usize) << 2), value);
  }
  for (; i < count; i++) {
    const bits: u32 = load<u16>(source + ((i as usize) << 1));
    let value = reinterpret<u32>(halfToFloatScalar(bits));
    if ((bits & 0x7fff) >= 0x7c00) value |= 0x7f800000;
    store<u32>(target + ((i as usize) << 2), value);
  }
}

/** `decodeBfloat16`: the upper half of an f32. */
export function decodeBfloat16(source: usize, target: usize, count: i32): void {
  let i = 0;
  for (; i + 4 <= count; i += 4) {
    v128.store(target + ((i as usize) << 2), i32x4.shl(v128.load16x4_u(source + ((i as usize) << 1)), 16));
  }
  for (; i < count; i++) {
    store<u32>(target + ((i as usize) << 2), (load<u16>(source + ((i as usize) << 1)) as u32) << 16);
  }
}
