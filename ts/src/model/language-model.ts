/**
 * The contract of every backend: tokens in, logits out, through a cache. Generation, perplexity and the
 * command line are built on it and cannot tell the reference from the engine.
 *
 * @module
 */

import type { ModelCache } from '../cache/contract.js';
import type { CacheRequest } from '../cache/options.js';
import type { Matrix } from '../numerics/matrix.js';
import type { ModelConfig } from './config.js';

/**
 * Which keys and values a pass attends to.
 *
 * - `generation`: exact ones for the tokens of this pass, stored ones for those before (XQuant §4).
 * - `teacherForced`: stored ones for every token, its own position included: the protocol of the
 *   perplexities of the paper (§4.1), harsher than generation.
 * - `stepwise`: as if every token came in a pass of its own: an exact one at its own position, stored ones before it.
 *   The logits are those of such passes, bit for bit. Several tokens must not complete a block of the cache. This is
 *   how guesses at the next tokens are checked in one pass.
 */
export type AttentionMode = 'generation' | 'teacherForced' | 'stepwise';

/** The choices of {@link AttentionMode}. */
export const ATTENTION_MODES: readonly AttentionMode[] = ['generation', 'teacherForced', 'stepwise'];

/** Tensors that a pass shows to {@link ForwardOptions.onTensor}. */
export type TappedTensor =
  | 'stream'
  | 'normalized'
  | 'x'
  | 'queries'
  | 'keys'
  | 'values'
  | 'attentionOutput'
  | 'mlpOutput';

/** A look at one tensor of one layer. */
export interface TensorTap {
  readonly layer: number;
  readonly tensor: TappedTensor;
  /**
   * [tokens of this pass, width]; `keys` (before RoPE) and `values`: [all tokens, kvDim], as attention
   * sees them. Shared with the pass; copy what you keep.
   */
  readonly value: Matrix;
  /** The cache of the layer, after this pass's tokens were stored if `tensor` comes later; its `state()` has the codes. */
  readonly cache: ModelCache['layers'][number];
}

/** Options of one pass. */
export interface ForwardOptions {
  /** Logits of the last token, or of all tokens of the pass. Default `'last'`. */
  readonly logits?: 'last' | 'all';
  /** Default `'generation'`. */
  readonly mode?: AttentionMode;
  /**
   * The tokens that the pass attends to: `all`, or only the `recent`: the first four tokens, the newest three sealed blocks and
   * what is in none. The logits are then guesses, and so are the tokens in the cache, which should be trimmed away
   * again. Much faster in long texts with caches that rebuild keys and values; the reference refuses it. Default `'all'`.
   */
  readonly attention?: 'all' | 'recent';
  /** Called for every tensor of every layer, in order. Not in mode `stepwise`. */
  readonly onTensor?: (tap: TensorTap) => void;
  /** Stops between layers; the cache is trimmed back to what it held before. */
  readonly signal?: AbortSignal;
}

/** Options of one pass for several sequences. */
export type BatchOptions = Omit<ForwardOptions, 'onTensor'>;

/** A model that can run. */
export interface LanguageModel {
  readonly config: ModelConfig;
  /** Name of the implementation: `'reference'` or `'wasm'`. */
  readonly backend: string;
  /**
   * An empty cache.
   *
   * @param request variant and options, or the text of a cache argument; see `parseCacheSpec`
   * @throws {ConfigError} if the request does not fit the model
   */
  createCache(request: CacheRequest | string): ModelCache;
  /**
   * Runs tokens through the model and stores them in the cache.
   *
   * @param tokens ids, at least one: an array or a typed array of numbers
   * @param cache made by this model
   * @returns logits, fresh, [1 or tokens, vocabSize]
   * @throws {TypeError} if `tokens` is not a list
   * @throws {RangeError} if a token id is outside the vocabulary or there are no tokens
   * @throws {CacheStateError} if the cache is of another backend, the sequence exceeds the context, or several tokens
   *   of mode `stepwise` would complete a block
   */
  forward(tokens: ArrayLike<number>, cache: ModelCache, options?: ForwardOptions): Promise<Matrix>;
  /**
   * Runs the next tokens of several sequences in one pass. What the sequences share, because their caches were
   * cloned from one prompt, need not be rematerialized for each of them.
   *
   * @param tokens ids of each sequence, at least one
   * @param caches made by this model with the same options, all different
   * @returns logits, fresh, of the last token of each sequence, or of all tokens, sequence by sequence
   * @throws {RangeError} if there is not one list of tokens for each cache
   * @throws {ConfigError} if a cache is there twice, or two have other options
   * @throws what {@link forward} throws; no sequence has changed then
   */
  forwardBatch(
    tokens: readonly ArrayLike<number>[],
    caches: readonly ModelCache[],
    options?: BatchOptions,
  ): Promise<Matrix>;
  /** Gives memory back; the model cannot be used afterwards. */
  dispose(): void | Promise<void>;
  /** The same, for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
}
