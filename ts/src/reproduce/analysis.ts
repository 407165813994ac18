/**
 * Measurements on one window that are no losses: what the tensors look like, and what caches do to keys and values.
 * Small enough to be kept in a result file: channels are binned, numbers rounded.
 *
 * @module
 */

import {
  type LayerStep,
  measureCacheErrors,
  measureDistributions,
  type OutlierPrediction,
  type ProfiledTensor,
  predictOutlierChannel,
  type SteppedTensor,
  type TensorSample,
} from '../analysis/distributions.js';
import { project } from '../cache/fold.js';
import type { FactorSource, KeyValueProjection } from '../cache/projection.js';
import { XQuantError } from '../errors.js';
import type { LanguageModel } from '../model/language-model.js';
import type { SkippedCache } from './runner.js';

/** Tokens that are looked at. */
const ANALYSIS_TOKENS = 512;

/** Bins of channels in {@link CacheErrors}, at most. */
const CHANNEL_BINS = 64;

/** Caches whose errors in keys and values are measured. */
const ERROR_CACHES: readonly string[] = [
  'kivi:2',
  'xquant:2@paper',
  'xquant-cl:2@paper',
  'xquant-cl:2@tuned',
];

/** What one window shows. */
export interface ModelAnalysis {
  readonly tokens: number;
  /** From layer to layer. */
  readonly steps: Readonly<Record<SteppedTensor, readonly LayerStep[]>>;
  /** Magnitudes of two neighbouring layers in the middle. */
  readonly samples: readonly TensorSample[];
  /** Magnitudes by channel in the first of those layers. */
  readonly profiles: {
    readonly layer: number;
    readonly tensors: Readonly<Record<ProfiledTensor, ChannelMagnitudes>>;
  };
  /** XQuant Table B.2. */
  readonly outlierPrediction: readonly OutlierPrediction[];
  readonly errors: readonly CacheErrors[];
  readonly skipped: readonly SkippedCache[];
}

/** Magnitudes of every channel. */
export interface ChannelMagnitudes {
  /** Mean of |value|. [channels] */
  readonly mean: readonly number[];
  /** Largest |value|. [channels] */
  readonly max: readonly number[];
}

/** Relative errors of keys and values under one cache. */
export interface CacheErrors {
  readonly cache: string;
  readonly layers: readonly {
    readonly layer: number;
    /** Root mean square of the error over that of the exact tensor. */
    readonly keys: number;
    readonly values: number;
    /** The largest of the channels of each bin. */
    readonly keyChannels: readonly number[];
    readonly valueChannels: readonly number[];
  }[];
}

/** A model whose weights can be looked at. */
export type AnalyzedModel = LanguageModel & {
  readonly factors: FactorSource;
  readonly projections: readonly KeyValueProjection[];
};

/**
 * Looks at a model while it reads.
 *
 * @param ids of the first window; at most 512 are used, in whole blocks of 128 where there are that many
 * @param onProgress told passes done, and in all
 */
export async function analyzeModel(
  model: AnalyzedModel,
  ids: readonly number[],
  signal?: AbortSignal,
  onProgress?: (done: number, total: number) => void,
): Promise<ModelAnalysis> {
  const tokens = ids.slice(0, ANALYSIS_TOKENS);
  const { distributions, samples } = await measureDistributions(model, tokens, model.factors, {
    sampleSize: 48,
    signal,
  });
  onProgress?.(1, 1 + ERROR_CACHES.length);
  const { projections } = model;
  const exact = (layer: number, x: Parameters<typeof project>[0]) =>
    project(x, x, projections[layer], projections[layer]);
  const errors: CacheErrors[] = [];
  const skipped: SkippedCache[] = [];
  for (const [index, cache] of ERROR_CACHES.entries()) {
    try {
      const layers = await measureCacheErrors(model, tokens, cache, exact, signal);
      errors.push({
        cache,
        layers: layers.map(({ layer, keys, values, keyChannels, valueChannels }) => ({
          layer,
          keys: rounded(keys),
          values: rounded(values),
          keyChannels: binned(keyChannels),
          valueChannels: binned(valueChannels),
        })),
      });
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof XQuantError)) throw error;
      skipped.push({ cache, reason: error.message });
    }
    onProgress?.(2 + index, 1 + ERROR_CACHES.length);
  }
  const { layer } = samples[0];
  const { profiles } = distributions.layers[layer];
  const magnitudes = ({ meanAbs, maxAbs }: (typeof profiles)[ProfiledTensor]): ChannelMagnitudes => ({
    mean: meanAbs.map(rounded),
    max: maxAbs.map(rounded),
  });
  const tensors = Object.fromEntries(
    Object.entries(profiles).map(([name, profile]) => [name, magnitudes(profile)]),
  ) as Record<ProfiledTensor, ChannelMagnitudes>;
  const keyProfiles = distributions.layers.map((each) => each.profiles.keys);
  return {
    tokens: tokens.length,
    steps: distributions.steps,
    samples: samples.map((sample) => ({
      ...sample,
      magnitudes: sample.magnitudes.map((row) => row.map(rounded)),
    })),
    profiles: { layer, tensors },
    outlierPrediction: predictOutlierChannel(model.factors, keyProfiles),
    errors,
    skipped,
  };
}

/** The largest of each run of channels. */
function binned(channels: readonly number[]): number[] {
  const count = Math.min(CHANNEL_BINS, channels.length);
  return Array.from({ length: count }, (_, bin) => {
    const from = Math.floor((bin * channels.length) / count);
    const to = Math.floor(((bin + 1) * channels.length) / count);
    return rounded(Math.max(...channels.slice(from, to)));
  });
}

function rounded(value: number): number {
  return Number(value.toPrecision(4));
}
