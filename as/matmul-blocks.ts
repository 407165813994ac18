/**
 * Products with the block formats of GGUF: Q8_0, Q4_0, Q4_1, Q5_1, Q2_K, Q4_K, Q5_K, Q6_K. Other formats are
 * rewritten as one of these (quant/weight-types.ts); IQ4_XS becomes panels of Q6_K here.
 *
 * At load the rows are repacked, without loss, into panels of eight outputs, so that lanes are outputs
 * (tile.ts). A panel is one run of blocks, each of 32 columns with its parameters after its codes, so that a
 * product reads a panel from front to back and nowhere else. In the K formats eight blocks follow a head.
 *
 *     Q8_0    i8 code [16, 8, 2]            f16 scale [8]
 *     Q4_0    u4 code [8 chunks, 8, 2]      f16 scale [8]
 *     Q4_1    u4 code [8 chunks, 8, 2]      f16 scale [8], f16 min [8]
 *     Q5_1    i8 code [16, 8, 2]            f16 scale [8], f16 min [8]
 *     Q2_K    u4 code [8 chunks, 8, 2]      u8 scale [2, 8], u8 min [2, 8]      head: f16 d [8], f16 dmin [8]
 *     Q4_K    u4 code [8 chunks, 8, 2]      u8 scale [8], u8 min [8]      head: f16 d [8], f16 dmin [8]
 *     Q5_K    i8 code [16, 8, 2]            u8 scale [8], u8 min [8]      head: f16 d [8], f16 dmin [8]
 *     Q6_K    i8 code [16, 8, 2]            i8 scale [2, 8]               head: f16 d [8]
 *
 * A chunk of sixteen bytes of 4-bit codes holds pair c of the block's sixteen pairs in its low nibbles and
 * pair c + 8 in its high nibbles. So the low nibbles are the first 16 columns of the block, which in Q2_K have a
 * scale and a minimum of their own, as the last 16 have.
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
import { PANEL, panelTimesRows, tileOffsets, tileScales } from './tile';

const Q8_0 = 0;
const Q4_0 = 1;
const Q4_1 = 2;
const Q4_K = 3;
const Q5_K = 4;
const Q6_K = 5;
const Q5_1 = 6;
const Q2_K = 7;

// @ts-ignore: decorator
@inline
function isNibbles(kind: i32): bool {
  return kind == Q4_0 || kind == Q4_1 || kind == Q4_K || kind == Q2_K;
}

/** Whether a block adds something for its activations as a whole. Q2_K does so for halves of blocks. */
// @ts-ignore: decorator
@inline
function hasOffset(kind: i32): bool {
  return kind != Q8_0 && kind != Q6_K && kind != Q2_K;
}

// @ts-ignore: decorator
@inline
function hasSuperBlocks(kind: i32): bool {
  return kind == Q2_K || kind == Q4_K || kind == Q5_K || kind == Q6_K;
}

/** Bytes of the codes of one block. */
// @ts-ignore: decorator
@inline
function codeBytes(kind: i32): usize {
  return isNibbles(kind) ? 128 : 256;
}

/** Bytes of one block. */
// @ts-ignore: decorator
@inline
function blockBytes(kind: i32): usize {
  return codeBytes(kind) + (kind == Q4_1 || kind == Q5_1 || kind == Q2_K ? 32 : 16);
}

/** Bytes of the head of eight blocks. */
// @ts-ignore: decorator
@inline
function headBytes(kind: i32): usize {
  if (!hasSuperBlocks(kind)) return 0;
  return kind == Q6_K ? 16 : 32;
}

/** Bytes of one panel. */
// @ts-ignore: decorator
@inline
function panelBytes(kind: i32, columns: i32): usize {
  return ((columns >> 5) as usize) * blockBytes(kind) + ((columns >> 8) as usize) * headBytes(kind);
}

/** Where the head of block `b` lies. */
// @ts-ignore: decorator
@inline
function headAt(kind: i32, panel: usize, b: i32): usize {
  return panel + ((b >> 3) as usize) * (8 * blockBytes(kind) + headBytes(kind));
}

/** Where block `b` lies. */
// @ts-ignore: decorator
@inline
function blockAt(kind: i32, panel: usize, b: i32): usize {
  if (!hasSuperBlocks(kind)) return panel + (b as usize) * blockBytes(kind);
  return headAt(kind, panel, b) + headBytes(kind) + ((b & 7) as usize) * blockBytes(kind);
}

/** Four unsigned bytes as f32. */
// @ts-ignore: decorator
@inline
function loadBytes4(ptr: usize): v128 {
  return f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(v128.load32_zero(ptr))));
}

/**
 * Scale of a block for outputs 0 to 3 (moved by `half` outputs for 4 to 7).
 *
 * @param params the block's parameters
 * @param head of its super-block
 */
// @ts-ignore: decorator
@inline
function blockScale(kind: i32, params: usize, head: usize, half: usize): v128 {
  if (!hasSuperBlocks(kind)) return loadHalf4(params + (half << 1));
  const d = loadHalf4(head + (half << 1));
  return kind == Q6_K || kind == Q2_K ? d : f32x4.mul(d, loadBytes4(params + half));
}

/** What a block adds for each unit of the sum of its activations. */
// @ts-ignore: decorator
@inline
function blockOffset(kind: i32, params: usize, head: usize, half: usize, scale: v128): v128 {
  if (kind == Q4_0) return f32x4.mul(scale, f32x4.splat(-8));
  if (kind == Q4_1 || kind == Q5_1) return loadHalf4(params + 16 + (half << 1));
  return f32x4.neg(f32x4.mul(loadHalf4(head + 16 + (half << 1)), loadBytes4(params + 8 + half)));
}

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

/** Packed panel to i16, with f32 scales and offsets: what `panelTimesRows` takes. */
// @ts-ignore: decorator
@inline
function widenPanel(kind: i32, panel: usize, columns: i32, ints: usize, scales: usize, offsets: usize): void {
  const blocks = columns >> 5;
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
  activations: usize,
  tokens: i32,
  rows: i32,
  columns: i32,
  rowStart: i32,
  rowEnd: i32,
  out: usize,
  outStride: i32,
  scratch: usize,
): void {
  const blocks = columns >> 5;
  const bytes = panelBytes(kind, columns);
  const scales = tileScales(activations, tokens, columns);
  const offsets = tileOffsets(scales, tokens, blocks);
  const rowBytes = (columns as usize) << 1;
  const stride = (outStride as usize) << 2;
  const panelScales = scratch + ((columns as usize) << 4);
  const panelOffsets = panelScales + ((blocks as usize) << 5);
  // A widened panel has one offset a block, and Q2_K two.
  if (tokens < 3 || kind == Q2_K) {
    const panels = w + ((rowStart >> 3) as usize) * bytes;
    const target = out + ((rowStart as usize) << 2);
    for (let t: usize = 0; t < (tokens as usize); t++) {
      const r = (t * (blocks as usize)) << 2;
      const x = activations + t * rowBytes;
      rowTimesPanels(kind, panels, rowEnd - rowStart, columns, x, scales + r, offsets + r, target + t * stride, scratch);
    }
    return;
  }
  for (let j = rowStart; j < rowEnd; j += PANEL) {
    const valid = min(PANEL, rowEnd - j);
    const panel = w + ((j >> 3) as usize) * bytes;
    const target = out + ((j as usize) << 2);
    widenPanel(kind, panel, columns, scratch, panelScales, panelOffsets);
    panelTimesRows(
      scratch,
      panelScales,
      hasOffset(kind) ? panelOffsets : 0,
      activations,
      rowBytes,
      scales,
      offsets,
      tokens,
      columns,
      32,
      blocks,
      target,
      stride,
      valid,
      false,
    );
  }
}

/** `linear` with Q8_0 weights. */
export function matmulQ8_0(w: usize, x: usize, tokens: i32, rows: i32, columns: i32, rowStart: i32, rowEnd: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q8_0, w, x, tokens, rows, columns, rowStart, rowEnd, out, outStride, scratch);
}

/** `linear` with Q4_0 weights. */
export function matmulQ4_0(w: usize, x: usize, tokens: i32, rows: i32, columns: i32, rowStart: i32, rowEnd: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q4_0, w, x, tokens, rows, columns, rowStart, rowEnd, out, outStride, scratch);
}

/** `linear` with Q4_1 weights. */
export function matmulQ4_1(w: usize, x: usize, tokens: i32, rows: i32, columns: i32, rowStart: i32, rowEnd: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q4_1, w, x, tokens, rows, columns, rowStart, rowEnd, out, outStride, scratch);
}

/** `linear` with Q5_1 weights. */
export function matmulQ5_1(w: usize, x: usize, tokens: i32, rows: i32, columns: i32, rowStart: i32, rowEnd: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q5_1, w, x, tokens, rows, columns, rowStart, rowEnd, out, outStride, scratch);
}

/** `linear` with Q2_K weights. */
export function matmulQ2_K(w: usize, x: usize, tokens: i32, rows: i32, columns: i32, rowStart: i32, rowEnd: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q2_K, w, x, tokens, rows, columns, rowStart, rowEnd, out, outStride, scratch);
}

/** `linear` with Q4_K weights. */
export function matmulQ4_K(w: usize, x: usize, tokens: i32, rows: i32, columns: i32, rowStart: i32, rowEnd: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q4_K, w, x, tokens, rows, columns, rowStart, rowEnd, out, outStride, scratch);
}

/** `linear` with Q5_K weights. */
export function matmulQ5_K(w: usize, x: usize, tokens: i32, rows: i32, columns: i32, rowStart: i32, rowEnd: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q5_K, w, x, tokens, rows, columns, rowStart, rowEnd, out, outStride, scratch);
}

/** `linear` with Q6_K weights. */
export function matmulQ6_K(w: usize, x: usize, tokens: i32, rows: i32, columns: i32, rowStart: i32, rowEnd: i32, out: usize, outStride: i32, scratch: usize): void {
  matmulBlocks(Q6_K, w, x, tokens, rows, columns, rowStart, rowEnd, out, outStride, scratch);
}

/** Stores code `q` of output `j` at column `i` of a block. */
// @ts-ignore: decorator
@inline
function putCode(block: usize, j: i32, i: i32, q: i32): void {
  store<u8>(block + (((i >> 1) << 4) as usize) + (((j << 1) | (i & 1)) as usize), q as u8);
}

/** The same for 4-bit codes; the block starts as zeros. */
// @ts-ignore: decorator
@inline
function putNibble(block: usize, j: i32, i: i32, q: i32): void {
  const pair = i >> 1;
  const p = block + (((pair & 7) << 4) as usize) + (((j << 1) | (i & 1)) as usize);
  store<u8>(p, load<u8>(p) | ((q << ((pair >> 3) << 2)) as u8));
}

/** Scale `i` (0 to 7) of a Q4_K or Q5_K super-block: six bits, spread over twelve bytes. */
// @ts-ignore: decorator
@inline
function scaleOf(packed: usize, i: i32): u32 {
  if (i < 4) return (load<u8>(packed + (i as usize)) as u32) & 63;
  const high = ((load<u8>(packed + ((i - 4) as usize)) as u32) >> 6) << 4;
  return ((load<u8>(packed + ((i + 4) as usize)) as u32) & 15) | high;
}

/** Minimum `i` of a Q4_K or Q5_K super-block. */
// @ts-ignore: decorator
@inline
function minOf(packed: usize, i: i32): u32 {
  if (i < 4) return (load<u8>(packed + ((i + 4) as usize)) as u32) & 63;
  const high = ((load<u8>(packed + (i as usize)) as u32) >> 6) << 4;
  return ((load<u8>(packed + ((i + 4) as usize)) as u32) >> 4) | high;
}

// @ts-ignore: decorator
@inline
function repackBlocks(kind: i32, source: usize, rows: i32, columns: i32, target: usize): void {
  const bytes = panelBytes(kind, columns);
  const blocks = columns >> 5;
  for (let first = 0; first < rows; first += PANEL) {
    const panel = target + ((first >> 3) as usize) * bytes;
    memory.fill(panel, 0, bytes);
    for (let j = 0; j < min(PANEL, rows - first); j++) {
      if (!hasSuperBlocks(kind)) {
        for (let b = 0; b < blocks; b++) {
          const block = blockAt(kind, panel, b);
          const at = block + codeBytes(kind) + ((j << 1) as usize);
          store<u16>(at, load<u16>(source));
          source += 2;
          if (kind == Q4_1 || kind == Q5_1) {
            store<u16>(at, load<u16>(source), 16);
            source += 2;
          }
          if (kind == Q8_0) {
            for (let i = 0; i < 32; i++) putCode(block, j, i, load<u8>(source + (i as usize)));
            source += 32;
          } else if (kind == Q5_1) {
            // 32 fifth bits, then 16 bytes as below
            const fifth = load<u32>(source);
            for (let i = 0; i < 16; i++) {
              const byte: i32 = load<u8>(source + 4 + (i as usize));
              putCode(block, j, i, (byte & 15) | (((fifth >> i) & 1) << 4));
              putCode(block, j, i + 16, (byte >> 4) | (((fifth >> (i + 16)) & 1) << 4));
            }
            source += 20;
          } else {
            // byte i: element i in the low nibble, element i + 16 in the high one
            for (let i = 0; i < 16; i++) {
              const byte: i32 = load<u8>(source + (i as usize));
              putNibble(block, j, i, byte & 15);
              putNibble(block, j, i + 16, byte >> 4);
            }
            source += 16;
          }
        }
        continue;
      }
      for (let b = 0; b < blocks; b += 8) {
        const at = headAt(kind, panel, b) + ((j << 1) as usize);
        if (kind == Q6_K) {
          store<u16>(at, load<u16>(source, 208));
          // 128 low-nibble bytes, 64 bytes of high bit pairs, 16 scales, d
          for (let i = 0; i < 256; i++) {
            const half = i >> 7;
            const quarter = (i >> 5) & 3;
            const lane = i & 31;
            const lowByte: i32 = load<u8>(source + (((half << 6) + ((quarter & 1) << 5) + lane) as usize));
            const low = quarter & 2 ? lowByte >> 4 : lowByte & 15;
            const high = ((load<u8>(source + 128 + (((half << 5) + lane) as usize)) as i32) >> (quarter << 1)) & 3;
            putCode(blockAt(kind, panel, b + (i >> 5)), j, lane, (low | (high << 4)) - 32);
          }
          for (let i = 0; i < 16; i++) {
            const p = blockAt(kind, panel, b + (i >> 1)) + codeBytes(kind) + ((((i & 1) << 3) + j) as usize);
            store<u8>(p, load<u8>(source + 192 + (i as usize)));
          }
          source += 210;
          continue;
        }
        if (kind == Q2_K) {
          // 16 bytes of scale and minimum, 64 bytes of codes (element 128 h + 32 r + i in bits 2r of byte 32 h + i), d, dmin
          store<u16>(at, load<u16>(source, 80));
          store<u16>(at, load<u16>(source, 82), 16);
          for (let i = 0; i < 16; i++) {
            const p = blockAt(kind, panel, b + (i >> 1)) + codeBytes(kind) + ((((i & 1) << 3) + j) as usize);
            const pair: i32 = load<u8>(source + (i as usize));
            store<u8>(p, (pair & 15) as u8);
            store<u8>(p, (pair >> 4) as u8, 16);
          }
          for (let i = 0; i < 256; i++) {
            const byte: i32 = load<u8>(source + 16 + ((((i >> 7) << 5) + (i & 31)) as usize));
            putNibble(blockAt(kind, panel, b + (i >> 5)), j, i & 31, (byte >> (((i >> 5) & 3) << 1)) & 3);
          }
          source += 84;
          continue;
        }
        store<u16>(at, load<u16>(source));
        store<u16>(at, load<u16>(source, 2), 16);
        for (let i = 0; i < 8; i++) {
          const p = blockAt(kind, panel, b + i) + codeBytes(kind) + (j as usize);
          store<u8>(p, scaleOf(source + 4, i) as u8);
          store<u8>(p, minOf(source + 4, i) as u8, 8);
        }
        // 64 elements to 32 bytes: the first 32 in the low nibbles, the next 32 in the high ones
        const highBits = source + 16;
        const low = source + (kind == Q4_K ? 16 : 48);
        for (let i = 0; i < 256; i++) {
          const byte: i32 = load<u8>(low + ((((i >> 6) << 5) + (i & 31)) as usize));
          const nibble = i & 32 ? byte >> 4 : byte & 15;
          const block = blockAt(kind, panel, b + (i >> 5));
          if (kind == Q4_K) {
            putNibble(block, j, i & 31, nibble);
          } else {
            const bit = ((load<u8>(highBits + ((i & 31) as usize)) as i32) >> (i >> 5)) & 1;
            putCode(block, j, i & 31, nibble | (bit << 4));
          }
        }
        source += kind == Q4_K ? 144 : 176;
      }
    }
  }
}

/** The 16 levels of IQ4_NL and IQ4_XS (quant/weight-formats.ts), a byte each. */
const LEVELS_BELOW_ZERO: u64 = 0xf6eaddcfbfad9881;
const LEVELS_ABOVE_ZERO: u64 = 0x7159453526190d01;

/** IQ4_XS rows of a file to panels of Q6_K: codes become levels, and both halves of a block have its scale. */
export function repackIQ4_XS(source: usize, rows: i32, columns: i32, target: usize): void {
  const bytes = panelBytes(Q6_K, columns);
  const blocks = columns >> 5;
  for (let first = 0; first < rows; first += PANEL) {
    const panel = target + ((first >> 3) as usize) * bytes;
    memory.fill(panel, 0, bytes);
    for (let j = 0; j < min(PANEL, rows - first); j++) {
      for (let b = 0; b < blocks; b += 8) {
        // d, 8 upper pairs of bits of scales, 8 lower nibbles of scales, 128 bytes of codes
        store<u16>(headAt(Q6_K, panel, b) + ((j << 1) as usize), load<u16>(source));
        const upper: i32 = load<u16>(source, 2);
        for (let s = 0; s < 8; s++) {
          const lower = ((load<u8>(source + 4 + ((s >> 1) as usize)) as i32) >> ((s & 1) << 2)) & 15;
          const scale = (lower | (((upper >> (s << 1)) & 3) << 4)) - 32;
          const block = blockAt(Q6_K, panel, b + s);
          const params = block + codeBytes(Q6_K) + (j as usize);
          store<u8>(params, scale as u8);
          store<u8>(params, scale as u8, 8);
          for (let i = 0; i < 32; i++) {
            const byte: i32 = load<u8>(source + 8 + (((s << 4) + (i & 15)) as usize));
            const code = i & 16 ? byte >> 4 : byte & 15;
            const levels = code & 8 ? LEVELS_ABOVE_ZERO : LEVELS_BELOW_ZERO;
            putCode(block, j, i, (levels >> (((code & 7) << 3) as u64)) as i32);
          }
        }
        source += 136;
      }
    }
  }
}

/** Q8_0 rows of a file to panels. */
export function repackQ8_0(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q8_0, source, rows, columns, target);
}

/** Q4_0 rows of a file to panels. */
export function repackQ4_0(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q4_0, source, rows, columns, target);
}

/** Q4_1 rows of a file to panels. */
export function repackQ4_1(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q4_1, source, rows, columns, target);
}

/** Q5_1 rows of a file to panels. */
export function repackQ5_1(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q5_1, source, rows, columns, target);
}

/** Q2_K rows of a file to panels. */
export function repackQ2_K(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q2_K, source, rows, columns, target);
}

/** Q4_K rows of a file to panels. */
export function repackQ4_K(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q4_K, source, rows, columns, target);
}

/** Q5_K rows of a file to panels. */
export function repackQ5_K(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q5_K, source, rows, columns, target);
}

/** Q6_K rows of a file to panels. */
export function repackQ6_K(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q6_K, source, rows, columns, target);
}

/** Row `index` of the panels, dequantized: `dequantizeWeights` of one row. */
// @ts-ignore: decorator
@inline
function embedBlocks(kind: i32, w: usize, columns: i32, index: i32, out: usize): void {
  const panel = w + ((index >> 3) as usize) * panelBytes(kind, columns);
  const j = index & 7;
  const half: usize = j & 4;
  const blocks = columns >> 5;
  for (let b = 0; b < blocks; b++) {
    const head = headAt(kind, panel, b);
    const block = blockAt(kind, panel, b);
    const params = block + codeBytes(kind);
    const scales = blockScale(kind, params, head, half);
    const scale = pick(scales, j & 3);
    const offset: f32 = kind == Q4_1 || kind == Q5_1 || kind == Q4_K || kind == Q5_K ? pick(blockOffset(kind, params, head, half, scales), j & 3) : 0;
    for (let i = 0; i < 32; i++) {
      const pair = i >> 1;
      const lane = ((j << 1) | (i & 1)) as usize;
      let q: i32;
      if (isNibbles(kind)) {
        q = ((load<u8>(block + (((pair & 7) << 4) as usize) + lane) as i32) >> ((pair >> 3) << 2)) & 15;
        if (kind == Q4_0) q -= 8;
      } else {
        q = load<i8>(block + ((pair << 4) as usize) + lane);
      }
      if (kind == Q2_K) {
        const part = params + (((i >> 4) << 3) as usize) + (j as usize);
        const min = pick(loadHalf4(head + 16 + (half << 1)), j & 3) * (load<u8>(part, 16) as f32);
        store<f32>(out, scale * (load<u8>(part) as f32) * (q as f32) - min);
        out += 4;
        continue;
      }
      // Q6_K: d * scale first, then times the code
      const s: f32 = kind == Q6_K ? scale * (load<i8>(params + (((i >> 4) << 3) as usize) + (j as usize)) as f32) : scale;
      store<f32>(out, s * (q as f32) + offset);
      out += 4;
    }
  }
}

// @ts-ignore: decorator
@inline
function pick(v: v128, lane: i32): f32 {
  if (lane == 0) return f32x4.extract_lane(v, 0);
  if (lane == 1) return f32x4.extract_lane(v, 1);
  if (lane == 2) return f32x4.extract_lane(v, 2);
  return f32x4.extract_lane(v, 3);
}

/** Row `index` of Q8_0 panels. */
export function embedQ8_0(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q8_0, w, columns, index, out);
}

/** Row `index` of Q4_0 panels. */
export function embedQ4_0(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q4_0, w, columns, index, out);
}

/** Row `index` of Q4_1 panels. */
export function embedQ4_1(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q4_1, w, columns, index, out);
}

/** Row `index` of Q5_1 panels. */
export function embedQ5_1(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q5_1, w, columns, index, out);
}

/** Row `index` of Q2_K panels. */
export function embedQ2_K(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q2_K, w, columns, index, out);
}

/** Row `index` of Q4_K panels. */
export function embedQ4_K(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q4_K, w, columns, index, out);
}

/** Row `index` of Q5_K panels. */
export function embedQ5_K(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q5_K, w, columns, index, out);
}

/** Row `index` of Q6_K panels. */
export function embedQ6_K(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q6_K, w, columns, index, out);
}
