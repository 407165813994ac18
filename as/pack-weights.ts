/**
 * Keys (or values) of a sealed block from its codes: cache/fold.ts `project` without ever dequantizing.
 *
 * The codes become a tile (unpack-tile.ts), the small weight matrix becomes panels (register-tile.ts draws both), and the
 * scale and the minimum of each group enter once per block of columns (docs/engine.md, "One pass"):
 *
 *     per token      K[t, j] = sum over groups g of  s[t, g] * ws[j, g] * (code . w)  +  m[t, g] * sum of W[j, g]
 *     per channel    W'[j, c] = s[c] * W[j, c] cut to integers for this block of tokens, then
 *                    K[t, j] = sum over blocks b of  ws[j, b] * (code . w')           +  sum of m[c] W[j, c]
 */

import { halfToFloatScalar, loadHalf4, madd, maxLanes, roundToInt, sumLanes, sumLanesInt } from './lanes';
import { blockCount, padColumns, PANEL } from './tile';

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
  const scaleBytes = (blocks as usize) << 5;
  for (let p = 0; p < panels; p++) {
    const panel = target + (p as usize) * (panelBytes + 2 * scaleBytes);
    let scale = panel + panelBytes;
    if (padded != columns) memory.fill(panel, 0, panelBytes);
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
        v128.store(scale + scaleBytes + (half << 4), sums);
      }
      scale += 32;
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
