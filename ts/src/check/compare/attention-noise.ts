/**
 * How far the attention of one query may be off in f32, element by element.
 *
 * Errors of every step are carried to the output to first order. With weights p, values v and the output o of a head,
 *
 *     d o_c = sum_t p_t (v_tc - o_c) d s_t  +  sum_t p_t d v_tc  +  the rounding of the average
 *
 * where a score is off by the errors of its key, of its own sum and of the exponential (of every token for itself), and by those
 * of the query and of the frequencies of RoPE (of all tokens together). Variances are those of compare/rounding-noise.ts.
 *
 * @module
 */

import type { Matrix } from '../../numerics/matrix.js';
import {
  type ComputeType,
  DEVIATIONS,
  FACTOR_ROUNDOFF,
  productVariance,
  ROUNDING,
  SumVariance,
  storedProductVariance,
} from './rounding-noise.js';
import { F32_ROUNDOFF } from './tolerance.js';

/** What attention is computed of. */
export interface AttentionParts {
  /** After RoPE. [1, heads * headDim] */
  readonly query: Matrix;
  /** After RoPE. [tokens, kvHeads * headDim] */
  readonly keys: Matrix;
  /** [tokens, kvHeads * headDim] */
  readonly values: Matrix;
  /** [1, heads * headDim] */
  readonly output: Matrix;
  readonly headDim: number;
  readonly position: number;
  readonly layout: 'half' | 'interleaved';
  /** Radians per position. [headDim / 2] */
  readonly frequencies: Float64Array;
  readonly theta: number;
  readonly keySource: StoredProduct;
  readonly valueSource: StoredProduct;
  /** What products are computed in. */
  readonly compute: ComputeType;
}

/** Stored rows, the minimum of every value's group, and the matrix that reads them. */
export interface StoredProduct {
  /** [tokens, inner] */
  readonly rows: Matrix;
  readonly minima: Matrix;
  /** [kvDim, inner] */
  readonly weights: Matrix;
}

/**
 * Bound of every element of the output.
 *
 * @returns fresh, [heads * headDim]
 */
export function attentionBounds(parts: AttentionParts): Float64Array {
  const { query, keys, headDim, compute, keySource, valueSource } = parts;
  const ofKeys = storedProductVariance(keySource.rows, keySource.minima, keySource.weights, compute);
  const ofValues = storedProductVariance(valueSource.rows, valueSource.minima, valueSource.weights, compute);
  const heads = query.columns / headDim;
  const shared = query.columns / keys.columns;
  const bounds = new Float64Array(query.columns);
  for (let head = 0; head < heads; head++) {
    const kvHead = Math.floor(head / shared);
    const one = new HeadNoise(parts, head, kvHead, ofKeys, ofValues);
    for (let c = 0; c < headDim; c++) bounds[head * headDim + c] = one.bound(c);
  }
  return bounds;
}

/** One head: scores, weights, and the errors of scores. */
class HeadNoise {
  readonly #parts: AttentionParts;
  readonly #head: number;
  readonly #kvHead: number;
  readonly #ofValues: Float64Array;
  readonly #weights: Float64Array;
  /** Variance of the error of a score that is of one token alone. [tokens] */
  readonly #ofScores: Float64Array;
  /** How far the rounding of each element of the query moves all scores, by its standard deviation. [headDim][tokens] */
  readonly #query: readonly Float64Array[];
  /** How far each frequency may move all scores. Kernels share such an error, or have none. [headDim / 2][tokens] */
  readonly #frequencies: readonly Float64Array[];
  /** Variance of an average of stored rows, taken before it is projected. [headDim] */
  readonly #ofProjection: Float64Array;
  readonly #ofSum: number;

  constructor(
    parts: AttentionParts,
    head: number,
    kvHead: number,
    ofKeys: Float64Array,
    ofValues: Float64Array,
  ) {
    this.#parts = parts;
    this.#head = head;
    this.#kvHead = kvHead;
    this.#ofValues = ofValues;
    const { scores, sums } = this.#scores();
    const largest = scores.reduce((a, b) => Math.max(a, b));
    const exponentials = scores.map((score) => Math.exp(score - largest));
    const total = exponentials.reduce((a, b) => a + b);
    this.#weights = exponentials.map((value) => value / total);
    this.#ofScores = sums.map((variance, t) => {
      const exponential = ROUNDING * (2 * (largest - scores[t]) + 4) ** 2;
      return variance + this.#ofKey(t, ofKeys) + exponential + FACTOR_ROUNDOFF[parts.compute] ** 2 / 3;
    });
    this.#frequencies = [...this.#ofFrequencies()];
    this.#query = [...this.#ofQuery()];
    this.#ofProjection = this.#projection();
    const sum = new SumVariance();
    for (const weight of this.#weights) sum.add(weight);
    this.#ofSum = sum.variance('f32');
  }

  /** Bound of element c of the output. */
  bound(c: number): number {
    const { output, values, headDim, compute } = this.#parts;
    const mean = output.data[this.#head * headDim + c];
    const at = this.#kvHead * headDim + c;
    const average = new SumVariance();
    const effects = this.#weights.map((weight, t) => weight * (values.data[t * values.columns + at] - mean));
    let own = 0;
    let ofValues = 0;
    for (let t = 0; t < effects.length; t++) {
      const weight = this.#weights[t];
      average.add(weight * values.data[t * values.columns + at]);
      const score = effects[t] ** 2 * this.#ofScores[t];
      const value = weight ** 2 * this.#ofValues[t * values.columns + at];
      // Errors of factors that were rounded are the same for all tokens, so that deviations are added and not variances.
      own += compute === 'f32' ? score : Math.sqrt(score);
      ofValues += compute === 'f32' ? value : Math.sqrt(value);
    }
    const moved = (scores: Float64Array) => {
      let effect = 0;
      for (let t = 0; t < effects.length; t++) effect += effects[t] * scores[t];
      return effect;
    };
    const ofQuery = this.#query.reduce((sum, scores) => sum + moved(scores) ** 2, 0);
    const ofFrequencies = this.#frequencies.reduce((sum, scores) => sum + Math.abs(moved(scores)), 0);
    const sums = average.variance(compute) + this.#ofSum * mean * mean + 2 * ROUNDING * mean * mean;
    const stored = compute === 'f32' ? own + ofValues : own ** 2 + ofValues ** 2;
    const variance = stored + ofQuery + sums + this.#ofProjection[c];
    return DEVIATIONS * Math.sqrt(variance) + ofFrequencies;
  }

  /** Scores and the variances of their sums. */
  #scores(): { scores: Float64Array; sums: Float64Array } {
    const { keys, headDim, compute } = this.#parts;
    const scores = new Float64Array(keys.rows);
    const sums = new Float64Array(keys.rows);
    for (let t = 0; t < keys.rows; t++) {
      const sum = new SumVariance();
      for (let c = 0; c < headDim; c++) {
        const term = this.#queryAt(c) * this.#keyAt(t, c);
        scores[t] += term / Math.sqrt(headDim);
        sum.add(term);
      }
      sums[t] = sum.variance(compute) / headDim;
    }
    return { scores, sums };
  }

  /** What errors of a key do to its score: of its product, and of RoPE (four roundings, and the angle's own). */
  #ofKey(t: number, ofKeys: Float64Array): number {
    const { keys, headDim, frequencies } = this.#parts;
    let variance = 0;
    for (let i = 0; i < headDim / 2; i++) {
      const [a, b] = this.#pair(i);
      const at = (c: number) => t * keys.columns + this.#kvHead * headDim + c;
      const query = this.#queryAt(a) ** 2 + this.#queryAt(b) ** 2;
      const length = this.#keyAt(t, a) ** 2 + this.#keyAt(t, b) ** 2;
      const turning = ROUNDING * (4 + (t * frequencies[i]) ** 2) * length;
      variance += query * (Math.max(ofKeys[at(a)], ofKeys[at(b)]) + turning);
    }
    return variance / headDim;
  }

  /**
   * Scores depend on the distance times the frequency, a power that all tokens share: off by a roundoff of its exponent, times
   * ln(theta), and two of its own. The first frequency is 1.
   */
  *#ofFrequencies(): Iterable<Float64Array> {
    const { keys, headDim, frequencies, theta, position } = this.#parts;
    for (let i = 1; i < headDim / 2; i++) {
      const [a, b] = this.#pair(i);
      const relative = (((2 * i) / headDim) * Math.log(theta) + 2) * F32_ROUNDOFF;
      const largest = (frequencies[i] * relative) / Math.sqrt(headDim);
      yield Float64Array.from({ length: keys.rows }, (_, t) => {
        const slope = this.#queryAt(a) * this.#keyAt(t, b) - this.#queryAt(b) * this.#keyAt(t, a);
        return slope * (position - t) * largest;
      });
    }
  }

  /** RoPE of the query rounds each of its elements four times, and its angle once. */
  *#ofQuery(): Iterable<Float64Array> {
    const { keys, headDim, frequencies, position } = this.#parts;
    for (let i = 0; i < headDim / 2; i++) {
      const [a, b] = this.#pair(i);
      const length = Math.hypot(this.#queryAt(a), this.#queryAt(b));
      const deviation = length * Math.sqrt((ROUNDING * (4 + (position * frequencies[i]) ** 2)) / headDim);
      for (const c of [a, b]) {
        yield Float64Array.from({ length: keys.rows }, (_, t) => this.#keyAt(t, c) * deviation);
      }
    }
  }

  /** A kernel may average stored rows and project the average: P (X W) = (P X) W. */
  #projection(): Float64Array {
    const { valueSource, headDim, compute } = this.#parts;
    const { rows, weights } = valueSource;
    const inner = rows.columns;
    const average = new Float32Array(inner);
    const ofAverage = new Float64Array(inner);
    for (let j = 0; j < inner; j++) {
      const sum = new SumVariance();
      for (let t = 0; t < rows.rows; t++) {
        const term = this.#weights[t] * rows.data[t * inner + j];
        average[j] += term;
        sum.add(term);
      }
      ofAverage[j] = sum.variance(compute);
    }
    const start = this.#kvHead * headDim * inner;
    const own = {
      rows: headDim,
      columns: inner,
      data: weights.data.subarray(start, start + headDim * inner),
    };
    const variances = productVariance({ rows: 1, columns: inner, data: average }, own, compute);
    return variances.map((variance, c) => {
      let carried = 0;
      for (let j = 0; j < inner; j++) carried += own.data[c * inner + j] ** 2 * ofAverage[j];
      return variance + carried;
    });
  }

  #pair(i: number): readonly [number, number] {
    const { layout, headDim } = this.#parts;
    return layout === 'half' ? [i, i + headDim / 2] : [2 * i, 2 * i + 1];
  }

  #queryAt(c: number): number {
    return this.#parts.query.data[this.#head * this.#parts.headDim + c];
  }

  #keyAt(t: number, c: number): number {
    const { keys, headDim } = this.#parts;
    return keys.data[t * keys.columns + this.#kvHead * headDim + c];
  }
}
