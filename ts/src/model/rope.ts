/**
 * Rotary position embedding: turns pairs of channels of a head by an angle that grows with the position.
 *
 *     half          pairs (i, i + headDim/2)      Hugging Face files
 *     interleaved   pairs (2i, 2i + 1)            GGUF files of the llama architecture
 *
 * It is applied to queries and to rematerialized keys with absolute positions, never to what is stored.
 *
 * @module
 */

import { type Matrix, matrix } from '../numerics/matrix.js';
import type { ModelConfig, RopeLayout } from './config.js';

/**
 * Radians per position of each pair: `theta^(-2i/headDim)`, divided by the scaling of long-context models.
 *
 * @returns [headDim / 2], in f64
 */
export function ropeFrequencies(
  config: Pick<ModelConfig, 'headDim' | 'ropeTheta' | 'ropeFrequencyDivisors'>,
): Float64Array {
  const { headDim, ropeTheta, ropeFrequencyDivisors } = config;
  return Float64Array.from(
    { length: headDim / 2 },
    (_, i) => ropeTheta ** ((-2 * i) / headDim) / (ropeFrequencyDivisors?.[i] ?? 1),
  );
}

/**
 * Rotates all heads of all rows; row r stands at position `firstPosition + r`.
 *
 * @param rows [tokens, heads * headDim]
 * @param frequencies [headDim / 2], radians per position
 * @returns fresh, same shape
 */
export function applyRope(
  rows: Matrix,
  firstPosition: number,
  frequencies: Float64Array,
  layout: RopeLayout,
): Matrix {
  const pairs = frequencies.length;
  const headDim = 2 * pairs;
  const result = matrix(rows.rows, rows.columns);
  const [step, distance] = layout === 'half' ? [1, pairs] : [2, 1];
  for (let r = 0; r < rows.rows; r++) {
    for (let i = 0; i < pairs; i++) {
      const angle = (firstPosition + r) * frequencies[i];
      const cos = Math.cos(angle);
      const sin = Math.sin(angle);
      for (let head = 0; head < rows.columns; head += headDim) {
        const first = r * rows.columns + head + i * step;
        const second = first + distance;
        const a = rows.data[first];
        const b = rows.data[second];
        result.data[first] = a * cos - b * sin;
        result.data[second] = a * sin + b * cos;
      }
    }
  }
  return result;
}
