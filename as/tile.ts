/**
 * The integer product that everything quantized comes down to (register-tile.ts), and the two operand formats it takes.
 *
 *     out[t, j] = sum over blocks b of  ( sum over k in b of rows[t, k] * panel[j, k] )   an integer, exact
 *                                       * rowScale[t, b] * panelScale[j, b]
 *                                     + rowOffset[t, b] * panelOffset[j, b]
 *
 * With weights in the panel the second line is "minimum of the weights times sum of the activations"; with
 * codes in the rows it is "minimum of the group times sum of the weights" (docs/engine.md, "One pass").
 *
 * A *tile* (the rows) holds `rows` vectors of `columns` i16, padded with zeros to a multiple of 8:
 *
 *     i16 [rows, padded]  |16|  f32 scale [rows, blocks]  |16|  f32 offset [rows, blocks]
 *
 * A *panel* holds eight output channels side by side, so that lanes are outputs and no sum across lanes is
 * ever needed. One multiply-add instruction takes two neighbouring k of four outputs:
 *
 *     i16 [padded / 2, 8 outputs, 2]      16 bytes: | j0k0 j0k1 | j1k0 j1k1 | j2k0 j2k1 | j3k0 j3k1 |
 *     f32 scale [blocks, 8]    f32 offset [blocks, 8]
 *
 * The row operand of that instruction is one pair (k, k + 1) of a row in all four places.
 */

import { align16, madd, roundToInt } from './lanes';

/** Outputs of a panel. */
export const PANEL: i32 = 8;

// @ts-ignore: decorator
@inline
export function padColumns(columns: i32): i32 {
  return (columns + 7) & ~7;
}

// @ts-ignore: decorator
@inline
export function blockCount(columns: i32, block: i32): i32 {
  return (columns + block - 1) / block;
}

/** Where the scales of a tile start. */
// @ts-ignore: decorator
@inline
export function tileScales(tile: usize, rows: i32, columns: i32): usize {
  return align16(tile + (((rows * padColumns(columns)) as usize) << 1));
}

/** Where the offsets of a tile start, given where its scales do. */
// @ts-ignore: decorator
@inline
export function tileOffsets(scales: usize, rows: i32, blocks: i32): usize {
  return align16(scales + (((rows * blocks) as usize) << 2));
}

/** Writes four sums of eight outputs, or the first `valid` of them. */
// @ts-ignore: decorator
@inline
export function storeOutputs(out: usize, low: v128, high: v128, valid: i32, accumulate: bool): void {
  if (valid == PANEL) {
    if (accumulate) {
      low = f32x4.add(v128.load(out), low);
      high = f32x4.add(v128.load(out, 16), high);
    }
    v128.store(out, low);
    v128.store(out, high, 16);
  } else {
    for (let j = 0; j < valid; j++) {
      const value = f32x4.extract_lane(low, 0);
      store<f32>(out, accumulate ? load<f32>(out) + value : value);
      out += 4;
      // shift the eight outputs down by one
      low = i32x4.shuffle(low, high, 1, 2, 3, 4);
      high = i32x4.shuffle(high, high, 1, 2, 3, 3);
    }
  }
}

/** scale and offset of one block on top of a sum: acc + float(dot) * (row * panel) + rowOffset * panelOffset. */
// @ts-ignore: decorator
@inline
function addBlock(acc: v128, dot: v128, scale: v128, rowScale: v128): v128 {
  return madd(f32x4.convert_i32x4_s(dot), f32x4.mul(scale, rowScale), acc);
}

/**
 * One panel times `count` rows.
 *
 * @param panelOffset 0 where the product has no offsets
 * @param x first row, i16; `xStride` bytes from row to row
 * @param scale, offset of the first row, f32; `blocks` of them a row
 * @param block columns of a block, a multiple of 8 (or all columns)
 * @param out first output of the first row; `outStride` bytes from row to row
 * @param valid outputs of this panel that exist, 1 to 8
 */
export function panelTimesRows(
  panel: usize,
  panelScale: usize,
  panelOffset: usize,
  x: usize,
  xStride: usize,
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
  const blockBytes = (min(block, padded) as usize) << 1; // of one row
  const rowBytes = (padded as usize) << 1;
  const stride = (blocks as usize) << 2;
  let t = 0;
  for (; t + 4 <= count; t += 4) {
    let x0 = x;
    let x1 = x + xStride;
    let x2 = x1 + xStride;
    let x3 = x2 + xStride;
    x = x3 + xStride;
    const rowEnd = x0 + rowBytes;
    let w = panel;
    let s = scale;
    let f00 = f32x4.splat(0);
    let f01 = f00;
    let f10 = f00;
    let f11 = f00;
    let f20 = f00;
    let f21 = f00;
    let f30 = f00;
    let f31 = f00;
    let ws = panelScale;
    let wo = panelOffset;
    let o = offset;
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
      do {
        // one pair of k; V8 unrolls, and given two it loads more than it has registers for
        const w0 = v128.load(w);
        const w1 = v128.load(w, 16);
        let a = v128.load32_splat(x0);
        i00 = i32x4.add(i00, i32x4.dot_i16x8_s(w0, a));
        i01 = i32x4.add(i01, i32x4.dot_i16x8_s(w1, a));
        a = v128.load32_splat(x1);
        i10 = i32x4.add(i10, i32x4.dot_i16x8_s(w0, a));
        i11 = i32x4.add(i11, i32x4.dot_i16x8_s(w1, a));
        a = v128.load32_splat(x2);
        i20 = i32x4.add(i20, i32x4.dot_i16x8_s(w0, a));
        i21 = i32x4.add(i21, i32x4.dot_i16x8_s(w1, a));
        a = v128.load32_splat(x3);
        i30 = i32x4.add(i30, i32x4.dot_i16x8_s(w0, a));
        i31 = i32x4.add(i31, i32x4.dot_i16x8_s(w1, a));
        w += 32;
        x0 += 4;
        x1 += 4;
        x2 += 4;
        x3 += 4;
      } while (x0 < end);

      const p0 = v128.load(ws);
      const p1 = v128.load(ws, 16);
      ws += 32;
      let r = v128.load32_splat(s);
      f00 = addBlock(f00, i00, p0, r);
      f01 = addBlock(f01, i01, p1, r);
      r = v128.load32_splat(s + stride);
      f10 = addBlock(f10, i10, p0, r);
      f11 = addBlock(f11, i11, p1, r);
      r = v128.load32_splat(s + 2 * stride);
      f20 = addBlock(f20, i20, p0, r);
      f21 = addBlock(f21, i21, p1, r);
      r = v128.load32_splat(s + 3 * stride);
      f30 = addBlock(f30, i30, p0, r);
      f31 = addBlock(f31, i31, p1, r);
      s += 4;
      if (panelOffset) {
        const q0 = v128.load(wo);
        const q1 = v128.load(wo, 16);
        wo += 32;
        r = v128.load32_splat(o);
        f00 = madd(q0, r, f00);
        f01 = madd(q1, r, f01);
        r = v128.load32_splat(o + stride);
        f10 = madd(q0, r, f10);
        f11 = madd(q1, r, f11);
        r = v128.load32_splat(o + 2 * stride);
        f20 = madd(q0, r, f20);
        f21 = madd(q1, r, f21);
        r = v128.load32_splat(o + 3 * stride);
        f30 = madd(q0, r, f30);
        f31 = madd(q1, r, f31);
        o += 4;
      }
    }
    if (panelOffset) offset += 4 * stride;
    scale += 4 * stride;
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
    x += xStride;
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
      do {
        let a = v128.load32_splat(x0);
        i0 = i32x4.add(i0, i32x4.dot_i16x8_s(v128.load(w), a));
        i1 = i32x4.add(i1, i32x4.dot_i16x8_s(v128.load(w, 16), a));
        a = v128.load32_splat(x0, 4);
        i0 = i32x4.add(i0, i32x4.dot_i16x8_s(v128.load(w, 32), a));
        i1 = i32x4.add(i1, i32x4.dot_i16x8_s(v128.load(w, 48), a));
        w += 64;
        x0 += 8;
      } while (x0 < end);
      const r = v128.load32_splat(s);
      f0 = addBlock(f0, i0, v128.load(ws), r);
      f1 = addBlock(f1, i1, v128.load(ws, 16), r);
      ws += 32;
      s += 4;
      if (panelOffset) {
        const q = v128.load32_splat(o);
        f0 = madd(v128.load(wo), q, f0);
        f1 = madd(v128.load(wo, 16), q, f1);
        wo += 32;
        o += 4;
      }
    }
    if (panelOffset) offset += stride;
    scale += stride;
    storeOutputs(out, f0, f1, valid, accumulate);
    out += outStride;
  }
}

/**
 * f32 rows to a tile: integers up to `limit` in magnitude, one scale per `block` columns of a row; the offset
 * is the sum of the block as the integers give it. A block whose largest magnitude is below 2^-100 is zero.
 */
export function quantizeTile(x: usize, rows: i32, columns: i32, block: i32, limit: i32, tile: usize): void {
  const padded = padColumns(columns);
  const blocks = blockCount(columns, block);
  let scale = tileScales(tile, rows, columns);
  let offset = tileOffsets(scale, rows, blocks);
  const top = limit as f32;
  const absolute = i32x4.splat(0x7fffffff);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c += block) {
      const count = min(block, columns - c);
      const whole = x + (((count & ~7) as usize) << 2);
      const end = x + ((count as usize) << 2);
      let largest = f32x4.splat(0);
      let p = x;
      for (; p < whole; p += 32) {
        largest = f32x4.pmax(largest, v128.and(v128.load(p), absolute));
        largest = f32x4.pmax(largest, v128.and(v128.load(p, 16), absolute));
      }
      for (; p < end; p += 4) largest = f32x4.pmax(largest, v128.and(v128.load32_splat(p), absolute));
      largest = f32x4.pmax(largest, i32x4.shuffle(largest, largest, 2, 3, 0, 1));
      const a = f32x4.extract_lane(largest, 0);
      const b = f32x4.extract_lane(largest, 1);
      const amax = a > b ? a : b;
      const tiny = amax < (7.888609052210118e-31 as f32);
      const step: f32 = tiny ? 0 : amax / top;
      const inverse = f32x4.splat(tiny ? 0 : top / amax);
      let sum = i32x4.splat(0);
      const ones = i16x8.splat(1);
      p = x;
      for (; p < whole; p += 32) {
        const low = roundToInt(f32x4.mul(v128.load(p), inverse));
        const high = roundToInt(f32x4.mul(v128.load(p, 16), inverse));
        const both = i16x8.narrow_i32x4_s(low, high);
        sum = i32x4.add(sum, i32x4.dot_i16x8_s(both, ones));
        v128.store(tile, both);
        tile += 16;
      }
      let total =
        i32x4.extract_lane(sum, 0) + i32x4.extract_lane(sum, 1) + i32x4.extract_lane(sum, 2) + i32x4.extract_lane(sum, 3);
      if (p < end) {
        const unused = 8 - (((end - p) >> 2) as i32);
        for (; p < end; p += 4) {
          const value = i32x4.extract_lane(roundToInt(f32x4.mul(v128.load32_splat(p), inverse)), 0);
          total += value;
          store<i16>(tile, value as i16);
          tile += 2;
        }
        for (let i = 0; i < unused; i++) {
          store<i16>(tile, 0);
          tile += 2;
        }
      }
      store<f32>(scale, step);
      store<f32>(offset, step * (total as f32));
      scale += 4;
      offset += 4;
      x = end;
    }
  }
}
