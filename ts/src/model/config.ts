/**
 * The shape of a decoder-only transformer, under the names of Hugging Face's config.json in camelCase.
 *
 * A family is a set of values: what is absent is as in Llama. io/families/ says which values a family has; nothing
 * else knows a family's name.
 *
 * @module
 */

import { assertPositiveInteger, ConfigError } from '../errors.js';

/** Which channels of a head RoPE rotates together: i and i + headDim/2, or 2i and 2i + 1. */
export type RopeLayout = 'half' | 'interleaved';

/** Rotary position embedding, as far as it can differ from layer to layer. */
export interface RopeConfig {
  readonly ropeTheta: number;
  /**
   * Divisors of the frequencies, one per rotated pair (llama3, YaRN, LongRoPE, linear); absent means all ones.
   * [rotaryDim / 2]
   */
  readonly ropeFrequencyDivisors?: Float32Array;
  /** Additional factor of rotated channels (YaRN, LongRoPE). Default 1. */
  readonly ropeMagnitude?: number;
}

/** How the attention of one layer differs from full causal attention with the model's RoPE. */
export interface LayerConfig {
  /** Tokens that a query sees, its own included; absent means all. */
  readonly slidingWindow?: number;
  /** RoPE of this layer, or `'none'` (NoPE); absent means that of the model. */
  readonly rope?: RopeConfig | 'none';
}

/** Everything the forward pass needs to know besides the weights. */
export interface ModelConfig extends RopeConfig {
  /** Name of the family, for people. Nothing is computed from it. */
  readonly architecture: string;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  /** Longest sequence, in tokens. */
  readonly maxPositionEmbeddings: number;
  /** Why that is less than the file states, for people. */
  readonly contextLimit?: string;
  readonly rmsNormEps: number;
  readonly ropeLayout: RopeLayout;
  /**
   * Channels of a head that RoPE rotates. Default headDim. With fewer, weights are loaded with the channels of a head
   * in such an order that the rotated pairs are the first rotaryDim/2 of i and i + headDim/2.
   */
  readonly rotaryDim?: number;
  /** Whether the output projection is the embedding matrix. */
  readonly tieWordEmbeddings: boolean;
  /** Biases of the projections to queries, keys and values. Default false. */
  readonly qkvBias?: boolean;
  /** Bias of the projection of attention back to the stream. Default false. */
  readonly outputBias?: boolean;
  /** Biases of the three projections of the MLP. Default false. */
  readonly mlpBias?: boolean;
  /**
   * RMSNorm of queries and keys: of each head before RoPE (Qwen3), of all heads together before RoPE (OLMo 2), or of each
   * head after RoPE (Hunyuan; qk-norm.ts). Default none.
   */
  readonly qkNorm?: 'head' | 'width' | 'headAfterRope';
  /**
   * Places of the norms: before attention and MLP (Llama), after them (OLMo 2), or both (Gemma 3). Without a norm
   * before attention the X of the paper is the stream itself. Default before.
   */
  readonly norms?: 'before' | 'after' | 'both';
  /** Activation of the MLP's gate. Default silu. */
  readonly activation?: 'silu' | 'gelu_tanh';
  /** Multiplies embeddings. Default 1. */
  readonly embeddingScale?: number;
  /** Multiplies what attention and MLP add to the stream. Default 1. */
  readonly residualScale?: number;
  /** Multiplies scores before the softmax. Default 1 / sqrt(headDim). */
  readonly attentionScale?: number;
  /** Multiplies logits. Default 1. */
  readonly logitScale?: number;
  /** Differences between layers; absent means that all are alike. [numHiddenLayers] */
  readonly layers?: readonly LayerConfig[];
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

/** The longest sequence and, where the file states more, why. */
export function describeContext({ maxPositionEmbeddings, contextLimit }: ModelConfig): string {
  return `${maxPositionEmbeddings} tokens${contextLimit ? ` (${contextLimit})` : ''}`;
}

/** Whether attention has a norm before it, so that X is not the stream itself. */
export function hasInputNorms({ norms }: Pick<ModelConfig, 'norms'>): boolean {
  return norms !== 'after';
}

/** Whether attention and MLP have norms after them. */
export function hasPostNorms({ norms }: Pick<ModelConfig, 'norms'>): boolean {
  return norms === 'after' || norms === 'both';
}

/** Tokens that a query of a layer sees, its own included. */
export function slidingWindow(config: Pick<ModelConfig, 'layers'>, layer: number): number {
  return config.layers?.[layer].slidingWindow ?? Number.POSITIVE_INFINITY;
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
  assertFactors(config);
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
  const { rotaryDim = config.headDim, layers } = config;
  if (!(rotaryDim >= 2 && rotaryDim <= config.headDim && rotaryDim % 2 === 0)) {
    throw new ConfigError('rotaryDim', rotaryDim, `an even number from 2 to headDim (${config.headDim})`);
  }
  assertRope(config, rotaryDim);
  assertQkNorm(config);
  if (!layers) return;
  if (layers.length !== config.numHiddenLayers) {
    throw new ConfigError('layers', layers.length, `one for each of ${config.numHiddenLayers} layers`);
  }
  for (const { rope, slidingWindow } of layers) {
    if (rope && rope !== 'none') assertRope(rope, rotaryDim);
    if (slidingWindow !== undefined) assertPositiveInteger(slidingWindow, 'slidingWindow');
  }
}

function assertFactors(config: ModelConfig): void {
  const factors = ['embeddingScale', 'residualScale', 'attentionScale', 'logitScale'] as const;
  for (const name of ['rmsNormEps', ...factors] as const) {
    const value = config[name] ?? 1;
    if (!(value > 0 && Number.isFinite(value))) throw new ConfigError(name, value, 'a positive number');
  }
}

/** QK-norm after RoPE takes the magnitude out again, and is computed as if there had been none. */
function assertQkNorm({ qkNorm, ropeMagnitude = 1, layers = [] }: ModelConfig): void {
  if (qkNorm !== 'headAfterRope') return;
  const magnitudes = layers.map(({ rope }) => (rope && rope !== 'none' && rope.ropeMagnitude) || 1);
  const other = [ropeMagnitude, ...magnitudes].find((magnitude) => magnitude !== 1);
  if (other !== undefined) throw new ConfigError('ropeMagnitude', other, '1, with a norm after RoPE');
}

function assertRope({ ropeTheta, ropeMagnitude = 1, ropeFrequencyDivisors }: RopeConfig, rotaryDim: number) {
  for (const [name, value] of Object.entries({ ropeTheta, ropeMagnitude })) {
    if (!(value > 0 && Number.isFinite(value))) throw new ConfigError(name, value, 'a positive number');
  }
  const pairs = rotaryDim / 2;
  const divisors = ropeFrequencyDivisors;
  if (divisors && (divisors.length !== pairs || divisors.some((value) => !(value > 0)))) {
    throw new ConfigError('ropeFrequencyDivisors', divisors.length, `${pairs} positive numbers`);
  }
}
