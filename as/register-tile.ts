/**
 * The register tile: rows of a tile (tile.ts) or of f32 times panels of eight outputs, four rows and one panel at a time.
 * All products of several rows are this one loop. What is multiplied is a constant of the program (`form`), so that each
 * kernel compiles to the instructions of its own form and nothing else.
 *
 *     weights         one panel after another: [ integers | f32 scale [blocks, 8] | f32 offset [blocks, 8] ]
 *     i16             i16 [padded / 2, 8 outputs, 2]      rows: i16 of a tile
 *     BYTES           i8 [padded / 4, 8 outputs, 4]       rows: u8 codes of up to 4 bits, relaxed builds only
 *     FLOATS          f32 [columns, 8 outputs], alone     rows: f32 [tokens, columns]
 *
 * Four rows hold eight sums, two weights and one activation in registers. The rows that are left are multiplied one by one,
 * in the same order: a row's result does not depend on how many are computed with it.
 */

import { addPairs, madd, PAIR_STEPS, widen } from './lanes';
import { blockCount, padColumns, PANEL, storeOutputs, tileOffsets, tileScales } from './tile';

/** Integers are bytes. */
export const BYTES: i32 = 1;
/** Blocks of rows and panels have offsets. */
export const OFFSETS: i32 = 2;
/** The product is added to what is there. */
export const ADD: i32 = 4;
/** Rows and weights are f32. */
export const FLOATS: i32 = 8;

/** Four outputs of one step on top of their sums: one k of f32, two of i16, four of bytes. */
// @ts-ignore: decorator
@inline
function step(form: i32, sum: v128, w: v128, a: v128): v128 {
  if (form & FLOATS) return madd(w, a, sum);
  if (ASC_FEATURE_RELAXED_SIMD) {
    if (form & BYTES) return addPairs(sum, w, a);
  }
  return i32x4.add(sum, i32x4.dot_i16x8_s(w, a));
}

/** Sums of a run of steps on top of those of the block. Only bytes have several runs in a block. */
// @ts-ignore: decorator
@inline
function endRun(form: i32, sum: v128, run: v128): v128 {
  return form & BYTES ? widen(sum, run) : run;
}

/** One block on top of the sums of a row: acc + float(dot) * (row scale * panel scale) + row offset * panel offset. */
// @ts-ignore: decorator
@inline
function addBlock(form: i32, acc: v128, dot: v128, panelScale: v128, scale: usize, panelOffset: v128, offset: usize): v128 {
  if (form & FLOATS) return dot;
  acc = madd(f32x4.convert_i32x4_s(dot), f32x4.mul(panelScale, v128.load32_splat(scale)), acc);
  return form & OFFSETS ? madd(panelOffset, v128.load32_splat(offset), acc) : acc;
}

/**
 * The product of all rows with the panels of `outputs` outputs.
 *
 * @param form of BYTES, OFFSETS, ADD, FLOATS
 * @param block columns of a block, a multiple of 8 (or all columns)
 * @param out f32, element (row, output) at `row * outStride + output`
 */
// @ts-ignore: decorator
@inline
export function multiplyTile(
  form: i32,
  weights: usize,
  tile: usize,
  tokens: i32,
  columns: i32,
  block: i32,
  outputs: i32,
  out: usize,
  outStride: i32,
): void {
  const floats = (form & FLOATS) != 0;
  const add = (form & ADD) != 0;
  const size: usize = floats ? 2 : form & BYTES ? 0 : 1; // log2 of an element's bytes
  const padded = floats ? columns : padColumns(columns);
  const blocks = floats ? 1 : blockCount(columns, block);
  const rowBytes = (padded as usize) << size;
  const blockBytes = floats ? rowBytes : (min(block, padded) as usize) << size;
  const stride = (blocks as usize) << 2; // bytes of a row's scales
  const integers = rowBytes << 3;
  const panelBytes = floats ? integers : integers + 16 * stride;
  const scales = tileScales(tile, tokens, columns);
  const offsets = tileOffsets(scales, tokens, blocks);
  const outBytes = (outStride as usize) << 2;
  for (let j = 0; j < outputs; j += PANEL) {
    const valid = min(PANEL, outputs - j);
    let target = out + ((j as usize) << 2);
    let x = tile;
    let scale = scales;
    let offset = offsets;
    let t = 0;
    for (; t + 4 <= tokens; t += 4) {
      let x0 = x;
      let x1 = x + rowBytes;
      let x2 = x1 + rowBytes;
      let x3 = x2 + rowBytes;
      x = x3 + rowBytes;
      const rowEnd = x0 + rowBytes;
      let w = weights;
      let ws = weights + integers;
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
        const end = floats ? rowEnd : min(x0 + blockBytes, rowEnd);
        let i00 = i32x4.splat(0);
        let i01 = i00;
        let i10 = i00;
        let i11 = i00;
        let i20 = i00;
        let i21 = i00;
        let i30 = i00;
        let i31 = i00;
        do {
          const pause = form & BYTES ? min(x0 + 4 * PAIR_STEPS, end) : end;
          let r00 = i32x4.splat(0);
          let r01 = r00;
          let r10 = r00;
          let r11 = r00;
          let r20 = r00;
          let r21 = r00;
          let r30 = r00;
          let r31 = r00;
          do {
            // one step; V8 unrolls, and given two it loads more than it has registers for
            const w0 = v128.load(w);
            const w1 = v128.load(w, 16);
            let a = v128.load32_splat(x0);
            r00 = step(form, r00, w0, a);
            r01 = step(form, r01, w1, a);
            a = v128.load32_splat(x1);
            r10 = step(form, r10, w0, a);
            r11 = step(form, r11, w1, a);
            a = v128.load32_splat(x2);
            r20 = step(form, r20, w0, a);
            r21 = step(form, r21, w1, a);
            a = v128.load32_splat(x3);
            r30 = step(form, r30, w0, a);
            r31 = step(form, r31, w1, a);
            w += 32;
            x0 += 4;
            x1 += 4;
            x2 += 4;
            x3 += 4;
          } while (x0 < pause);
          i00 = endRun(form, i00, r00);
          i01 = endRun(form, i01, r01);
          i10 = endRun(form, i10, r10);
          i11 = endRun(form, i11, r11);
          i20 = endRun(form, i20, r20);
          i21 = endRun(form, i21, r21);
          i30 = endRun(form, i30, r30);
          i31 = endRun(form, i31, r31);
        } while (form & BYTES && x0 < end);
        const p0 = floats ? f00 : v128.load(ws);
        const p1 = floats ? f00 : v128.load(ws, 16);
        const q0 = form & OFFSETS ? v128.load(ws + 8 * stride) : p0;
        const q1 = form & OFFSETS ? v128.load(ws + 8 * stride, 16) : p0;
        f00 = addBlock(form, f00, i00, p0, s, q0, o);
        f01 = addBlock(form, f01, i01, p1, s, q1, o);
        f10 = addBlock(form, f10, i10, p0, s + stride, q0, o + stride);
        f11 = addBlock(form, f11, i11, p1, s + stride, q1, o + stride);
        f20 = addBlock(form, f20, i20, p0, s + 2 * stride, q0, o + 2 * stride);
        f21 = addBlock(form, f21, i21, p1, s + 2 * stride, q1, o + 2 * stride);
        f30 = addBlock(form, f30, i30, p0, s + 3 * stride, q0, o + 3 * stride);
        f31 = addBlock(form, f31, i31, p1, s + 3 * stride, q1, o + 3 * stride);
        ws += 32;
        s += 4;
        o += 4;
      }
      scale += 4 * stride;
      offset += 4 * stride;
      storeOutputs(target, f00, f01, valid, add);
      target += outBytes;
      storeOutputs(target, f10, f11, valid, add);
      target += outBytes;
      storeOutputs(target, f20, f21, valid, add);
      target += outBytes;
      storeOutputs(target, f30, f31, valid, add);
      target += outBytes;
    }
    for (; t < tokens; t++) {
      let x0 = x;
      x += rowBytes;
      let w = weights;
      let ws = weights + integers;
      let s = scale;
      let o = offset;
      let f0 = f32x4.splat(0);
      let f1 = f0;
      while (x0 < x) {
        const end = floats ? x : min(x0 + blockBytes, x);
        let i0 = i32x4.splat(0);
        let i1 = i0;
        do {
          const pause = form & BYTES ? min(x0 + 4 * PAIR_STEPS, end) : end;
          let r0 = i32x4.splat(0);
          let r1 = r0;
          do {
            const a = v128.load32_splat(x0);
            r0 = step(form, r0, v128.load(w), a);
            r1 = step(form, r1, v128.load(w, 16), a);
            w += 32;
            x0 += 4;
          } while (x0 < pause);
          i0 = endRun(form, i0, r0);
          i1 = endRun(form, i1, r1);
        } while (form & BYTES && x0 < end);
        const p0 = floats ? f0 : v128.load(ws);
        const p1 = floats ? f0 : v128.load(ws, 16);
        const q0 = form & OFFSETS ? v128.load(ws + 8 * stride) : p0;
        const q1 = form & OFFSETS ? v128.load(ws + 8 * stride, 16) : p0;
        f0 = addBlock(form, f0, i0, p0, s, q0, o);
        f1 = addBlock(form, f1, i1, p1, s, q1, o);
        ws += 32;
        s += 4;
        o += 4;
      }
      scale += stride;
      offset += stride;
      storeOutputs(target, f0, f1, valid, add);
      target += outBytes;
    }
    weights += panelBytes;
  }
}

/** A tile of codes times key weights. */
export function matmulTile(weights: usize, tile: usize, tokens: i32, columns: i32, block: i32, outputs: i32, out: usize, outStride: i32): void {
  multiplyTile(OFFSETS, weights, tile, tokens, columns, block, outputs, out, outStride);
}

/** A tile of f32 rows times key weights: the values have no minimum, so there are no offsets. */
export function matmulTileFloat(weights: usize, tile: usize, tokens: i32, columns: i32, block: i32, outputs: i32, out: usize, outStride: i32): void {
  multiplyTile(0, weights, tile, tokens, columns, block, outputs, out, outStride);
}

/** `matmulTileFloat`, added to what is there. */
export function matmulTileFloatAdd(weights: usize, tile: usize, tokens: i32, columns: i32, block: i32, outputs: i32, out: usize, outStride: i32): void {
  multiplyTile(ADD, weights, tile, tokens, columns, block, outputs, out, outStride);
}

/** A tile of codes times 8-bit key weights: bytes in relaxed builds. */
export function matmulTileInt8(weights: usize, tile: usize, tokens: i32, columns: i32, block: i32, outputs: i32, out: usize, outStride: i32): void {
  if (ASC_FEATURE_RELAXED_SIMD) multiplyTile(OFFSETS | BYTES, weights, tile, tokens, columns, block, outputs, out, outStride);
  else matmulTile(weights, tile, tokens, columns, block, outputs, out, outStride);
}
