/**
 * What a cache of the plan takes in all, by formula: the cache, what layers hand on, and what belongs to the model.
 *
 * @module
 */

import { float16KeyValueBytes } from '../analysis/memory.js';
import { cacheTotals, type MemoryTotals, memoryTotals } from '../memory-totals.js';
import type { ModelConfig } from '../model/config.js';
import { isRotatedCache, rotatedBytes } from './rotated-caches.js';

/** Totals of one sequence that fills the context of the model. */
export interface ContextTotals extends MemoryTotals {
  readonly tokens: number;
}

/**
 * The totals at the longest context of a model.
 *
 * @param cache an argument of the plan
 * @throws {ConfigError | RangeError} if the model cannot have it
 */
export function contextTotals(cache: string, config: ModelConfig): ContextTotals {
  const tokens = config.maxPositionEmbeddings;
  if (!isRotatedCache(cache)) return { tokens, ...cacheTotals(cache, config, tokens) };
  const bytes = rotatedBytes(cache, config, tokens);
  return { tokens, ...memoryTotals(bytes, 0, float16KeyValueBytes(config, tokens)) };
}
