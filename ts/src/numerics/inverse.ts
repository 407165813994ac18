/**
 * The inverse of a square matrix, in f64. Like the products of numerics/dense.ts it is written out, because the library
 * reads an element at a time through accessors.
 *
 * @module
 */

import { NumericError, ShapeError } from '../errors.js';
import { type Dense, dense } from './dense.js';

/**
 * Inverts a matrix by Gauss-Jordan elimination with partial pivoting, in the place of a copy: a column that is done becomes
 * one of the inverse. Rows of a block that has zeros beside it are not touched by other blocks.
 *
 * @param source [n, n], read
 * @returns fresh
 * @throws {ShapeError} if it is not square
 * @throws {NumericError} if it is singular, or has values that are not finite; names the column
 */
export function inverse(source: Dense): Dense {
  const n = source.rows;
  if (source.columns !== n) throw new ShapeError('inverse', 'source', [n, n], [n, source.columns]);
  const data = source.data.slice();
  const rows = Array.from({ length: n }, (_, r) => data.subarray(r * n, (r + 1) * n));
  const pivots: number[] = [];
  for (let column = 0; column < n; column++) {
    const pivotRow = largestInColumn(rows, column);
    const pivot = rows[pivotRow][column];
    if (!(Math.abs(pivot) > 0 && Number.isFinite(pivot))) {
      throw new NumericError('inverse', pivot, { channel: column }, 'the matrix has no inverse');
    }
    pivots.push(pivotRow);
    swapRows(rows[column], rows[pivotRow]);
    const own = rows[column];
    own[column] = 1;
    for (let c = 0; c < n; c++) own[c] /= pivot;
    for (const row of rows) {
      const factor = row[column];
      if (row === own || factor === 0) continue;
      row[column] = 0;
      for (let c = 0; c < n; c++) row[c] -= factor * own[c];
    }
  }
  // Rows that were exchanged on the way in are columns on the way out.
  for (let column = n - 1; column >= 0; column--) {
    if (pivots[column] === column) continue;
    for (const row of rows) [row[column], row[pivots[column]]] = [row[pivots[column]], row[column]];
  }
  return dense(n, n, data);
}

/** The row, from `column` on, whose entry in the column is largest. */
function largestInColumn(rows: readonly Float64Array[], column: number): number {
  let best = column;
  for (let row = column + 1; row < rows.length; row++) {
    if (Math.abs(rows[row][column]) > Math.abs(rows[best][column])) best = row;
  }
  return best;
}

function swapRows(a: Float64Array, b: Float64Array): void {
  if (a === b) return;
  const kept = a.slice();
  a.set(b);
  b.set(kept);
}
