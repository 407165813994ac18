/**
 * What the paper prints: perplexities on WikiText-2 and C4 and sizes of XQuant Table 1 and Table 4, and Table B.2, to
 * are beside ours. Windows of 2048 tokens; its models are 7 to 13 billion parameters large.
 *
 * @module
 */

import type { CacheModelShape } from '../cache/options.js';
import { isMultiHead } from './plans.js';

/** Perplexities of one model. */
export interface PublishedPerplexity {
  readonly wikitext2: number;
  readonly c4: number;
}

/** One row of the paper: a cache on two models. */
export interface PublishedRow {
  /** Against f16 keys and values. */
  readonly size: number;
  /** In the order of {@link PublishedTable.models}. */
  readonly perplexities: readonly [PublishedPerplexity, PublishedPerplexity];
}

/** The models of one kind of attention. */
export interface PublishedTable {
  readonly models: readonly [string, string];
  /** With f16 keys and values. */
  readonly baselines: readonly [PublishedPerplexity, PublishedPerplexity];
  /** By cache argument. */
  readonly rows: Readonly<Record<string, PublishedRow>>;
}

const row = (size: number, w1: number, c1: number, w2: number, c2: number): PublishedRow => ({
  size,
  perplexities: [
    { wikitext2: w1, c4: c1 },
    { wikitext2: w2, c4: c2 },
  ],
});

/** Multi-head attention. */
const PUBLISHED_MHA: PublishedTable = {
  models: ['Llama-2-7B', 'Llama-2-13B'],
  baselines: row(1, 5.47, 7.26, 4.88, 6.73).perplexities,
  rows: {
    'kivi:4': row(0.27, 5.49, 7.3, 4.9, 6.75),
    'kivi:3': row(0.2, 5.58, 7.4, 4.97, 6.83),
    'kivi:2': row(0.14, 6.42, 8.46, 5.61, 7.67),
    'kvquant:4': row(0.27, 5.49, 7.28, 4.9, 6.75),
    'kvquant:3': row(0.21, 5.56, 7.36, 4.96, 6.81),
    'kvquant:2': row(0.15, 5.99, 7.83, 5.34, 7.23),
    'xquant:8@paper': row(0.26, 5.47, 7.26, 4.88, 6.73),
    'xquant:4@paper': row(0.13, 5.54, 7.36, 4.94, 6.79),
    'xquant:3@paper': row(0.1, 6.65, 8.65, 5.22, 7.07),
    'kivi:3?firstLayers=3': row(0.21, 5.57, 7.39, 4.96, 6.82),
    'kivi:2?firstLayers=3': row(0.15, 6.2, 8.22, 5.46, 7.49),
    'xquant:3@paper?firstLayers=3': row(0.1, 6.1, 8.2, 5.1, 6.95),
    'xquant:2@paper?firstLayers=3': row(0.08, 11.21, 15.27, 7.0, 10.25),
    'xquant-cl:4@paper': row(0.13, 5.48, 7.27, 4.89, 6.74),
    'xquant-cl:3@paper': row(0.1, 5.48, 7.28, 4.92, 6.78),
    'xquant-cl:2@paper': row(0.08, 5.57, 7.39, 5.11, 7.09),
  },
};

/** Grouped-query attention, g = 4. */
const PUBLISHED_GQA: PublishedTable = {
  models: ['Llama-3.1-8B', 'Mistral-7B'],
  baselines: row(1, 6.24, 9.54, 5.32, 8.47).perplexities,
  rows: {
    'kivi:4': row(0.27, 6.31, 9.66, 5.34, 8.51),
    'kivi:3': row(0.2, 6.59, 10.13, 5.43, 8.62),
    'kivi:2': row(0.14, 9.95, 15.98, 6.36, 9.88),
    'kvquant:4': row(0.27, 6.3, 9.63, 5.34, 8.5),
    'kvquant:3': row(0.21, 6.48, 9.9, 5.41, 8.58),
    'kvquant:2': row(0.15, 7.45, 11.49, 5.87, 9.1),
    'xquant:4@paper': row(0.27, 6.28, 9.6, 5.33, 8.49),
    'xquant:3@paper': row(0.2, 6.43, 9.89, 5.39, 8.57),
    'xquant:2@paper': row(0.14, 7.74, 12.27, 5.79, 9.13),
    'xquant:2@paper?outlier=f16': row(0.14, 7.63, 12.05, 5.75, 9.08),
    'kivi:3?firstLayers=3': row(0.21, 6.55, 10.05, 5.41, 8.61),
    'kivi:2?firstLayers=3': row(0.15, 8.72, 13.54, 6.14, 9.59),
    'xquant:3@paper?firstLayers=3': row(0.21, 6.43, 9.87, 5.37, 8.57),
    'xquant:2@paper?firstLayers=3': row(0.15, 7.38, 11.54, 5.69, 9.01),
    'xquant-cl:4@paper': row(0.27, 6.29, 9.61, 5.32, 8.49),
    'xquant-cl:3@paper': row(0.21, 6.32, 9.67, 5.34, 8.51),
    'xquant-cl:2@paper': row(0.15, 6.6, 10.15, 5.46, 8.67),
  },
};

/** Table B.2: how often the outlier channel of the keys is among the k largest entries of the first row of Bk^T. */
export const PUBLISHED_OUTLIER_PREDICTION = {
  model: 'Llama-3.1-8B, WikiText-2',
  /** Fraction by k. */
  layers: { 1: 0.66, 2: 0.72, 4: 0.88, 8: 1 } as Readonly<Record<number, number>>,
};

/** The paper's models with the same kind of attention. */
export function publishedFor(shape: CacheModelShape): PublishedTable {
  return isMultiHead(shape) ? PUBLISHED_MHA : PUBLISHED_GQA;
}
