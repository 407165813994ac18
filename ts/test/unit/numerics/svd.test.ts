import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { NumericError } from '../../../src/errors.js';
import { linear, matrix, transpose } from '../../../src/numerics/matrix.js';
import { thinSvd } from '../../../src/numerics/svd.js';
import { gaussianMatrix } from '../../helpers/arbitraries.js';

const size = fc.integer({ min: 1, max: 24 });

describe('thinSvd', () => {
  test.prop([size, size, fc.nat()])('the factors multiply back to the matrix', (rows, columns, seed) => {
    const w = gaussianMatrix(rows, columns, seed);
    const { u, s, vT } = thinSvd(w);
    const scaled = matrix(
      u.rows,
      u.columns,
      u.data.map((value, i) => value * s[i % s.length]),
    );
    const product = linear(scaled, transpose(vT));
    // Factors rounded to f32: three roundings per term, rank terms of magnitude up to s[0].
    const bound = 4 * s.length * 2 ** -24 * s[0];
    product.data.forEach((value, i) => {
      expect(Math.abs(value - w.data[i])).toBeLessThanOrEqual(bound);
    });
  });

  test.prop([size, size, fc.nat()])('columns of U are orthonormal, values descend', (rows, columns, seed) => {
    const { u, s } = thinSvd(gaussianMatrix(rows, columns, seed));
    const gram = linear(transpose(u), transpose(u));
    gram.data.forEach((value, i) => {
      const expected = Math.floor(i / gram.columns) === i % gram.columns ? 1 : 0;
      expect(Math.abs(value - expected)).toBeLessThanOrEqual(4 * 2 ** -24 + rows * 2 ** -50);
    });
    for (let k = 1; k < s.length; k++) expect(s[k]).toBeLessThanOrEqual(s[k - 1]);
    expect(s.every((value) => value >= 0)).toBe(true);
  });

  test.prop([size, size, fc.nat()])(
    'the entry of largest magnitude of each column of U is positive',
    (rows, columns, seed) => {
      const { u } = thinSvd(gaussianMatrix(rows, columns, seed));
      for (let k = 0; k < u.columns; k++) {
        const column = Array.from({ length: rows }, (_, r) => u.data[r * u.columns + k]);
        const largest = column.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best));
        expect(largest).toBeGreaterThan(0);
      }
    },
  );

  test.prop([
    fc.integer({ min: 2, max: 24 }),
    fc.integer({ min: 2, max: 24 }),
    fc.nat(),
    fc.double({ min: 0, max: 9, noNaN: true }),
  ])(
    'condition numbers up to 10^9 leave U orthonormal and the product right',
    (rows, columns, seed, decades) => {
      const { u, s: spread, vT } = thinSvd(gaussianMatrix(rows, columns, seed));
      const rank = spread.length;
      const wanted = Float64Array.from(spread, (_, k) => 10 ** (-decades * (k / (rank - 1))));
      const scaled = matrix(
        rows,
        rank,
        u.data.map((value, i) => value * wanted[i % rank]),
      );
      const w = linear(scaled, transpose(vT));

      const factors = thinSvd(w);
      const gram = linear(transpose(factors.u), transpose(factors.u));
      gram.data.forEach((value, i) => {
        const expected = Math.floor(i / rank) === i % rank ? 1 : 0;
        expect(Math.abs(value - expected)).toBeLessThanOrEqual(6 * 2 ** -24);
      });
      const product = linear(
        matrix(
          rows,
          rank,
          factors.u.data.map((value, i) => value * factors.s[i % rank]),
        ),
        transpose(factors.vT),
      );
      product.data.forEach((value, i) => {
        expect(Math.abs(value - w.data[i])).toBeLessThanOrEqual(4 * rank * 2 ** -24);
      });
    },
  );

  it('names a value that is not finite', () => {
    const w = matrix(2, 2, Float32Array.of(1, 2, Number.NaN, 4));
    expect(() => thinSvd(w)).toThrow(NumericError);
  });
});
