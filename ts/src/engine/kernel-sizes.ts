/**
 * Bytes of what the kernels read and write: panels, tiles, key weights (layouts are drawn in as/), and scratch memory.
 *
 * @module
 */

import type { ProductType } from '../quant/weight-types.js';

const align16 = (bytes: number): number => Math.ceil(bytes / 16) * 16;
const padTo8 = (count: number): number => Math.ceil(count / 8) * 8;

/**
 * Bytes of a weight matrix as panels. As many as in the file for F32, F16, BF16, Q8_0, Q4_0 and Q4_1; Q4_K takes 148
 * for 144 bytes. Codes of other widths become whole bytes or, in Q2_K, halves: Q5_1 takes 36 bytes for 24, Q2_K 164
 * for 84, Q5_K 276 for 176 and Q6_K 274 for 210. Rows are padded to a multiple of 8.
 */
export function panelBytes(type: ProductType, rows: number, columns: number): number {
  const perRow = {
    F32: columns * 4,
    F16: columns * 2,
    BF16: columns * 2,
    Q8_0: columns + columns / 16,
    Q4_0: columns / 2 + columns / 16,
    Q4_1: columns / 2 + columns / 8,
    Q5_1: columns + columns / 8,
    Q2_K: columns / 2 + columns / 8 + columns / 64,
    Q4_K: columns / 2 + columns / 16 + columns / 64,
    Q5_K: columns + columns / 16 + columns / 64,
    Q6_K: columns + columns / 16 + columns / 128,
  }[type];
  return padTo8(rows) * perRow;
}

/** Bytes of a tile of `rows` rows. */
export function tileBytes(rows: number, columns: number, block: number): number {
  const blocks = Math.ceil(columns / block);
  const scales = align16(rows * blocks * 4);
  return align16(rows * padTo8(columns) * 2) + 2 * scales;
}

/** Bytes of key weights. */
export function packedWeightsBytes(rows: number, columns: number, block: number): number {
  const blocks = Math.ceil(columns / block);
  return padTo8(rows) * (padTo8(columns) * 2 + blocks * 8);
}

/** Bytes of scratch for eight outputs of `multiplySymmetric`. */
export function symmetricPanelBytes(tokens: number, channels: number): number {
  return 256 * 8 * 2 + 64 + padTo8(channels) * 4 + tokens * 4;
}

/** Bytes of scratch of a product with a file's weights. */
export function matmulScratchBytes(columns: number): number {
  return columns * 32 + 64;
}

/** Bytes of scratch of everything that quantizes or unpacks groups. */
export function quantizeScratchBytes(groupSize: number): number {
  return 17 * (Math.ceil(groupSize / 16) * 16) + 64;
}

/** Bytes that describe the rows that attend together (as/attend-rows.ts). */
const ATTEND_ROWS = 112;

/** Bytes of scratch of `attendBlock`. */
export function attendScratchBytes(tokens: number): number {
  return ATTEND_ROWS + 4 * padTo8(tokens) * 4;
}

/** Bytes of scratch of `attendHalfBlock`. */
export function attendHalfScratchBytes(tokens: number, headDim: number): number {
  return attendScratchBytes(tokens) + headDim * 4 + headDim * padTo8(tokens) * 4;
}
