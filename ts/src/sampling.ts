/**
 * From logits to the next token: greedy or random, with the usual filters, and reproducible.
 *
 * Order of the steps, as in llama.cpp: logit bias, repetition penalty, then either the largest logit
 * (temperature 0) or top-k, top-p, min-p, temperature and one draw. The same seed gives the same tokens
 * on every machine, as far as `Math.exp` does.
 *
 * @module
 */

import { assertIndex, ConfigError, NumericError } from './errors.js';

/** How to choose a token. Everything off (the default) is greedy. */
export interface SamplingOptions {
  /** 0 takes the most likely token; above, logits are divided by it. Default 0. */
  readonly temperature?: number;
  /** Keep this many most likely tokens; 0 keeps all. Default 0. */
  readonly topK?: number;
  /** Keep the most likely tokens that together have this probability; 1 keeps all. Default 1. */
  readonly topP?: number;
  /** Drop tokens less likely than this fraction of the most likely one; 0 drops none. Default 0. */
  readonly minP?: number;
  /**
   * Divides positive logits of recent tokens and multiplies negative ones (CTRL, arXiv 1909.05858 §4.1);
   * 1 does nothing. Default 1.
   */
  readonly repetitionPenalty?: number;
  /** How many newest tokens, prompt included, count as recent; 0 means all. Default 64. */
  readonly repetitionWindow?: number;
  /** Added to the logits of single tokens, by id; `-Infinity` forbids a token. */
  readonly logitBias?: ReadonlyMap<number, number>;
  /** Integer from 0 to 2^53 - 1. Default 0. */
  readonly seed?: number;
  /** How many most likely tokens to report with each choice. Default 0. */
  readonly topLogprobs?: number;
}

/** A token and its log probability, natural logarithm. */
export interface TokenLogprob {
  readonly id: number;
  /** Under the model itself: before bias, penalty, filters and temperature. */
  readonly logprob: number;
}

/** The outcome of one step. */
export interface SampledToken extends TokenLogprob {
  /** The most likely tokens, best first; empty unless `topLogprobs` asks for them. */
  readonly topLogprobs: readonly TokenLogprob[];
}

type Logits = Float32Array | Float64Array;

type Defaulted = Required<Omit<SamplingOptions, 'logitBias'>>;

const DEFAULTS: Defaulted = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  repetitionWindow: 64,
  seed: 0,
  topLogprobs: 0,
};

/**
 * Requires sampling options that make sense.
 *
 * @throws {TypeError} if an option is not a number
 * @throws {ConfigError | RangeError} if an option is outside its range; names it
 */
export function assertSamplingOptions(options: SamplingOptions): void {
  const { temperature, topP, minP, repetitionPenalty, ...counts } = { ...DEFAULTS, ...definedOnly(options) };
  assertNumber(temperature, 'temperature', (value) => value >= 0, 'a number from 0');
  assertNumber(topP, 'topP', (value) => value > 0 && value <= 1, 'a number above 0 and up to 1');
  assertNumber(minP, 'minP', (value) => value >= 0 && value <= 1, 'a number from 0 to 1');
  assertNumber(repetitionPenalty, 'repetitionPenalty', (value) => value > 0, 'a number above 0');
  for (const name of ['topK', 'repetitionWindow', 'seed', 'topLogprobs'] as const) {
    assertIndex(counts[name], Number.MAX_SAFE_INTEGER, name);
  }
  for (const [id, bias] of options.logitBias ?? []) {
    assertIndex(id, Number.MAX_SAFE_INTEGER, 'logitBias token');
    // -Infinity is how a token is forbidden; +Infinity would make every probability NaN.
    if (typeof bias !== 'number' || !(bias < Number.POSITIVE_INFINITY)) {
      throw new ConfigError(`logitBias of token ${id}`, bias, 'a finite number or -Infinity');
    }
  }
}

/** Chooses one token after the other; holds the state of the random numbers. */
export class Sampler {
  readonly #options: Defaulted & SamplingOptions;
  readonly #random: Random;

  /**
   * @throws {TypeError} if an option is not a number
   * @throws {ConfigError | RangeError} if an option is outside its range; names it
   */
  constructor(options: SamplingOptions = {}) {
    assertSamplingOptions(options);
    this.#options = { ...DEFAULTS, ...definedOnly(options) };
    this.#random = new Random(this.#options.seed);
  }

  /** An independent copy, which continues with the same random numbers. */
  fork(): Sampler {
    const copy = new Sampler(this.#options);
    copy.#random.take(this.#random);
    return copy;
  }

  /**
   * Passes over the random numbers of tokens that were chosen before, by another sampler with the same seed.
   *
   * @param count of those tokens
   */
  skip(count: number): void {
    assertIndex(count, Number.MAX_SAFE_INTEGER, 'count');
    for (let i = 0; i < count; i++) this.#random.next();
  }

  /**
   * Chooses the next token.
   *
   * @param logits [vocabSize], read
   * @param history ids so far, prompt included, oldest first; the repetition penalty looks at the newest
   * @throws {NumericError} if a logit is NaN or infinite
   * @throws {ConfigError} if the bias forbids every token
   * @throws {RangeError} if the bias names a token that the vocabulary does not have
   */
  sample(logits: Float32Array, history: ArrayLike<number> = []): SampledToken {
    const bad = logits.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) {
      throw new NumericError(
        'sample',
        logits[bad],
        { tensor: 'logits', channel: bad },
        'not a finite number',
      );
    }
    const id = this.#choose(this.#adjusted(logits, history));
    const normalizer = logSumExp(logits);
    const { topLogprobs } = this.#options;
    return {
      id,
      logprob: logits[id] - normalizer,
      topLogprobs: largest(logits, topLogprobs).map((top) => ({
        id: top,
        logprob: logits[top] - normalizer,
      })),
    };
  }

  /**
   * Logits after bias and repetition penalty, in f64, where no bias makes them overflow.
   *
   * @returns [vocabSize], fresh if anything changed
   */
  #adjusted(logits: Float32Array, history: ArrayLike<number>): Logits {
    const { logitBias, repetitionPenalty, repetitionWindow } = this.#options;
    if (!logitBias?.size && repetitionPenalty === 1) return logits;
    const adjusted = Float64Array.from(logits);
    for (const [id, bias] of logitBias ?? []) {
      assertIndex(id, adjusted.length - 1, 'logitBias token');
      adjusted[id] += bias;
    }
    if (repetitionPenalty !== 1) {
      const from = repetitionWindow === 0 ? 0 : Math.max(0, history.length - repetitionWindow);
      const recent = new Set<number>();
      for (let i = from; i < history.length; i++) recent.add(history[i]);
      for (const id of recent) {
        adjusted[id] = adjusted[id] > 0 ? adjusted[id] / repetitionPenalty : adjusted[id] * repetitionPenalty;
      }
    }
    return adjusted;
  }

  #choose(logits: Logits): number {
    const { temperature, topK, topP, minP } = this.#options;
    const [best] = largest(logits, 1);
    const maximum = logits[best];
    if (maximum === Number.NEGATIVE_INFINITY) {
      throw new ConfigError('logitBias', 'all tokens', 'such that at least one token is allowed');
    }
    if (temperature === 0) return best;

    let kept = topK > 0 && topK < logits.length ? largest(logits, topK) : [...logits.keys()];
    if (topP < 1) kept = nucleus(kept, logits, maximum, topP);
    if (minP > 0) kept = kept.filter((id) => Math.exp(logits[id] - maximum) >= minP);

    const weights = kept.map((id) => Math.exp((logits[id] - maximum) / temperature));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    let left = this.#random.next() * total;
    for (let i = 0; i < kept.length; i++) {
      left -= weights[i];
      if (left < 0) return kept[i];
    }
    // Rounding can leave a crumb of `total` after the last weight.
    return kept[weights.findLastIndex((weight) => weight > 0)];
  }
}

/**
 * The shortest run of most likely tokens that reaches probability `topP`.
 *
 * @returns ids, most likely first, at least one
 */
function nucleus(ids: readonly number[], logits: Logits, maximum: number, topP: number): number[] {
  const sorted = [...ids].sort((a, b) => logits[b] - logits[a] || a - b);
  const weights = sorted.map((id) => Math.exp(logits[id] - maximum));
  const target = topP * weights.reduce((sum, weight) => sum + weight, 0);
  let reached = 0;
  const count = weights.findIndex((weight) => (reached += weight) >= target);
  return count < 0 ? sorted : sorted.slice(0, count + 1);
}

/**
 * Ids of the largest logits, largest first; of equal ones the lower id first.
 *
 * @param logits [vocabSize]
 * @returns [min(count, vocabSize)]
 */
function largest(logits: Logits, count: number): number[] {
  if (count >= logits.length) {
    return [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b);
  }
  // A sorted list of the best so far. Few of the many logits get past its last entry.
  const best: number[] = [];
  for (let id = 0; id < logits.length && count > 0; id++) {
    if (best.length === count && logits[id] <= logits[best[count - 1]]) continue;
    let at = best.length;
    while (at > 0 && logits[best[at - 1]] < logits[id]) at--;
    best.splice(at, 0, id);
    if (best.length > count) best.pop();
  }
  return best;
}

/**
 * `log(sum(exp(values)))` in f64, without overflow.
 *
 * @param values [n], finite
 */
export function logSumExp(values: Float32Array): number {
  // By index: this runs over every logit of every window, and iterators take half as long again.
  let maximum = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < values.length; i++) if (values[i] > maximum) maximum = values[i];
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += Math.exp(values[i] - maximum);
  return maximum + Math.log(sum);
}

/**
 * Random numbers that anyone can reproduce: xoshiro128** 1.1 (Blackman and Vigna), 32-bit integer
 * operations only, its state filled by splitmix32 from the seed.
 */
export class Random {
  readonly #state: Int32Array;

  /** @param seed integer from 0 to 2^53 - 1, or the four words of the state, not all zero */
  constructor(seed: number | readonly [number, number, number, number]) {
    if (typeof seed !== 'number') {
      this.#state = Int32Array.from(seed, (word) => word | 0);
      if (!this.#state.some((word) => word !== 0)) throw new RangeError('"seed" must not be all zeros');
      return;
    }
    assertIndex(seed, Number.MAX_SAFE_INTEGER, 'seed');
    this.#state = splitmix32(seed % 2 ** 32);
    const high = Math.floor(seed / 2 ** 32);
    if (high > 0) {
      for (const [i, word] of splitmix32(high).entries()) this.#state[i] ^= word;
    }
  }

  /** Continues from the state of another one. */
  take(other: Random): void {
    this.#state.set(other.#state);
  }

  /** The next 32 bits. */
  nextUint32(): number {
    const s = this.#state;
    const result = Math.imul(rotateLeft(Math.imul(s[1], 5), 7), 9) >>> 0;
    const t = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotateLeft(s[3], 11);
    return result;
  }

  /** A number in [0, 1) with 53 random bits: the upper 27 bits of one draw and the upper 26 of the next. */
  next(): number {
    const high = this.nextUint32() >>> 5;
    const low = this.nextUint32() >>> 6;
    return (high * 2 ** 26 + low) / 2 ** 53;
  }
}

/** Four words from one: a counter in steps of the golden ratio, each mixed (never all zero together). */
function splitmix32(seed: number): Int32Array {
  const words = new Int32Array(4);
  let counter = seed | 0;
  for (let i = 0; i < words.length; i++) {
    counter = (counter + 0x9e3779b9) | 0;
    let word = counter ^ (counter >>> 16);
    word = Math.imul(word, 0x21f0aaad);
    word ^= word >>> 15;
    word = Math.imul(word, 0x735a2d97);
    words[i] = word ^ (word >>> 15);
  }
  return words;
}

function rotateLeft(word: number, count: number): number {
  return (word << count) | (word >>> (32 - count));
}

function assertNumber(
  value: unknown,
  name: string,
  accepts: (value: number) => boolean,
  allowed: string,
): void {
  if (typeof value !== 'number') throw new TypeError(`"${name}" must be a number, got ${typeof value}`);
  if (!Number.isFinite(value) || !accepts(value)) throw new ConfigError(name, value, allowed);
}

/** Drops what was given as undefined, so that it does not hide a default. */
function definedOnly(options: SamplingOptions): Partial<SamplingOptions> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}
