/**
 * The quantizer: quant/uniform.ts and quant/grouped.ts, bit for bit.
 *
 * Every operation is a separate f32 operation in the order of the TypeScript, divisions included; nothing
 * here may be fused or reassociated. A group is brought into a contiguous run of f32 first (it is one
 * already, per token), so that one routine quantizes both groupings.
 */

import { floatToHalfScalar, halfToFloatScalar } from './lanes';
import { groupBytes, packCodes, unpackCodes } from './pack';
import { Codes, Dequantize, Quantize } from './parameters';

const MINMAX = 0;
const FAILED: i64 = -1;

/** MSE_RANGE_FACTORS[index], index 1 to 12. */
// @ts-ignore: decorator
@inline
function rangeFactor(index: i32): f32 {
  // (100 - 5 index) / 100 in f64, rounded to f32, is the f32 nearest to the decimal number
  return ((((100 - 5 * index) as f64) / 100.0) as f32);
}

/**
 * `parametersOfRange`: f16 bits of the scale in the upper half, of the minimum in the lower half, or FAILED
 * where one of the two is infinite in f16.
 */
// @ts-ignore: decorator
@inline
function parametersOfRange(low: f32, high: f32, lastCode: f32): i64 {
  const scale = floatToHalfScalar((high - low) / lastCode);
  const minimum = floatToHalfScalar(low);
  if ((scale & 0x7fff) >= 0x7c00 || (minimum & 0x7fff) >= 0x7c00) return FAILED;
  return (((scale << 16) | minimum) as i64) & 0xffffffff;
}

/** Level of four values: clamp((x - min) / scale), rounded half to even, still f32. */
// @ts-ignore: decorator
@inline
function levels(x: v128, minimum: v128, scale: v128, last: v128): v128 {
  const level = f32x4.div(f32x4.sub(x, minimum), scale);
  return f32x4.nearest(f32x4.pmin(f32x4.pmax(level, f32x4.splat(0)), last));
}

// @ts-ignore: decorator
@inline
function levelScalar(x: f32, minimum: f32, scale: f32, last: f32): f32 {
  let level = (x - minimum) / scale;
  level = level > 0 ? level : 0;
  level = level < last ? level : last;
  return nearest<f32>(level);
}

/**
 * `squaredError` of the codes that these parameters would give, without storing them. Lane i mod 4 sums
 * element i, in order; a short tail adds to its lanes like everything else.
 */
// @ts-ignore: decorator
@inline
function squaredError(values: usize, count: i32, minimum: f32, scale: f32, last: f32): f32 {
  const m = f32x4.splat(minimum);
  const s = f32x4.splat(scale);
  const top = f32x4.splat(last);
  let lanes = f32x4.splat(0);
  const whole = values + (((count & ~3) as usize) << 2);
  let p = values;
  for (; p < whole; p += 16) {
    const x = v128.load(p);
    const difference = f32x4.sub(x, f32x4.add(f32x4.mul(levels(x, m, s, top), s), m));
    lanes = f32x4.add(lanes, f32x4.mul(difference, difference));
  }
  let l0 = f32x4.extract_lane(lanes, 0);
  let l1 = f32x4.extract_lane(lanes, 1);
  let l2 = f32x4.extract_lane(lanes, 2);
  const l3 = f32x4.extract_lane(lanes, 3);
  const tail = count & 3;
  if (tail > 0) l0 += errorScalar(load<f32>(p), minimum, scale, last);
  if (tail > 1) l1 += errorScalar(load<f32>(p, 4), minimum, scale, last);
  if (tail > 2) l2 += errorScalar(load<f32>(p, 8), minimum, scale, last);
  return l0 + l1 + (l2 + l3);
}

// @ts-ignore: decorator
@inline
function errorScalar(x: f32, minimum: f32, scale: f32, last: f32): f32 {
  const difference = x - (levelScalar(x, minimum, scale, last) * scale + minimum);
  return difference * difference;
}

/** `encodeGroup`: codes, one byte each. */
// @ts-ignore: decorator
@inline
function encodeGroup(values: usize, count: i32, minimum: f32, scale: f32, last: f32, codes: usize): void {
  if (scale == 0) {
    memory.fill(codes, 0, count as usize);
    return;
  }
  const m = f32x4.splat(minimum);
  const s = f32x4.splat(scale);
  const top = f32x4.splat(last);
  const magic = f32x4.splat(8388608.0); // 2^23: the integer ends up in the low bits
  const low = i32x4.splat(0xff);
  let i = 0;
  for (; i + 16 <= count; i += 16) {
    const p = values + ((i as usize) << 2);
    const a = v128.and(f32x4.add(levels(v128.load(p), m, s, top), magic), low);
    const b = v128.and(f32x4.add(levels(v128.load(p, 16), m, s, top), magic), low);
    const c = v128.and(f32x4.add(levels(v128.load(p, 32), m, s, top), magic), low);
    const d = v128.and(f32x4.add(levels(v128.load(p, 48), m, s, top), magic), low);
    v128.store(
      codes + (i as usize),
      i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_u(a, b), i16x8.narrow_i32x4_u(c, d)),
    );
  }
  for (; i < count; i++) {
    const level = levelScalar(load<f32>(values + ((i as usize) << 2)), minimum, scale, last);
    store<u8>(codes + (i as usize), level as u8);
  }
}

/**
 * `quantizeGroup` of a contiguous run.
 *
 * @returns scale and minimum as in `parametersOfRange`, or FAILED
 */
function quantizeGroup(values: usize, count: i32, bits: i32, range: i32, codes: usize): i64 {
  const last = ((1 << bits) - 1) as f32;
  // extent
  const first = v128.load32_splat(values);
  let smallest = first;
  let largest = first;
  let exponents = i32x4.splat(0);
  const whole = values + (((count & ~3) as usize) << 2);
  let p = values;
  for (; p < whole; p += 16) {
    const x = v128.load(p);
    smallest = f32x4.pmin(smallest, x);
    largest = f32x4.pmax(largest, x);
    exponents = i32x4.max_s(exponents, v128.and(x, i32x4.splat(0x7fffffff)));
  }
  for (const end = values + ((count as usize) << 2); p < end; p += 4) {
    const x = v128.load32_splat(p);
    smallest = f32x4.pmin(smallest, x);
    largest = f32x4.pmax(largest, x);
    exponents = i32x4.max_s(exponents, v128.and(x, i32x4.splat(0x7fffffff)));
  }
  // an all-ones exponent, the largest there is, is an infinity or NaN
  if (v128.any_true(i32x4.ge_s(exponents, i32x4.splat(0x7f800000)))) return FAILED;
  smallest = f32x4.pmin(smallest, i32x4.shuffle(smallest, smallest, 2, 3, 0, 1));
  largest = f32x4.pmax(largest, i32x4.shuffle(largest, largest, 2, 3, 0, 1));
  const s0 = f32x4.extract_lane(smallest, 0);
  const s1 = f32x4.extract_lane(smallest, 1);
  const l0 = f32x4.extract_lane(largest, 0);
  const l1 = f32x4.extract_lane(largest, 1);
  const minimum: f32 = (s1 < s0 ? s1 : s0) + 0; // -0 becomes +0
  const maximum: f32 = (l1 > l0 ? l1 : l0) + 0;

  let best = parametersOfRange(minimum, maximum, last);
  if (best == FAILED) return FAILED;
  let scale = halfToFloatScalar((best >> 16) as u32);
  let low = halfToFloatScalar((best & 0xffff) as u32);
  if (range != MINMAX && scale != 0) {
    let bestError = squaredError(values, count, low, scale, last);
    const mid: f32 = (minimum + maximum) * 0.5;
    for (let index = 1; index < 13; index++) {
      const factor = rangeFactor(index);
      const candidate = parametersOfRange(mid - factor * (mid - minimum), mid + factor * (maximum - mid), last);
      if (candidate == FAILED) return FAILED;
      const candidateScale = halfToFloatScalar((candidate >> 16) as u32);
      if (candidateScale == 0) continue;
      const candidateLow = halfToFloatScalar((candidate & 0xffff) as u32);
      const error = squaredError(values, count, candidateLow, candidateScale, last);
      if (error < bestError) {
        bestError = error;
        best = candidate;
        scale = candidateScale;
        low = candidateLow;
      }
    }
  }
  encodeGroup(values, count, low, scale, last, codes);
  return best;
}

/** Quantizes and packs one contiguous group; false where a value or the range does not fit. */
// @ts-ignore: decorator
@inline
function storeGroup(p: Quantize, group: i32, values: usize, count: i32, packed: usize, codes: usize): bool {
  const parameters = quantizeGroup(values, count, p.bits, p.range, codes);
  if (parameters == FAILED) return false;
  store<u16>(p.scales + ((group as usize) << 1), (parameters >> 16) as u16);
  store<u16>(p.mins + ((group as usize) << 1), (parameters & 0xffff) as u16);
  packCodes(codes, count, p.bits, packed);
  return true;
}

/**
 * `quantizeMatrix`, grouping `perToken`. Returns -1, or the number of the first group that cannot be stored.
 * `scratch`: groupSize bytes.
 */
export function quantizeRows(p: Quantize): i32 {
  const columns = p.columns;
  const bits = p.bits;
  const groupSize = p.groupSize;
  const source = p.source;
  let packed = p.packed;
  let group = 0;
  for (let r = 0; r < p.rows; r++) {
    for (let c = 0; c < columns; c += groupSize) {
      const count = min(groupSize, columns - c);
      const values = source + (((r * columns + c) as usize) << 2);
      if (!storeGroup(p, group, values, count, packed, p.scratch)) return group;
      packed += groupBytes(count, bits) as usize;
      group++;
    }
  }
  return -1;
}

/** [4 lanes a b c d of rows 0..3] -> 4 columns of 4 rows, stored `stride` bytes apart at `target`. */
// @ts-ignore: decorator
@inline
export function transpose4(a: v128, b: v128, c: v128, d: v128, target: usize, stride: usize): void {
  const ab0 = i32x4.shuffle(a, b, 0, 4, 1, 5);
  const ab1 = i32x4.shuffle(a, b, 2, 6, 3, 7);
  const cd0 = i32x4.shuffle(c, d, 0, 4, 1, 5);
  const cd1 = i32x4.shuffle(c, d, 2, 6, 3, 7);
  v128.store(target, i64x2.shuffle(ab0, cd0, 0, 2));
  v128.store(target + stride, i64x2.shuffle(ab0, cd0, 1, 3));
  v128.store(target + 2 * stride, i64x2.shuffle(ab1, cd1, 0, 2));
  v128.store(target + 3 * stride, i64x2.shuffle(ab1, cd1, 1, 3));
}

/**
 * `quantizeMatrix`, grouping `perChannel`. Returns -1, or the number of the first group that cannot be stored.
 * `scratch`: 17 * groupSize + 64 bytes: four channels of a group, turned so that each is contiguous, and codes.
 */
export function quantizeColumns(p: Quantize): i32 {
  const rows = p.rows;
  const columns = p.columns;
  const bits = p.bits;
  const groupSize = p.groupSize;
  const source = p.source;
  const scratch = p.scratch;
  let packed = p.packed;
  const rowBytes = (columns as usize) << 2;
  let group = 0;
  for (let t = 0; t < rows; t += groupSize) {
    const count = min(groupSize, rows - t);
    const channelBytes = (((count + 3) & ~3) as usize) << 2;
    const codes = scratch + 4 * channelBytes;
    const bytes = groupBytes(count, bits) as usize;
    const block = source + (t as usize) * rowBytes;
    for (let c = 0; c < columns; c += 4) {
      const channels = min(4, columns - c);
      const corner = block + ((c as usize) << 2);
      let r = 0;
      if (channels == 4) {
        for (; r + 4 <= count; r += 4) {
          const at = corner + (r as usize) * rowBytes;
          transpose4(
            v128.load(at),
            v128.load(at + rowBytes),
            v128.load(at + 2 * rowBytes),
            v128.load(at + 3 * rowBytes),
            scratch + ((r as usize) << 2),
            channelBytes,
          );
        }
      }
      for (; r < count; r++) {
        for (let j = 0; j < channels; j++) {
          store<f32>(
            scratch + (j as usize) * channelBytes + ((r as usize) << 2),
            load<f32>(corner + (r as usize) * rowBytes + ((j as usize) << 2)),
          );
        }
      }
      for (let j = 0; j < channels; j++) {
        const values = scratch + (j as usize) * channelBytes;
        if (!storeGroup(p, group, values, count, packed, codes)) return group;
        packed += bytes;
        group++;
      }
    }
  }
  return -1;
}

/** value = code * scale + min of a contiguous group; `add` puts it on top of what is there. */
// @ts-ignore: decorator
@inline
function dequantizeGroup(codes: usize, count: i32, scale: f32, minimum: f32, target: usize, add: bool): void {
  const s = f32x4.splat(scale);
  const m = f32x4.splat(minimum);
  let i = 0;
  for (; i + 8 <= count; i += 8) {
    const p = target + ((i as usize) << 2);
    const wide = v128.load8x8_u(codes + (i as usize));
    let a = f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_u(wide)), s), m);
    let b = f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_u(wide)), s), m);
    if (add) {
      a = f32x4.add(v128.load(p), a);
      b = f32x4.add(v128.load(p, 16), b);
    }
    v128.store(p, a);
    v128.store(p, b, 16);
  }
  for (; i < count; i++) {
    const p = target + ((i as usize) << 2);
    const value = (load<u8>(codes + (i as usize)) as f32) * scale + minimum;
    store<f32>(p, add ? load<f32>(p) + value : value);
  }
}

// @ts-ignore: decorator
@inline
export function readRows(p: Codes, target: usize, add: bool): void {
  const rows = p.rows;
  const columns = p.columns;
  const bits = p.bits;
  const groupSize = p.groupSize;
  const scratch = p.scratch;
  let packed = p.packed;
  let scales = p.scales;
  let mins = p.mins;
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c += groupSize) {
      const count = min(groupSize, columns - c);
      const scale = halfToFloatScalar(load<u16>(scales));
      const minimum = halfToFloatScalar(load<u16>(mins));
      unpackCodes(packed, count, bits, scratch);
      dequantizeGroup(scratch, count, scale, minimum, target, add);
      packed += groupBytes(count, bits) as usize;
      scales += 2;
      mins += 2;
      target += (count as usize) << 2;
    }
  }
}

/** `dequantizeMatrix`, grouping `perToken`. `scratch`: groupSize bytes. */
export function dequantizeRows(p: Dequantize): void {
  readRows(p, p.target, false);
}

/** `add(target, dequantizeMatrix(...))` in place, grouping `perToken`. `scratch`: groupSize bytes. */
export function dequantizeAddRows(p: Dequantize): void {
  readRows(p, p.target, true);
}

/**
 * Unpacks four channels of a per-channel block to `codes`, `stride` bytes apart.
 */
// @ts-ignore: decorator
@inline
function unpackChannels(packed: usize, channels: i32, count: i32, bits: i32, codes: usize, stride: usize): void {
  const bytes = groupBytes(count, bits) as usize;
  for (let j = 0; j < channels; j++) {
    unpackCodes(packed + (j as usize) * bytes, count, bits, codes + (j as usize) * stride);
  }
}

// @ts-ignore: decorator
@inline
export function readColumns(p: Codes, target: usize, add: bool): void {
  const rows = p.rows;
  const columns = p.columns;
  const bits = p.bits;
  const groupSize = p.groupSize;
  const scratch = p.scratch;
  let packed = p.packed;
  let scales = p.scales;
  let mins = p.mins;
  const rowBytes = (columns as usize) << 2;
  for (let t = 0; t < rows; t += groupSize) {
    const count = min(groupSize, rows - t);
    const bytes = groupBytes(count, bits) as usize;
    const stride = ((count + 15) & ~15) as usize;
    const block = target + (t as usize) * rowBytes;
    for (let c = 0; c < columns; c += 4) {
      const channels = min(4, columns - c);
      const corner = block + ((c as usize) << 2);
      unpackChannels(packed, channels, count, bits, scratch, stride);
      let r = 0;
      if (channels == 4) {
        // lanes are channels here: four scales, four minima, and one token's four codes at a time
        const s = f32x4(
          halfToFloatScalar(load<u16>(scales)),
          halfToFloatScalar(load<u16>(scales, 2)),
          halfToFloatScalar(load<u16>(scales, 4)),
          halfToFloatScalar(load<u16>(scales, 6)),
        );
        const m = f32x4(
          halfToFloatScalar(load<u16>(mins)),
          halfToFloatScalar(load<u16>(mins, 2)),
          halfToFloatScalar(load<u16>(mins, 4)),
          halfToFloatScalar(load<u16>(mins, 6)),
        );
        for (; r + 4 <= count; r += 4) {
          const q = scratch + (r as usize);
          // bytes [a0 a1 a2 a3], [b0 ..], ... of four channels -> [a0 b0 c0 d0] [a1 b1 c1 d1] ...
          const ab = i32x4(load<i32>(q), load<i32>(q + stride), load<i32>(q + 2 * stride), load<i32>(q + 3 * stride));
          const turned = i8x16.shuffle(ab, ab, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
          const low = i16x8.extend_low_i8x16_u(turned);
          const high = i16x8.extend_high_i8x16_u(turned);
          const at = corner + (r as usize) * rowBytes;
          storeLevels(at, i32x4.extend_low_i16x8_u(low), s, m, add);
          storeLevels(at + rowBytes, i32x4.extend_high_i16x8_u(low), s, m, add);
          storeLevels(at + 2 * rowBytes, i32x4.extend_low_i16x8_u(high), s, m, add);
          storeLevels(at + 3 * rowBytes, i32x4.extend_high_i16x8_u(high), s, m, add);
        }
      }
      for (; r < count; r++) {
        for (let j = 0; j < channels; j++) {
          const scale = halfToFloatScalar(load<u16>(scales + ((j as usize) << 1)));
          const minimum = halfToFloatScalar(load<u16>(mins + ((j as usize) << 1)));
          const code = load<u8>(scratch + (j as usize) * stride + (r as usize)) as f32;
          const at = corner + (r as usize) * rowBytes + ((j as usize) << 2);
          const value = code * scale + minimum;
          store<f32>(at, add ? load<f32>(at) + value : value);
        }
      }
      packed += (channels as usize) * bytes;
      scales += (channels as usize) << 1;
      mins += (channels as usize) << 1;
    }
  }
}

// @ts-ignore: decorator
@inline
function storeLevels(p: usize, codes: v128, s: v128, m: v128, add: bool): void {
  const value = f32x4.add(f32x4.mul(f32x4.convert_i32x4_s(codes), s), m);
  v128.store(p, add ? f32x4.add(v128.load(p), value) : value);
}

/** `dequantizeMatrix`, grouping `perChannel`. `scratch`: 4 * groupSize + 64 bytes. */
export function dequantizeColumns(p: Dequantize): void {
  readColumns(p, p.target, false);
}

/** `add(target, dequantizeMatrix(...))` in place, grouping `perChannel`. `scratch`: 4 * groupSize + 64 bytes. */
export function dequantizeAddColumns(p: Dequantize): void {
  readColumns(p, p.target, true);
}
