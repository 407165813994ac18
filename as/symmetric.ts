/**
 * The quantizer of the calibrated caches: quant/symmetric.ts, bit for bit.
 *
 * Every operation is a separate f32 operation in the order of the TypeScript. A group, some tokens of one channel, is
 * brought into a contiguous run of f32 first, padded with zeros to whole vectors.
 */

import { floatToHalfScalar, halfToFloatScalar } from './lanes';
import { groupBytes, packCodes, unpackCodes } from './pack';

const FAILED: i32 = -1;

/** NORMAL_STEP[bits]. */
// @ts-ignore: decorator
@inline
function normalStep(bits: i32): f32 {
  if (bits == 1) return 1.596;
  if (bits == 2) return 0.9957;
  if (bits == 3) return 0.586;
  if (bits == 4) return 0.3352;
  return 0.0308;
}

/** STEP_FACTORS[index], index 0 to 8. */
// @ts-ignore: decorator
@inline
function stepFactor(index: i32): f32 {
  if (index == 0) return 0.6;
  if (index == 1) return 0.7;
  if (index == 2) return 0.8;
  if (index == 3) return 0.9;
  if (index == 4) return 1.0;
  if (index == 5) return 1.1;
  if (index == 6) return 1.2;
  if (index == 7) return 1.35;
  return 1.5;
}

/** Sum of the lanes: (l0 + l1) + (l2 + l3). */
// @ts-ignore: decorator
@inline
function sumOfLanes(v: v128): f32 {
  const low = f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1);
  return low + (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3));
}

/** Codes of four values, still f32. A step of zero gives the code of zero. */
// @ts-ignore: decorator
@inline
function levels(x: v128, step: v128, half: v128, last: v128): v128 {
  const level = f32x4.add(f32x4.floor(f32x4.div(x, step)), half);
  return f32x4.pmin(f32x4.pmax(level, f32x4.splat(0)), last);
}

/** All ones in the lanes of a last vector that hold values. */
// @ts-ignore: decorator
@inline
function tailMask(count: i32): v128 {
  return i32x4.gt_s(i32x4.splat(count), i32x4(0, 1, 2, 3));
}

/** `squaredError` of the codes that a step would give, without storing them. Lane i mod 4 sums element i, in order. */
// @ts-ignore: decorator
@inline
function squaredError(values: usize, count: i32, step: f32, bits: i32): f32 {
  const s = f32x4.splat(step);
  const half = f32x4.splat((1 << (bits - 1)) as f32);
  const last = f32x4.splat(((1 << bits) - 1) as f32);
  const middle = f32x4.sub(f32x4.splat(0.5), half);
  let sum = f32x4.splat(0);
  for (let i = 0; i < count; i += 4) {
    const x = v128.load(values + ((i as usize) << 2));
    let difference = x;
    if (step != 0) difference = f32x4.sub(x, f32x4.mul(f32x4.add(levels(x, s, half, last), middle), s));
    if (i + 4 > count) difference = v128.and(difference, tailMask(count - i));
    sum = f32x4.add(sum, f32x4.mul(difference, difference));
  }
  return sumOfLanes(sum);
}

/** `encodeSymmetricGroup`: codes, one byte each. */
// @ts-ignore: decorator
@inline
function encodeGroup(values: usize, count: i32, step: f32, bits: i32, codes: usize): void {
  const half: i32 = 1 << (bits - 1);
  if (step == 0) {
    memory.fill(codes, half as u8, count as usize);
    return;
  }
  const last = ((1 << bits) - 1) as f32;
  for (let i = 0; i < count; i++) {
    let level: f32 = floor<f32>(load<f32>(values + ((i as usize) << 2)) / step) + (half as f32);
    level = level > 0 ? level : 0;
    level = level < last ? level : last;
    store<u8>(codes + (i as usize), level as u8);
  }
}

/**
 * `quantizeSymmetricGroup` of a contiguous run.
 *
 * @returns f16 bits of the scale, or FAILED where a value is not finite or the scale does not fit
 */
function quantizeGroup(values: usize, count: i32, bits: i32, codes: usize): i32 {
  let squares = f32x4.splat(0);
  let exponents = i32x4.splat(0);
  for (let i = 0; i < count; i += 4) {
    const x = v128.load(values + ((i as usize) << 2));
    squares = f32x4.add(squares, f32x4.mul(x, x));
    exponents = i32x4.max_s(exponents, v128.and(x, i32x4.splat(0x7fffffff)));
  }
  // an all-ones exponent, the largest there is, is an infinity or NaN
  if (v128.any_true(i32x4.ge_s(exponents, i32x4.splat(0x7f800000)))) return FAILED;
  const rms: f32 = sqrt<f32>(sumOfLanes(squares) / (count as f32));
  let best: i32 = 0;
  let bestError: f32 = Infinity;
  for (let index = 0; index < 9; index++) {
    const normal: f32 = stepFactor(index) * normalStep(bits);
    const scale = floatToHalfScalar(normal * rms) as i32;
    if (scale >= 0x7c00) return FAILED;
    const error = squaredError(values, count, halfToFloatScalar(scale), bits);
    if (error < bestError) {
      bestError = error;
      best = scale;
    }
  }
  encodeGroup(values, count, halfToFloatScalar(best), bits, codes);
  return best;
}

/**
 * Neighbouring channels of one block of tokens, all with the same bits: one group each. Returns -1, or the first that
 * cannot be stored. `scratch`: 5 bytes a token, the tokens rounded up to a multiple of 16.
 */
export function quantizeSymmetric(
  source: usize,
  tokens: i32,
  stride: i32,
  channels: i32,
  bits: i32,
  packed: usize,
  scales: usize,
  scratch: usize,
): i32 {
  const padded = (((tokens + 3) & ~3) as usize) << 2;
  const codes = scratch + padded;
  const bytes = groupBytes(tokens, bits) as usize;
  v128.store(scratch + padded - 16, i32x4.splat(0));
  for (let c = 0; c < channels; c++) {
    let p = source + ((c as usize) << 2);
    for (let t = 0; t < tokens; t++) {
      store<f32>(scratch + ((t as usize) << 2), load<f32>(p));
      p += (stride as usize) << 2;
    }
    const scale = quantizeGroup(scratch, tokens, bits, codes);
    if (scale == FAILED) return c;
    store<u16>(scales + ((c as usize) << 1), scale as u16);
    packCodes(codes, tokens, bits, packed);
    packed += bytes;
  }
  return -1;
}

/** Adds the values of such groups to f32 rows. `scratch`: a byte a token. */
export function dequantizeAddSymmetric(
  packed: usize,
  scales: usize,
  tokens: i32,
  stride: i32,
  channels: i32,
  bits: i32,
  target: usize,
  scratch: usize,
): void {
  const bytes = groupBytes(tokens, bits) as usize;
  const middle: f32 = 0.5 - ((1 << (bits - 1)) as f32);
  for (let c = 0; c < channels; c++) {
    const scale = halfToFloatScalar(load<u16>(scales + ((c as usize) << 1)));
    unpackCodes(packed, tokens, bits, scratch);
    let p = target + ((c as usize) << 2);
    for (let t = 0; t < tokens; t++) {
      const value: f32 = ((load<u8>(scratch + (t as usize)) as f32) + middle) * scale;
      store<f32>(p, load<f32>(p) + value);
      p += (stride as usize) << 2;
    }
    packed += bytes;
  }
}
