/**
 * Products with float weights: F32, F16 and BF16, eight outputs to a panel, f32 sums in index order.
 *
 *     panel of F32    f32 [columns, 8 outputs]        panel of F16, BF16    u16 [columns, 8 outputs]
 *
 * A tile of four rows shares each load of eight weights; a 16-bit panel is widened once per tile of rows.
 */

import { halfToFloat, madd } from './lanes';
import { FLOATS, multiplyTile } from './register-tile';
import { PANEL, storeOutputs } from './tile';

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
  storeOutputs(out, f0, f1, valid, false);
}

/** Several f32 rows times f32 panels. */
function floatTile(panels: usize, x: usize, tokens: i32, columns: i32, outputs: i32, out: usize, outStride: i32): void {
  multiplyTile(FLOATS, panels, x, tokens, columns, columns, outputs, out, outStride);
}

// @ts-ignore: decorator
@inline
function matmulFloat(
  kind: i32,
  w: usize,
  x: usize,
  tokens: i32,
  columns: i32,
  outputs: i32,
  out: usize,
  outStride: i32,
  scratch: usize,
): void {
  if (kind == 0 && tokens >= 4) {
    floatTile(w, x, tokens, columns, outputs, out, outStride);
    return;
  }
  const panelBytes = (columns as usize) << (kind == 0 ? 5 : 4);
  if (tokens < 4) {
    const rowBytes = (columns as usize) << 2;
    const stride = (outStride as usize) << 2;
    for (let j = 0; j < outputs; j += PANEL) {
      const valid = min(PANEL, outputs - j);
      const panel = w + ((j >> 3) as usize) * panelBytes;
      const target = out + ((j as usize) << 2);
      for (let t: usize = 0; t < (tokens as usize); t++) {
        floatRow(panel, x + t * rowBytes, columns, target + t * stride, valid, kind);
      }
    }
    return;
  }
  for (let j = 0; j < outputs; j += PANEL) {
    let p = scratch;
    for (const end = w + panelBytes; w < end; w += 16) {
      v128.store(p, loadWeights(w, kind));
      v128.store(p, loadWeights(w + 8, kind), 16);
      p += 32;
    }
    floatTile(scratch, x, tokens, columns, min(PANEL, outputs - j), out + ((j as usize) << 2), outStride);
  }
}

/** `linear` with F32 weights. */
export function matmulF32(w: usize, x: usize, tokens: i32, columns: i32, outputs: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulFloat(0, w, x, tokens, columns, outputs, out, outStride, scratch);
}

/** `linear` with F16 weights. */
export function matmulF16(w: usize, x: usize, tokens: i32, columns: i32, outputs: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulFloat(1, w, x, tokens, columns, outputs, out, outStride, scratch);
}

/** `linear` with BF16 weights. */
export function matmulBF16(w: usize, x: usize, tokens: i32, columns: i32, outputs: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulFloat(2, w, x, tokens, columns, outputs, out, outStride, scratch);
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
