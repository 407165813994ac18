/**
 * The distributions of a model's tensors, and why X is easier to quantize than keys and values: the measurements
 * behind Figure 3 of the paper, its figures of latents (XQuant App. B) and its argument about neighbouring layers
 * (XQuant §3.2).
 *
 * Everything is read through the one hook that every backend has (`onTensor`); the forward pass is not repeated here.
 *
 * @module
 */

import type { FactorSource } from '../cache/projection.js';
import type { LanguageModel, TappedTensor } from '../model/language-model.js';
import { linearTiled } from '../numerics/linear-tiled.js';
import { type Matrix, matrix, row } from '../numerics/matrix.js';
import { logSumExp } from '../sampling.js';

/** Magnitudes of the channels of one tensor. */
export interface ChannelProfile {
  /** Mean of |value| by channel. [channels] */
  readonly meanAbs: readonly number[];
  /** Largest |value| by channel. [channels] */
  readonly maxAbs: readonly number[];
}

/** How a tensor changes from one layer to the next. */
export interface LayerStep {
  readonly layer: number;
  /** Mean over tokens of the cosine similarity to the layer before. */
  readonly cosine: number;
  /** Mean over tokens of (max - min) of the difference to the layer before. */
  readonly differenceRange: number;
  /** Mean over tokens of (max - min) of the tensor itself. */
  readonly range: number;
}

/** The measurements of one pass. */
export interface Distributions {
  /** Tokens that were looked at. */
  readonly tokens: number;
  readonly layers: readonly LayerDistributions[];
  /** By tensor, from layer 1 on. */
  readonly steps: Readonly<Record<SteppedTensor, readonly LayerStep[]>>;
}

/** Tensors that are compared from layer to layer. */
export type SteppedTensor = 'stream' | 'normalized' | 'x' | 'keys' | 'values';

const STEPPED: readonly SteppedTensor[] = ['stream', 'normalized', 'x', 'keys', 'values'];

/** One layer. */
export interface LayerDistributions {
  readonly layer: number;
  /** By tensor: X, keys before RoPE, values, and X on the singular vectors of Wk and Wv. */
  readonly profiles: Readonly<Record<ProfiledTensor, ChannelProfile>>;
}

/** Tensors whose channels are described. */
export type ProfiledTensor = 'x' | 'keys' | 'values' | 'keyLatent' | 'valueLatent';

/** A view of a matrix small enough to draw: every `tokenStep`th token, every `channelStep`th channel. */
export interface TensorSample {
  readonly layer: number;
  readonly tensor: string;
  readonly tokens: readonly number[];
  readonly channels: readonly number[];
  /** |value|. [tokens][channels] */
  readonly magnitudes: readonly (readonly number[])[];
}

/** Options of {@link measureDistributions}. */
export interface DistributionOptions {
  /** Layers of which samples are kept. Default: two neighbours in the middle. */
  readonly sampleLayers?: readonly number[];
  /** Tokens and channels of a sample, at most. Default 64. */
  readonly sampleSize?: number;
  readonly signal?: AbortSignal;
}

/**
 * Runs tokens through a model once, with the f16 cache, and describes what passes by.
 *
 * @param tokens ids, at least one
 * @param factors of the model, for the latents
 * @see XQuant App. B
 */
export async function measureDistributions(
  model: LanguageModel,
  tokens: readonly number[],
  factors: FactorSource,
  options: DistributionOptions = {},
): Promise<{ distributions: Distributions; samples: TensorSample[] }> {
  const { numHiddenLayers } = model.config;
  const middle = Math.max(0, Math.floor(numHiddenLayers / 2) - 1);
  const wanted = options.sampleLayers ?? [middle, Math.min(middle + 1, numHiddenLayers - 1)];
  const { sampleSize = 64, signal } = options;
  const layers: LayerDistributions[] = [];
  const samples: TensorSample[] = [];
  const steps = Object.fromEntries(STEPPED.map((name) => [name, []])) as unknown as Record<
    SteppedTensor,
    LayerStep[]
  >;
  const before = new Map<string, Matrix>();
  let profiles: Partial<Record<ProfiledTensor, ChannelProfile>> = {};

  const look = (layer: number, tensor: TappedTensor | ProfiledTensor, value: Matrix) => {
    if (isProfiled(tensor)) profiles[tensor] = profileChannels(value);
    if (isProfiled(tensor) && wanted.includes(layer))
      samples.push(sampleTensor(layer, tensor, value, sampleSize));
    if (!isStepped(tensor)) return;
    const previous = before.get(tensor);
    if (previous) steps[tensor].push(compareLayers(layer, previous, value));
    before.set(tensor, copy(value));
  };
  const cache = model.createCache('kv');
  await model.forward(tokens, cache, {
    mode: 'teacherForced',
    signal,
    onTensor({ layer, tensor, value }) {
      look(layer, tensor, value);
      if (tensor === 'x') {
        look(layer, 'keyLatent', linearTiled(value, factors.factors(layer, 'key').downProjection));
        look(layer, 'valueLatent', linearTiled(value, factors.factors(layer, 'value').downProjection));
      }
      if (tensor === 'values') {
        layers.push({ layer, profiles: profiles as Record<ProfiledTensor, ChannelProfile> });
        profiles = {};
      }
    },
  });
  return { distributions: { tokens: tokens.length, layers, steps }, samples };
}

/** How well the first row of B^T predicts where the outliers of the keys are. */
export interface OutlierPrediction {
  /** How many of the largest entries of the row are looked at. */
  readonly k: number;
  /** Fraction of layers in which the channel of the keys with the largest mean magnitude is among them. */
  readonly layers: number;
}

/**
 * Table B.2 of the paper: is the outlier channel of the keys among the k largest entries of the first row of
 * Bk^T? The row says how the strongest direction of X, where all outliers of X Uk gather, spreads over the keys.
 *
 * @param factors of the model
 * @param keyProfiles of the keys before RoPE, layer by layer
 * @see XQuant App. B
 */
export function predictOutlierChannel(
  factors: Pick<FactorSource, 'factors'>,
  keyProfiles: readonly ChannelProfile[],
  choices: readonly number[] = [1, 2, 4, 8],
): OutlierPrediction[] {
  const ranks = keyProfiles.map(({ meanAbs }, layer) => {
    const { upProjection } = factors.factors(layer, 'key');
    // Column 0 of (S B^T)^T is s0 times the first row of B^T.
    const entries = Array.from({ length: upProjection.rows }, (_, channel) =>
      Math.abs(upProjection.data[channel * upProjection.columns]),
    );
    const outlier = indexOfLargest(meanAbs);
    return entries.filter((entry) => entry > entries[outlier]).length;
  });
  return choices.map((k) => ({ k, layers: ranks.filter((rank) => rank < k).length / ranks.length }));
}

/** The error that a cache makes in keys and values, layer by layer. */
export interface LayerError {
  readonly layer: number;
  /** Root mean square of the error over the root mean square of the exact tensor. */
  readonly keys: number;
  readonly values: number;
  /** The same for each channel of the keys. [kvDim] */
  readonly keyChannels: readonly number[];
  /** The same for each channel of the values. [kvDim] */
  readonly valueChannels: readonly number[];
}

/**
 * Error of keys and values as a cache gives them back, against the exact ones of the *same* layer input: what the
 * layer's own cache does, without what the layers below have done to the input.
 *
 * @param tokens ids, whole blocks of the cache
 * @param project gives the exact keys (before RoPE) and values of a layer from its x
 */
export async function measureCacheErrors(
  model: LanguageModel,
  tokens: readonly number[],
  cacheText: string,
  project: (layer: number, x: Matrix) => { keys: Matrix; values: Matrix },
  signal?: AbortSignal,
): Promise<LayerError[]> {
  const errors: LayerError[] = [];
  let exact: { keys: Matrix; values: Matrix } | undefined;
  let keys: { whole: number; channels: number[] } | undefined;
  await model.forward(tokens, model.createCache(cacheText), {
    mode: 'teacherForced',
    signal,
    onTensor({ layer, tensor, value }) {
      if (tensor === 'x') exact = project(layer, value);
      if (!exact) return;
      if (tensor === 'keys') keys = relativeErrors(value, exact.keys);
      if (tensor === 'values' && keys) {
        const values = relativeErrors(value, exact.values);
        const { whole, channels } = keys;
        errors.push({
          layer,
          keys: whole,
          values: values.whole,
          keyChannels: channels,
          valueChannels: values.channels,
        });
      }
    },
  });
  return errors;
}

/** Mean and largest magnitude of every channel. */
export function profileChannels({ rows, columns, data }: Matrix): ChannelProfile {
  const sums = new Float64Array(columns);
  const largest = new Float64Array(columns);
  for (let i = 0; i < data.length; i++) {
    const magnitude = Math.abs(data[i]);
    sums[i % columns] += magnitude;
    if (magnitude > largest[i % columns]) largest[i % columns] = magnitude;
  }
  return { meanAbs: Array.from(sums, (sum) => sum / rows), maxAbs: Array.from(largest) };
}

/** Cosine similarity and range of the difference, averaged over tokens. */
export function compareLayers(layer: number, before: Matrix, after: Matrix): LayerStep {
  let [cosine, differenceRange, range] = [0, 0, 0];
  for (let t = 0; t < after.rows; t++) {
    const [a, b] = [row(before, t), row(after, t)];
    let [product, aa, bb] = [0, 0, 0];
    const [difference, itself] = [new Extent(), new Extent()];
    for (let c = 0; c < b.length; c++) {
      product += a[c] * b[c];
      aa += a[c] ** 2;
      bb += b[c] ** 2;
      difference.add(b[c] - a[c]);
      itself.add(b[c]);
    }
    cosine += product / Math.sqrt(Math.max(aa * bb, Number.MIN_VALUE));
    differenceRange += difference.size;
    range += itself.size;
  }
  const count = after.rows;
  return { layer, cosine: cosine / count, differenceRange: differenceRange / count, range: range / count };
}

/**
 * Loss of a pass, in nats a token.
 *
 * @param logits [tokens, vocabSize]
 * @param targets the id that follows each token; one less than tokens is enough
 */
export function meanLoss(logits: Matrix, targets: readonly number[]): number {
  let loss = 0;
  for (const [t, target] of targets.entries()) {
    const values = row(logits, t);
    loss += logSumExp(values) - values[target];
  }
  return loss / targets.length;
}

class Extent {
  #min = Number.POSITIVE_INFINITY;
  #max = Number.NEGATIVE_INFINITY;

  add(value: number): void {
    if (value < this.#min) this.#min = value;
    if (value > this.#max) this.#max = value;
  }

  get size(): number {
    return this.#max - this.#min;
  }
}

function sampleTensor(layer: number, tensor: string, value: Matrix, size: number): TensorSample {
  const spread = (count: number) => {
    const kept = Math.min(count, size);
    return Array.from({ length: kept }, (_, i) => Math.floor((i * count) / kept));
  };
  const [tokens, channels] = [spread(value.rows), spread(value.columns)];
  const magnitudes = tokens.map((t) => channels.map((c) => Math.abs(value.data[t * value.columns + c])));
  return { layer, tensor, tokens, channels, magnitudes };
}

function relativeErrors(approximate: Matrix, exact: Matrix): { whole: number; channels: number[] } {
  const { columns } = exact;
  const errors = new Float64Array(columns);
  const sizes = new Float64Array(columns);
  for (let i = 0; i < exact.data.length; i++) {
    errors[i % columns] += (approximate.data[i] - exact.data[i]) ** 2;
    sizes[i % columns] += exact.data[i] ** 2;
  }
  const total = (values: Float64Array) => values.reduce((sum, value) => sum + value, 0);
  return {
    whole: Math.sqrt(total(errors) / total(sizes)),
    channels: Array.from(errors, (error, c) => Math.sqrt(error / Math.max(sizes[c], Number.MIN_VALUE))),
  };
}

function isProfiled(tensor: string): tensor is ProfiledTensor {
  return ['x', 'keys', 'values', 'keyLatent', 'valueLatent'].includes(tensor);
}

function isStepped(tensor: string): tensor is SteppedTensor {
  return (STEPPED as readonly string[]).includes(tensor);
}

function copy({ rows, columns, data }: Matrix): Matrix {
  return matrix(rows, columns, data.slice());
}

function indexOfLargest(values: readonly number[]): number {
  return values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
}
