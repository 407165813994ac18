import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../../../src/errors.js';
import { linearTiled } from '../../../src/numerics/linear-tiled.js';
import {
  add,
  concatRows,
  linear,
  matrix,
  rowRange,
  subtract,
  transpose,
} from '../../../src/numerics/matrix.js';
import { gaussianMatrix } from '../../helpers/arbitraries.js';

const size = fc.integer({ min: 1, max: 13 });

describe('linear', () => {
  test.prop([size, size, size, fc.nat()])(
    'each output is one f64 sum, in order, rounded once',
    (tokens, out, inner, seed) => {
      const x = gaussianMatrix(tokens, inner, seed);
      const w = gaussianMatrix(out, inner, seed + 1);
      const result = linear(x, w);
      for (let t = 0; t < tokens; t++) {
        for (let j = 0; j < out; j++) {
          let sum = 0;
          for (let k = 0; k < inner; k++) sum += x.data[t * inner + k] * w.data[j * inner + k];
          expect(result.data[t * out + j]).toBe(Math.fround(sum));
        }
      }
    },
  );

  test.prop([size, size, size, fc.nat(), fc.boolean()])(
    'in tiles gives the same bits',
    (tokens, out, inner, seed, biased) => {
      const x = gaussianMatrix(tokens, inner, seed);
      const w = gaussianMatrix(out, inner, seed + 1);
      const bias = biased ? gaussianMatrix(1, out, seed + 2).data : undefined;
      expect(linearTiled(x, w, bias)).toEqual(linear(x, w, bias));
    },
  );

  it('adds a bias', () => {
    const result = linear(
      matrix(2, 1, Float32Array.of(1, 2)),
      matrix(2, 1, Float32Array.of(3, 5)),
      Float32Array.of(7, 11),
    );
    expect([...result.data]).toEqual([10, 16, 13, 21]);
  });

  it('refuses sizes that disagree', () => {
    expect(() => linear(matrix(1, 2), matrix(1, 3))).toThrow(ShapeError);
    expect(() => linearTiled(matrix(1, 2), matrix(1, 3))).toThrow(ShapeError);
    expect(() => linear(matrix(1, 2), matrix(1, 2), new Float32Array(2))).toThrow(ShapeError);
    expect(() => matrix(2, 2, new Float32Array(3))).toThrow(ShapeError);
    expect(() => add(matrix(1, 2), matrix(2, 1))).toThrow(ShapeError);
    expect(() => concatRows([matrix(1, 2)], 3)).toThrow(ShapeError);
    expect(() => rowRange(matrix(1, 2), 0, 2)).toThrow(RangeError);
  });
});

test.prop([size, size, fc.nat()])('transposing twice gives the matrix back', (rows, columns, seed) => {
  const source = gaussianMatrix(rows, columns, seed);
  expect(transpose(transpose(source))).toEqual(source);
});

test.prop([size, size, fc.nat()])('rows cut apart and joined are the matrix', (rows, columns, seed) => {
  const source = gaussianMatrix(rows, columns, seed);
  const cut = seed % (rows + 1);
  expect(concatRows([rowRange(source, 0, cut), rowRange(source, cut, rows)], columns)).toEqual(source);
});

it('adds and subtracts in f32', () => {
  const a = matrix(1, 2, Float32Array.of(1, 2 ** 24));
  const b = matrix(1, 2, Float32Array.of(2, 1));
  expect([...add(a, b).data]).toEqual([3, 2 ** 24]);
  expect([...subtract(a, b).data]).toEqual([-1, 2 ** 24 - 1]);
});
