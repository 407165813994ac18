/**
 * Keys (or values) of a sealed block from its codes: cache/fold.ts `project` without ever dequantizing.
 *
 * The codes become a tile, the small weight matrix becomes panels (tile.ts draws both), and the scale and the
 * minimum of each group enter once per block of columns (docs/engine.md, "One pass"):
 *
 *     per token      K[t, j] = sum over groups g of  s[t, g] * ws[j, g] * (code . w)  +  m[t, g] * sum of W[j, g]
 *     per channel    W'[j, c] = s[c] * W[j, c] cut to integers for this block of tokens, then
 *                    K[t, j] = sum over blocks b of  ws[j, b] * (code . w')           +  sum of m[c] W[j, c]
 */

import {
  addPairs,
  align16,
  halfToFloatScalar,
  loadHalf4,
  madd,
  maxLanes,
  PAIR_STEPS,
  roundToInt,
  sumLanes,
  sumLanesInt,
  widen,
} from './lanes';
import { groupBytes, unpackCodes } from './pack';
import { blockCount, padColumns, PANEL, panelTimesRows, storeOutputs, tileOffsets, tileScales } from './tile';

/** `count` bytes to i16 (wide) or bytes, then `padding` zeros. Returns the end. */
// @ts-ignore: decorator
@inline
function spreadCodes(codes: usize, count: i32, padding: i32, target: usize, wide: bool): usize {
  let i = 0;
  if (wide) {
    for (; i + 16 <= count; i += 16) {
      const v = v128.load(codes + (i as usize));
      v128.store(target, i16x8.extend_low_i8x16_u(v));
      v128.store(target, i16x8.extend_high_i8x16_u(v), 16);
      target += 32;
    }
    for (; i < count; i++) {
      store<u16>(target, load<u8>(codes + (i as usize)));
      target += 2;
    }
    memory.fill(target, 0, (padding as usize) << 1);
    return target + ((padding as usize) << 1);
  }
  memory.copy(target, codes, count as usize);
  memory.fill(target + (count as usize), 0, padding as usize);
  return target + ((count + padding) as usize);
}

// @ts-ignore: decorator
@inline
function unpackAny(
  packed: usize,
  scales: usize,
  mins: usize,
  rows: i32,
  columns: i32,
  bits: i32,
  groupSize: i32,
  perChannel: i32,
  block: i32,
  tile: usize,
  scratch: usize,
  wide: bool,
): void {
  const padded = padColumns(columns);
  const blocks = blockCount(columns, block);
  let scale = tileScales(tile, rows, columns);
  let offset = tileOffsets(scale, rows, blocks);
  if (perChannel) {
    const one = f32x4.splat(1);
    for (const end = align16(scale + (((rows * blocks) as usize) << 2)); scale < end; scale += 16) {
      v128.store(scale, one);
      v128.store(offset, one);
      offset += 16;
    }
    unpackTurned(packed, rows, columns, padded, bits, tile, scratch, wide);
    return;
  }
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c += groupSize) {
      const count = min(groupSize, columns - c);
      const padding = c + count == columns ? padded - columns : 0;
      if (wide) {
        unpackCodes(packed, count, bits, scratch);
        tile = spreadCodes(scratch, count, padding, tile, wide);
      } else {
        unpackCodes(packed, count, bits, tile);
        memory.fill(tile + (count as usize), 0, padding as usize);
        tile += (count + padding) as usize;
      }
      const s = halfToFloatScalar(load<u16>(scales));
      const m = halfToFloatScalar(load<u16>(mins));
      for (let b = 0; b < count; b += block) {
        store<f32>(scale, s);
        store<f32>(offset, m);
        scale += 4;
        offset += 4;
      }
      packed += groupBytes(count, bits) as usize;
      scales += 2;
      mins += 2;
    }
  }
}

/** Per-channel codes of one block of tokens, turned into rows of tokens: eight channels at a time. */
// @ts-ignore: decorator
@inline
function unpackTurned(
  packed: usize,
  rows: i32,
  columns: i32,
  padded: i32,
  bits: i32,
  tile: usize,
  scratch: usize,
  wide: bool,
): void {
  const bytes = groupBytes(rows, bits) as usize;
  const stride = ((rows + 15) & ~15) as usize;
  const shift: usize = wide ? 1 : 0;
  const rowBytes = (padded as usize) << shift;
  for (let c = 0; c < padded; c += 8) {
    for (let j = 0; j < 8; j++) {
      const channel = scratch + (j as usize) * stride;
      if (c + j < columns) {
        unpackCodes(packed, rows, bits, channel);
        packed += bytes;
      } else {
        memory.fill(channel, 0, stride);
      }
    }
    let target = tile + ((c as usize) << shift);
    for (let r = 0; r < rows; r += 4) {
      // four codes of each of eight channels -> eight codes of each of four tokens
      const p = scratch + (r as usize);
      const low = i32x4(load<i32>(p), load<i32>(p + stride), load<i32>(p + 2 * stride), load<i32>(p + 3 * stride));
      const q = p + 4 * stride;
      const high = i32x4(load<i32>(q), load<i32>(q + stride), load<i32>(q + 2 * stride), load<i32>(q + 3 * stride));
      const t01 = i8x16.shuffle(low, high, 0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
      const t23 = i8x16.shuffle(low, high, 2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31);
      const count = min(4, rows - r);
      if (wide) {
        v128.store(target, i16x8.extend_low_i8x16_u(t01));
        if (count > 1) v128.store(target + rowBytes, i16x8.extend_high_i8x16_u(t01));
        if (count > 2) v128.store(target + 2 * rowBytes, i16x8.extend_low_i8x16_u(t23));
        if (count > 3) v128.store(target + 3 * rowBytes, i16x8.extend_high_i8x16_u(t23));
      } else {
        store<i64>(target, i64x2.extract_lane(t01, 0));
        if (count > 1) store<i64>(target + rowBytes, i64x2.extract_lane(t01, 1));
        if (count > 2) store<i64>(target + 2 * rowBytes, i64x2.extract_lane(t23, 0));
        if (count > 3) store<i64>(target + 3 * rowBytes, i64x2.extract_lane(t23, 1));
      }
      target += 4 * rowBytes;
    }
  }
}

/** Codes of a sealed block to a tile of i16. */
export function unpackTile(
  packed: usize,
  scales: usize,
  mins: usize,
  rows: i32,
  columns: i32,
  bits: i32,
  groupSize: i32,
  perChannel: i32,
  block: i32,
  tile: usize,
  scratch: usize,
): void {
  unpackAny(packed, scales, mins, rows, columns, bits, groupSize, perChannel, block, tile, scratch, true);
}

/** The same for `matmulTileInt8`: bytes in relaxed builds. */
export function unpackTileInt8(
  packed: usize,
  scales: usize,
  mins: usize,
  rows: i32,
  columns: i32,
  bits: i32,
  groupSize: i32,
  perChannel: i32,
  block: i32,
  tile: usize,
  scratch: usize,
): void {
  if (ASC_FEATURE_RELAXED_SIMD) {
    unpackAny(packed, scales, mins, rows, columns, bits, groupSize, perChannel, block, tile, scratch, false);
  } else {
    unpackAny(packed, scales, mins, rows, columns, bits, groupSize, perChannel, block, tile, scratch, true);
  }
}

/** Four weights of a row from column `k` on, times their channels' scales. */
// @ts-ignore: decorator
@inline
function scaledWeights(row: usize, k: i32, factor: v128, scaled: bool): v128 {
  const w = v128.load(row + ((k as usize) << 2));
  return scaled ? f32x4.mul(w, factor) : w;
}

/** Scale of a block of integers from the largest magnitude; 0 where there is nothing to divide. */
// @ts-ignore: decorator
@inline
function stepOf(largest: f32, limit: f32): f32 {
  return largest < (7.888609052210118e-31 as f32) ? 0 : largest / limit;
}

// @ts-ignore: decorator
@inline
function inverseOf(largest: f32, limit: f32): f32 {
  return largest < (7.888609052210118e-31 as f32) ? 0 : limit / largest;
}

/**
 * Stores the integers of four outputs at columns k .. k+3 (lanes of a, b, c, d).
 *
 *     wide    two pairs:  | a0 a1 | b0 b1 | c0 c1 | d0 d1 |   and   | a2 a3 | b2 b3 | c2 c3 | d2 d3 |
 *     bytes   one quad:   | a0 a1 a2 a3 | b0 .. | c0 .. | d0 .. |
 */
// @ts-ignore: decorator
@inline
function storeInts(panel: usize, half: usize, k: i32, a: v128, b: v128, c: v128, d: v128, wide: bool): void {
  const ab = i16x8.narrow_i32x4_s(a, b);
  const cd = i16x8.narrow_i32x4_s(c, d);
  if (wide) {
    const p = panel + (((k >> 1) as usize) << 5) + (half << 4);
    v128.store(p, i32x4.shuffle(ab, cd, 0, 2, 4, 6));
    v128.store(p, i32x4.shuffle(ab, cd, 1, 3, 5, 7), 32);
  } else {
    v128.store(panel + (((k >> 2) as usize) << 5) + (half << 4), i8x16.narrow_i16x8_s(ab, cd));
  }
}

// @ts-ignore: decorator
@inline
function packAny(
  weights: usize,
  rows: i32,
  columns: i32,
  block: i32,
  limit: i32,
  channelScales: usize,
  channelMins: usize,
  target: usize,
  wide: bool,
  scaled: bool,
): void {
  const padded = padColumns(columns);
  const blocks = blockCount(columns, block);
  const panels = (rows + PANEL - 1) >> 3;
  const panelBytes = ((padded * PANEL) as usize) << (wide ? 1 : 0);
  const rowBytes = (columns as usize) << 2;
  const top = limit as f32;
  const absolute = i32x4.splat(0x7fffffff);
  let scale = target + (panels as usize) * panelBytes;
  let offset = scale + (((panels * blocks) as usize) << 5);
  if (padded != columns) memory.fill(target, 0, (panels as usize) * panelBytes);
  for (let p = 0; p < panels; p++) {
    const panel = target + (p as usize) * panelBytes;
    for (let start = 0; start < columns; start += block) {
      const end = min(start + block, columns);
      const whole = start + ((end - start) & ~3);
      for (let half: usize = 0; half < 2; half++) {
        const first = p * PANEL + ((half as i32) << 2);
        // rows that do not exist repeat the last one and get scale 0
        const last = rows - 1;
        const r0 = weights + (min(first, last) as usize) * rowBytes;
        const r1 = weights + (min(first + 1, last) as usize) * rowBytes;
        const r2 = weights + (min(first + 2, last) as usize) * rowBytes;
        const r3 = weights + (min(first + 3, last) as usize) * rowBytes;
        let m0 = f32x4.splat(0);
        let m1 = m0;
        let m2 = m0;
        let m3 = m0;
        let k = start;
        for (; k < whole; k += 4) {
          const f = scaled ? loadHalf4(channelScales + ((k as usize) << 1)) : m0;
          m0 = f32x4.pmax(m0, v128.and(scaledWeights(r0, k, f, scaled), absolute));
          m1 = f32x4.pmax(m1, v128.and(scaledWeights(r1, k, f, scaled), absolute));
          m2 = f32x4.pmax(m2, v128.and(scaledWeights(r2, k, f, scaled), absolute));
          m3 = f32x4.pmax(m3, v128.and(scaledWeights(r3, k, f, scaled), absolute));
        }
        let largest = f32x4(maxLanes(m0), maxLanes(m1), maxLanes(m2), maxLanes(m3));
        for (; k < end; k++) {
          const at = (k as usize) << 2;
          let v = f32x4(load<f32>(r0 + at), load<f32>(r1 + at), load<f32>(r2 + at), load<f32>(r3 + at));
          if (scaled) v = f32x4.mul(v, f32x4.splat(halfToFloatScalar(load<u16>(channelScales + ((k as usize) << 1)))));
          largest = f32x4.pmax(largest, v128.and(v, absolute));
        }
        const exists = i32x4.gt_s(i32x4.splat(rows), i32x4.add(i32x4.splat(first), i32x4(0, 1, 2, 3)));
        largest = v128.and(largest, exists);
        const l0 = f32x4.extract_lane(largest, 0);
        const l1 = f32x4.extract_lane(largest, 1);
        const l2 = f32x4.extract_lane(largest, 2);
        const l3 = f32x4.extract_lane(largest, 3);
        const steps = f32x4(stepOf(l0, top), stepOf(l1, top), stepOf(l2, top), stepOf(l3, top));
        const inverses = f32x4(inverseOf(l0, top), inverseOf(l1, top), inverseOf(l2, top), inverseOf(l3, top));
        const v0 = i32x4.shuffle(inverses, inverses, 0, 0, 0, 0);
        const v1 = i32x4.shuffle(inverses, inverses, 1, 1, 1, 1);
        const v2 = i32x4.shuffle(inverses, inverses, 2, 2, 2, 2);
        const v3 = i32x4.shuffle(inverses, inverses, 3, 3, 3, 3);
        // sums of integers (per token), or of minimum times weight (per channel)
        let s0 = f32x4.splat(0);
        let s1 = s0;
        let s2 = s0;
        let s3 = s0;
        for (k = start; k < whole; k += 4) {
          let f = s0;
          if (scaled) {
            f = loadHalf4(channelScales + ((k as usize) << 1));
            const m = loadHalf4(channelMins + ((k as usize) << 1));
            s0 = madd(v128.load(r0 + ((k as usize) << 2)), m, s0);
            s1 = madd(v128.load(r1 + ((k as usize) << 2)), m, s1);
            s2 = madd(v128.load(r2 + ((k as usize) << 2)), m, s2);
            s3 = madd(v128.load(r3 + ((k as usize) << 2)), m, s3);
          }
          const a = roundToInt(f32x4.mul(scaledWeights(r0, k, f, scaled), v0));
          const b = roundToInt(f32x4.mul(scaledWeights(r1, k, f, scaled), v1));
          const c = roundToInt(f32x4.mul(scaledWeights(r2, k, f, scaled), v2));
          const d = roundToInt(f32x4.mul(scaledWeights(r3, k, f, scaled), v3));
          if (!scaled) {
            s0 = i32x4.add(s0, a);
            s1 = i32x4.add(s1, b);
            s2 = i32x4.add(s2, c);
            s3 = i32x4.add(s3, d);
          }
          storeInts(panel, half, k, a, b, c, d, wide);
        }
        let sums = scaled
          ? f32x4(sumLanes(s0), sumLanes(s1), sumLanes(s2), sumLanes(s3))
          : i32x4(sumLanesInt(s0), sumLanesInt(s1), sumLanesInt(s2), sumLanesInt(s3));
        for (; k < end; k++) {
          const at = (k as usize) << 2;
          let v = f32x4(load<f32>(r0 + at), load<f32>(r1 + at), load<f32>(r2 + at), load<f32>(r3 + at));
          if (scaled) {
            sums = madd(v, f32x4.splat(halfToFloatScalar(load<u16>(channelMins + ((k as usize) << 1)))), sums);
            v = f32x4.mul(v, f32x4.splat(halfToFloatScalar(load<u16>(channelScales + ((k as usize) << 1)))));
          }
          const q = roundToInt(f32x4.mul(v, inverses));
          if (!scaled) sums = i32x4.add(sums, q);
          storeColumn(panel, half, k, q, wide);
        }
        if (scaled) sums = v128.and(sums, exists);
        else sums = f32x4.mul(f32x4.convert_i32x4_s(sums), steps);
        v128.store(scale + (half << 4), steps);
        v128.store(offset + (half << 4), sums);
      }
      scale += 32;
      offset += 32;
    }
  }
}

/** Stores the integers of four outputs at one column. */
// @ts-ignore: decorator
@inline
function storeColumn(panel: usize, half: usize, k: i32, q: v128, wide: bool): void {
  if (wide) {
    const p = panel + (((k >> 1) as usize) << 5) + (half << 4) + (((k & 1) as usize) << 1);
    store<i16>(p, i32x4.extract_lane(q, 0) as i16);
    store<i16>(p, i32x4.extract_lane(q, 1) as i16, 4);
    store<i16>(p, i32x4.extract_lane(q, 2) as i16, 8);
    store<i16>(p, i32x4.extract_lane(q, 3) as i16, 12);
  } else {
    const p = panel + (((k >> 2) as usize) << 5) + (half << 4) + ((k & 3) as usize);
    store<i8>(p, i32x4.extract_lane(q, 0) as i8);
    store<i8>(p, i32x4.extract_lane(q, 1) as i8, 4);
    store<i8>(p, i32x4.extract_lane(q, 2) as i8, 8);
    store<i8>(p, i32x4.extract_lane(q, 3) as i8, 12);
  }
}

/** f32 weights to integers with a scale per block and output. */
export function packWeights(
  weights: usize,
  rows: i32,
  columns: i32,
  block: i32,
  limit: i32,
  channelScales: usize,
  channelMins: usize,
  target: usize,
): void {
  if (channelScales) packAny(weights, rows, columns, block, limit, channelScales, channelMins, target, true, true);
  else packAny(weights, rows, columns, block, limit, 0, 0, target, true, false);
}

/** The same with 8-bit integers, for `matmulTileInt8`. */
export function packWeightsInt8(
  weights: usize,
  rows: i32,
  columns: i32,
  block: i32,
  channelScales: usize,
  channelMins: usize,
  target: usize,
): void {
  if (ASC_FEATURE_RELAXED_SIMD) {
    if (channelScales) packAny(weights, rows, columns, block, 127, channelScales, channelMins, target, false, true);
    else packAny(weights, rows, columns, block, 127, 0, 0, target, false, false);
  } else {
    packWeights(weights, rows, columns, block, 127, channelScales, channelMins, target);
  }
}

// @ts-ignore: decorator
@inline
function multiplyTile(
  weights: usize,
  tile: usize,
  tokens: i32,
  rows: i32,
  columns: i32,
  block: i32,
  rowStart: i32,
  rowEnd: i32,
  out: usize,
  outStride: i32,
  accumulate: i32,
  withOffsets: bool,
): void {
  const padded = padColumns(columns);
  const blocks = blockCount(columns, block);
  const panels = ((rows + PANEL - 1) >> 3) as usize;
  const panelScales = weights + panels * ((padded as usize) << 4);
  const panelOffsets = panelScales + panels * ((blocks as usize) << 5);
  const scales = tileScales(tile, tokens, columns);
  const offsets = tileOffsets(scales, tokens, blocks);
  for (let j = rowStart; j < rowEnd; j += PANEL) {
    const p = (j >> 3) as usize;
    panelTimesRows(
      weights + p * ((padded as usize) << 4),
      panelScales + p * ((blocks as usize) << 5),
      withOffsets ? panelOffsets + p * ((blocks as usize) << 5) : 0,
      tile,
      (padded as usize) << 1,
      scales,
      offsets,
      tokens,
      padded,
      block,
      blocks,
      out + ((j as usize) << 2),
      (outStride as usize) << 2,
      min(PANEL, rowEnd - j),
      accumulate != 0,
    );
  }
}

/** Tile of codes times key weights. */
export function matmulTile(
  weights: usize,
  tile: usize,
  tokens: i32,
  rows: i32,
  columns: i32,
  block: i32,
  rowStart: i32,
  rowEnd: i32,
  out: usize,
  outStride: i32,
  accumulate: i32,
): void {
  multiplyTile(weights, tile, tokens, rows, columns, block, rowStart, rowEnd, out, outStride, accumulate, true);
}

/** Tile of f32 rows times key weights: the values have no minimum, so there are no offsets. */
export function matmulTileFloat(
  weights: usize,
  tile: usize,
  tokens: i32,
  rows: i32,
  columns: i32,
  block: i32,
  rowStart: i32,
  rowEnd: i32,
  out: usize,
  outStride: i32,
  accumulate: i32,
): void {
  multiplyTile(weights, tile, tokens, rows, columns, block, rowStart, rowEnd, out, outStride, accumulate, false);
}

/**
 * `panelTimesRows` on bytes (relaxed builds): i8 weights [padded / 4, 8 outputs, 4], u8 codes of up to 4 bits.
 */
function bytePanelTimesRows(
  panel: usize,
  panelScale: usize,
  panelOffset: usize,
  x: usize,
  scale: usize,
  offset: usize,
  count: i32,
  padded: i32,
  block: i32,
  blocks: i32,
  out: usize,
  outStride: usize,
  valid: i32,
  accumulate: bool,
): void {
  const blockBytes = min(block, padded) as usize;
  const rowBytes = padded as usize;
  const stride = (blocks as usize) << 2;
  let t = 0;
  for (; t + 4 <= count; t += 4) {
    let x0 = x;
    let x1 = x + rowBytes;
    let x2 = x1 + rowBytes;
    let x3 = x2 + rowBytes;
    x = x3 + rowBytes;
    const rowEnd = x0 + rowBytes;
    let w = panel;
    let ws = panelScale;
    let wo = panelOffset;
    let s = scale;
    let o = offset;
    let f00 = f32x4.splat(0);
    let f01 = f00;
    let f10 = f00;
    let f11 = f00;
    let f20 = f00;
    let f21 = f00;
    let f30 = f00;
    let f31 = f00;
    while (x0 < rowEnd) {
      const end = min(x0 + blockBytes, rowEnd);
      let i00 = i32x4.splat(0);
      let i01 = i00;
      let i10 = i00;
      let i11 = i00;
      let i20 = i00;
      let i21 = i00;
      let i30 = i00;
      let i31 = i00;
      while (x0 < end) {
        let p00 = i16x8.splat(0);
        let p01 = p00;
        let p10 = p00;
        let p11 = p00;
        let p20 = p00;
        let p21 = p00;
        let p30 = p00;
        let p31 = p00;
        const pause = min(x0 + 4 * PAIR_STEPS, end);
        do {
          const w0 = v128.load(w);
          const w1 = v128.load(w, 16);
          let a = v128.load32_splat(x0);
          p00 = addPairs(p00, w0, a);
          p01 = addPairs(p01, w1, a);
          a = v128.load32_splat(x1);
          p10 = addPairs(p10, w0, a);
          p11 = addPairs(p11, w1, a);
          a = v128.load32_splat(x2);
          p20 = addPairs(p20, w0, a);
          p21 = addPairs(p21, w1, a);
          a = v128.load32_splat(x3);
          p30 = addPairs(p30, w0, a);
          p31 = addPairs(p31, w1, a);
          w += 32;
          x0 += 4;
          x1 += 4;
          x2 += 4;
          x3 += 4;
        } while (x0 < pause);
        i00 = widen(i00, p00);
        i01 = widen(i01, p01);
        i10 = widen(i10, p10);
        i11 = widen(i11, p11);
        i20 = widen(i20, p20);
        i21 = widen(i21, p21);
        i30 = widen(i30, p30);
        i31 = widen(i31, p31);
      }
      const p0 = v128.load(ws);
      const p1 = v128.load(ws, 16);
      const q0 = v128.load(wo);
      const q1 = v128.load(wo, 16);
      ws += 32;
      wo += 32;
      f00 = addBoth(f00, i00, p0, q0, s, o);
      f01 = addBoth(f01, i01, p1, q1, s, o);
      f10 = addBoth(f10, i10, p0, q0, s + stride, o + stride);
      f11 = addBoth(f11, i11, p1, q1, s + stride, o + stride);
      f20 = addBoth(f20, i20, p0, q0, s + 2 * stride, o + 2 * stride);
      f21 = addBoth(f21, i21, p1, q1, s + 2 * stride, o + 2 * stride);
      f30 = addBoth(f30, i30, p0, q0, s + 3 * stride, o + 3 * stride);
      f31 = addBoth(f31, i31, p1, q1, s + 3 * stride, o + 3 * stride);
      s += 4;
      o += 4;
    }
    scale += 4 * stride;
    offset += 4 * stride;
    storeOutputs(out, f00, f01, valid, accumulate);
    out += outStride;
    storeOutputs(out, f10, f11, valid, accumulate);
    out += outStride;
    storeOutputs(out, f20, f21, valid, accumulate);
    out += outStride;
    storeOutputs(out, f30, f31, valid, accumulate);
    out += outStride;
  }
  for (; t < count; t++) {
    let x0 = x;
    x += rowBytes;
    const rowEnd = x0 + rowBytes;
    let w = panel;
    let ws = panelScale;
    let wo = panelOffset;
    let s = scale;
    let o = offset;
    let f0 = f32x4.splat(0);
    let f1 = f0;
    while (x0 < rowEnd) {
      const end = min(x0 + blockBytes, rowEnd);
      let i0 = i32x4.splat(0);
      let i1 = i0;
      while (x0 < end) {
        let p0 = i16x8.splat(0);
        let p1 = p0;
        const pause = min(x0 + 4 * PAIR_STEPS, end);
        do {
          const a = v128.load32_splat(x0);
          p0 = addPairs(p0, v128.load(w), a);
          p1 = addPairs(p1, v128.load(w, 16), a);
          w += 32;
          x0 += 4;
        } while (x0 < pause);
        i0 = widen(i0, p0);
        i1 = widen(i1, p1);
      }
      f0 = addBoth(f0, i0, v128.load(ws), v128.load(wo), s, o);
      f1 = addBoth(f1, i1, v128.load(ws, 16), v128.load(wo, 16), s, o);
      ws += 32;
      wo += 32;
      s += 4;
      o += 4;
    }
    scale += stride;
    offset += stride;
    storeOutputs(out, f0, f1, valid, accumulate);
    out += outStride;
  }
}

// @ts-ignore: decorator
@inline
function addBoth(acc: v128, dot: v128, panelScale: v128, panelOffset: v128, scale: usize, offset: usize): v128 {
  acc = madd(f32x4.convert_i32x4_s(dot), f32x4.mul(panelScale, v128.load32_splat(scale)), acc);
  return madd(panelOffset, v128.load32_splat(offset), acc);
}

/** Tile of codes times 8-bit key weights. */
export function matmulTileInt8(
  weights: usize,
  tile: usize,
  tokens: i32,
  rows: i32,
  columns: i32,
  block: i32,
  rowStart: i32,
  rowEnd: i32,
  out: usize,
  outStride: i32,
  accumulate: i32,
): void {
  if (ASC_FEATURE_RELAXED_SIMD) {
    const padded = padColumns(columns);
    const blocks = blockCount(columns, block);
    const panels = ((rows + PANEL - 1) >> 3) as usize;
    const panelScales = weights + panels * ((padded as usize) << 3);
    const panelOffsets = panelScales + panels * ((blocks as usize) << 5);
    const scales = tileScales(tile, tokens, columns);
    const offsets = tileOffsets(scales, tokens, blocks);
    for (let j = rowStart; j < rowEnd; j += PANEL) {
      const p = (j >> 3) as usize;
      bytePanelTimesRows(
        weights + p * ((padded as usize) << 3),
        panelScales + p * ((blocks as usize) << 5),
        panelOffsets + p * ((blocks as usize) << 5),
        tile,
        scales,
        offsets,
        tokens,
        padded,
        block,
        blocks,
        out + ((j as usize) << 2),
        (outStride as usize) << 2,
        min(PANEL, rowEnd - j),
        accumulate != 0,
      );
    }
  } else {
    matmulTile(weights, tile, tokens, rows, columns, block, rowStart, rowEnd, out, outStride, accumulate);
  }
}
