/**
 * The inverse of a square matrix, in f64. Like the products of numerics/dense.ts it is written out, because the library
 * reads an element at a time through accessors.
 *
 * @module
 */

import { NumericError, ShapeError } from '../errors.js';
import { type Dense, dense } from './dense.js';

/**
 * Inverts a matrix by Gauss-Jordan elimination with partial pivoting.
 *
 * @param source [n, n], read
 * @returns fresh
 * @throws {ShapeError} if it is not square
 * @throws {NumericError} if it is singular, or has values that are not finite; names the column
 */
export function inverse(source: Dense): Dense {
  const n = source.rows;
  if (source.columns !== n) throw new ShapeError('inverse', 'source', [n, n], [n, source.columns]);
  const left = source.data.slice();
  const result = dense(n, n);
  const right = result.data;
  for (let i = 0; i < n; i++) right[i * n + i] = 1;
  for (let column = 0; column < n; column++) {
    const pivotRow = largestInColumn(left, n, column);
    const pivot = left[pivotRow * n + column];
    if (!(Math.abs(pivot) > 0 && Number.isFinite(pivot))) {
      throw new NumericError('inverse', pivot, { channel: column }, 'the matrix has no inverse');
    }
    for (const side of [left, right]) {
      swapRows(side, n, column, pivotRow);
      for (let c = column * n; c < (column + 1) * n; c++) side[c] /= pivot;
    }
    for (let row = 0; row < n; row++) {
      const factor = left[row * n + column];
      if (row === column || factor === 0) continue;
      for (const side of [left, right]) {
        for (let c = 0; c < n; c++) side[row * n + c] -= factor * side[column * n + c];
      }
    }
  }
  return result;
}

/** The row, from `column` on, whose entry in the column is largest. */
function largestInColumn(data: Float64Array, n: number, column: number): number {
  let best = column;
  for (let row = column + 1; row < n; row++) {
    if (Math.abs(data[row * n + column]) > Math.abs(data[best * n + column])) best = row;
  }
  return best;
}

function swapRows(data: Float64Array, n: number, a: number, b: number): void {
  if (a === b) return;
  const kept = data.slice(a * n, (a + 1) * n);
  data.copyWithin(a * n, b * n, (b + 1) * n);
  data.set(kept, b * n);
}
