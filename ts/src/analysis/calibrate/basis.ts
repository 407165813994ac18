/**
 * The basis of a layer: coordinates in which what is left after prediction is uncorrelated, and an error of one
 * standard deviation of channel k costs L_k (transform coding with a weighted error).
 *
 *     A = Q^(1/2)                      errors of c A all cost the same
 *     A C A = V L V^T                  C: covariance of c - p;  L descending
 *     z = (c - p) E                    E = A V L^(-1/2)          variance 1, no correlation
 *     c^ = p + z^ D                    D = L^(1/2) V^T A^-1      E D = I
 *
 * The cost of the error (z^ - z) is sum over k of `L_k (z^_k - z_k)^2`: L_k is the importance of channel k, and
 * decides its bits. With `tensor` or `head`, C is cut to blocks first, and every block has a basis of its own.
 *
 * @module
 */

import {
  type Dense,
  dense,
  multiply,
  scaleColumns,
  scaleRows,
  transposeDense,
} from '../../numerics/dense.js';
import { symmetricEigen } from '../../numerics/eigen.js';
import { diagonalBlock, symmetrize } from './statistics.js';

/** Eigenvalues of a metric below this fraction of their mean are raised to it: no direction is free. */
const METRIC_FLOOR = 1e-3;

/**
 * Importances below this fraction of the largest of their block are raised to it: no such channel ever gets bits, and
 * the rows of D, which shrink with the root of the importance, stay within f16.
 */
const IMPORTANCE_FLOOR = 1e-6;

/** A = Q^(1/2), symmetric, and its inverse. */
export interface MetricRoot {
  /** [n, n] */
  readonly root: Dense;
  /** [n, n] */
  readonly inverse: Dense;
}

/** The coordinates of one layer. */
export interface LayerBasis {
  /** E: carrier to coordinates. [n, n] */
  readonly encode: Dense;
  /** D: coordinates to carrier. [n, n] */
  readonly decode: Dense;
  /** L of every channel. [n] */
  readonly importance: Float64Array;
}

/**
 * The root of a metric.
 *
 * @param blocks of the metric along its diagonal, each symmetric and not negative
 * @param cuts channels of each part whose eigenvalues have a floor of their own, each whole blocks
 * @returns fresh
 */
export function metricRoot(blocks: readonly Dense[], cuts: readonly number[]): MetricRoot {
  const n = blocks.reduce((sum, { rows }) => sum + rows, 0);
  const root = dense(n, n);
  const inverse = dense(n, n);
  const parts: { first: number; values: Float64Array; vectors: Dense }[] = [];
  let end = 0;
  for (const block of blocks) {
    parts.push({ first: end, ...symmetricEigen(block) });
    end += block.rows;
  }
  for (const { values, vectors, first } of parts) {
    const floor = METRIC_FLOOR * meanInCut(parts, cuts, first);
    const roots = values.map((value) => Math.sqrt(Math.max(value, floor)));
    const transposed = transposeDense(vectors);
    place(root, multiply(scaleColumns(vectors, roots), transposed), first);
    const inverses = roots.map((value) => 1 / value);
    place(inverse, multiply(scaleColumns(vectors, inverses), transposed), first);
  }
  return { root, inverse };
}

/** Mean of the eigenvalues of the cut that a channel is in. */
function meanInCut(
  parts: readonly { readonly first: number; readonly values: Float64Array }[],
  cuts: readonly number[],
  channel: number,
): number {
  let start = 0;
  let end = 0;
  for (const size of cuts) {
    if (end > channel) break;
    start = end;
    end += size;
  }
  const inside = parts.filter(({ first }) => first >= start && first < end);
  const sum = inside.reduce((all, { values }) => values.reduce((total, value) => total + value, all), 0);
  return sum / (end - start);
}

/**
 * The basis of a layer.
 *
 * @param metric A and its inverse, [n, n]
 * @param residual C, the covariance of what is coded, [n, n]
 * @param blocks channels of each part that has a basis of its own; [n] for one basis
 * @returns fresh; zero outside the blocks, importance descending in each
 */
export function layerBasis(
  { root, inverse }: MetricRoot,
  residual: Dense,
  blocks: readonly number[],
): LayerBasis {
  const n = residual.rows;
  const weighted = symmetrize(multiply(multiply(root, residual), root));
  const parts: { first: number; values: Float64Array; vectors: Dense }[] = [];
  let first = 0;
  for (const size of blocks) {
    parts.push({ first, ...symmetricEigen(diagonalBlock(weighted, first, size)) });
    first += size;
  }
  const importance = new Float64Array(n);
  const vectors = dense(n, n);
  for (const part of parts) {
    importance.set(
      part.values.map((value) => Math.max(value, IMPORTANCE_FLOOR * part.values[0])),
      part.first,
    );
    place(vectors, part.vectors, part.first);
  }
  const deviations = importance.map(Math.sqrt);
  return {
    encode: scaleColumns(
      multiply(root, vectors),
      deviations.map((value) => 1 / value),
    ),
    decode: scaleRows(multiply(transposeDense(vectors), inverse), deviations),
    importance,
  };
}

/** Writes a block on the diagonal. */
function place(target: Dense, block: Dense, first: number): void {
  for (let r = 0; r < block.rows; r++) {
    const row = block.data.subarray(r * block.columns, (r + 1) * block.columns);
    target.data.set(row, (first + r) * target.columns + first);
  }
}
