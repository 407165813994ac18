/**
 * The check at the door of every forward pass, the same for all backends.
 *
 * @module
 */

import type { ModelCache } from '../cache/types.js';
import { CacheStateError, ConfigError } from '../errors.js';
import type { ModelConfig } from './config.js';

/**
 * Requires tokens that the model can take after what the cache holds.
 *
 * @param tokens ids
 * @throws {RangeError} if there are none, or an id is not in the vocabulary
 * @throws {CacheStateError} if the sequence would be longer than the context
 */
export function assertTokens(tokens: ArrayLike<number>, cache: ModelCache, config: ModelConfig): void {
  if (tokens.length === 0) throw new RangeError('"tokens" must hold at least one token, got none');
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i];
    if (!Number.isInteger(token) || token < 0 || token >= config.vocabSize) {
      throw new RangeError(`"tokens[${i}]" must be an id from 0 to ${config.vocabSize - 1}, got ${token}`);
    }
  }
  const total = cache.length + tokens.length;
  if (total > config.maxPositionEmbeddings) {
    const reason = `the context of the model is ${config.maxPositionEmbeddings} tokens`;
    throw new CacheStateError(cache.options.variant, cache.length, `add ${tokens.length} tokens`, reason);
  }
}

/**
 * Requires sequences that can go through the model in one pass.
 *
 * @param tokens ids of each sequence
 * @throws {RangeError} if there is not one list for each cache
 * @throws {ConfigError} if a cache is there twice, or two have other options
 */
export function assertBatch(tokens: readonly ArrayLike<number>[], caches: readonly ModelCache[]): void {
  if (tokens.length === 0 || tokens.length !== caches.length) {
    throw new RangeError(
      `"tokens" must hold one list for each of ${caches.length} caches, at least one, got ${tokens.length}`,
    );
  }
  const distinct = new Set(caches).size === caches.length;
  const kinds = new Set(caches.map(({ options }) => JSON.stringify(options)));
  if (!distinct || kinds.size > 1) {
    throw new ConfigError('caches', `${caches.length} caches`, 'different caches with the same options');
  }
}
