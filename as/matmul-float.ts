/**
 * Products with float weights: F32, F16 and BF16, eight outputs to a panel, f32 sums in index order.
 *
 *     panel of F32    f32 [columns, 8 outputs]        panel of F16, BF16    u16 [columns, 8 outputs]
 *
 * A tile of four rows shares each load of eight weights; a 16-bit panel is widened once per tile of rows.
 */

import { halfToFloat, madd } from './lanes';
import { PANEL } from './tile';

// @ts-ignore: decorator
@inline
function storeOutputs(out: usize, low: v128, high: v128, valid: i32): void {
  if (valid == PANEL) {
    v128.store(out, low);
    v128.store(out, high, 16);
  } else {
    for (let j = 0; j < valid; j++) {
      store<f32>(out, f32x4.extract_lane(low, 0));
      out += 4;
      low = i32x4.shuffle(low, high, 1, 2, 3, 4);
      high = i32x4.shuffle(high, high, 1, 2, 3, 3);
    }
  }
}

/** One f32 panel times `count` f32 rows. */
export function floatPanelTimesRows(
  panel: usize,
  x: usize,
  xStride: usize,
  count: i32,
  columns: i32,
  out: usize,
  outStride: usize,
  valid: i32,
): void {
  const rowBytes = (columns as usize) << 2;
  let t = 0;
  for (; t + 4 <= count; t += 4) {
    let x0 = x;
    let x1 = x + xStride;
    let x2 = x1 + xStride;
    let x3 = x2 + xStride;
    x = x3 + xStride;
    const end = x0 + rowBytes;
    let w = panel;
    let f00 = f32x4.splat(0);
    let f01 = f00;
    let f10 = f00;
    let f11 = f00;
    let f20 = f00;
    let f21 = f00;
    let f30 = f00;
    let f31 = f00;
    for (; x0 < end; x0 += 4) {
      const w0 = v128.load(w);
      const w1 = v128.load(w, 16);
      let a = v128.load32_splat(x0);
      f00 = madd(w0, a, f00);
      f01 = madd(w1, a, f01);
      a = v128.load32_splat(x1);
      f10 = madd(w0, a, f10);
      f11 = madd(w1, a, f11);
      a = v128.load32_splat(x2);
      f20 = madd(w0, a, f20);
      f21 = madd(w1, a, f21);
      a = v128.load32_splat(x3);
      f30 = madd(w0, a, f30);
      f31 = madd(w1, a, f31);
      w += 32;
      x1 += 4;
      x2 += 4;
      x3 += 4;
    }
    storeOutputs(out, f00, f01, valid);
    out += outStride;
    storeOutputs(out, f10, f11, valid);
    out += outStride;
    storeOutputs(out, f20, f21, valid);
    out += outStride;
    storeOutputs(out, f30, f31, valid);
    out += outStride;
  }
  for (; t < count; t++) {
    floatRow(panel, x, columns, out, valid, 0);
    x += xStride;
    out += outStride;
  }
}

/** Eight weights of 4 or 2 bytes each. `kind`: 0 F32, 1 F16, 2 BF16. */
// @ts-ignore: decorator
@inline
function loadWeights(w: usize, kind: i32): v128 {
  if (kind == 0) return v128.load(w);
  if (kind == 1) return halfToFloat(v128.load16x4_s(w));
  return i32x4.shl(v128.load16x4_u(w), 16);
}

/** One panel times one row, in the same order as the tile. */
// @ts-ignore: decorator
@inline
function floatRow(panel: usize, x: usize, columns: i32, out: usize, valid: i32, kind: i32): void {
  const half: usize = kind == 0 ? 16 : 8; // bytes of four weights
  let w = panel;
  let f0 = f32x4.splat(0);
  let f1 = f0;
  for (const end = x + ((columns as usize) << 2); x < end; x += 4) {
    const a = v128.load32_splat(x);
    f0 = madd(loadWeights(w, kind), a, f0);
    f1 = madd(loadWeights(w + half, kind), a, f1);
    w += 2 * half;
  }
  storeOutputs(out, f0, f1, valid);
}

// @ts-ignore: decorator
@inline
function matmulFloat(
  w: usize,
  x: usize,
  tokens: i32,
  rows: i32,
  columns: i32,
  rowStart: i32,
  rowEnd: i32,
  out: usize,
  outStride: i32,
  scratch: usize,
  kind: i32,
): void {
  const rowBytes = (columns as usize) << 2;
  const panelBytes = (columns as usize) << (kind == 0 ? 5 : 4);
  const stride = (outStride as usize) << 2;
  for (let j = rowStart; j < rowEnd; j += PANEL) {
    const valid = min(PANEL, rowEnd - j);
    let panel = w + ((j >> 3) as usize) * panelBytes;
    const target = out + ((j as usize) << 2);
    if (kind != 0 && tokens >= 4) {
      let p = scratch;
      for (const end = panel + panelBytes; panel < end; panel += 16) {
        v128.store(p, loadWeights(panel, kind));
        v128.store(p, loadWeights(panel + 8, kind), 16);
        p += 32;
      }
      floatPanelTimesRows(scratch, x, rowBytes, tokens, columns, target, stride, valid);
    } else if (kind == 0 && tokens >= 4) {
      floatPanelTimesRows(panel, x, rowBytes, tokens, columns, target, stride, valid);
    } else {
      for (let t = 0; t < tokens; t++) {
        floatRow(panel, x + (t as usize) * rowBytes, columns, target + (t as usize) * stride, valid, kind);
      }
    }
  }
}

/** `linear` with F32 weights. */
export function matmulF32(
  w: usize,
  x: usize,
  tokens: i32,
  rows: i32,
  columns: i32,
  rowStart: i32,
  rowEnd: i32,
  out: usize,
  outStride: i32,
  scratch: usize,
): void {
  matmulFloat(w, x, tokens, rows, columns, rowStart, rowEnd, out, outStride, scratch, 0);
}

/** `linear` with F16 weights. */
export function matmulF16(
  w: usize,
  x: usize,
  tokens: i32,
  rows: i32,
  columns: i32,
  rowStart: i32,
  rowEnd: i32,
  out: usize,
  outStride: i32,
  scratch: usize,
): void {
  matmulFloat(w, x, tokens, rows, columns, rowStart, rowEnd, out, outStride, scratch, 1);
}

/** `linear` with BF16 weights. */
export function matmulBF16(
  w: usize,
  x: usize,
  tokens: i32,
  rows: i32,
  columns: i32,
  rowStart: i32,
  rowEnd: i32,
  out: usize,
  outStride: i32,
  scratch: usize,
): void {
  matmulFloat(w, x, tokens, rows, columns, rowStart, rowEnd, out, outStride, scratch, 2);
}

// @ts-ignore: decorator
@inline
function repackFloat(source: usize, rows: i32, columns: i32, target: usize, shift: usize): void {
  for (let j = 0; j < rows; j += PANEL) {
    for (let k = 0; k < columns; k++) {
      for (let i = 0; i < PANEL; i++) {
        const from = source + ((((j + i) * columns + k) as usize) << shift);
        if (shift == 2) store<u32>(target, j + i < rows ? load<u32>(from) : 0);
        else store<u16>(target, j + i < rows ? load<u16>(from) : 0);
        target += 1 << shift;
      }
    }
  }
}

/** F32 rows of a file to panels. */
export function repackF32(source: usize, rows: i32, columns: i32, target: usize): void {
  repackFloat(source, rows, columns, target, 2);
}

/** F16 or BF16 rows of a file to panels. */
export function repackF16(source: usize, rows: i32, columns: i32, target: usize): void {
  repackFloat(source, rows, columns, target, 1);
}

/** Row `index` of F32 panels. */
export function embedF32(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  let p = w + (((index >> 3) * columns) as usize) * 32 + (((index & 7) as usize) << 2);
  for (let k = 0; k < columns; k++) {
    store<f32>(out + ((k as usize) << 2), load<f32>(p));
    p += 32;
  }
}

/** Row `index` of F16 panels. */
export function embedF16(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  let p = w + (((index >> 3) * columns) as usize) * 16 + (((index & 7) as usize) << 1);
  for (let k = 0; k < columns; k++) {
    const half = i32x4.splat(((load<u16>(p) as i32) << 16) >> 16);
    store<f32>(out + ((k as usize) << 2), f32x4.extract_lane(halfToFloat(half), 0));
    p += 16;
  }
}

/** Row `index` of BF16 panels. */
export function embedBF16(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  let p = w + (((index >> 3) * columns) as usize) * 16 + (((index & 7) as usize) << 1);
  for (let k = 0; k < columns; k++) {
    store<u32>(out + ((k as usize) << 2), (load<u16>(p) as u32) << 16);
    p += 16;
  }
}
