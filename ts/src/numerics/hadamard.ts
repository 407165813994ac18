/**
 * The Walsh-Hadamard rotation that `rotation: 'hadamard'` applies before quantizing.
 *
 * An orthogonal matrix of +-1/sqrt(n) spreads every outlier channel over all channels of its block, so
 * that the groups look Gaussian and min..max fits them (as in QuaRot, arXiv 2404.00456). It is symmetric
 * and its own inverse: H H = I. The arithmetic decides bits and is therefore fixed: natural (Sylvester)
 * order, stages of stride 1, 2, 4, ..., each addition rounded to f32, then one multiplication.
 *
 * @module
 */

import { type Matrix, matrix, row } from './matrix.js';

/** How stored vectors are rotated before they are quantized. */
export type Rotation = 'none' | 'hadamard';

/** The choices of {@link Rotation}. */
export const ROTATIONS: readonly Rotation[] = ['none', 'hadamard'];

/**
 * Channels that are rotated together: the largest power of two that divides `channels` (576 -> 64).
 *
 * @param channels a positive integer
 */
export function hadamardBlock(channels: number): number {
  return channels & -channels;
}

/**
 * Rotates one vector in place, block by block.
 *
 * @param vector [channels], overwritten
 */
export function hadamardInto(vector: Float32Array): void {
  const size = hadamardBlock(vector.length);
  const normalize = Math.fround(1 / Math.sqrt(size));
  for (let start = 0; start < vector.length; start += size) {
    const block = vector.subarray(start, start + size);
    for (let stride = 1; stride < size; stride *= 2) {
      for (let i = 0; i < size; i += 2 * stride) {
        for (let j = i; j < i + stride; j++) {
          const a = block[j];
          const b = block[j + stride];
          block[j] = a + b; // storing into a Float32Array rounds to f32
          block[j + stride] = a - b;
        }
      }
    }
    for (let i = 0; i < size; i++) block[i] *= normalize;
  }
}

/**
 * Rotates every row.
 *
 * @param source [rows, channels], read
 * @returns fresh, same shape; `source` itself when `rotation` is `'none'`
 */
export function rotateRows(source: Matrix, rotation: Rotation): Matrix {
  if (rotation === 'none') return source;
  const result = matrix(source.rows, source.columns, source.data.slice());
  for (let r = 0; r < result.rows; r++) hadamardInto(row(result, r));
  return result;
}
