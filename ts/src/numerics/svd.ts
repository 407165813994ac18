/**
 * The thin singular value decomposition, from a library, made unique.
 *
 * An SVD is unique only up to a common sign of each pair of singular vectors (and rotations among equal
 * singular values). We fix the sign: the entry of largest magnitude in each column of U is positive. With
 * factors exported, others can reproduce the stored codes bit for bit.
 *
 * @module
 */

import { Matrix as LibraryMatrix, SingularValueDecomposition } from 'ml-matrix';
import { NumericError } from '../errors.js';
import { type Matrix, matrix } from './matrix.js';

/** `W = U diag(S) V^T`, singular values descending. rank = min(rows, columns). */
export interface ThinSvd {
  /** Orthonormal columns. [rows, rank] */
  readonly u: Matrix;
  /** [rank], descending, not negative */
  readonly s: Float32Array;
  /** Orthonormal rows. [rank, columns] */
  readonly vT: Matrix;
}

/**
 * Decomposes a matrix in f64 and rounds the factors to f32.
 *
 * @param w [rows, columns], finite
 * @throws {NumericError} if a value is not finite
 * @see XQuant §3.3.1
 */
export function thinSvd(w: Matrix): ThinSvd {
  const bad = w.data.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) {
    const place = { token: Math.floor(bad / w.columns), channel: bad % w.columns };
    throw new NumericError('svd', w.data[bad], place, 'not a finite number');
  }
  const library = new LibraryMatrix(w.rows, w.columns);
  for (let r = 0; r < w.rows; r++) {
    for (let c = 0; c < w.columns; c++) library.set(r, c, w.data[r * w.columns + c]);
  }
  // autoTranspose: the library's algorithm wants at least as many rows as columns.
  const svd = new SingularValueDecomposition(library, { autoTranspose: true });
  const left = svd.leftSingularVectors;
  const right = svd.rightSingularVectors;
  const rank = Math.min(w.rows, w.columns);

  const u = matrix(w.rows, rank);
  const vT = matrix(rank, w.columns);
  const s = new Float32Array(rank);
  for (let k = 0; k < rank; k++) {
    const sign = signOfLargest(left, k, w.rows);
    s[k] = svd.diagonal[k];
    for (let r = 0; r < w.rows; r++) u.data[r * rank + k] = sign * left.get(r, k);
    for (let c = 0; c < w.columns; c++) vT.data[k * w.columns + c] = sign * right.get(c, k);
  }
  return { u, s, vT };
}

/** The sign that makes the entry of largest magnitude of a column positive; the first one among equals. */
function signOfLargest(source: LibraryMatrix, column: number, rows: number): number {
  let largest = 0;
  for (let r = 0; r < rows; r++) {
    const value = source.get(r, column);
    if (Math.abs(value) > Math.abs(largest)) largest = value;
  }
  return largest < 0 ? -1 : 1;
}
