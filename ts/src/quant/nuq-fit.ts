/**
 * Fitting the levels of KVQuant (arXiv 2401.18079) offline: weighted k-means in one dimension, and Q-Norm. Calibration
 * needs gradients of a model and is done by `golden/generate/calibrate_kvquant.py`; what it computes is defined here.
 *
 * @module
 */

import { nearestLevel, type QNorm } from './nuq.js';

/** An optimal clustering of weighted numbers. */
export interface WeightedClusters {
  /** Weighted means of the clusters, ascending. [k] */
  readonly centers: Float64Array;
  /** Sum of weight times squared distance to the center. */
  readonly cost: number;
}

/**
 * Weighted k-means in one dimension, exactly: clusters of sorted numbers are runs, so dynamic programming
 * over where they end finds the optimum. Takes `k n^2` steps; bin the data first (KVQuant's authors run
 * Lloyd's iterations instead, which may stop short of it).
 *
 * @param points [n], ascending
 * @param weights [n], not negative
 * @param k at most n
 * @throws {RangeError} if `k` is not from 1 to n, or points are not ascending
 */
export function weightedKMeans(
  points: ArrayLike<number>,
  weights: ArrayLike<number>,
  k: number,
): WeightedClusters {
  const n = points.length;
  if (!(Number.isInteger(k) && k >= 1 && k <= n))
    throw new RangeError(`"k" must be from 1 to ${n}, got ${k}`);
  // Sums over [0, i) give the cost of any run in three subtractions.
  const sums = [0, 1, 2].map(() => new Float64Array(n + 1));
  for (let i = 0; i < n; i++) {
    if (i > 0 && points[i] < points[i - 1]) throw new RangeError('"points" must be ascending');
    for (let power = 0; power < 3; power++)
      sums[power][i + 1] = sums[power][i] + weights[i] * points[i] ** power;
  }
  const runCost = (from: number, to: number) => {
    const [weight, first, second] = sums.map((sum) => sum[to] - sum[from]);
    return weight > 0 ? Math.max(0, second - (first * first) / weight) : 0;
  };
  let cost = Float64Array.from({ length: n + 1 }, (_, to) => runCost(0, to));
  const ends: Int32Array[] = [];
  for (let clusters = 2; clusters <= k; clusters++) {
    const next = new Float64Array(n + 1).fill(Number.POSITIVE_INFINITY);
    const from = new Int32Array(n + 1);
    for (let to = clusters; to <= n; to++) {
      for (let cut = clusters - 1; cut < to; cut++) {
        const total = cost[cut] + runCost(cut, to);
        if (total < next[to]) {
          next[to] = total;
          from[to] = cut;
        }
      }
    }
    cost = next;
    ends.push(from);
  }
  const centers = new Float64Array(k);
  let to = n;
  for (let cluster = k - 1; cluster >= 0; cluster--) {
    const from = cluster > 0 ? ends[cluster - 1][to] : 0;
    const weight = sums[0][to] - sums[0][from];
    centers[cluster] = weight > 0 ? (sums[1][to] - sums[1][from]) / weight : points[from];
    to = from;
  }
  return { centers, cost: cost[n] };
}

/**
 * Scale and shift that give quantized data the mean and (population) standard deviation of the original.
 *
 * @param values normalized inner values of the calibration, [n]
 * @param levels ascending
 */
export function fitQNorm(values: ArrayLike<number>, levels: Float32Array): QNorm {
  const quantized = Float64Array.from(values, (value) => levels[nearestLevel(levels, value)]);
  const [before, after] = [moments(values), moments(quantized)];
  const scale = after.deviation > 0 ? before.deviation / after.deviation : 1;
  return { scale, shift: before.mean - scale * after.mean };
}

function moments(values: ArrayLike<number>): { mean: number; deviation: number } {
  let [sum, squares] = [0, 0];
  for (let i = 0; i < values.length; i++) sum += values[i];
  const mean = sum / values.length;
  for (let i = 0; i < values.length; i++) squares += (values[i] - mean) ** 2;
  return { mean, deviation: Math.sqrt(squares / values.length) };
}
