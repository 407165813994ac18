/**
 * Rotary position embedding: turns pairs of channels of a head by an angle that grows with the position.
 *
 *     half          pairs (i, i + headDim/2)      Hugging Face files
 *     interleaved   pairs (2i, 2i + 1)            GGUF files of the llama architecture
 *
 * It is applied to queries and to rematerialized keys with absolute positions, never to what is stored. Pairs that a
 * family leaves as they are (partial RoPE, NoPE) have the frequency 0.
 *
 * @module
 */

import { type Matrix, matrix } from '../numerics/matrix.js';
import type { ModelConfig, RopeConfig, RopeLayout } from './config.js';

/** The rotation of one layer. */
export interface Rope {
  /** Radians per position of each pair, in f64; 0 where a pair is not rotated. [headDim / 2] */
  readonly frequencies: Float64Array;
  /** Factor of each pair; 1 where it is not rotated, absent for all ones. [headDim / 2] */
  readonly magnitudes?: Float64Array;
}

/**
 * Radians per position of each pair: `theta^(-2i/rotaryDim)`, divided by the scaling of long-context models, and 0
 * for pairs that are not rotated.
 *
 * @returns fresh, [headDim / 2], in f64
 */
export function ropeFrequencies(
  config: RopeConfig & Pick<ModelConfig, 'headDim' | 'rotaryDim'>,
): Float64Array {
  const { headDim, rotaryDim = headDim, ropeTheta, ropeFrequencyDivisors } = config;
  return Float64Array.from({ length: headDim / 2 }, (_, i) =>
    i < rotaryDim / 2 ? ropeTheta ** ((-2 * i) / rotaryDim) / (ropeFrequencyDivisors?.[i] ?? 1) : 0,
  );
}

/** The rotation of one layer of a model. */
export function layerRope(config: ModelConfig, layer: number): Rope {
  const { headDim, rotaryDim = headDim, layers } = config;
  const own = layers?.[layer].rope ?? config;
  if (own === 'none') return { frequencies: new Float64Array(headDim / 2) };
  const frequencies = ropeFrequencies({ ...own, headDim, rotaryDim });
  const { ropeMagnitude = 1 } = own;
  if (ropeMagnitude === 1) return { frequencies };
  return { frequencies, magnitudes: frequencies.map((_, i) => (i < rotaryDim / 2 ? ropeMagnitude : 1)) };
}

/**
 * Rotates all heads of all rows; row r is at position `firstPosition + r`.
 *
 * @param rows [tokens, heads * headDim]
 * @param frequencies [headDim / 2], radians per position
 * @param magnitudes [headDim / 2], multiply the rotated pairs; absent for all ones
 * @returns fresh, same shape
 */
export function applyRope(
  rows: Matrix,
  firstPosition: number,
  frequencies: Float64Array,
  layout: RopeLayout,
  magnitudes?: Float64Array,
): Matrix {
  const pairs = frequencies.length;
  const headDim = 2 * pairs;
  const result = matrix(rows.rows, rows.columns);
  const [step, distance] = layout === 'half' ? [1, pairs] : [2, 1];
  for (let r = 0; r < rows.rows; r++) {
    for (let i = 0; i < pairs; i++) {
      const angle = (firstPosition + r) * frequencies[i];
      const cos = Math.cos(angle) * (magnitudes?.[i] ?? 1);
      const sin = Math.sin(angle) * (magnitudes?.[i] ?? 1);
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
