/**
 * Products with the block formats of GGUF: Q8_0, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K.
 *
 * At load the rows are repacked, without loss, into panels of eight outputs, so that lanes are outputs
 * (tile.ts). A panel is one run of memory, codes first, then parameters:
 *
 *     Q8_0    i8 code [columns / 2, 8, 2]                   f16 scale [columns / 32, 8]
 *     Q4_0    u4 code [columns / 32, 8 chunks, 8, 2]        f16 scale [columns / 32, 8]
 *     Q4_1    as Q4_0                                       f16 scale, f16 min [columns / 32, 8] each
 *     Q4_K    as Q4_0            u8 scale, u8 min [columns / 32, 8] each, f16 d, f16 dmin [columns / 256, 8] each
 *     Q5_K    as Q8_0            as Q4_K
 *     Q6_K    as Q8_0            i8 scale [columns / 16, 8]                 f16 d [columns / 256, 8]
 *
 * A chunk of sixteen bytes of 4-bit codes holds pair c of the block's sixteen pairs in its low nibbles and
 * pair c + 8 in its high nibbles.
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

// @ts-ignore: decorator
@inline
function isNibbles(kind: i32): bool {
  return kind == Q4_0 || kind == Q4_1 || kind == Q4_K;
}

// @ts-ignore: decorator
@inline
function hasOffset(kind: i32): bool {
  return kind != Q8_0 && kind != Q6_K;
}

/** Bytes of the codes of one panel. */
// @ts-ignore: decorator
@inline
function codeBytes(kind: i32, columns: i32): usize {
  return isNibbles(kind) ? (columns as usize) << 2 : (columns as usize) << 3;
}

/** Bytes of one panel. */
// @ts-ignore: decorator
@inline
function panelBytes(kind: i32, columns: i32): usize {
  const blocks = (columns >> 5) as usize;
  const supers = (columns >> 8) as usize;
  const codes = codeBytes(kind, columns);
  if (kind == Q8_0 || kind == Q4_0) return codes + (blocks << 4);
  if (kind == Q4_1) return codes + (blocks << 5);
  if (kind == Q6_K) return codes + (blocks << 4) + (supers << 4);
  return codes + (blocks << 4) + (supers << 5);
}

/** Four unsigned bytes as f32. */
// @ts-ignore: decorator
@inline
function loadBytes4(ptr: usize): v128 {
  return f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(v128.load32_zero(ptr))));
}

/**
 * Scale of block `b` for outputs 0 to 3 (`ptr` moved by `half` outputs for 4 to 7).
 *
 * @param params start of the panel's parameters
 */
// @ts-ignore: decorator
@inline
function blockScale(kind: i32, params: usize, b: usize, blocks: usize, half: usize): v128 {
  if (kind == Q8_0 || kind == Q4_0 || kind == Q4_1) return loadHalf4(params + (b << 4) + (half << 1));
  if (kind == Q6_K) return loadHalf4(params + (blocks << 4) + ((b >> 3) << 4) + (half << 1));
  const d = loadHalf4(params + (blocks << 4) + ((b >> 3) << 4) + (half << 1));
  return f32x4.mul(d, loadBytes4(params + (b << 3) + half));
}

/** What block `b` adds for each unit of the sum of its activations. */
// @ts-ignore: decorator
@inline
function blockOffset(kind: i32, params: usize, b: usize, blocks: usize, half: usize, scale: v128): v128 {
  if (kind == Q4_0) return f32x4.mul(scale, f32x4.splat(-8));
  if (kind == Q4_1) return loadHalf4(params + (blocks << 4) + (b << 4) + (half << 1));
  const dmin = loadHalf4(params + (blocks << 4) + ((blocks >> 3) << 4) + ((b >> 3) << 4) + (half << 1));
  return f32x4.neg(f32x4.mul(dmin, loadBytes4(params + (blocks << 3) + (b << 3) + half)));
}

/**
 * Bytes ahead of the codes being multiplied that are read to bring them into the cache. One load per line of
 * 64 bytes, its value thrown away. The weights of a model come from memory, and the processor's own reading
 * ahead ends at every page of 4096 bytes; measured to be worth it (docs/benchmarks.md, kernels in decode).
 */
const AHEAD: usize = 8192;

/**
 * One row times one panel, straight from the packed codes.
 *
 * @param ahead where to read ahead, from here on as many bytes as the panel's codes take
 * @returns something that depends on what was read ahead, so that the reading is not optimized away
 */
// @ts-ignore: decorator
@inline
function rowTimesPanel(
  kind: i32,
  panel: usize,
  ahead: usize,
  columns: i32,
  x: usize,
  scales: usize,
  offsets: usize,
  out: usize,
  valid: i32,
): i32 {
  const blocks = (columns >> 5) as usize;
  const params = panel + codeBytes(kind, columns);
  let touched = 0;
  let f0 = f32x4.splat(0);
  let f1 = f0;
  let w = panel;
  for (let b: usize = 0; b < blocks; b++) {
    touched |= load<i32>(ahead) | load<i32>(ahead, 64);
    if (!isNibbles(kind)) touched |= load<i32>(ahead, 128) | load<i32>(ahead, 192);
    ahead += isNibbles(kind) ? 128 : 256;
    let i0 = i32x4.splat(0);
    let i1 = i0;
    if (isNibbles(kind)) {
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
    } else {
      const halves = kind == Q6_K ? 2 : 1;
      for (let h = 0; h < halves; h++) {
        let j0 = i32x4.splat(0);
        let j1 = j0;
        const end = w + (kind == Q6_K ? 128 : 256);
        // two pairs; more of them unrolled is slower, because V8 keeps an address for every offset of a widening load
        do {
          let a = v128.load32_splat(x);
          j0 = i32x4.add(j0, i32x4.dot_i16x8_s(v128.load8x8_s(w), a));
          j1 = i32x4.add(j1, i32x4.dot_i16x8_s(v128.load8x8_s(w, 8), a));
          a = v128.load32_splat(x, 4);
          j0 = i32x4.add(j0, i32x4.dot_i16x8_s(v128.load8x8_s(w, 16), a));
          j1 = i32x4.add(j1, i32x4.dot_i16x8_s(v128.load8x8_s(w, 24), a));
          w += 32;
          x += 8;
        } while (w < end);
        if (kind == Q6_K) {
          // eight signed scales of this half of the block
          const s = v128.load8x8_s(params + (b << 4) + ((h as usize) << 3));
          i0 = i32x4.add(i0, i32x4.mul(j0, i32x4.extend_low_i16x8_s(s)));
          i1 = i32x4.add(i1, i32x4.mul(j1, i32x4.extend_high_i16x8_s(s)));
        } else {
          i0 = j0;
          i1 = j1;
        }
      }
    }
    const s0 = blockScale(kind, params, b, blocks, 0);
    const s1 = blockScale(kind, params, b, blocks, 4);
    const r = v128.load32_splat(scales);
    f0 = madd(f32x4.convert_i32x4_s(i0), f32x4.mul(s0, r), f0);
    f1 = madd(f32x4.convert_i32x4_s(i1), f32x4.mul(s1, r), f1);
    scales += 4;
    if (hasOffset(kind)) {
      const o = v128.load32_splat(offsets);
      f0 = madd(blockOffset(kind, params, b, blocks, 0, s0), o, f0);
      f1 = madd(blockOffset(kind, params, b, blocks, 4, s1), o, f1);
      offsets += 4;
    }
  }
  if (valid == PANEL) {
    v128.store(out, f0);
    v128.store(out, f1, 16);
  } else {
    for (let j = 0; j < valid; j++) {
      store<f32>(out + ((j as usize) << 2), f32x4.extract_lane(f0, 0));
      f0 = i32x4.shuffle(f0, f1, 1, 2, 3, 4);
      f1 = i32x4.shuffle(f1, f1, 1, 2, 3, 3);
    }
  }
  return touched;
}

/** Packed panel to i16, with f32 scales and offsets: what `panelTimesRows` takes. */
// @ts-ignore: decorator
@inline
function widenPanel(kind: i32, panel: usize, columns: i32, ints: usize, scales: usize, offsets: usize): void {
  const blocks = (columns >> 5) as usize;
  const params = panel + codeBytes(kind, columns);
  let w = panel;
  for (let b: usize = 0; b < blocks; b++) {
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
        const s = v128.load8x8_s(params + (b << 4) + (h << 3));
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
    const s0 = blockScale(kind, params, b, blocks, 0);
    const s1 = blockScale(kind, params, b, blocks, 4);
    v128.store(scales, s0);
    v128.store(scales, s1, 16);
    scales += 32;
    if (hasOffset(kind)) {
      v128.store(offsets, blockOffset(kind, params, b, blocks, 0, s0));
      v128.store(offsets, blockOffset(kind, params, b, blocks, 4, s1), 16);
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
  const lastPanel = w + (((rows - 1) >> 3) as usize) * bytes;
  for (let j = rowStart; j < rowEnd; j += PANEL) {
    const valid = min(PANEL, rowEnd - j);
    const panel = w + ((j >> 3) as usize) * bytes;
    const target = out + ((j as usize) << 2);
    if (tokens >= 3) {
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
    } else {
      const ahead = min(panel + AHEAD, lastPanel);
      let touched = 0;
      for (let t: usize = 0; t < (tokens as usize); t++) {
        const r = (t * (blocks as usize)) << 2;
        touched |= rowTimesPanel(kind, panel, ahead, columns, activations + t * rowBytes, scales + r, offsets + r, target + t * stride, valid);
      }
      store<i32>(scratch, touched);
    }
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

/** Stores code `q` of output `j` of a panel at column `k`. */
// @ts-ignore: decorator
@inline
function putCode(panel: usize, j: i32, k: i32, q: i32): void {
  store<u8>(panel + (((k >> 1) << 4) as usize) + (((j << 1) | (k & 1)) as usize), q as u8);
}

/** The same for 4-bit codes; the panel's codes start as zeros. */
// @ts-ignore: decorator
@inline
function putNibble(panel: usize, j: i32, k: i32, q: i32): void {
  const pair = (k & 31) >> 1;
  const p = panel + (((k >> 5) << 7) as usize) + (((pair & 7) << 4) as usize) + (((j << 1) | (k & 1)) as usize);
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
  const codes = codeBytes(kind, columns);
  const blocks = columns >> 5;
  const supers = columns >> 8;
  for (let first = 0; first < rows; first += PANEL) {
    const panel = target + ((first >> 3) as usize) * bytes;
    const params = panel + codes;
    memory.fill(panel, 0, bytes);
    for (let j = 0; j < min(PANEL, rows - first); j++) {
      if (kind == Q8_0 || kind == Q4_0 || kind == Q4_1) {
        for (let b = 0; b < blocks; b++) {
          const at = params + (((b << 3) + j) << 1) as usize;
          store<u16>(at, load<u16>(source));
          source += 2;
          if (kind == Q4_1) {
            store<u16>(at + ((blocks << 4) as usize), load<u16>(source));
            source += 2;
          }
          if (kind == Q8_0) {
            for (let i = 0; i < 32; i++) putCode(panel, j, (b << 5) + i, load<u8>(source + (i as usize)));
            source += 32;
          } else {
            // byte i: element i in the low nibble, element i + 16 in the high one
            for (let i = 0; i < 16; i++) {
              const byte: i32 = load<u8>(source + (i as usize));
              putNibble(panel, j, (b << 5) + i, byte & 15);
              putNibble(panel, j, (b << 5) + i + 16, byte >> 4);
            }
            source += 16;
          }
        }
      } else if (kind == Q4_K || kind == Q5_K) {
        for (let s = 0; s < supers; s++) {
          const at = params + (((blocks << 4) + (((s << 3) + j) << 1)) as usize);
          store<u16>(at, load<u16>(source));
          store<u16>(at + ((supers << 4) as usize), load<u16>(source, 2));
          for (let i = 0; i < 8; i++) {
            const p = params + (((((s << 3) + i) << 3) + j) as usize);
            store<u8>(p, scaleOf(source + 4, i) as u8);
            store<u8>(p + ((blocks << 3) as usize), minOf(source + 4, i) as u8);
          }
          // 64 elements to 32 bytes: the first 32 in the low nibbles, the next 32 in the high ones
          const highBits = source + 16;
          const low = source + (kind == Q4_K ? 16 : 48);
          for (let i = 0; i < 256; i++) {
            const byte: i32 = load<u8>(low + ((((i >> 6) << 5) + (i & 31)) as usize));
            const nibble = i & 32 ? byte >> 4 : byte & 15;
            if (kind == Q4_K) {
              putNibble(panel, j, (s << 8) + i, nibble);
            } else {
              const bit = ((load<u8>(highBits + ((i & 31) as usize)) as i32) >> (i >> 5)) & 1;
              putCode(panel, j, (s << 8) + i, nibble | (bit << 4));
            }
          }
          source += kind == Q4_K ? 144 : 176;
        }
      } else {
        for (let s = 0; s < supers; s++) {
          // 128 low-nibble bytes, 64 bytes of high bit pairs, 16 scales, d
          for (let i = 0; i < 256; i++) {
            const half = i >> 7;
            const quarter = (i >> 5) & 3;
            const lane = i & 31;
            const lowByte: i32 = load<u8>(source + (((half << 6) + ((quarter & 1) << 5) + lane) as usize));
            const low = quarter & 2 ? lowByte >> 4 : lowByte & 15;
            const high = ((load<u8>(source + 128 + (((half << 5) + lane) as usize)) as i32) >> (quarter << 1)) & 3;
            putCode(panel, j, (s << 8) + i, (low | (high << 4)) - 32);
          }
          for (let i = 0; i < 16; i++) {
            store<u8>(params + (((((s << 4) + i) << 3) + j) as usize), load<u8>(source + 192 + (i as usize)));
          }
          store<u16>(params + (((blocks << 4) + (((s << 3) + j) << 1)) as usize), load<u16>(source, 208));
          source += 210;
        }
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
  const blocks = (columns >> 5) as usize;
  const params = panel + codeBytes(kind, columns);
  for (let b: usize = 0; b < blocks; b++) {
    const scales = blockScale(kind, params, b, blocks, half);
    const scale = pick(scales, j & 3);
    const offset: f32 = kind == Q4_1 || kind == Q4_K || kind == Q5_K ? pick(blockOffset(kind, params, b, blocks, half, scales), j & 3) : 0;
    for (let i = 0; i < 32; i++) {
      const k = ((b as i32) << 5) + i;
      let q: i32;
      if (isNibbles(kind)) {
        const pair = i >> 1;
        const p = panel + (b << 7) + (((pair & 7) << 4) as usize) + (((j << 1) | (k & 1)) as usize);
        q = ((load<u8>(p) as i32) >> ((pair >> 3) << 2)) & 15;
        if (kind == Q4_0) q -= 8;
      } else {
        q = load<i8>(panel + (((k >> 1) << 4) as usize) + (((j << 1) | (k & 1)) as usize));
      }
      // Q6_K: d * scale first, then times the code
      const s: f32 = kind == Q6_K ? scale * (load<i8>(params + (((k >> 4) << 3) as usize) + (j as usize)) as f32) : scale;
      store<f32>(out + ((k as usize) << 2), s * (q as f32) + offset);
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
