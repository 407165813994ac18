import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { hadamardBlock, hadamardInto, rotateRows } from '../../../src/numerics/hadamard.js';
import { linear, matrix, transpose } from '../../../src/numerics/matrix.js';
import { gaussianMatrix, matrices } from '../../helpers/arbitraries.js';

const anyMatrix = matrices(fc.integer({ min: 1, max: 5 }), fc.constantFrom(32, 64, 96, 128, 192, 576));

/** Sylvester's matrix by its definition: the sign is the parity of the common bits of row and column. */
function hadamardMatrix(size: number) {
  const h = matrix(size, size);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) {
      let common = i & j;
      let parity = 0;
      for (; common; common &= common - 1) parity ^= 1;
      h.data[i * size + j] = (parity ? -1 : 1) / Math.sqrt(size);
    }
  }
  return h;
}

describe('hadamard', () => {
  it.each([
    [576, 64],
    [256, 256],
    [192, 64],
    [96, 32],
    [7, 1],
  ])('%i channels rotate in blocks of %i', (channels, block) => {
    expect(hadamardBlock(channels)).toBe(block);
  });

  test.prop([anyMatrix])("is the product with Sylvester's matrix, block by block", (source) => {
    const size = hadamardBlock(source.columns);
    const blocks = matrix(source.data.length / size, size, source.data);
    const expected = linear(blocks, transpose(hadamardMatrix(size)));
    const rotated = rotateRows(source, 'hadamard');
    // log2(size) additions and one product, each rounded, against sums of magnitude |x|_1 / sqrt(size).
    for (let i = 0; i < rotated.data.length; i++) {
      const from = i - (i % size);
      const norm1 = source.data.subarray(from, from + size).reduce((sum, value) => sum + Math.abs(value), 0);
      const bound = ((Math.log2(size) + 3) * 2 ** -24 * norm1) / Math.sqrt(size);
      expect(Math.abs(rotated.data[i] - expected.data[i])).toBeLessThanOrEqual(bound);
    }
  });

  test.prop([anyMatrix])('is its own inverse', (source) => {
    const back = rotateRows(rotateRows(source, 'hadamard'), 'hadamard');
    const largest = Math.max(...source.data.map(Math.abs));
    const bound =
      2 * (Math.log2(source.columns) + 3) * 2 ** -24 * largest * Math.sqrt(hadamardBlock(source.columns));
    back.data.forEach((value, i) => {
      expect(Math.abs(value - source.data[i])).toBeLessThanOrEqual(bound);
    });
  });

  it('adds in a fixed tree, so that the bits do not depend on the machine', () => {
    const vector = Float32Array.of(1, 2 ** 25, -(2 ** 25), 3);
    const [a, b, c, d] = vector;
    const f = Math.fround;
    const first = [f(a + b), f(a - b), f(c + d), f(c - d)];
    const half = f(1 / Math.sqrt(4));
    const expected = [
      f(f(first[0] + first[2]) * half),
      f(f(first[1] + first[3]) * half),
      f(f(first[0] - first[2]) * half),
      f(f(first[1] - first[3]) * half),
    ];
    hadamardInto(vector);
    expect([...vector]).toEqual(expected);
  });

  it('spreads an outlier channel', () => {
    const source = gaussianMatrix(8, 256, 1, 100);
    const largest = (data: Float32Array) => Math.max(...data.map(Math.abs));
    expect(largest(rotateRows(source, 'hadamard').data)).toBeLessThan(largest(source.data) / 4);
  });

  it('leaves rows alone without rotation', () => {
    const source = gaussianMatrix(2, 32, 1);
    expect(rotateRows(source, 'none')).toBe(source);
  });
});
