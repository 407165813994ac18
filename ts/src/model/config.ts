/**
 * The shape of a Llama-family model, under the names of Hugging Face's config.json in camelCase.
 *
 * @module
 */

import { assertPositiveInteger, ConfigError } from '../errors.js';

/** Architectures that the forward pass covers. They differ in biases, QK-norm and RoPE layout only. */
export const ARCHITECTURES = ['llama', 'mistral', 'qwen2', 'qwen3'] as const;

/** One of {@link ARCHITECTURES}. */
export type Architecture = (typeof ARCHITECTURES)[number];

/** Which channels of a head RoPE rotates together: i and i + headDim/2, or 2i and 2i + 1. */
export type RopeLayout = 'half' | 'interleaved';

/** Everything the forward pass needs to know besides the weights. */
export interface ModelConfig {
  readonly architecture: Architecture;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  /** Longest sequence, in tokens. */
  readonly maxPositionEmbeddings: number;
  readonly rmsNormEps: number;
  readonly ropeTheta: number;
  readonly ropeLayout: RopeLayout;
  /**
   * Divisors of the RoPE frequencies, one per rotated pair (llama3 scaling); absent means all ones.
   * [headDim / 2]
   */
  readonly ropeFrequencyDivisors?: Float32Array;
  /** Whether the output projection is the embedding matrix. */
  readonly tieWordEmbeddings: boolean;
}

/** Sizes that follow from a config. */
export interface DerivedSizes {
  /** Width of all query heads. */
  readonly queryDim: number;
  /** Width of K or V for one token: numKeyValueHeads * headDim. */
  readonly kvDim: number;
  /** Query heads that share one KV head; the paper's g. */
  readonly groupedHeads: number;
}

/** Computes the sizes that follow from a config. */
export function derivedSizes(config: ModelConfig): DerivedSizes {
  return {
    queryDim: config.numAttentionHeads * config.headDim,
    kvDim: config.numKeyValueHeads * config.headDim,
    groupedHeads: config.numAttentionHeads / config.numKeyValueHeads,
  };
}

/**
 * Requires a config that the forward pass can run.
 *
 * @throws {ConfigError | RangeError | TypeError} names the field
 */
export function assertModelConfig(config: ModelConfig): void {
  const sizes = [
    'hiddenSize',
    'intermediateSize',
    'numHiddenLayers',
    'numAttentionHeads',
    'numKeyValueHeads',
    'headDim',
    'vocabSize',
    'maxPositionEmbeddings',
  ] as const;
  for (const name of sizes) assertPositiveInteger(config[name], name);
  for (const name of ['rmsNormEps', 'ropeTheta'] as const) {
    if (!(config[name] > 0 && Number.isFinite(config[name]))) {
      throw new ConfigError(name, config[name], 'a positive number');
    }
  }
  if (config.numAttentionHeads % config.numKeyValueHeads !== 0) {
    const allowed = `a divisor of numAttentionHeads (${config.numAttentionHeads})`;
    throw new ConfigError('numKeyValueHeads', config.numKeyValueHeads, allowed);
  }
  if (config.headDim % 2 !== 0)
    throw new ConfigError('headDim', config.headDim, 'even, since RoPE rotates pairs');
  if (config.hiddenSize % 32 !== 0)
    throw new ConfigError('hiddenSize', config.hiddenSize, 'a multiple of 32');
  const { kvDim } = derivedSizes(config);
  if (kvDim % 32 !== 0) throw new ConfigError('numKeyValueHeads * headDim', kvDim, 'a multiple of 32');
  const divisors = config.ropeFrequencyDivisors;
  if (divisors && (divisors.length !== config.headDim / 2 || divisors.some((value) => !(value > 0)))) {
    throw new ConfigError('ropeFrequencyDivisors', divisors.length, `${config.headDim / 2} positive numbers`);
  }
}
