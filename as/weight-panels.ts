/**
 * Panels of the block formats of GGUF: Q8_0, Q4_0, Q4_1, Q5_1, Q2_K, Q4_K, Q5_K, Q6_K. Other formats are
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
 */

import { loadHalf4 } from './lanes';

export const Q8_0: i32 = 0;
export const Q4_0: i32 = 1;
export const Q4_1: i32 = 2;
export const Q4_K: i32 = 3;
export const Q5_K: i32 = 4;
export const Q6_K: i32 = 5;
export const Q5_1: i32 = 6;
export const Q2_K: i32 = 7;

// @ts-ignore: decorator
@inline
export function isNibbles(kind: i32): bool {
  return kind == Q4_0 || kind == Q4_1 || kind == Q4_K || kind == Q2_K;
}

/** Whether a block adds something for its activations as a whole. Q2_K does so for halves of blocks. */
// @ts-ignore: decorator
@inline
export function hasOffset(kind: i32): bool {
  return kind != Q8_0 && kind != Q6_K && kind != Q2_K;
}

// @ts-ignore: decorator
@inline
export function hasSuperBlocks(kind: i32): bool {
  return kind == Q2_K || kind == Q4_K || kind == Q5_K || kind == Q6_K;
}

/** Bytes of the codes of one block. */
// @ts-ignore: decorator
@inline
export function codeBytes(kind: i32): usize {
  return isNibbles(kind) ? 128 : 256;
}

/** Bytes of one block. */
// @ts-ignore: decorator
@inline
export function blockBytes(kind: i32): usize {
  return codeBytes(kind) + (kind == Q4_1 || kind == Q5_1 || kind == Q2_K ? 32 : 16);
}

/** Bytes of the head of eight blocks. */
// @ts-ignore: decorator
@inline
export function headBytes(kind: i32): usize {
  if (!hasSuperBlocks(kind)) return 0;
  return kind == Q6_K ? 16 : 32;
}

/** Bytes of one panel. */
// @ts-ignore: decorator
@inline
export function panelBytes(kind: i32, columns: i32): usize {
  return ((columns >> 5) as usize) * blockBytes(kind) + ((columns >> 8) as usize) * headBytes(kind);
}

/** Where the head of block `b` lies. */
// @ts-ignore: decorator
@inline
export function headAt(kind: i32, panel: usize, b: i32): usize {
  return panel + ((b >> 3) as usize) * (8 * blockBytes(kind) + headBytes(kind));
}

/** Where block `b` lies. */
// @ts-ignore: decorator
@inline
export function blockAt(kind: i32, panel: usize, b: i32): usize {
  if (!hasSuperBlocks(kind)) return panel + (b as usize) * blockBytes(kind);
  return headAt(kind, panel, b) + headBytes(kind) + ((b & 7) as usize) * blockBytes(kind);
}

/** Four unsigned bytes as f32. */
// @ts-ignore: decorator
@inline
export function loadBytes4(ptr: usize): v128 {
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
export function blockScale(kind: i32, params: usize, head: usize, half: usize): v128 {
  if (!hasSuperBlocks(kind)) return loadHalf4(params + (half << 1));
  const d = loadHalf4(head + (half << 1));
  return kind == Q6_K || kind == Q2_K ? d : f32x4.mul(d, loadBytes4(params + half));
}

/** What a block adds for each unit of the sum of its activations. */
// @ts-ignore: decorator
@inline
export function blockOffset(kind: i32, params: usize, head: usize, half: usize, scale: v128): v128 {
  if (kind == Q4_0) return f32x4.mul(scale, f32x4.splat(-8));
  if (kind == Q4_1 || kind == Q5_1) return loadHalf4(params + 16 + (half << 1));
  return f32x4.neg(f32x4.mul(loadHalf4(head + 16 + (half << 1)), loadBytes4(params + 8 + half)));
}
