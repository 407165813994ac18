/**
 * Small dense matrices in f64, for what is computed once and offline: products and least squares.
 *
 * The library that finds eigenvalues (numerics/eigen.ts) multiplies, too, but an element at a time through accessors:
 * the products here take a third of its time and the triangular solves a sixth (measured at 384 and 768 columns).
 *
 * @module
 */

import { NumericError, ShapeError } from '../errors.js';
import type { Matrix } from './matrix.js';

/** A row-major matrix of f64 numbers. */
export interface Dense {
  readonly rows: number;
  readonly columns: number;
  /** [rows, columns] */
  readonly data: Float64Array;
}

/**
 * Makes a matrix.
 *
 * @param data kept, not copied; zeros if not given
 * @throws {ShapeError} if `data` does not have rows * columns elements
 */
export function dense(rows: number, columns: number, data?: Float64Array): Dense {
  if (data && data.length !== rows * columns) {
    throw new ShapeError('dense', 'data', [rows, columns], [data.length]);
  }
  return { rows, columns, data: data ?? new Float64Array(rows * columns) };
}

/** The same numbers in f64. */
export function toDense({ rows, columns, data }: Matrix): Dense {
  return { rows, columns, data: Float64Array.from(data) };
}

/** A diagonal matrix. */
export function diagonal(values: ArrayLike<number>): Dense {
  const result = dense(values.length, values.length);
  for (let i = 0; i < values.length; i++) result.data[i * values.length + i] = values[i];
  return result;
}

/** The transpose, fresh. */
export function transposeDense({ rows, columns, data }: Dense): Dense {
  const result = dense(columns, rows);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) result.data[c * rows + r] = data[r * columns + c];
  }
  return result;
}

/**
 * A B.
 *
 * @param a [rows, inner]
 * @param b [inner, columns]
 * @returns fresh, [rows, columns]
 * @throws {ShapeError} if the inner sizes differ
 */
export function multiply(a: Dense, b: Dense): Dense {
  if (a.columns !== b.rows)
    throw new ShapeError('multiply', 'b', [a.columns, b.columns], [b.rows, b.columns]);
  const { rows, columns: inner, data: left } = a;
  const { columns, data: right } = b;
  const result = dense(rows, columns);
  const out = result.data;
  for (let r = 0; r < rows; r++) {
    const to = r * columns;
    let k = 0;
    // Four rows of B at a time: the row of the result is read and written once for all of them.
    for (; k + 4 <= inner; k += 4) {
      const from = r * inner + k;
      const [a0, a1, a2, a3] = [left[from], left[from + 1], left[from + 2], left[from + 3]];
      if (a0 === 0 && a1 === 0 && a2 === 0 && a3 === 0) continue; // the metric is made of blocks
      const b0 = k * columns;
      const b1 = b0 + columns;
      const b2 = b1 + columns;
      const b3 = b2 + columns;
      for (let c = 0; c < columns; c++) {
        out[to + c] += a0 * right[b0 + c] + a1 * right[b1 + c] + a2 * right[b2 + c] + a3 * right[b3 + c];
      }
    }
    for (; k < inner; k++) {
      const factor = left[r * inner + k];
      for (let c = 0; c < columns; c++) out[to + c] += factor * right[k * columns + c];
    }
  }
  return result;
}

/** a + factor * b, fresh. @throws {ShapeError} if the shapes differ */
export function addScaled(a: Dense, b: Dense, factor: number): Dense {
  if (a.rows !== b.rows || a.columns !== b.columns) {
    throw new ShapeError('addScaled', 'b', [a.rows, a.columns], [b.rows, b.columns]);
  }
  return dense(
    a.rows,
    a.columns,
    a.data.map((value, i) => value + factor * b.data[i]),
  );
}

/** Row r times `factors[r]`, fresh. */
export function scaleRows(a: Dense, factors: ArrayLike<number>): Dense {
  const result = dense(a.rows, a.columns);
  for (let i = 0; i < result.data.length; i++) {
    result.data[i] = a.data[i] * factors[Math.floor(i / a.columns)];
  }
  return result;
}

/** Column c times `factors[c]`, fresh. */
export function scaleColumns(a: Dense, factors: ArrayLike<number>): Dense {
  return dense(
    a.rows,
    a.columns,
    a.data.map((value, i) => value * factors[i % a.columns]),
  );
}

/** Sum of the diagonal. */
export function trace({ columns, data }: Dense): number {
  let sum = 0;
  for (let i = 0; i < data.length; i += columns + 1) sum += data[i];
  return sum;
}

/**
 * Solves S X = Y for a symmetric positive definite S, by its Cholesky factor.
 *
 * @param s [n, n], read; the upper triangle is not looked at
 * @param y [n, columns]
 * @returns X, fresh, [n, columns]
 * @throws {NumericError} if S is not positive definite; names the row
 */
export function solvePositive(s: Dense, y: Dense): Dense {
  if (s.rows !== s.columns || y.rows !== s.rows) {
    throw new ShapeError('solvePositive', 'y', [s.rows, y.columns], [y.rows, y.columns]);
  }
  const n = s.rows;
  const { columns } = y;
  const lower = choleskyFactor(s).data;
  const x = y.data.slice();
  // L Z = Y from the top, then L^T X = Z from the bottom, each for all columns at once.
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < i; j++) subtractRow(x, i, j, lower[i * n + j], columns);
    divideRow(x, i, lower[i * n + i], columns);
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let j = i + 1; j < n; j++) subtractRow(x, i, j, lower[j * n + i], columns);
    divideRow(x, i, lower[i * n + i], columns);
  }
  return dense(n, columns, x);
}

/** L with S = L L^T. */
function choleskyFactor({ rows: n, data }: Dense): Dense {
  const factor = dense(n, n);
  const lower = factor.data;
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = data[i * n + j];
      for (let k = 0; k < j; k++) sum -= lower[i * n + k] * lower[j * n + k];
      if (i > j) {
        lower[i * n + j] = sum / lower[j * n + j];
        continue;
      }
      if (!(sum > 0)) {
        throw new NumericError('solvePositive', sum, { channel: i }, 'the matrix is not positive definite');
      }
      lower[i * n + i] = Math.sqrt(sum);
    }
  }
  return factor;
}

function subtractRow(x: Float64Array, to: number, from: number, factor: number, columns: number): void {
  if (factor === 0) return;
  const target = to * columns;
  const source = from * columns;
  for (let c = 0; c < columns; c++) x[target + c] -= factor * x[source + c];
}

function divideRow(x: Float64Array, row: number, divisor: number, columns: number): void {
  for (let c = row * columns; c < (row + 1) * columns; c++) x[c] /= divisor;
}
