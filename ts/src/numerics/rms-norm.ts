/**
 * RMSNorm: a vector divided by the root of its mean square, then multiplied by a learned gain.
 *
 * The two steps are separate because XQuant-CL stores the result of the first (`deltaSpace: 'normalized'`).
 *
 * @module
 */

import { type Matrix, matrix } from './matrix.js';

/**
 * The norm without its gain: `stream / sqrt(mean(stream^2) + epsilon)`, row by row.
 *
 * @param stream [tokens, channels]
 * @returns fresh, same shape
 */
export function normalizeRows(stream: Matrix, epsilon: number): Matrix {
  const { rows, columns, data } = stream;
  const result = matrix(rows, columns);
  for (let r = 0; r < rows; r++) {
    let squares = 0;
    for (let c = 0; c < columns; c++) squares += data[r * columns + c] ** 2;
    const inverseRms = 1 / Math.sqrt(squares / columns + epsilon);
    for (let c = 0; c < columns; c++) result.data[r * columns + c] = data[r * columns + c] * inverseRms;
  }
  return result;
}

/**
 * Multiplies every row by a gain.
 *
 * @param normalized [tokens, channels]
 * @param gain [channels]
 * @returns fresh, same shape
 */
export function applyGain(normalized: Matrix, gain: Float32Array): Matrix {
  const { rows, columns, data } = normalized;
  const result = matrix(rows, columns);
  for (let i = 0; i < data.length; i++) result.data[i] = data[i] * gain[i % columns];
  return result;
}

/**
 * Norm and gain.
 *
 * @param stream [tokens, channels], @param gain [channels]
 * @returns fresh, [tokens, channels]
 */
export function rmsNorm(stream: Matrix, gain: Float32Array, epsilon: number): Matrix {
  return applyGain(normalizeRows(stream, epsilon), gain);
}

/**
 * QK-norm, applied between projection and RoPE: of each head on its own (Qwen3), or of all heads together (OLMo 2).
 *
 * @param rows [tokens, heads * headDim]
 * @param gain [headDim], the same for all heads, or [heads * headDim]
 * @returns fresh, same shape
 */
export function normalizeHeads(rows: Matrix, gain: Float32Array, epsilon: number): Matrix {
  const heads = rows.columns / gain.length;
  const perHead = matrix(rows.rows * heads, gain.length, rows.data);
  return matrix(rows.rows, rows.columns, rmsNorm(perHead, gain, epsilon).data);
}
