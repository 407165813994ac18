import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import type { RopeLayout } from '../../../src/model/config.js';
import { applyRope, ropeFrequencies } from '../../../src/model/rope.js';
import { dot, matrix, row } from '../../../src/numerics/matrix.js';
import { gaussianMatrix } from '../../helpers/arbitraries.js';

const LAYOUTS: RopeLayout[] = ['half', 'interleaved'];
const HEAD_DIM = 8;
const frequencies = ropeFrequencies({ headDim: HEAD_DIM, ropeTheta: 10000 });
const position = fc.integer({ min: 0, max: 5000 });

describe.each(LAYOUTS)('rope, %s', (layout) => {
  const rotate = (vector: Float32Array, at: number) =>
    applyRope(matrix(1, vector.length, vector), at, frequencies, layout).data;

  test.prop([fc.nat(), position])('keeps lengths', (seed, at) => {
    const { data } = gaussianMatrix(1, 2 * HEAD_DIM, seed);
    expect(Math.hypot(...rotate(data, at))).toBeCloseTo(Math.hypot(...data), 5);
  });

  test.prop([fc.nat(), position, position])('products depend on the distance alone', (seed, at, shift) => {
    const { data } = gaussianMatrix(2, HEAD_DIM, seed);
    const query = data.slice(0, HEAD_DIM);
    const key = data.slice(HEAD_DIM);
    const here = dot(rotate(query, at + 7), rotate(key, at));
    const there = dot(rotate(query, at + shift + 7), rotate(key, at + shift));
    expect(here).toBeCloseTo(there, 4);
  });

  test.prop([fc.nat()])('position 0 changes nothing', (seed) => {
    const { data } = gaussianMatrix(1, HEAD_DIM, seed);
    expect(rotate(data, 0)).toEqual(data);
  });

  test.prop([fc.nat(), position])('rows stand at consecutive positions', (seed, at) => {
    const rows = gaussianMatrix(3, HEAD_DIM, seed);
    const together = applyRope(rows, at, frequencies, layout);
    for (let r = 0; r < 3; r++) expect(row(together, r)).toEqual(rotate(row(rows, r), at + r));
  });
});

it('half turns channels i and i + headDim/2, interleaved 2i and 2i + 1', () => {
  const one = matrix(1, HEAD_DIM);
  one.data[1] = 1;
  const angle = frequencies[1]; // half: channel 1 belongs to pair 1
  const half = applyRope(one, 1, frequencies, 'half').data;
  expect(half[1]).toBeCloseTo(Math.cos(angle), 6);
  expect(half[1 + HEAD_DIM / 2]).toBeCloseTo(Math.sin(angle), 6);
  const interleaved = applyRope(one, 1, frequencies, 'interleaved').data; // second of pair 0
  expect(interleaved[0]).toBeCloseTo(-Math.sin(1), 6);
  expect(interleaved[1]).toBeCloseTo(Math.cos(1), 6);
});

it('permuting rows of a projection turns one layout into the other', () => {
  // What GGUF converters do to Wq and Wk: channel i of half becomes 2i, i + headDim/2 becomes 2i + 1.
  const half = gaussianMatrix(1, HEAD_DIM, 4);
  const permute = (data: Float32Array) =>
    Float32Array.from(data, (_, i) => data[(i >> 1) + (i & 1) * (HEAD_DIM / 2)]);
  const rotatedThenPermuted = permute(applyRope(half, 9, frequencies, 'half').data);
  const interleaved = matrix(1, HEAD_DIM, permute(half.data));
  expect(applyRope(interleaved, 9, frequencies, 'interleaved').data).toEqual(rotatedThenPermuted);
});

it('divisors slow the frequencies down', () => {
  const divisors = Float32Array.of(1, 1, 4, 8);
  const scaled = ropeFrequencies({ headDim: HEAD_DIM, ropeTheta: 10000, ropeFrequencyDivisors: divisors });
  scaled.forEach((frequency, i) => {
    expect(frequency).toBe(frequencies[i] / divisors[i]);
  });
});
