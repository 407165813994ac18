/**
 * The cache that is used unless another one is asked for: `auto`.
 *
 * The rule follows from what was measured (docs/results.md). With multi-head attention differences from layer to layer
 * lose 0.6 % of perplexity at 2 bits. With grouped-query attention the cache is small to begin with, the same 2 bits cost
 * up to 20 % on a real model, and 4 bits of layer inputs cost 0.5 to 2.6 %.
 *
 * @module
 */

import type { CacheModelShape } from './options.js';

/** The name of the choice by the model. */
export const AUTO_CACHE = 'auto';

/** A choice, and why. */
export interface ChosenCache {
  /** A cache argument. */
  readonly cache: string;
  /** For people, in half a sentence. */
  readonly reason: string;
}

/** The cache for a model. */
export function chooseCache({ numAttentionHeads, numKeyValueHeads }: CacheModelShape): ChosenCache {
  if (numAttentionHeads === numKeyValueHeads) {
    return {
      cache: 'xquant-cl:2@tuned',
      reason: 'multi-head attention, where 2 bits of differences between layers lose little',
    };
  }
  return {
    cache: 'xquant:4@tuned',
    reason: `grouped-query attention (${numAttentionHeads} query heads, ${numKeyValueHeads} KV heads), where fewer than 4 bits lose much`,
  };
}
