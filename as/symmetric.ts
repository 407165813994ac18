/**
 * The quantizer of the calibrated caches: quant/symmetric.ts, bit for bit.
 *
 * Every operation is a separate f32 operation in the order of the TypeScript. A group, some tokens of one channel, is
 * brought into a contiguous run of f32 first, padded with zeros to whole vectors.
 */

import { floatToHalfScalar, halfToFloatScalar, loadHalf4, maxLanes, roundToInt } from './lanes';
import { groupBytes, packCodes, unpackCodes } from './pack';
import { padColumns, PANEL, panelTimesRows } from './tile';

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

/**
 * The values of such groups, four channels at a time: added to `offsets` (f32 [channels]) and written to f32 rows, or added
 * to what the rows hold if `offsets` is 0. `scratch`: four bytes a token, the tokens rounded up to a multiple of 16.
 */
export function dequantizeSymmetric(
  packed: usize,
  scales: usize,
  offsets: usize,
  tokens: i32,
  stride: i32,
  channels: i32,
  bits: i32,
  target: usize,
  scratch: usize,
): void {
  const bytes = groupBytes(tokens, bits) as usize;
  const middle: f32 = 0.5 - ((1 << (bits - 1)) as f32);
  let c = 0;
  for (; c + 4 <= channels; c += 4) {
    const line = ((tokens + 15) & ~15) as usize;
    for (let j: usize = 0; j < 4; j++) unpackCodes(packed + j * bytes, tokens, bits, scratch + j * line);
    if (offsets) {
      addFourChannels(true, v128.load(offsets), loadHalf4(scales), middle, tokens, line, scratch, target, stride);
      offsets += 16;
    } else {
      addFourChannels(false, f32x4.splat(0), loadHalf4(scales), middle, tokens, line, scratch, target, stride);
    }
    packed += 4 * bytes;
    scales += 8;
    target += 16;
  }
  for (; c < channels; c++) {
    const scale = halfToFloatScalar(load<u16>(scales));
    unpackCodes(packed, tokens, bits, scratch);
    let p = target;
    for (let t = 0; t < tokens; t++) {
      const value: f32 = ((load<u8>(scratch + (t as usize)) as f32) + middle) * scale;
      store<f32>(p, load<f32>(offsets ? offsets : p) + value);
      p += (stride as usize) << 2;
    }
    if (offsets) offsets += 4;
    packed += bytes;
    scales += 2;
    target += 4;
  }
}

/** Codes of four channels, one line each, to values of each token. */
// @ts-ignore: decorator
@inline
function addFourChannels(
  fresh: bool,
  offset: v128,
  scale: v128,
  middle: f32,
  tokens: i32,
  line: usize,
  codes: usize,
  target: usize,
  stride: i32,
): void {
  const middles = f32x4.splat(middle);
  const next = (stride as usize) << 2;
  let t = 0;
  for (; t + 4 <= tokens; t += 4) {
    const p = codes + (t as usize);
    const v = i32x4(load<i32>(p), load<i32>(p + line), load<i32>(p + 2 * line), load<i32>(p + 3 * line));
    // four codes of each of four channels -> four codes of each of four tokens
    const turned = i8x16.shuffle(v, v, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const low = i16x8.extend_low_i8x16_u(turned);
    const high = i16x8.extend_high_i8x16_u(turned);
    addValues(fresh, offset, target, i32x4.extend_low_i16x8_u(low), middles, scale);
    target += next;
    addValues(fresh, offset, target, i32x4.extend_high_i16x8_u(low), middles, scale);
    target += next;
    addValues(fresh, offset, target, i32x4.extend_low_i16x8_u(high), middles, scale);
    target += next;
    addValues(fresh, offset, target, i32x4.extend_high_i16x8_u(high), middles, scale);
    target += next;
  }
  for (; t < tokens; t++) {
    const p = codes + (t as usize);
    const v = i32x4(load<u8>(p), load<u8>(p + line), load<u8>(p + 2 * line), load<u8>(p + 3 * line));
    addValues(fresh, offset, target, v, middles, scale);
    target += next;
  }
}

/** (code + middle) * scale of four channels of one token, and what it is added to. */
// @ts-ignore: decorator
@inline
function addValues(fresh: bool, offset: v128, target: usize, codes: v128, middles: v128, scale: v128): void {
  const value = f32x4.mul(f32x4.add(f32x4.convert_i32x4_u(codes), middles), scale);
  v128.store(target, f32x4.add(fresh ? offset : v128.load(target), value));
}

/** Columns of integers with one scale: codes of 8 bits and a sign times weights of 15 stay within 32 bits. */
const CODE_BLOCK: i32 = 256;

/** Largest integer of the weights. */
const WEIGHT_LIMIT: f32 = 32767;

/**
 * Such groups of channels that have bits of their own times weights, without rows of values. The integers are twice the
 * values in units of the scale, 2 code + 1 - 2^b, which are whole; the scales go into the weights, eight outputs at a time,
 * which stay in the nearest cache:
 *
 *     out[t, j] = offset[j] + sum over c of  (2 code + 1 - 2^b) * (s[c] W[j, c] / 2)
 *
 * @param bits u8 [channels], none of them 0
 * @param weights f32 [rows, channels rounded up to a multiple of 8], halved, zeros behind the last channel
 * @param offsets f32 [rows]
 * @param tile i16 [tokens, channels rounded up to a multiple of 8]
 * @param panel symmetricPanelBytes(tokens, channels)
 * @param scratch quantizeScratchBytes
 */
export function multiplySymmetric(
  packed: usize,
  bits: usize,
  scales: usize,
  tokens: i32,
  channels: i32,
  weights: usize,
  offsets: usize,
  rows: i32,
  out: usize,
  outStride: i32,
  tile: usize,
  panel: usize,
  scratch: usize,
): void {
  const padded = padColumns(channels);
  unpackDoubled(packed, bits, tokens, channels, tile, scratch);
  // integers of eight outputs | their scales | their offsets | scales of the channels | a one for each token
  const steps = panel + ((CODE_BLOCK * PANEL) as usize << 1);
  const offset = steps + 32;
  const channelScales = offset + 32;
  const ones = channelScales + ((padded as usize) << 2);
  for (let c = 0; c < padded; c++) {
    const scale: f32 = c < channels ? halfToFloatScalar(load<u16>(scales + ((c as usize) << 1))) : 0;
    store<f32>(channelScales + ((c as usize) << 2), scale);
  }
  for (let t = 0; t < tokens; t++) store<f32>(ones + ((t as usize) << 2), 1);
  const rowBytes = (padded as usize) << 2;
  const tileBytes = (padded as usize) << 1;
  const stride = (outStride as usize) << 2;
  for (let j = 0; j < rows; j += PANEL) {
    const valid = min(PANEL, rows - j);
    v128.store(offset, f32x4.splat(0));
    v128.store(offset, f32x4.splat(0), 16);
    memory.copy(offset, offsets + ((j as usize) << 2), (valid as usize) << 2);
    for (let c = 0; c < padded; c += CODE_BLOCK) {
      const columns = min(CODE_BLOCK, padded - c);
      const from = weights + (j as usize) * rowBytes + ((c as usize) << 2);
      packPanel(from, rowBytes, valid, columns, channelScales + ((c as usize) << 2), panel, steps);
      const x = tile + ((c as usize) << 1);
      const to = out + ((j as usize) << 2);
      // the offsets once, with the first columns
      const add = c == 0 ? offset : 0;
      panelTimesRows(panel, steps, add, x, tileBytes, ones, ones, tokens, columns, columns, 1, to, stride, valid, c > 0);
    }
  }
}

/** Groups of channels with bits of their own to integers 2 code + 1 - 2^b, token by token. */
// @ts-ignore: decorator
@inline
function unpackDoubled(packed: usize, bits: usize, tokens: i32, channels: i32, tile: usize, scratch: usize): void {
  const padded = padColumns(channels);
  const line = ((tokens + 15) & ~15) as usize;
  const middles = scratch + 8 * line;
  const rowBytes = (padded as usize) << 1;
  for (let c = 0; c < padded; c += 8) {
    v128.store(middles, i16x8.splat(0));
    for (let j: usize = 0; j < 8; j++) {
      const codes = scratch + j * line;
      if (c + (j as i32) >= channels) {
        memory.fill(codes, 0, line);
        continue;
      }
      const width: i32 = load<u8>(bits + (c as usize) + j);
      unpackCodes(packed, tokens, width, codes);
      packed += groupBytes(tokens, width) as usize;
      const middle: i32 = 1 - (1 << width);
      store<i16>(middles + (j << 1), middle as i16);
    }
    turnEight(scratch, line, tokens, v128.load(middles), tile + ((c as usize) << 1), rowBytes);
  }
}

/** Codes of eight channels, one line each, to eight integers of each token. */
// @ts-ignore: decorator
@inline
function turnEight(codes: usize, line: usize, tokens: i32, middle: v128, target: usize, rowBytes: usize): void {
  for (let t = 0; t < tokens; t += 4) {
    const p = codes + (t as usize);
    const low = i32x4(load<i32>(p), load<i32>(p + line), load<i32>(p + 2 * line), load<i32>(p + 3 * line));
    const q = p + 4 * line;
    const high = i32x4(load<i32>(q), load<i32>(q + line), load<i32>(q + 2 * line), load<i32>(q + 3 * line));
    const t01 = i8x16.shuffle(low, high, 0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    const t23 = i8x16.shuffle(low, high, 2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31);
    const count = tokens - t;
    v128.store(target, i16x8.add(i16x8.shl(i16x8.extend_low_i8x16_u(t01), 1), middle));
    target += rowBytes;
    if (count < 2) break;
    v128.store(target, i16x8.add(i16x8.shl(i16x8.extend_high_i8x16_u(t01), 1), middle));
    target += rowBytes;
    if (count < 3) break;
    v128.store(target, i16x8.add(i16x8.shl(i16x8.extend_low_i8x16_u(t23), 1), middle));
    target += rowBytes;
    if (count < 4) break;
    v128.store(target, i16x8.add(i16x8.shl(i16x8.extend_high_i8x16_u(t23), 1), middle));
    target += rowBytes;
  }
}

/**
 * Eight outputs of f32 weights, times the scales of their channels, to the integers of a panel (tile.ts) and one scale an
 * output. Outputs that do not exist repeat the last one.
 */
// @ts-ignore: decorator
@inline
function packPanel(
  weights: usize,
  rowBytes: usize,
  valid: i32,
  columns: i32,
  channelScales: usize,
  panel: usize,
  steps: usize,
): void {
  const end = channelScales + ((columns as usize) << 2);
  for (let half: usize = 0; half < 2; half++) {
    const first = (half as i32) << 2;
    const last = valid - 1;
    const r0 = weights + (min(first, last) as usize) * rowBytes - channelScales;
    const r1 = weights + (min(first + 1, last) as usize) * rowBytes - channelScales;
    const r2 = weights + (min(first + 2, last) as usize) * rowBytes - channelScales;
    const r3 = weights + (min(first + 3, last) as usize) * rowBytes - channelScales;
    let m0 = f32x4.splat(0);
    let m1 = m0;
    let m2 = m0;
    let m3 = m0;
    for (let p = channelScales; p < end; p += 16) {
      const s = v128.load(p);
      m0 = f32x4.pmax(m0, f32x4.abs(f32x4.mul(v128.load(r0 + p), s)));
      m1 = f32x4.pmax(m1, f32x4.abs(f32x4.mul(v128.load(r1 + p), s)));
      m2 = f32x4.pmax(m2, f32x4.abs(f32x4.mul(v128.load(r2 + p), s)));
      m3 = f32x4.pmax(m3, f32x4.abs(f32x4.mul(v128.load(r3 + p), s)));
    }
    const largest = f32x4(maxLanes(m0), maxLanes(m1), maxLanes(m2), maxLanes(m3));
    const isTiny = f32x4.lt(largest, f32x4.splat(7.888609052210118e-31));
    const limit = f32x4.splat(WEIGHT_LIMIT);
    const inverse = v128.andnot(f32x4.div(limit, largest), isTiny);
    v128.store(steps + (half << 4), v128.andnot(f32x4.div(largest, limit), isTiny));
    const v0 = i32x4.shuffle(inverse, inverse, 0, 0, 0, 0);
    const v1 = i32x4.shuffle(inverse, inverse, 1, 1, 1, 1);
    const v2 = i32x4.shuffle(inverse, inverse, 2, 2, 2, 2);
    const v3 = i32x4.shuffle(inverse, inverse, 3, 3, 3, 3);
    let to = panel + (half << 4);
    for (let p = channelScales; p < end; p += 16) {
      const s = v128.load(p);
      const a = roundToInt(f32x4.mul(f32x4.mul(v128.load(r0 + p), s), v0));
      const b = roundToInt(f32x4.mul(f32x4.mul(v128.load(r1 + p), s), v1));
      const c = roundToInt(f32x4.mul(f32x4.mul(v128.load(r2 + p), s), v2));
      const d = roundToInt(f32x4.mul(f32x4.mul(v128.load(r3 + p), s), v3));
      const ab = i16x8.narrow_i32x4_s(a, b);
      const cd = i16x8.narrow_i32x4_s(c, d);
      // two pairs of channels:  | a0 a1 | b0 b1 | c0 c1 | d0 d1 |  and  | a2 a3 | b2 b3 | c2 c3 | d2 d3 |
      v128.store(to, i32x4.shuffle(ab, cd, 0, 2, 4, 6));
      v128.store(to, i32x4.shuffle(ab, cd, 1, 3, 5, 7), 32);
      to += 64;
    }
  }
}
