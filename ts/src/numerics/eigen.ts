/**
 * Symmetric eigenproblems, from a library.
 *
 * @module
 */

import { EigenvalueDecomposition, Matrix as LibraryMatrix } from 'ml-matrix';
import { NumericError, ShapeError } from '../errors.js';
import { type Dense, dense } from './dense.js';

/** `S = V diag(values) V^T`. */
export interface SymmetricEigen {
  /** [n], descending */
  readonly values: Float64Array;
  /** V: column k is the unit eigenvector of `values[k]`. [n, n] */
  readonly vectors: Dense;
}

/**
 * Decomposes a symmetric matrix.
 *
 * @param s [n, n], read; taken for symmetric
 * @returns fresh; the signs of the eigenvectors are arbitrary
 * @throws {ShapeError} if it is not square
 * @throws {NumericError} if a value is not finite
 */
export function symmetricEigen(s: Dense): SymmetricEigen {
  const n = s.rows;
  if (s.columns !== n) throw new ShapeError('symmetricEigen', 's', [n, n], [n, s.columns]);
  const bad = s.data.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) {
    const place = { token: Math.floor(bad / n), channel: bad % n };
    throw new NumericError('symmetricEigen', s.data[bad], place, 'not a finite number');
  }
  const library = new LibraryMatrix(n, n);
  for (let r = 0; r < n; r++) {
    for (let c = 0; c < n; c++) library.set(r, c, s.data[r * n + c]);
  }
  const { realEigenvalues, eigenvectorMatrix } = new EigenvalueDecomposition(library, {
    assumeSymmetric: true,
  });
  const order = Array.from(realEigenvalues.keys()).sort((a, b) => realEigenvalues[b] - realEigenvalues[a]);
  const vectors = dense(n, n);
  for (let r = 0; r < n; r++) {
    for (let k = 0; k < n; k++) vectors.data[r * n + k] = eigenvectorMatrix.get(r, order[k]);
  }
  return { values: Float64Array.from(order, (k) => realEigenvalues[k]), vectors };
}
