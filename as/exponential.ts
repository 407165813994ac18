/**
 * exp of four f32, for softmax and SiLU.
 *
 * x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts, so that r is exact to an ulp), a polynomial of degree 6
 * for e^r, and 2^n put into the exponent bits. Error at most 2 ulp for -87.3 <= x <= 88 (a test tries a
 * million arguments); below -87.3 the result is 2^-126, which no sum of probabilities notices.
 */

import { madd } from './lanes';

// @ts-ignore: decorator
@inline
export function exponential(x: v128): v128 {
  x = f32x4.pmax(f32x4.pmin(x, f32x4.splat(88.0)), f32x4.splat(-87.33654));
  const n = f32x4.nearest(f32x4.mul(x, f32x4.splat(1.44269504)));
  // ln 2 = 0.693359375 - 2.12194440e-4; the first part has few bits, so n times it is exact
  let r = f32x4.sub(x, f32x4.mul(n, f32x4.splat(0.693359375)));
  r = f32x4.add(r, f32x4.mul(n, f32x4.splat(2.12194440e-4)));
  let p = f32x4.splat(1.9875691500e-4);
  p = madd(p, r, f32x4.splat(1.3981999507e-3));
  p = madd(p, r, f32x4.splat(8.3334519073e-3));
  p = madd(p, r, f32x4.splat(4.1665795894e-2));
  p = madd(p, r, f32x4.splat(1.6666665459e-1));
  p = madd(p, r, f32x4.splat(5.0000001201e-1));
  p = f32x4.add(madd(p, f32x4.mul(r, r), r), f32x4.splat(1));
  // n is an integer in [-126, 127]: adding 1.5 * 2^23 puts it into the low bits
  const exponent = i32x4.shl(f32x4.add(n, f32x4.splat(12582912.0)), 23);
  return i32x4.add(p, exponent);
}

/** {@link exponential} of one number, the same bits. */
// @ts-ignore: decorator
@inline
export function exponentialScalar(x: f32): f32 {
  return f32x4.extract_lane(exponential(f32x4.splat(x)), 0);
}
