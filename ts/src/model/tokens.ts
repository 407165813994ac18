/**
 * The checks at the start of every forward pass, the same for all backends. Code after them trusts its input.
 *
 * @module
 */

import type { ModelCache } from '../cache/contract.js';
import { CacheStateError, ConfigError } from '../errors.js';
import { describeValue } from '../printable.js';
import { describeContext, type ModelConfig } from './config.js';
import { ATTENTION_MODES, type ForwardOptions } from './language-model.js';

/**
 * Requires a list of token ids and copies it, so that nobody can change it while the model works.
 *
 * @param tokens an array, or a typed array of numbers; an object with a `length` is none
 * @param vocabSize ids are smaller
 * @param name of the argument, for messages
 * @returns fresh
 * @throws {TypeError} if it is not a list
 * @throws {RangeError} if an element is not an id of the vocabulary
 */
export function tokenIds(tokens: unknown, vocabSize: number, name = 'tokens'): number[] {
  assertTokenList(tokens, name);
  const ids: number[] = new Array(tokens.length);
  for (let i = 0; i < ids.length; i++) {
    const token = tokens[i];
    if (!Number.isInteger(token) || token < 0 || token >= vocabSize) {
      const allowed = `an id from 0 to ${vocabSize - 1}`;
      throw new RangeError(`"${name}[${i}]" must be ${allowed}, got ${describeValue(token)}`);
    }
    ids[i] = token;
  }
  return ids;
}

/**
 * Requires an array or a typed array of numbers; its elements are not looked at.
 *
 * @throws {TypeError} if it is anything else
 */
export function assertTokenList(tokens: unknown, name = 'tokens'): asserts tokens is ArrayLike<number> {
  const typed = ArrayBuffer.isView(tokens) && !(tokens instanceof DataView);
  const big = tokens instanceof BigInt64Array || tokens instanceof BigUint64Array;
  if (Array.isArray(tokens) || (typed && !big)) return;
  throw new TypeError(`"${name}" must be an array of token ids, got ${describeValue(tokens)}`);
}

/**
 * Requires tokens that the model can take after what the cache holds.
 *
 * @returns the ids, fresh
 * @throws {TypeError} if `tokens` is not a list
 * @throws {RangeError} if there are none, or an id is not in the vocabulary
 * @throws {CacheStateError} if the sequence would be longer than the context
 */
export function assertTokens(tokens: unknown, cache: ModelCache, config: ModelConfig): number[] {
  assertTokenList(tokens);
  if (tokens.length === 0) throw new RangeError('"tokens" must hold at least one token, got none');
  assertRoom(tokens.length, cache, config); // before a list of any length is copied
  return tokenIds(tokens, config.vocabSize);
}

/**
 * Requires room in the context of the model.
 *
 * @param count tokens to add
 * @throws {CacheStateError} if the sequence would be longer than the context
 */
export function assertRoom(count: number, cache: ModelCache, config: ModelConfig): void {
  if (cache.length + count <= config.maxPositionEmbeddings) return;
  const reason = `the context of the model is ${describeContext(config)}`;
  throw new CacheStateError(cache.options.variant, cache.length, `add ${count} tokens`, reason);
}

/**
 * How many tokens a pass of mode `stepwise` can take without completing a block; one always can.
 *
 * @param cache as it is before the pass
 */
export function stepwiseRoom({ length, options }: ModelCache): number {
  const { residualWindow } = options;
  return Math.max(1, residualWindow - (length % residualWindow) - 1);
}

/**
 * Requires a pass that the mode allows.
 *
 * @param count tokens to add
 * @throws {CacheStateError} if several tokens of mode `stepwise` would complete a block
 */
export function assertMode(count: number, cache: ModelCache, { mode }: ForwardOptions): void {
  if (mode !== 'stepwise' || count <= stepwiseRoom(cache)) return;
  const reason = `in mode stepwise only a token alone may complete a block of ${cache.options.residualWindow}`;
  throw new CacheStateError(cache.options.variant, cache.length, `add ${count} tokens`, reason);
}

/**
 * Requires sequences that can go through the model in one pass.
 *
 * @param tokens ids of each sequence
 * @throws {TypeError} if one of both is not an array
 * @throws {RangeError} if there is not one list for each cache
 * @throws {ConfigError} if a cache is there twice, or two have other options
 */
export function assertBatch(tokens: readonly ArrayLike<number>[], caches: readonly ModelCache[]): void {
  for (const [name, list] of Object.entries({ tokens, caches })) {
    if (!Array.isArray(list)) throw new TypeError(`"${name}" must be an array, got ${describeValue(list)}`);
  }
  if (tokens.length === 0 || tokens.length !== caches.length) {
    throw new RangeError(
      `"tokens" must hold one list for each of ${caches.length} caches, at least one, got ${tokens.length}`,
    );
  }
  for (const cache of caches) assertCache(cache);
  const distinct = new Set(caches).size === caches.length;
  const kinds = new Set(caches.map(({ options }) => JSON.stringify(options)));
  if (!distinct || kinds.size > 1) {
    throw new ConfigError('caches', `${caches.length} caches`, 'different caches with the same options');
  }
}

/**
 * Requires something that is a cache of some model.
 *
 * @throws {TypeError} if it is not
 */
export function assertCache(cache: unknown): asserts cache is ModelCache {
  if (typeof cache === 'object' && cache !== null && 'options' in cache && 'length' in cache) return;
  throw new TypeError(`"cache" must be a cache of this model, got ${describeValue(cache)}`);
}

/**
 * Requires options of a pass that mean something.
 *
 * @throws {ConfigError} names the option that does not
 */
export function assertForwardOptions(options: ForwardOptions): void {
  if (typeof options !== 'object' || options === null) {
    throw new ConfigError('options', options, 'an object');
  }
  const { logits = 'last', mode = 'generation', attention = 'all', onTensor, signal } = options;
  if (attention !== 'all' && attention !== 'recent') {
    throw new ConfigError('attention', attention, 'all or recent');
  }
  if (attention === 'recent' && mode === 'teacherForced') {
    throw new ConfigError('attention', attention, 'all in mode teacherForced');
  }
  if (logits !== 'last' && logits !== 'all') throw new ConfigError('logits', logits, 'last or all');
  if (!ATTENTION_MODES.includes(mode)) throw new ConfigError('mode', mode, ATTENTION_MODES.join(', '));
  if (onTensor !== undefined && typeof onTensor !== 'function') {
    throw new ConfigError('onTensor', onTensor, 'a function');
  }
  if (onTensor && mode === 'stepwise') {
    throw new ConfigError(
      'onTensor',
      onTensor,
      'left out in mode stepwise, whose tokens see different tensors',
    );
  }
  if (signal !== undefined && typeof signal?.throwIfAborted !== 'function') {
    throw new ConfigError('signal', signal, 'an AbortSignal');
  }
}
