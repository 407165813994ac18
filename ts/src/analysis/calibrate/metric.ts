/**
 * What an error of keys and values costs: a quadratic form for each head, so that bits go where they matter.
 *
 * A query q at distance D from a key (both before RoPE) gives it the score `s q R(D) k^T`, R(D) the RoPE rotation by D tokens of the
 * layer, s = 1 / sqrt(headDim) in most models. An error e of the key changes the score by `s q R(D) e^T`, and its square, averaged over
 * queries, over the query heads that read this key, and over distances, is a quadratic form:
 *
 *     Omega_K = s^2 mean over D of  R(D)^T (sum over query heads of E[q^T q]) R(D)              e Omega_K e^T
 *
 * An error e of a value reaches the residual stream through the output projection of each query head that reads it,
 * `e Wo_h^T` times an attention weight, and its squared length is
 *
 *     Omega_V = sum over query heads of  Wo_h^T Wo_h                                            e Omega_V e^T
 *
 * How much a squared error of a score or of the stream costs in a layer is measured (sensitivities.ts):
 *
 *     Q = blockdiag(a Omega_K of every head, b Omega_V of every head)
 *
 * and for errors of X itself, from which keys and values are projected by W = [Wk | Wv]: `W Q W^T`.
 *
 * @module
 */

import { ShapeError } from '../../errors.js';
import { derivedSizes, type ModelConfig, type RopeLayout, slidingWindow } from '../../model/config.js';
import { layerRope, type Rope } from '../../model/rope.js';
import {
  addScaled,
  type Dense,
  dense,
  multiply,
  scaleColumns,
  scaleRows,
  transposeDense,
} from '../../numerics/dense.js';
import type { Matrix } from '../../numerics/matrix.js';

/** Longest distance between query and key that is averaged over, in tokens. */
const FARTHEST = 2047;

/** Distances of each of the two spacings. */
const SPACED = 64;

/** How the norm of keys (QK-norm) passes errors on. */
export interface KeyNormalization {
  /** Of one head, [headDim], or of all, [kvDim]. */
  readonly gain: Float32Array;
  /** Root mean square of the projected keys of each KV head, before the norm. [numKeyValueHeads] */
  readonly rms: ArrayLike<number>;
}

/**
 * Distances between query and key that stand for all: evenly spaced ones, and logarithmically spaced ones because
 * much attention is paid to neighbours.
 *
 * @param farthest that the layer sees
 * @returns tokens, 64 from 0 to 2047 and 64 from 1 to 2047, or to the farthest if that is nearer
 */
export function metricDistances(farthest = Number.POSITIVE_INFINITY): number[] {
  const end = Math.min(FARTHEST, farthest);
  const even = Array.from({ length: SPACED }, (_, i) => (end * i) / (SPACED - 1));
  const logarithmic = Array.from({ length: SPACED }, (_, i) => end ** (i / (SPACED - 1)));
  return [...even, ...logarithmic].map(Math.round);
}

/**
 * Omega_K of every KV head.
 *
 * @param moments E[q^T q] of every query head before RoPE, [headDim, headDim] each
 * @param layer whose RoPE and window it is
 * @param norm of keys, where the model has one: an error of the projected key reaches the finished one times
 *   gain / rms (what the error changes in the rms itself is left out)
 * @returns fresh, [headDim, headDim] each
 * @throws {ShapeError} if there is not one matrix for each query head
 */
export function keyMetric(
  moments: readonly Dense[],
  config: ModelConfig,
  layer: number,
  norm?: KeyNormalization,
  distances: readonly number[] = metricDistances(slidingWindow(config, layer) - 1),
): Dense[] {
  const { numAttentionHeads, numKeyValueHeads, headDim, ropeLayout } = config;
  if (moments.length !== numAttentionHeads) {
    throw new ShapeError('keyMetric', 'moments', [numAttentionHeads], [moments.length]);
  }
  const { groupedHeads } = derivedSizes(config);
  const { attentionScale: scale = 1 / Math.sqrt(headDim) } = config;
  const rope = layerRope(config, layer);
  return Array.from({ length: numKeyValueHeads }, (_, head) => {
    const group = moments.slice(head * groupedHeads, (head + 1) * groupedHeads);
    const sum = group.reduce((a, b) => addScaled(a, b, 1));
    const metric = distances
      .map((distance) => rotateForm(sum, distance, rope, ropeLayout))
      .reduce((all, each) => addScaled(all, each, scale ** 2 / distances.length), dense(headDim, headDim));
    if (!norm) return metric;
    const { gain, rms } = norm;
    const own = gain.length === headDim ? gain : gain.subarray(head * headDim, (head + 1) * headDim);
    const factors = Array.from(own, (each) => each / rms[head]);
    return scaleColumns(scaleRows(metric, factors), factors);
  });
}

/**
 * Omega_V of every KV head.
 *
 * @param wO [hiddenSize, queryDim]
 * @returns fresh, [headDim, headDim] each
 */
export function valueMetric(wO: Matrix, config: ModelConfig): Dense[] {
  const { numKeyValueHeads, headDim } = config;
  const { groupedHeads, queryDim } = derivedSizes(config);
  if (wO.columns !== queryDim) {
    throw new ShapeError('valueMetric', 'wO', [config.hiddenSize, queryDim], [wO.rows, wO.columns]);
  }
  return Array.from({ length: numKeyValueHeads }, (_, head) => {
    let metric = dense(headDim, headDim);
    for (let query = head * groupedHeads; query < (head + 1) * groupedHeads; query++) {
      const columns = dense(wO.rows, headDim);
      for (let r = 0; r < wO.rows; r++) {
        const from = r * queryDim + query * headDim;
        columns.data.set(wO.data.subarray(from, from + headDim), r * headDim);
      }
      metric = addScaled(metric, multiply(transposeDense(columns), columns), 1);
    }
    return metric;
  });
}

/**
 * Q for errors of `[K | V]` before bias and norm, as the blocks along its diagonal.
 *
 * @param keys Omega_K of every KV head
 * @param values Omega_V of every KV head
 * @param sensitivities a and b of the layer
 * @returns fresh, [headDim, headDim] each: the key heads, then the value heads
 */
export function keyValueMetric(
  keys: readonly Dense[],
  values: readonly Dense[],
  sensitivities: { readonly keys: number; readonly values: number },
): Dense[] {
  const scaled = (form: Dense, factor: number) =>
    dense(
      form.rows,
      form.columns,
      form.data.map((x) => x * factor),
    );
  return [
    ...keys.map((each) => scaled(each, sensitivities.keys)),
    ...values.map((each) => scaled(each, sensitivities.values)),
  ];
}

/**
 * Q for errors of X.
 *
 * @param blocks of {@link keyValueMetric}
 * @param projection [Wk | Wv] as files store it: [2 kvDim, hiddenSize]
 * @returns fresh, [hiddenSize, hiddenSize]
 */
export function inputMetric(blocks: readonly Dense[], projection: Dense): Dense {
  const { columns } = projection;
  const weighted = dense(projection.rows, columns);
  let first = 0;
  for (const block of blocks) {
    const part = projection.data.subarray(first * columns, (first + block.rows) * columns);
    weighted.data.set(multiply(block, dense(block.rows, columns, part)).data, first * columns);
    first += block.rows;
  }
  return multiply(transposeDense(projection), weighted);
}

/** `R(D)^T M R(D)` for row vectors: the second moment of queries turned by D tokens. */
function rotateForm({ rows: n, data }: Dense, distance: number, rope: Rope, layout: RopeLayout): Dense {
  const { frequencies, magnitudes } = rope;
  const pairs = frequencies.length;
  const [step, apart] = layout === 'half' ? [1, pairs] : [2, 1];
  const result = data.slice();
  // Two channels of a pair, first in every row, then in every column.
  const turn = (stride: number, along: number) => {
    for (let i = 0; i < pairs; i++) {
      const magnitude = (magnitudes?.[i] ?? 1) ** 2; // of the query and of the key
      const cos = magnitude * Math.cos(distance * frequencies[i]);
      const sin = magnitude * Math.sin(distance * frequencies[i]);
      const first = i * step * stride;
      const second = first + apart * stride;
      for (let k = 0; k < n; k++) {
        const a = result[first + k * along];
        const b = result[second + k * along];
        result[first + k * along] = a * cos - b * sin;
        result[second + k * along] = a * sin + b * cos;
      }
    }
  };
  turn(1, n);
  turn(n, 1);
  return dense(n, n, result);
}
