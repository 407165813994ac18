/**
 * Products with the block formats of GGUF (weight-panels.ts).
 *
 * Activations are a tile (tile.ts) with blocks of 32 and integers of up to 15 bits: `dot_i16x8` takes i16, so
 * they need not be cut to 8 bits as they are where the machine multiplies bytes. 16383 * 4096 * 32 < 2^31 is
 * the largest sum there is (Q6_K, whose codes are multiplied by their 8-bit scales as integers).
 *
 * One row (decode) multiplies straight from the packed panel. Several rows (prefill) widen the panel to i16
 * once and share it. Both add the same numbers in the same order, so a token's result does not depend on how
 * many tokens are computed with it.
 */

import { loadHalf4, madd } from './lanes';
import { matmulTile, matmulTileFloat } from './register-tile';
import { PANEL, tileOffsets, tileScales } from './tile';
import {
  blockAt,
  blockBytes,
  blockOffset,
  blockScale,
  codeBytes,
  hasOffset,
  headAt,
  isNibbles,
  panelBytes,
  Q2_K,
  Q4_0,
  Q4_1,
  Q4_K,
  Q5_1,
  Q5_K,
  Q6_K,
  Q8_0,
} from './weight-panels';

/** Sum of 16 activations, in all lanes. */
// @ts-ignore: decorator
@inline
function sum16(x: usize): v128 {
  const ones = i16x8.splat(1);
  const four = i32x4.add(i32x4.dot_i16x8_s(v128.load(x), ones), i32x4.dot_i16x8_s(v128.load(x, 16), ones));
  const two = i32x4.add(four, i32x4.shuffle(four, four, 2, 3, 0, 1));
  return i32x4.add(two, i32x4.shuffle(two, two, 1, 0, 3, 2));
}

/**
 * One row times some blocks of one panel, straight from the packed codes.
 *
 * @param w the first of the blocks, in the panel
 * @param head of their super-block
 * @param x, scales, offsets the row from the same block on
 * @param sums f32 [8], the sums of the blocks before; overwritten
 */
// @ts-ignore: decorator
@inline
function rowTimesBlocks(
  kind: i32,
  w: usize,
  head: usize,
  blocks: i32,
  x: usize,
  scales: usize,
  offsets: usize,
  sums: usize,
): void {
  let f0 = v128.load(sums);
  let f1 = v128.load(sums, 16);
  for (const stop = w + (blocks as usize) * blockBytes(kind); w < stop; ) {
    let i0 = i32x4.splat(0);
    let i1 = i0;
    let m0 = i0; // activations times minimums, Q2_K
    let m1 = i0;
    if (kind == Q2_K) {
      const mask = i8x16.splat(15);
      const params = w + 128;
      const low = sum16(x);
      const high = sum16(x + 32);
      let h0 = i0;
      let h1 = i0;
      do {
        const v = v128.load(w);
        const first = v128.and(v, mask);
        const second = v128.and(i16x8.shr_u(v, 4), mask);
        const a = v128.load32_splat(x);
        i0 = i32x4.add(i0, i32x4.dot_i16x8_s(i16x8.extend_low_i8x16_s(first), a));
        i1 = i32x4.add(i1, i32x4.dot_i16x8_s(i16x8.extend_high_i8x16_s(first), a));
        const c = v128.load32_splat(x, 32);
        h0 = i32x4.add(h0, i32x4.dot_i16x8_s(i16x8.extend_low_i8x16_s(second), c));
        h1 = i32x4.add(h1, i32x4.dot_i16x8_s(i16x8.extend_high_i8x16_s(second), c));
        w += 16;
        x += 4;
      } while (w < params);
      x += 32;
      let s = v128.load8x8_u(params);
      let t = v128.load8x8_u(params, 8);
      i0 = i32x4.add(i32x4.mul(i0, i32x4.extend_low_i16x8_s(s)), i32x4.mul(h0, i32x4.extend_low_i16x8_s(t)));
      i1 = i32x4.add(i32x4.mul(i1, i32x4.extend_high_i16x8_s(s)), i32x4.mul(h1, i32x4.extend_high_i16x8_s(t)));
      s = v128.load8x8_u(params, 16);
      t = v128.load8x8_u(params, 24);
      m0 = i32x4.add(i32x4.mul(low, i32x4.extend_low_i16x8_s(s)), i32x4.mul(high, i32x4.extend_low_i16x8_s(t)));
      m1 = i32x4.add(i32x4.mul(low, i32x4.extend_high_i16x8_s(s)), i32x4.mul(high, i32x4.extend_high_i16x8_s(t)));
    } else if (isNibbles(kind)) {
      const mask = i8x16.splat(15);
      const end = w + 128;
      // chunk c: pairs c and c + 8
      do {
        const v = v128.load(w);
        const low = v128.and(v, mask);
        const high = v128.and(i16x8.shr_u(v, 4), mask);
        const a = v128.load32_splat(x);
        i0 = i32x4.add(i0, i32x4.dot_i16x8_s(i16x8.extend_low_i8x16_s(low), a));
        i1 = i32x4.add(i1, i32x4.dot_i16x8_s(i16x8.extend_high_i8x16_s(low), a));
        const c = v128.load32_splat(x, 32);
        i0 = i32x4.add(i0, i32x4.dot_i16x8_s(i16x8.extend_low_i8x16_s(high), c));
        i1 = i32x4.add(i1, i32x4.dot_i16x8_s(i16x8.extend_high_i8x16_s(high), c));
        w += 16;
        x += 4;
      } while (w < end);
      x += 32;
    } else if (kind == Q6_K) {
      const params = w + 256;
      for (let h: usize = 0; h < 16; h += 8) {
        let j0 = i32x4.splat(0);
        let j1 = j0;
        for (const end = w + 128; w < end; w += 16) {
          const a = v128.load32_splat(x);
          j0 = i32x4.add(j0, i32x4.dot_i16x8_s(v128.load8x8_s(w), a));
          j1 = i32x4.add(j1, i32x4.dot_i16x8_s(v128.load8x8_s(w, 8), a));
          x += 4;
        }
        // eight signed scales of this half of the block
        const s = v128.load8x8_s(params + h);
        i0 = i32x4.add(i0, i32x4.mul(j0, i32x4.extend_low_i16x8_s(s)));
        i1 = i32x4.add(i1, i32x4.mul(j1, i32x4.extend_high_i16x8_s(s)));
      }
    } else {
      const end = w + 256;
      // two pairs; more of them unrolled is slower, because V8 keeps an address for every offset of a widening load
      do {
        let a = v128.load32_splat(x);
        i0 = i32x4.add(i0, i32x4.dot_i16x8_s(v128.load8x8_s(w), a));
        i1 = i32x4.add(i1, i32x4.dot_i16x8_s(v128.load8x8_s(w, 8), a));
        a = v128.load32_splat(x, 4);
        i0 = i32x4.add(i0, i32x4.dot_i16x8_s(v128.load8x8_s(w, 16), a));
        i1 = i32x4.add(i1, i32x4.dot_i16x8_s(v128.load8x8_s(w, 24), a));
        w += 32;
        x += 8;
      } while (w < end);
    }
    const s0 = blockScale(kind, w, head, 0);
    const s1 = blockScale(kind, w, head, 4);
    const r = v128.load32_splat(scales);
    f0 = madd(f32x4.convert_i32x4_s(i0), f32x4.mul(s0, r), f0);
    f1 = madd(f32x4.convert_i32x4_s(i1), f32x4.mul(s1, r), f1);
    scales += 4;
    if (kind == Q2_K) {
      const min0 = f32x4.mul(loadHalf4(head + 16), r);
      const min1 = f32x4.mul(loadHalf4(head + 24), r);
      f0 = f32x4.sub(f0, f32x4.mul(f32x4.convert_i32x4_s(m0), min0));
      f1 = f32x4.sub(f1, f32x4.mul(f32x4.convert_i32x4_s(m1), min1));
    }
    if (hasOffset(kind)) {
      const o = v128.load32_splat(offsets);
      f0 = madd(blockOffset(kind, w, head, 0, s0), o, f0);
      f1 = madd(blockOffset(kind, w, head, 4, s1), o, f1);
      offsets += 4;
    }
    w += blockBytes(kind) - codeBytes(kind);
  }
  v128.store(sums, f0);
  v128.store(sums, f1, 16);
}

/** Panels that a row walks together. */
const STREAMS = 4;

/** Blocks of one panel before it is the next one's turn: 128 columns, half a super-block. */
const TURN = 4;

/**
 * One row times the panels of `outputs` outputs. Four panels far apart are read in turn, 128 columns of each: one core
 * has more reads from memory under way on several streams than on one. Every sum takes its columns in order, whatever
 * is read between them.
 *
 * @param sums scratch of f32 [4, 8]
 */
// @ts-ignore: decorator
@inline
function rowTimesPanels(
  kind: i32,
  panels: usize,
  outputs: i32,
  columns: i32,
  x: usize,
  scales: usize,
  offsets: usize,
  out: usize,
  sums: usize,
): void {
  const bytes = panelBytes(kind, columns);
  const blocks = columns >> 5;
  const count = (outputs + 7) >> 3;
  const apart = (count + STREAMS - 1) / STREAMS;
  for (let i = 0; i < apart; i++) {
    memory.fill(sums, 0, STREAMS * 32);
    for (let b = 0; b < blocks; b += TURN) {
      const turn = min(TURN, blocks - b);
      for (let s = 0; s < STREAMS; s++) {
        const p = i + s * apart;
        if (p >= count) break;
        const panel = panels + (p as usize) * bytes;
        rowTimesBlocks(
          kind,
          blockAt(kind, panel, b),
          headAt(kind, panel, b),
          turn,
          x + ((b as usize) << 6),
          scales + ((b as usize) << 2),
          offsets + ((b as usize) << 2),
          sums + ((s as usize) << 5),
        );
      }
    }
    for (let s = 0; s < STREAMS; s++) {
      const p = i + s * apart;
      if (p >= count) break;
      const valid = min(PANEL, outputs - (p << 3));
      memory.copy(out + ((p as usize) << 5), sums + ((s as usize) << 5), (valid as usize) << 2);
    }
  }
}

/** Packed panel to i16, with f32 scales and offsets: a panel as register-tile.ts takes it. */
// @ts-ignore: decorator
@inline
function widenPanel(kind: i32, panel: usize, columns: i32, ints: usize): void {
  const blocks = columns >> 5;
  let scales = ints + ((columns as usize) << 4);
  let offsets = scales + ((blocks as usize) << 5);
  for (let b = 0; b < blocks; b++) {
    const head = headAt(kind, panel, b);
    let w = blockAt(kind, panel, b);
    const params = w + codeBytes(kind);
    if (isNibbles(kind)) {
      const mask = i8x16.splat(15);
      for (const end = w + 128; w < end; w += 16) {
        const v = v128.load(w);
        const low = v128.and(v, mask);
        const high = v128.and(i16x8.shr_u(v, 4), mask);
        v128.store(ints, i16x8.extend_low_i8x16_s(low));
        v128.store(ints, i16x8.extend_high_i8x16_s(low), 16);
        v128.store(ints, i16x8.extend_low_i8x16_s(high), 256);
        v128.store(ints, i16x8.extend_high_i8x16_s(high), 272);
        ints += 32;
      }
      ints += 256;
    } else if (kind == Q6_K) {
      for (let h: usize = 0; h < 2; h++) {
        // scales of outputs 0..3 and 4..7, each twice: once for either k of a pair
        const s = v128.load8x8_s(params + (h << 3));
        const s0 = i16x8.shuffle(s, s, 0, 0, 1, 1, 2, 2, 3, 3);
        const s1 = i16x8.shuffle(s, s, 4, 4, 5, 5, 6, 6, 7, 7);
        for (const end = w + 128; w < end; w += 16) {
          v128.store(ints, i16x8.mul(v128.load8x8_s(w), s0));
          v128.store(ints, i16x8.mul(v128.load8x8_s(w, 8), s1), 16);
          ints += 32;
        }
      }
    } else {
      for (const end = w + 256; w < end; w += 16) {
        v128.store(ints, v128.load8x8_s(w));
        v128.store(ints, v128.load8x8_s(w, 8), 16);
        ints += 32;
      }
    }
    const s0 = blockScale(kind, params, head, 0);
    const s1 = blockScale(kind, params, head, 4);
    v128.store(scales, s0);
    v128.store(scales, s1, 16);
    scales += 32;
    if (hasOffset(kind)) {
      v128.store(offsets, blockOffset(kind, params, head, 0, s0));
      v128.store(offsets, blockOffset(kind, params, head, 4, s1), 16);
      offsets += 32;
    }
  }
}

// @ts-ignore: decorator
@inline
function matmulBlocks(
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
  const blocks = columns >> 5;
  // A widened panel has one offset a block, and Q2_K two.
  if (tokens < 3 || kind == Q2_K) {
    const scales = tileScales(x, tokens, columns);
    const offsets = tileOffsets(scales, tokens, blocks);
    for (let t = 0; t < tokens; t++) {
      const r = ((t * blocks) as usize) << 2;
      const row = x + (((t * columns) as usize) << 1);
      const target = out + (((t * outStride) as usize) << 2);
      rowTimesPanels(kind, w, outputs, columns, row, scales + r, offsets + r, target, scratch);
    }
    return;
  }
  const bytes = panelBytes(kind, columns);
  for (let j = 0; j < outputs; j += PANEL) {
    const valid = min(PANEL, outputs - j);
    const target = out + ((j as usize) << 2);
    widenPanel(kind, w, columns, scratch);
    if (hasOffset(kind)) matmulTile(scratch, x, tokens, columns, 32, valid, target, outStride);
    else matmulTileFloat(scratch, x, tokens, columns, 32, valid, target, outStride);
    w += bytes;
  }
}

/** `linear` with Q8_0 weights. */
export function matmulQ8_0(w: usize, x: usize, tokens: i32, columns: i32, outputs: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q8_0, w, x, tokens, columns, outputs, out, outStride, scratch);
}

/** `linear` with Q4_0 weights. */
export function matmulQ4_0(w: usize, x: usize, tokens: i32, columns: i32, outputs: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q4_0, w, x, tokens, columns, outputs, out, outStride, scratch);
}

/** `linear` with Q4_1 weights. */
export function matmulQ4_1(w: usize, x: usize, tokens: i32, columns: i32, outputs: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q4_1, w, x, tokens, columns, outputs, out, outStride, scratch);
}

/** `linear` with Q5_1 weights. */
export function matmulQ5_1(w: usize, x: usize, tokens: i32, columns: i32, outputs: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q5_1, w, x, tokens, columns, outputs, out, outStride, scratch);
}

/** `linear` with Q2_K weights. */
export function matmulQ2_K(w: usize, x: usize, tokens: i32, columns: i32, outputs: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q2_K, w, x, tokens, columns, outputs, out, outStride, scratch);
}

/** `linear` with Q4_K weights. */
export function matmulQ4_K(w: usize, x: usize, tokens: i32, columns: i32, outputs: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q4_K, w, x, tokens, columns, outputs, out, outStride, scratch);
}

/** `linear` with Q5_K weights. */
export function matmulQ5_K(w: usize, x: usize, tokens: i32, columns: i32, outputs: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q5_K, w, x, tokens, columns, outputs, out, outStride, scratch);
}

/** `linear` with Q6_K weights. */
export function matmulQ6_K(w: usize, x: usize, tokens: i32, columns: i32, outputs: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q6_K, w, x, tokens, columns, outputs, out, outStride, scratch);
}
