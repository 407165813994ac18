/**
 * Words that every kernel uses: fused or separate multiply-add, sums across lanes, rounding to integers,
 * and f16. A `v128` holds four f32, four i32, eight i16 or sixteen i8; comments say what is in them.
 */

/** `a * b + c`. One rounding in the relaxed build (where the machine has it), two in the plain one. */
// @ts-ignore: decorator
@inline
export function madd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(f32x4.mul(a, b), c);
}

/** Sum of the four lanes: (l0 + l2) + (l1 + l3). */
// @ts-ignore: decorator
@inline
export function sumLanes(v: v128): f32 {
  const pairs = f32x4.add(v, i32x4.shuffle(v, v, 2, 3, 0, 1));
  return f32x4.extract_lane(pairs, 0) + f32x4.extract_lane(pairs, 1);
}

/** Sum of four i32 lanes. */
// @ts-ignore: decorator
@inline
export function sumLanesInt(v: v128): i32 {
  const pairs = i32x4.add(v, i32x4.shuffle(v, v, 2, 3, 0, 1));
  return i32x4.extract_lane(pairs, 0) + i32x4.extract_lane(pairs, 1);
}

/** Largest of the four lanes; no lane is NaN. */
// @ts-ignore: decorator
@inline
export function maxLanes(v: v128): f32 {
  const pairs = f32x4.pmax(v, i32x4.shuffle(v, v, 2, 3, 0, 1));
  const a = f32x4.extract_lane(pairs, 0);
  const b = f32x4.extract_lane(pairs, 1);
  return a > b ? a : b;
}

/**
 * Nearest integers, ties to even, of four f32 below 2^22 in magnitude: adding 1.5 * 2^23 leaves no
 * fraction bits, so the addition itself rounds, and the low bits are the integer.
 */
// @ts-ignore: decorator
@inline
export function roundToInt(v: v128): v128 {
  return i32x4.sub(f32x4.add(v, f32x4.splat(12582912.0)), i32x4.splat(0x4b400000));
}

/**
 * Four finite f16, sign-extended to i32 lanes, as f32. The shift puts exponent and fraction in place and
 * leaves copies of the sign in bits 28 to 30, which the mask clears; 2^112 corrects the exponent bias and
 * makes subnormals normal.
 *
 *     i32 lane    ssssssssssssssss s eeeee ffffffffff
 *     << 13       sss s eeeee ffffffffff 0000000000000      & 0x8fffffff, * 2^112
 */
// @ts-ignore: decorator
@inline
export function halfToFloat(extended: v128): v128 {
  const bits = v128.and(i32x4.shl(extended, 13), i32x4.splat(0x8fffffff));
  return f32x4.mul(bits, i32x4.splat(0x77800000));
}

/** Four finite f16 at `ptr` as f32. */
// @ts-ignore: decorator
@inline
export function loadHalf4(ptr: usize): v128 {
  return halfToFloat(v128.load16x4_s(ptr));
}

/** One f16 (finite) as f32. */
// @ts-ignore: decorator
@inline
export function halfToFloatScalar(bits: u32): f32 {
  return reinterpret<f32>((((bits << 16) as i32) >> 3) & 0x8fffffff) * reinterpret<f32>(0x77800000);
}

/**
 * Four f32 rounded to f16, ties to even, one in each i32 lane; 65520 and above to infinity, NaN to NaN.
 * Below 2^-14 the addition of 0.5 does the rounding, because the ulp of 0.5 is the step of a subnormal f16.
 */
// @ts-ignore: decorator
@inline
export function floatToHalf(v: v128): v128 {
  const sign = v128.and(i32x4.shr_u(v, 16), i32x4.splat(0x8000));
  const magnitude = v128.and(v, i32x4.splat(0x7fffffff));
  const odd = v128.and(i32x4.shr_u(magnitude, 13), i32x4.splat(1));
  const rounded = i32x4.add(i32x4.add(magnitude, i32x4.splat(0x0fff)), odd);
  const normal = i32x4.sub(i32x4.shr_u(rounded, 13), i32x4.splat(112 << 10));
  const half = f32x4.splat(0.5);
  const subnormal = i32x4.sub(f32x4.add(magnitude, half), half);
  const isSubnormal = i32x4.lt_s(magnitude, i32x4.splat(0x38800000));
  const finite = i32x4.min_s(v128.bitselect(subnormal, normal, isSubnormal), i32x4.splat(0x7c00));
  const isNaN = i32x4.gt_s(magnitude, i32x4.splat(0x7f800000));
  return v128.or(sign, v128.bitselect(i32x4.splat(0x7e00), finite, isNaN));
}

/** {@link floatToHalf} for one value. */
// @ts-ignore: decorator
@inline
export function floatToHalfScalar(value: f32): u32 {
  return i32x4.extract_lane(floatToHalf(f32x4.splat(value)), 0) as u32;
}

/** The next multiple of 16. */
// @ts-ignore: decorator
@inline
export function align16(bytes: usize): usize {
  return (bytes + 15) & ~(15 as usize);
}

/**
 * Relaxed builds: steps of four columns whose sums of two products fit in 16 bits, 8 * 2 * 127 * 15 < 2^15. Adding
 * there and widening once in eight steps takes half the instructions of `relaxed_dot_i8x16_i7x16_add_s`, which V8
 * compiles to five.
 */
export const PAIR_STEPS: usize = 8;

/** Sums of two neighbouring products, i16: four neighbouring k of four outputs, codes of up to 4 bits. */
// @ts-ignore: decorator
@inline
export function addPairs(sum: v128, w: v128, codes: v128): v128 {
  return i16x8.add(sum, i16x8.relaxed_dot_i8x16_i7x16_s(w, codes));
}

/** Sums of pairs to sums of outputs, i32. */
// @ts-ignore: decorator
@inline
export function widen(sum: v128, pairs: v128): v128 {
  return i32x4.add(sum, i32x4.dot_i16x8_s(pairs, i16x8.splat(1)));
}
