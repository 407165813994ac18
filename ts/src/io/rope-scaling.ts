/**
 * RoPE scaling of a Hugging Face config, as one divisor per frequency.
 *
 * @module
 */

import { FormatError, UnsupportedModelError } from '../errors.js';
import { describeValue } from '../printable.js';

/** The numbers of Llama 3's scaling, under the names of config.json in camelCase. */
export interface Llama3Scaling {
  readonly factor: number;
  readonly lowFreqFactor: number;
  readonly highFreqFactor: number;
  /** Context that the model was first trained on, in tokens. */
  readonly originalMaxPositionEmbeddings: number;
}

/**
 * Divisors of Llama 3.1's scaling. A frequency whose wavelength is far below the original context stays, one
 * far above is divided by `factor`, and between the two the frequency is interpolated.
 *
 * @returns fresh, [headDim / 2]
 */
export function llama3Divisors(scaling: Llama3Scaling, headDim: number, ropeTheta: number): Float32Array {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings: context } = scaling;
  return Float32Array.from({ length: headDim / 2 }, (_, i) => {
    const frequency = ropeTheta ** ((-2 * i) / headDim);
    const wavelength = (2 * Math.PI) / frequency; // tokens
    if (wavelength < context / highFreqFactor) return 1;
    if (wavelength > context / lowFreqFactor) return factor;
    const smooth = (context / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}

/**
 * Reads `rope_scaling` (or `rope_parameters`, its newer name).
 *
 * @param scaling the entry of config.json; `null` and absent mean none
 * @returns [headDim / 2], or `undefined` if frequencies are not scaled
 * @throws {FormatError} if a number is missing
 * @throws {UnsupportedModelError} names a kind of scaling that is not supported
 */
export function ropeDivisorsOf(
  scaling: unknown,
  headDim: number,
  ropeTheta: number,
  path: string,
): Float32Array | undefined {
  if (scaling === undefined || scaling === null) return undefined;
  if (typeof scaling !== 'object') throw new FormatError(path, 'rope_scaling', 'must be an object');
  const entries = scaling as Record<string, unknown>;
  const type = entries.rope_type ?? entries.type ?? 'default';
  const number = (key: string): number => {
    const value = entries[key];
    if (typeof value === 'number' && value > 0 && Number.isFinite(value)) return value;
    throw new FormatError(
      path,
      `rope_scaling.${key}`,
      `must be a positive number, got ${describeValue(value)}`,
    );
  };
  switch (type) {
    case 'default':
      return undefined;
    case 'linear':
      return new Float32Array(headDim / 2).fill(number('factor'));
    case 'llama3': {
      const parameters: Llama3Scaling = {
        factor: number('factor'),
        lowFreqFactor: number('low_freq_factor'),
        highFreqFactor: number('high_freq_factor'),
        originalMaxPositionEmbeddings: number('original_max_position_embeddings'),
      };
      return llama3Divisors(parameters, headDim, ropeTheta);
    }
    default:
      throw new UnsupportedModelError(path, `rope scaling ${describeValue(type)}`, 'default, linear, llama3');
  }
}
