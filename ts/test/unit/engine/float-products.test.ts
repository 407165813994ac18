import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { FloatProducts } from '../../../src/engine/float-products.js';
import { ShapeError } from '../../../src/errors.js';
import { type Matrix, transpose } from '../../../src/numerics/matrix.js';
import { gaussianMatrix } from '../../helpers/arbitraries.js';

const size = fc.integer({ min: 1, max: 40 });
const products = await FloatProducts.create({ kernel: 'simd' });

/** Sum, and sum of magnitudes, in f64. */
function expectProduct(actual: Matrix, a: Matrix, b: Matrix): void {
  expect([actual.rows, actual.columns]).toEqual([a.rows, b.columns]);
  for (let r = 0; r < a.rows; r++) {
    for (let c = 0; c < b.columns; c++) {
      let sum = 0;
      let magnitude = 0;
      for (let k = 0; k < a.columns; k++) {
        const term = a.data[r * a.columns + k] * b.data[k * b.columns + c];
        sum += term;
        magnitude += Math.abs(term);
      }
      // n roundings of products and sums, each at most 2^-24 of what has been summed.
      const bound = (a.columns + 1) * 2 ** -24 * magnitude;
      expect(Math.abs(actual.data[r * b.columns + c] - sum)).toBeLessThanOrEqual(bound);
    }
  }
}

describe('FloatProducts', () => {
  test.prop([size, size, size, fc.nat()])('multiply is A B', (rows, inner, columns, seed) => {
    const a = gaussianMatrix(rows, inner, seed);
    const b = gaussianMatrix(inner, columns, seed + 1);
    expectProduct(products.multiply(a, b), a, b);
  });

  test.prop([size, size, size, fc.nat()])('multiplyTransposed is A^T B', (tokens, rows, columns, seed) => {
    const a = gaussianMatrix(tokens, rows, seed);
    const b = gaussianMatrix(tokens, columns, seed + 1);
    expectProduct(products.multiplyTransposed(a, b), transpose(a), b);
  });

  it('names shapes that do not fit', () => {
    const [a, b] = [gaussianMatrix(2, 3, 1), gaussianMatrix(2, 3, 2)];
    expect(() => products.multiply(a, b)).toThrow(ShapeError);
    expect(() => products.multiplyTransposed(a, transpose(b))).toThrow(ShapeError);
  });
});
