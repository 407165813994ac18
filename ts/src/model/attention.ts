/**
 * Causal attention of some query rows over all keys and values; query heads share KV heads in groups.
 *
 * This is the definition. attention-blocked.ts computes the same bits faster.
 *
 * @module
 */

import { dot, type Matrix, matrix } from '../numerics/matrix.js';

/** How the attention of a layer can differ. */
export interface AttentionOptions {
  /** Multiplies scores. Default 1 / sqrt(headDim). */
  readonly scale?: number;
  /** Tokens that a query sees, its own included. Default all. */
  readonly window?: number;
}

/**
 * `softmax(scale * q k) v` for every head, each query seeing the keys up to its own position, at most `window` of them.
 *
 * @param queries [tokens, heads * headDim], after RoPE; the last row is at the last key's position
 * @param keys [length, kvHeads * headDim], after RoPE
 * @param values [length, kvHeads * headDim]
 * @returns fresh, [tokens, heads * headDim]
 */
export function causalAttention(
  queries: Matrix,
  keys: Matrix,
  values: Matrix,
  headDim: number,
  { scale = 1 / Math.sqrt(headDim), window = Number.POSITIVE_INFINITY }: AttentionOptions = {},
): Matrix {
  const heads = queries.columns / headDim;
  const groupedHeads = queries.columns / keys.columns;
  const past = keys.rows - queries.rows;
  const result = matrix(queries.rows, queries.columns);

  for (let t = 0; t < queries.rows; t++) {
    const end = past + t + 1;
    const start = Math.max(0, end - window);
    for (let head = 0; head < heads; head++) {
      const kvHead = Math.floor(head / groupedHeads);
      const query = headOf(queries, t, head, headDim);
      const output = headOf(result, t, head, headDim);

      const weights = new Float32Array(end - start);
      for (let i = 0; i < weights.length; i++) {
        weights[i] = dot(query, headOf(keys, start + i, kvHead, headDim));
      }
      softmax(weights, scale);
      for (let c = 0; c < headDim; c++) {
        let sum = 0;
        for (let i = 0; i < weights.length; i++) {
          sum += weights[i] * values.data[(start + i) * values.columns + kvHead * headDim + c];
        }
        output[c] = sum;
      }
    }
  }
  return result;
}

/** Softmax of `scale * scores` in place, in f64 until the end. */
export function softmax(scores: Float32Array, scale: number): void {
  let max = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < scores.length; i++) max = Math.max(max, scores[i]);
  const weights = new Float64Array(scores.length);
  let sum = 0;
  for (let i = 0; i < scores.length; i++) sum += weights[i] = Math.exp((scores[i] - max) * scale);
  for (let i = 0; i < scores.length; i++) scores[i] = weights[i] / sum;
}

/** One head of one row, shared. [headDim] */
function headOf({ data, columns }: Matrix, row: number, head: number, headDim: number): Float32Array {
  const at = row * columns + head * headDim;
  return data.subarray(at, at + headDim);
}
