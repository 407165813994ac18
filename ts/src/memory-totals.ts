/**
 * The total size of a cache: its bytes, the accumulator that it is read with, and the plan, against keys and values in
 * f16. Every place that shows memory takes its numbers from here.
 *
 * Scratch that a pass needs whatever the cache is (rows of the pass, finished keys of the window) is not counted: f16 keys
 * and values need it, too.
 *
 * @module
 */

import { cacheBytes, float16KeyValueBytes } from './analysis/memory.js';
import type { CacheBytes } from './cache/contract.js';
import type { CacheModelShape, CacheOptions, CacheRequest } from './cache/options.js';
import { resolveCacheOptions } from './cache/presets.js';
import { storedBytes } from './cache/stored-matrix.js';
import { planBytes } from './engine/plan-bytes.js';
import type { KeyWeights } from './engine/small-product.js';

/** Bytes of one sequence, and of what its cache needs to be read. */
export interface MemoryTotals {
  /** Stored in the cache. */
  readonly cache: number;
  /** The sums of cross-layer caches, which the engine keeps with the sequence. */
  readonly accumulator: number;
  /** Folded weights: once for all sequences. Undefined where it is not known. */
  readonly plan: number | undefined;
  /** All of them. */
  readonly total: number;
  /** Keys and values of the same tokens in f16. */
  readonly float16: number;
  /** How many times the total is smaller than keys and values in f16; below 1 it is larger. */
  readonly smaller: number;
  /** The same for the cache alone. */
  readonly cacheSmaller: number;
}

/** No context is longer: where to stop looking for the one that pays. */
const LONGEST_CONTEXT = 2 ** 24;

/**
 * Adds up what a cache takes.
 *
 * @param bytes counted or computed
 * @param engine bytes of what the engine folds for the cache, see `planBytes`; undefined if it cannot run it
 * @param float16 bytes of keys and values of the same tokens in f16
 */
export function memoryTotals(bytes: CacheBytes, engine: number | undefined, float16: number): MemoryTotals {
  const cache = storedBytes(bytes);
  const accumulator = bytes.scratch;
  const plan = engine === undefined ? undefined : engine + bytes.plan;
  const total = cache + accumulator + (plan ?? 0);
  return {
    ...{ cache, accumulator, plan, total, float16 },
    smaller: float16 / total,
    cacheSmaller: float16 / cache,
  };
}

/**
 * The totals of a cache by formula.
 *
 * @param tokens stored, at least 1
 * @throws {ConfigError | RangeError} if the request does not fit the model, or `tokens` is out of range
 */
export function cacheTotals(
  request: CacheRequest | string,
  shape: CacheModelShape,
  tokens: number,
  keyWeights: KeyWeights = 'exact',
): MemoryTotals {
  if (tokens === 0) throw new RangeError('"tokens" must be a positive integer, got 0');
  const options = resolveCacheOptions(request, shape);
  const plan = planBytes(options, shape, keyWeights);
  return memoryTotals(cacheBytes(options, shape, tokens), plan, float16KeyValueBytes(shape, tokens));
}

/**
 * The context from which on the total is no larger than keys and values in f16, in whole blocks.
 *
 * @returns undefined if there is none
 */
export function breakEvenTokens(request: CacheRequest | string, shape: CacheModelShape): number | undefined {
  const options = resolveCacheOptions(request, shape);
  const block = options.residualWindow;
  const pays = (blocks: number) => cacheTotals(options, shape, blocks * block).smaller >= 1;
  let high = 1;
  while (!pays(high)) {
    high *= 2;
    if (high * block > LONGEST_CONTEXT) return undefined;
  }
  let low = high / 2; // does not pay, unless one block does
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (pays(middle)) high = middle;
    else low = middle;
  }
  return high * block;
}

/** Bytes by kind, where f16 keys and values have a kind of their own. */
export type BytesByKind = CacheBytes & { readonly keysAndValues: number };

/**
 * Books everything that a `kv` cache holds as keys and values: none of it is a window or an outlier.
 *
 * @param options of the cache
 */
export function bytesByKind({ variant }: Pick<CacheOptions, 'variant'>, bytes: CacheBytes): BytesByKind {
  if (variant !== 'kv') return { ...bytes, keysAndValues: 0 };
  return { ...bytes, keysAndValues: bytes.outliers + bytes.window, outliers: 0, window: 0 };
}
