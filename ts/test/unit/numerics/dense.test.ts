import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { NumericError, ShapeError } from '../../../src/errors.js';
import {
  addScaled,
  type Dense,
  dense,
  diagonal,
  multiply,
  scaleColumns,
  scaleRows,
  solvePositive,
  toDense,
  trace,
  transposeDense,
} from '../../../src/numerics/dense.js';
import { symmetricEigen } from '../../../src/numerics/eigen.js';
import { gaussianMatrix } from '../../helpers/arbitraries.js';

const size = fc.integer({ min: 1, max: 20 });
const gaussian = (rows: number, columns: number, seed: number) =>
  toDense(gaussianMatrix(rows, columns, seed));

function expectClose(actual: Dense, expected: Dense, tolerance: number): void {
  expect([actual.rows, actual.columns]).toEqual([expected.rows, expected.columns]);
  actual.data.forEach((value, i) => {
    expect(Math.abs(value - expected.data[i])).toBeLessThanOrEqual(tolerance);
  });
}

describe('dense matrices', () => {
  test.prop([size, size, size, fc.nat()])('multiply is three loops', (rows, inner, columns, seed) => {
    const a = gaussian(rows, inner, seed);
    const b = gaussian(inner, columns, seed + 1);
    const expected = dense(rows, columns);
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        for (let k = 0; k < inner; k++) {
          expected.data[r * columns + c] += a.data[r * inner + k] * b.data[k * columns + c];
        }
      }
    }
    expectClose(multiply(a, b), expected, 1e-12);
  });

  test.prop([size, size, fc.nat()])(
    'scaling rows and columns is multiplying by a diagonal',
    (rows, columns, seed) => {
      const a = gaussian(rows, columns, seed);
      const left = gaussian(rows, 1, seed + 1).data;
      const right = gaussian(columns, 1, seed + 2).data;
      expectClose(scaleRows(a, left), multiply(diagonal(left), a), 0);
      expectClose(scaleColumns(a, right), multiply(a, diagonal(right)), 0);
    },
  );

  test.prop([size, size, fc.nat()])('solvePositive undoes multiplying', (n, columns, seed) => {
    const root = gaussian(n + 4, n, seed);
    const s = addScaled(multiply(transposeDense(root), root), diagonal(new Float64Array(n).fill(1)), 0.1);
    const x = gaussian(n, columns, seed + 1);
    expectClose(solvePositive(s, multiply(s, x)), x, 1e-8);
  });

  it('solvePositive refuses a matrix that is not positive definite', () => {
    expect(() => solvePositive(diagonal([1, 0]), dense(2, 1))).toThrow(NumericError);
    expect(() => solvePositive(diagonal([1, Number.NaN]), dense(2, 1))).toThrow(NumericError);
  });

  it('shapes that do not fit are named', () => {
    expect(() => multiply(dense(2, 3), dense(2, 3))).toThrow(ShapeError);
    expect(() => addScaled(dense(2, 3), dense(3, 2), 1)).toThrow(ShapeError);
    expect(() => dense(2, 2, new Float64Array(3))).toThrow(ShapeError);
  });
});

describe('symmetricEigen', () => {
  test.prop([size, fc.nat()])(
    'V diag(values) V^T is the matrix, V is orthonormal, values descend',
    (n, seed) => {
      const a = gaussian(n, n, seed);
      const s = addScaled(a, transposeDense(a), 1);
      const { values, vectors } = symmetricEigen(s);
      const back = multiply(scaleColumns(vectors, values), transposeDense(vectors));
      expectClose(back, s, 1e-11);
      expectClose(multiply(transposeDense(vectors), vectors), diagonal(new Float64Array(n).fill(1)), 1e-12);
      for (let k = 1; k < n; k++) expect(values[k]).toBeLessThanOrEqual(values[k - 1]);
      expect(values.reduce((sum, value) => sum + value, 0)).toBeCloseTo(trace(s), 9);
    },
  );

  it('refuses what is not square or not finite', () => {
    expect(() => symmetricEigen(dense(2, 3))).toThrow(ShapeError);
    expect(() => symmetricEigen(diagonal([1, Number.POSITIVE_INFINITY]))).toThrow(NumericError);
  });
});
