/**
 * How much a cache costs in quality: perplexity, and the distance to the f16 KV cache on the same tokens.
 *
 * The protocol is the usual one (baselines of XQuant §4.1): the text is tokenized once and cut into
 * consecutive windows without overlap, the tail dropped; in each window tokens 1 .. n-1 are predicted from
 * those before; perplexity = exp(mean over windows of the mean negative log-likelihood). Every cache sees
 * the same windows as the baseline, and all differences are paired by window.
 *
 * Two modes:
 *
 *     teacherForced   all keys and values come from the cache, the query's own included: what the paper measures
 *     decode          token by token as in generation, the newest block still in f16: what a user gets
 *
 * @module
 */

import { elementsPerToken, float16KeyValueBytes } from './analysis/memory.js';
import type { ModelCache } from './cache/contract.js';
import type { CacheRequest } from './cache/options.js';
import { storedBytes } from './cache/stored-matrix.js';
import { assertPositiveInteger, ConfigError } from './errors.js';
import type { AttentionMode, LanguageModel } from './model/language-model.js';
import { assertTokenList, tokenIds } from './model/tokens.js';
import { BaselineLogits, TokenScores } from './scoring.js';

/** Tokens of a window unless asked otherwise: what the paper uses for all models. */
export const PERPLEXITY_WINDOW = 2048;

/** Logits of one pass are kept under this, if blocks allow. */
const LOGITS_BUDGET_BYTES = 256 * 2 ** 20;

/** When keys and values come from the cache. */
export type PerplexityMode = 'teacherForced' | 'decode';

/** Options of a measurement. */
export interface PerplexityOptions {
  /** Cache arguments or requests. */
  readonly caches: readonly (CacheRequest | string)[];
  /** Tokens of a window. Default {@link PERPLEXITY_WINDOW}, or the context of the model if that is shorter. */
  readonly windowSize?: number;
  /** How many windows, from the start of the text. Default all. */
  readonly windows?: number;
  /** Default `'teacherForced'`. */
  readonly mode?: PerplexityMode;
  /**
   * Tokens of one forward pass. `decode`: 1 by default, which is exactly what generation does and reads the
   * whole cache again for every token; more is faster and lets tokens of one pass see each other exactly.
   * `teacherForced`: changes memory and speed, not results; rounded up to whole blocks of every cache.
   */
  readonly passTokens?: number;
  /** Stops between layers of a pass. */
  readonly signal?: AbortSignal;
  /** Called after each pass with the tokens run through all caches so far, and in all. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** One cache against the baseline. */
export interface CachePerplexity {
  /** As it was asked for. */
  readonly cache: CacheRequest | string;
  readonly perplexity: number;
  /** Perplexity of the f16 KV cache on the same windows. */
  readonly baseline: number;
  readonly windows: number;
  readonly windowSize: number;
  /** Tokens that were predicted: windows * (windowSize - 1). */
  readonly tokens: number;
  readonly mode: PerplexityMode;
  /** Mean over windows of what the cache loses in log-likelihood per token, in nats; positive is worse. */
  readonly loss: number;
  /** Standard error of `loss` over windows; null for one window. */
  readonly lossStdErr: number | null;
  /** Mean over tokens of KL(baseline || cache), in nats. */
  readonly klDivergence: number;
  /** Median, 99th percentile and maximum of the same over tokens. */
  readonly klQuantiles: { readonly median: number; readonly p99: number; readonly max: number };
  /** Fraction of tokens for which cache and baseline have the same most likely token. */
  readonly topOneAgreement: number;
  /** Root mean square over tokens of the change of the probability of the right token. */
  readonly rmsProbabilityChange: number;
  /** Counted bytes of the cache at the end of a window, without scratch, by token. */
  readonly bytesPerToken: number;
  /** Bytes of the cross-layer accumulator, by token. */
  readonly scratchBytesPerToken: number;
  /** 8 * bytesPerToken / numbers stored for a token over all layers: `b + 32/groupSize` if nothing else is stored. */
  readonly bitsPerElement: number;
  /** Bytes of f16 keys and values of the same tokens / counted bytes. */
  readonly compression: number;
  /** Time of forward passes with this cache. */
  readonly seconds: number;
  /** Mean negative log-likelihood of each window, in nats, in order. */
  readonly windowLosses: readonly number[];
}

/** The outcome of a measurement. */
export interface PerplexityReport {
  /** The f16 KV cache. */
  readonly baseline: {
    readonly perplexity: number;
    /** Standard error of the perplexity over windows; null for one window. */
    readonly perplexityStdErr: number | null;
    readonly seconds: number;
    /** As in {@link CachePerplexity}. */
    readonly windowLosses: readonly number[];
  };
  /** In the order asked for. */
  readonly caches: readonly CachePerplexity[];
}

/**
 * Measures caches on a text.
 *
 * @param tokens ids of the whole text, tokenized once, with the special tokens of the tokenizer's default
 * @throws {ConfigError} if the text is too short, says how many tokens are needed; or a cache does not fit
 *   the model
 * @throws {TypeError} if `tokens` is not an array
 * @throws {RangeError} if a number is outside its range, or an id is not in the vocabulary
 * @throws {NumericError} if a log-likelihood is not finite
 */
export async function measurePerplexity(
  model: LanguageModel,
  tokens: ArrayLike<number>,
  options: PerplexityOptions,
): Promise<PerplexityReport> {
  const { mode = 'teacherForced', signal, onProgress } = options;
  assertTokenList(tokens);
  if (!Array.isArray(options?.caches))
    throw new ConfigError('caches', options?.caches, 'a list of cache arguments');
  const plan = planWindows(model, tokens, options);
  const text = tokenIds(tokens, model.config.vocabSize);
  const baseline = new Measured('kv', model);
  const measured = options.caches.map((cache) => new Measured(cache, model));
  const all = [baseline, ...measured];
  const passTokens = passSize(
    plan.windowSize,
    all.map(({ cache }) => cache),
    model,
    options,
  );
  const attention: AttentionMode = mode === 'decode' ? 'generation' : 'teacherForced';
  const total = plan.windows * plan.windowSize * all.length;
  let done = 0;

  try {
    // Window by window and pass by pass through all caches, so that the logits of one pass are all that is kept.
    for (let window = 0; window < plan.windows; window++) {
      const from = window * plan.windowSize;
      const ids = text.slice(from, from + plan.windowSize);
      for (const each of all) each.startWindow();
      for (let at = 0; at < ids.length; at += passTokens) {
        const pass = ids.slice(at, at + passTokens);
        // The last token of a window has nothing to predict.
        const targets = ids.slice(at + 1, at + 1 + pass.length);
        let reference: BaselineLogits | undefined;
        for (const each of all) {
          const logits = await each.run(pass, { logits: 'all', mode: attention, signal });
          reference ??= new BaselineLogits(logits, targets, at);
          each.scores.add(reference, logits);
          done += pass.length;
          onProgress?.(done, total);
        }
      }
      for (const each of all) each.endWindow();
    }
    return {
      baseline: {
        perplexity: baseline.perplexity,
        perplexityStdErr: scaled(standardError(baseline.windowLosses), baseline.perplexity),
        seconds: baseline.seconds,
        windowLosses: baseline.windowLosses,
      },
      caches: measured.map((each) => ({ ...each.compareTo(baseline), ...plan, mode })),
    };
  } finally {
    for (const { cache } of all) cache.dispose();
  }
}

/** The windows of a text. */
function planWindows(
  model: LanguageModel,
  tokens: ArrayLike<number>,
  { windowSize: given, windows: asked }: PerplexityOptions,
): { windows: number; windowSize: number } {
  const context = model.config.maxPositionEmbeddings;
  const windowSize = given ?? Math.min(PERPLEXITY_WINDOW, context);
  assertPositiveInteger(windowSize, 'windowSize');
  if (windowSize < 2 || windowSize > context) {
    throw new ConfigError('windowSize', windowSize, `from 2 to ${context}, the context of the model`);
  }
  if (asked !== undefined) assertPositiveInteger(asked, 'windows');
  const available = Math.floor(tokens.length / windowSize);
  const windows = asked ?? Math.max(1, available);
  if (windows > available) {
    const needed = `at least ${windows * windowSize} tokens: ${windows} windows of ${windowSize}`;
    throw new ConfigError('text', `${tokens.length} tokens`, needed);
  }
  return { windows, windowSize };
}

/**
 * Tokens of one pass, of which the last may be shorter. With teacher forcing a pass must end where every cache seals.
 *
 * @param caches that take part
 */
export function passSize(
  windowSize: number,
  caches: readonly ModelCache[],
  model: Pick<LanguageModel, 'config'>,
  { mode, passTokens }: Pick<PerplexityOptions, 'mode' | 'passTokens'>,
): number {
  if (passTokens !== undefined) assertPositiveInteger(passTokens, 'passTokens');
  if (mode === 'decode') return Math.min(windowSize, passTokens ?? 1);
  const block = caches.map(({ options }) => options.residualWindow).reduce(leastCommonMultiple);
  const affordable = Math.floor(LOGITS_BUDGET_BYTES / (4 * model.config.vocabSize));
  const wanted = passTokens ?? affordable - (affordable % block);
  return Math.min(windowSize, Math.max(1, Math.ceil(wanted / block)) * block);
}

/** A cache and what has been measured of it. */
class Measured {
  readonly cache: ModelCache;
  readonly windowLosses: number[] = [];
  scores = new TokenScores();
  seconds = 0;
  readonly #request: CacheRequest | string;
  readonly #model: LanguageModel;
  readonly #all = new TokenScores();
  #storedBytes = 0;
  #scratchBytes = 0;
  #cachedTokens = 0;

  constructor(request: CacheRequest | string, model: LanguageModel) {
    this.#request = request;
    this.#model = model;
    this.cache = model.createCache(request);
  }

  startWindow(): void {
    this.cache.trim(0);
    this.scores = new TokenScores();
  }

  async run(pass: readonly number[], options: Parameters<LanguageModel['forward']>[2]) {
    const started = performance.now();
    const logits = await this.#model.forward(pass, this.cache, options);
    this.seconds += (performance.now() - started) / 1000;
    return logits;
  }

  endWindow(): void {
    this.windowLosses.push(this.scores.loss);
    this.#all.append(this.scores);
    const bytes = this.cache.bytes();
    this.#storedBytes += storedBytes(bytes);
    this.#scratchBytes += bytes.scratch;
    this.#cachedTokens += this.cache.length;
  }

  get perplexity(): number {
    return Math.exp(mean(this.windowLosses));
  }

  /** The results, less what is the same for all caches. */
  compareTo(baseline: Measured): Omit<CachePerplexity, 'windows' | 'windowSize' | 'mode'> {
    const { config } = this.#model;
    const losses = this.windowLosses.map((loss, window) => loss - baseline.windowLosses[window]);
    const { tokens, klDivergence, klQuantiles, topOneAgreement, rmsProbabilityChange } = this.#all;
    const bytesPerToken = this.#storedBytes / this.#cachedTokens;
    return {
      cache: this.#request,
      perplexity: this.perplexity,
      baseline: baseline.perplexity,
      tokens,
      loss: mean(losses),
      lossStdErr: standardError(losses),
      klDivergence,
      klQuantiles,
      topOneAgreement,
      rmsProbabilityChange,
      bytesPerToken,
      scratchBytesPerToken: this.#scratchBytes / this.#cachedTokens,
      bitsPerElement: (8 * bytesPerToken) / elementsPerToken(this.cache.options, config),
      compression: float16KeyValueBytes(config, this.#cachedTokens) / this.#storedBytes,
      seconds: this.seconds,
      windowLosses: this.windowLosses,
    };
  }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Standard error of the mean, with n - 1 in the variance; null for fewer than two values. */
function standardError(values: readonly number[]): number | null {
  if (values.length < 2) return null;
  const center = mean(values);
  const squares = values.reduce((sum, value) => sum + (value - center) ** 2, 0);
  return Math.sqrt(squares / (values.length - 1) / values.length);
}

function scaled(value: number | null, factor: number): number | null {
  return value === null ? null : value * factor;
}

function leastCommonMultiple(a: number, b: number): number {
  let [x, y] = [a, b];
  while (y !== 0) [x, y] = [y, x % y];
  return (a / x) * b;
}
