/**
 * The thin singular value decomposition, made unique.
 *
 * An SVD is unique only up to a common sign of each pair of singular vectors (and rotations among equal
 * singular values). We fix the sign: the entry of largest magnitude in each column of U is positive. With
 * factors exported, others can reproduce the stored codes bit for bit.
 *
 * The smaller side's Gram matrix has the same singular vectors, and its eigenproblem is several times faster:
 *
 *     A = W or W^T, whichever is tall [p, r]      A^T A = V S^2 V^T      U = A V S^-1
 *
 * Squaring squares the condition number, too: with eigenvalues that are off by up to r u (s_1)^2, u = 2^-53, the columns of U
 * are orthonormal up to r u (s_1 / s_r)^2. Where that may exceed 2^-25, half the rounding of the f32 numbers
 * that are returned, a library decomposes W itself.
 *
 * @module
 */

import { Matrix as LibraryMatrix, SingularValueDecomposition } from 'ml-matrix';
import { NumericError } from '../errors.js';
import { type Dense, dense, multiply, scaleColumns, toDense, transposeDense } from './dense.js';
import { symmetricEigen } from './eigen.js';
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

/** The factors in f64, with arbitrary signs. */
interface Factors {
  /** [rows, rank] */
  readonly left: Dense;
  /** [rank] */
  readonly values: Float64Array;
  /** [columns, rank] */
  readonly right: Dense;
}

/** How far from orthonormal the columns of U may be by way of the Gram matrix. */
const GRAM_TOLERANCE = 2 ** -25;

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
  const exact = toDense(w);
  const { left, values, right } = factorByGram(exact) ?? factorByLibrary(exact);
  const rank = values.length;
  const u = matrix(w.rows, rank);
  const vT = matrix(rank, w.columns);
  for (let k = 0; k < rank; k++) {
    const sign = signOfLargest(left, k);
    for (let r = 0; r < w.rows; r++) u.data[r * rank + k] = sign * left.data[r * rank + k];
    for (let c = 0; c < w.columns; c++) vT.data[k * w.columns + c] = sign * right.data[c * rank + k];
  }
  return { u, s: Float32Array.from(values), vT };
}

/** By the eigenproblem of the smaller Gram matrix; undefined where that is not accurate enough. */
function factorByGram(w: Dense): Factors | undefined {
  const tall = w.rows >= w.columns ? w : transposeDense(w);
  const { values: squares, vectors } = symmetricEigen(multiply(transposeDense(tall), tall));
  const rank = squares.length;
  const [largest, smallest] = [squares[0], squares[rank - 1]];
  if (!(rank * 2 ** -53 * largest <= GRAM_TOLERANCE * smallest)) return undefined;
  const values = squares.map(Math.sqrt);
  const other = scaleColumns(
    multiply(tall, vectors),
    values.map((value) => 1 / value),
  );
  return tall === w ? { left: other, values, right: vectors } : { left: vectors, values, right: other };
}

/** Without squaring anything, slowly. */
function factorByLibrary(w: Dense): Factors {
  const library = new LibraryMatrix(w.rows, w.columns);
  for (let r = 0; r < w.rows; r++) {
    for (let c = 0; c < w.columns; c++) library.set(r, c, w.data[r * w.columns + c]);
  }
  // autoTranspose: the library's algorithm wants at least as many rows as columns.
  const svd = new SingularValueDecomposition(library, { autoTranspose: true });
  const rank = Math.min(w.rows, w.columns);
  const take = (source: LibraryMatrix, rows: number): Dense => {
    const result = dense(rows, rank);
    for (let r = 0; r < rows; r++) {
      for (let k = 0; k < rank; k++) result.data[r * rank + k] = source.get(r, k);
    }
    return result;
  };
  return {
    left: take(svd.leftSingularVectors, w.rows),
    values: Float64Array.from(svd.diagonal),
    right: take(svd.rightSingularVectors, w.columns),
  };
}

/** The sign that makes the entry of largest magnitude of a column positive; the first one among equals. */
function signOfLargest({ rows, columns, data }: Dense, column: number): number {
  let largest = 0;
  for (let r = 0; r < rows; r++) {
    const value = data[r * columns + column];
    if (Math.abs(value) > Math.abs(largest)) largest = value;
  }
  return largest < 0 ? -1 : 1;
}
