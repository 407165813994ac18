/**
 * Causal attention in blocks of queries, as two matrix products: the bits of attention.ts in less time. The model uses it.
 *
 * @module
 */

import { linearTiled } from '../numerics/linear-tiled.js';
import { type Matrix, matrix, rowRange, transpose } from '../numerics/matrix.js';
import { type AttentionOptions, softmax } from './attention.js';

/** Query rows handled together; only memory and speed depend on it. */
const QUERY_BLOCK = 64;

/**
 * `causalAttention`, with its bits. A key that a query does not see has weight 0 in the product, which adds nothing.
 *
 * @param queries as for `causalAttention`, like all others
 * @returns fresh, [tokens, heads * headDim]
 */
export function causalAttentionBlocked(
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

  for (let kvHead = 0; kvHead < heads / groupedHeads; kvHead++) {
    const headKeys = columnRange(keys, kvHead * headDim, headDim);
    const headValues = transpose(columnRange(values, kvHead * headDim, headDim));
    for (let head = kvHead * groupedHeads; head < (kvHead + 1) * groupedHeads; head++) {
      const headQueries = columnRange(queries, head * headDim, headDim);
      for (let from = 0; from < queries.rows; from += QUERY_BLOCK) {
        const to = Math.min(from + QUERY_BLOCK, queries.rows);
        const visible = past + to; // keys that the last query of the block sees
        const scores = linearTiled(rowRange(headQueries, from, to), rowRange(headKeys, 0, visible));
        softmaxRows(scores, scale, window, past + from);
        const seen = matrix(headDim, visible);
        for (let c = 0; c < headDim; c++) {
          seen.data.set(headValues.data.subarray(c * keys.rows, c * keys.rows + visible), c * visible);
        }
        const averaged = linearTiled(scores, seen);
        for (let r = 0; r < averaged.rows; r++) {
          const at = (from + r) * result.columns + head * headDim;
          result.data.set(averaged.data.subarray(r * headDim, (r + 1) * headDim), at);
        }
      }
    }
  }
  return result;
}

/**
 * Softmax of `scale * scores` in place; row r is at position `firstPosition + r` and sees the columns up to that
 * position, at most `window` of them. The rest become 0.
 */
function softmaxRows(scores: Matrix, scale: number, window: number, firstPosition: number): void {
  const { rows, columns, data } = scores;
  for (let r = 0; r < rows; r++) {
    const line = data.subarray(r * columns, (r + 1) * columns);
    const end = firstPosition + r + 1;
    const start = Math.max(0, end - window);
    softmax(line.subarray(start, end), scale);
    line.fill(0, 0, start);
    line.fill(0, end);
  }
}

/** Columns `[from, from + count)`, copied. */
function columnRange(source: Matrix, from: number, count: number): Matrix {
  const result = matrix(source.rows, count);
  for (let r = 0; r < source.rows; r++) {
    const at = r * source.columns + from;
    result.data.set(source.data.subarray(at, at + count), r * count);
  }
  return result;
}
