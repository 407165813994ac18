/**
 * How model files store weights, and what those bytes mean: the block formats of GGUF and plain floats.
 *
 * @module
 */

import type { Matrix } from '../numerics/matrix.js';

/** Weight types that this package reads. */
export const WEIGHT_TYPES = ['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1', 'Q4_K', 'Q5_K', 'Q6_K'] as const;

/** One of {@link WEIGHT_TYPES}. */
export type WeightType = (typeof WEIGHT_TYPES)[number];

/** A weight matrix as the bytes of its file. */
export interface WeightTensor {
  /** The name in the file. */
  readonly name: string;
  readonly type: WeightType;
  /** Output channels; 1 for a vector. */
  readonly rows: number;
  /** Input channels. */
  readonly columns: number;
  /** Row-major, rows of whole blocks. */
  readonly bytes: Uint8Array;
}

/** Elements and bytes of one block. */
export const WEIGHT_BLOCKS: Readonly<Record<WeightType, { elements: number; bytes: number }>> = {
  F32: { elements: 1, bytes: 4 },
  F16: { elements: 1, bytes: 2 },
  BF16: { elements: 1, bytes: 2 },
  Q8_0: { elements: 32, bytes: 34 },
  Q4_0: { elements: 32, bytes: 18 },
  Q4_1: { elements: 32, bytes: 20 },
  Q4_K: { elements: 256, bytes: 144 },
  Q5_K: { elements: 256, bytes: 176 },
  Q6_K: { elements: 256, bytes: 210 },
};

/**
 * Dequantizes a weight matrix to f32.
 *
 * @returns fresh, [rows, columns]
 * @throws {ShapeError} if the bytes do not fit the shape
 */
export declare function dequantizeWeights(tensor: WeightTensor): Matrix;
