/**
 * Means and covariances that are gathered window by window and put together exactly.
 *
 *     product = sum over tokens of (a - mean a)^T (b - mean b)          a, b: row vectors
 *
 * Each part is centered about its own means, so that nothing large is subtracted from something large; two parts together
 * have the products of both and what the distance of their means adds (Chan, Golub and LeVeque, 1979).
 *
 * @module
 */

import { ShapeError } from '../../errors.js';
import { type Dense, dense, transposeDense } from '../../numerics/dense.js';

/** Second moments of two sets of channels over some tokens. */
export interface CoMoments {
  /** Tokens. */
  readonly count: number;
  /** [rows] */
  readonly meanA: Float64Array;
  /** [columns] */
  readonly meanB: Float64Array;
  /** Sum over tokens of the centered products. [rows, columns] */
  readonly product: Dense;
}

/**
 * The moments of two parts together.
 *
 * @returns fresh
 * @throws {ShapeError} if the channels differ
 */
export function combineMoments(first: CoMoments, second: CoMoments): CoMoments {
  const { rows, columns } = first.product;
  if (second.product.rows !== rows || second.product.columns !== columns) {
    throw new ShapeError(
      'combineMoments',
      'product',
      [rows, columns],
      [second.product.rows, second.product.columns],
    );
  }
  const count = first.count + second.count;
  const weight = second.count / count;
  const mean = (a: Float64Array, b: Float64Array) => a.map((value, i) => value + weight * (b[i] - value));
  const product = dense(rows, columns, first.product.data.slice());
  const spread = first.count * weight;
  for (let r = 0; r < rows; r++) {
    const distance = spread * (second.meanA[r] - first.meanA[r]);
    for (let c = 0; c < columns; c++) {
      product.data[r * columns + c] +=
        second.product.data[r * columns + c] + distance * (second.meanB[c] - first.meanB[c]);
    }
  }
  return {
    count,
    meanA: mean(first.meanA, second.meanA),
    meanB: mean(first.meanB, second.meanB),
    product,
  };
}

/** The covariance [rows, columns], fresh. */
export function covariance({ count, product }: CoMoments): Dense {
  return dense(
    product.rows,
    product.columns,
    product.data.map((value) => value / count),
  );
}

/**
 * Some channels of a symmetric covariance.
 *
 * @returns fresh, [size, size]
 */
export function diagonalBlock({ columns, data }: Dense, first: number, size: number): Dense {
  const result = dense(size, size);
  for (let r = 0; r < size; r++) {
    const from = (first + r) * columns + first;
    result.data.set(data.subarray(from, from + size), r * size);
  }
  return result;
}

/** `(S + S^T) / 2`, fresh: what a symmetric matrix is when the errors of its two halves differ. */
export function symmetrize(s: Dense): Dense {
  const other = transposeDense(s).data;
  return dense(
    s.rows,
    s.columns,
    s.data.map((value, i) => (value + other[i]) / 2),
  );
}
