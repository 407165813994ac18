/**
 * RoPE scaling for long contexts, as one divisor per frequency and a factor on what is rotated.
 *
 * @module
 */

import type { ModelConfig } from '../model/config.js';
import { describeValue } from '../printable.js';
import type { JsonReader } from './json-reader.js';

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
 * @returns fresh, [rotaryDim / 2]
 */
export function llama3Divisors(scaling: Llama3Scaling, rotaryDim: number, ropeTheta: number): Float32Array {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings: context } = scaling;
  return Float32Array.from({ length: rotaryDim / 2 }, (_, i) => {
    const frequency = ropeTheta ** ((-2 * i) / rotaryDim);
    const wavelength = (2 * Math.PI) / frequency; // tokens
    if (wavelength < context / highFreqFactor) return 1;
    if (wavelength > context / lowFreqFactor) return factor;
    const smooth = (context / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}

/** The numbers of YaRN (arXiv 2309.00071). */
export interface YarnScaling {
  readonly factor: number;
  /** Rotations within the original context above which a frequency stays. */
  readonly betaFast: number;
  /** Rotations within the original context below which a frequency is divided by `factor`. */
  readonly betaSlow: number;
  /** Context that the model was first trained on, in tokens. */
  readonly originalMaxPositionEmbeddings: number;
  /** Whether the pairs between the two are rounded to whole ones. */
  readonly truncate: boolean;
}

/**
 * Divisors of YaRN. Pairs that rotate often stay, pairs that rotate seldom are divided by `factor`, and between the
 * two the frequency is interpolated.
 *
 * @returns fresh, [rotaryDim / 2]
 */
export function yarnDivisors(scaling: YarnScaling, rotaryDim: number, ropeTheta: number): Float32Array {
  const { factor, betaFast, betaSlow, originalMaxPositionEmbeddings: context, truncate } = scaling;
  // The pair that rotates so often within the original context.
  const pairOf = (rotations: number) =>
    (rotaryDim * Math.log(context / (rotations * 2 * Math.PI))) / (2 * Math.log(ropeTheta));
  const low = Math.max(truncate ? Math.floor(pairOf(betaFast)) : pairOf(betaFast), 0);
  const high = Math.min(truncate ? Math.ceil(pairOf(betaSlow)) : pairOf(betaSlow), rotaryDim - 1);
  const width = high === low ? 0.001 : high - low;
  return Float32Array.from({ length: rotaryDim / 2 }, (_, i) => {
    const divided = Math.min(Math.max((i - low) / width, 0), 1);
    return 1 / (divided / factor + 1 - divided);
  });
}

/** The factor of YaRN for rotated channels, from a scale and the weight of its logarithm. */
export function yarnMagnitude(factor: number, weight = 1): number {
  return factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1;
}

/** The sizes of a model that {@link ropeScaling} needs. */
export interface RopeSizes {
  readonly rotaryDim: number;
  readonly ropeTheta: number;
  /** Absent: scaling itself must say. */
  readonly maxPositionEmbeddings?: number;
  /** `original_max_position_embeddings` beside the entry: Phi-3. */
  readonly original?: number;
}

/** Values of the config that follow from scaling. */
export type ScaledRope = Partial<
  Pick<ModelConfig, 'ropeFrequencyDivisors' | 'ropeMagnitude' | 'maxPositionEmbeddings' | 'contextLimit'>
>;

/**
 * The context of a model that computes something else beyond `context` tokens.
 *
 * @param stated longest sequence by the file
 * @param change what is different beyond
 */
export function limitedContext(
  context: number,
  stated: number | undefined,
  change: string,
): Pick<ScaledRope, 'maxPositionEmbeddings' | 'contextLimit'> {
  if (stated === undefined || stated <= context) return { maxPositionEmbeddings: stated ?? context };
  const contextLimit = `of ${stated}; beyond, ${change}`;
  return { maxPositionEmbeddings: context, contextLimit };
}

/**
 * For {@link limitedContext}. All that was computed with the short factors is wrong then, stored layer inputs included:
 * transformers runs the whole sequence again at this point.
 */
export const LONGROPE_CHANGE = 'LongRoPE has other factors, for the tokens before as well';

/**
 * Reads `rope_scaling` (or `rope_parameters`, its newer name).
 *
 * Dynamic scaling changes nothing within `max_position_embeddings`, where the context ends. LongRoPE has other factors
 * beyond the original context, so the context ends there.
 *
 * @param scaling the entry of config.json; absent means none
 * @throws {FormatError} if a number is missing
 * @throws {UnsupportedModelError} names a kind of scaling that is not supported
 */
export function ropeScaling(scaling: JsonReader | undefined, sizes: RopeSizes): ScaledRope {
  if (!scaling) return {};
  const { rotaryDim, ropeTheta, maxPositionEmbeddings } = sizes;
  const ratio = (context: number) => maxPositionEmbeddings && maxPositionEmbeddings / context;
  const type = scaling.json.rope_type ?? scaling.json.type ?? 'default';
  const original = () =>
    sizes.original ?? scaling.positive('original_max_position_embeddings', maxPositionEmbeddings);
  switch (type) {
    case 'default':
    case 'dynamic':
      return {};
    case 'linear':
      return { ropeFrequencyDivisors: new Float32Array(rotaryDim / 2).fill(scaling.positive('factor')) };
    case 'llama3': {
      const parameters: Llama3Scaling = {
        factor: scaling.positive('factor'),
        lowFreqFactor: scaling.positive('low_freq_factor'),
        highFreqFactor: scaling.positive('high_freq_factor'),
        originalMaxPositionEmbeddings: original(),
      };
      return { ropeFrequencyDivisors: llama3Divisors(parameters, rotaryDim, ropeTheta) };
    }
    case 'yarn': {
      const context = original();
      const factor = scaling.positive('factor', ratio(context));
      const parameters: YarnScaling = {
        factor,
        betaFast: scaling.number('beta_fast', 0) || 32,
        betaSlow: scaling.number('beta_slow', 0) || 1,
        originalMaxPositionEmbeddings: context,
        truncate: scaling.flag('truncate', true),
      };
      const [mscale, all] = [scaling.number('mscale', 0), scaling.number('mscale_all_dim', 0)];
      const magnitude =
        mscale && all ? yarnMagnitude(factor, mscale) / yarnMagnitude(factor, all) : yarnMagnitude(factor);
      return {
        ropeFrequencyDivisors: yarnDivisors(parameters, rotaryDim, ropeTheta),
        ropeMagnitude: scaling.positive('attention_factor', magnitude),
      };
    }
    case 'longrope':
    case 'su': {
      const context = original();
      const factor = scaling.positive('factor', ratio(context));
      const short = scaling.list<number>('short_factor', rotaryDim / 2, 'number');
      if (!short) return scaling.missing('short_factor');
      const magnitude = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(context));
      return {
        ropeFrequencyDivisors: Float32Array.from(short),
        ropeMagnitude: scaling.positive('attention_factor', magnitude),
        ...limitedContext(context, maxPositionEmbeddings, LONGROPE_CHANGE),
      };
    }
    default:
      return scaling.refuse(
        `rope scaling ${describeValue(type)}`,
        'default, linear, dynamic, llama3, yarn, longrope',
      );
  }
}
