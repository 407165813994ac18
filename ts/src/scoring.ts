/**
 * Logits of a cache against those of the f16 KV cache on the same tokens: log-likelihoods, divergences, agreement.
 *
 * @module
 */

import { NumericError } from './errors.js';
import { type Matrix, row } from './numerics/matrix.js';
import { quantileOfSorted } from './quant/nuq.js';
import { logSumExp } from './sampling.js';

/** The baseline's probabilities for the tokens of one pass: the part of a comparison that all other caches share. */
export class BaselineLogits {
  /** The id that follows each token; one less than tokens at the end of a window. */
  readonly targets: readonly number[];
  /** Position of the first token in its window. */
  readonly position: number;
  /**
   * Probabilities of every id, for each token that has a target; f64, since divergences are differences of close
   * numbers. [vocabSize] each
   */
  readonly probabilities: readonly Float64Array[];
  /** log-sum-exp of each row that has a target. */
  readonly normalizers: readonly number[];
  /** Mean logit under the probabilities, of each row that has a target. */
  readonly meanLogits: readonly number[];
  /** Log-likelihood of each target. */
  readonly logLikelihoods: readonly number[];
  /** Most likely id of each row that has a target. */
  readonly likeliest: readonly number[];

  /**
   * @param logits of the f16 KV cache, [tokens, vocabSize], read
   * @param targets the ids that follow, [tokens], or one less at the end of a window
   */
  constructor(logits: Matrix, targets: readonly number[], position: number) {
    this.targets = targets;
    this.position = position;
    this.normalizers = targets.map((_, t) => logSumExp(row(logits, t)));
    this.logLikelihoods = targets.map((target, t) => row(logits, t)[target] - this.normalizers[t]);
    this.likeliest = targets.map((_, t) => indexOfLargest(row(logits, t)));
    this.probabilities = this.normalizers.map((normalizer, t) => probabilities(row(logits, t), normalizer));
    this.meanLogits = this.probabilities.map((weights, t) => weightedSum(weights, row(logits, t)));
  }
}

/** Scores of many tokens. */
export class TokenScores {
  #negativeLogLikelihood = 0;
  #agreed = 0;
  #squaredChange = 0;
  readonly #divergences: number[] = [];

  /**
   * Adds the tokens of one pass.
   *
   * @param logits of the cache for the same tokens, [tokens, vocabSize]
   * @throws {NumericError} if a log-likelihood is not finite
   */
  add(baseline: BaselineLogits, logits: Matrix): void {
    for (const [t, target] of baseline.targets.entries()) {
      const q = row(logits, t);
      const normalizer = logSumExp(q);
      const logLikelihood = q[target] - normalizer;
      if (!Number.isFinite(logLikelihood)) {
        const place = { token: baseline.position + t };
        throw new NumericError('perplexity', logLikelihood, place, 'the log-likelihood is not finite');
      }
      this.#negativeLogLikelihood -= logLikelihood;
      this.#squaredChange += (Math.exp(logLikelihood) - Math.exp(baseline.logLikelihoods[t])) ** 2;
      if (baseline.likeliest[t] === indexOfLargest(q)) this.#agreed++;

      // KL(p || q) = sum of P (log P - log Q), with log P = p - its normalizer, log Q likewise.
      const logitChange = baseline.meanLogits[t] - weightedSum(baseline.probabilities[t], q);
      const divergence = logitChange - (baseline.normalizers[t] - normalizer);
      this.#divergences.push(Math.max(0, divergence)); // never negative but for rounding
    }
  }

  /** Adds the tokens of another window. */
  append(other: TokenScores): void {
    this.#negativeLogLikelihood += other.#negativeLogLikelihood;
    this.#agreed += other.#agreed;
    this.#squaredChange += other.#squaredChange;
    for (const each of other.#divergences) this.#divergences.push(each);
  }

  get tokens(): number {
    return this.#divergences.length;
  }

  /** Mean negative log-likelihood, in nats. */
  get loss(): number {
    return this.#negativeLogLikelihood / this.tokens;
  }

  /** Mean of KL(baseline || cache), in nats. */
  get klDivergence(): number {
    return this.#divergences.reduce((sum, each) => sum + each, 0) / this.tokens;
  }

  /** Quantiles of the same over tokens. */
  get klQuantiles(): { median: number; p99: number; max: number } {
    const sorted = Float64Array.from(this.#divergences).sort();
    const [median, p99, max] = [0.5, 0.99, 1].map((fraction) => quantileOfSorted(sorted, fraction));
    return { median, p99, max };
  }

  /** Fraction of tokens for which both have the same most likely id. */
  get topOneAgreement(): number {
    return this.#agreed / this.tokens;
  }

  /** Root mean square of the change of the probability of the right id. */
  get rmsProbabilityChange(): number {
    return Math.sqrt(this.#squaredChange / this.tokens);
  }
}

function probabilities(logits: Float32Array, normalizer: number): Float64Array {
  const result = new Float64Array(logits.length);
  for (let i = 0; i < result.length; i++) result[i] = Math.exp(logits[i] - normalizer);
  return result;
}

function indexOfLargest(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

function weightedSum(weights: Float64Array, values: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += weights[i] * values[i];
  return sum;
}
