/**
 * What the property tests draw from: the values that break quantizers.
 *
 * @module
 */

import fc from 'fast-check';
import { type Matrix, matrix } from '../../src/numerics/matrix.js';
import { GROUPINGS, type GroupedOptions } from '../../src/quant/grouped.js';
import { BITS, RANGE_RULES } from '../../src/quant/uniform.js';

/** Any code width. */
export const anyBits = fc.constantFrom(...BITS);

/** f32 values, as numbers. */
export function float32Values(range: { min?: number; max?: number } = {}): fc.Arbitrary<number> {
  const { min = -60000, max = 60000 } = range;
  return fc.float({ min: Math.fround(min), max: Math.fround(max), noNaN: true });
}

/** Values of very different size: subnormal, ordinary, huge, exact ties. */
const element: fc.Arbitrary<number> = fc.oneof(
  { weight: 6, arbitrary: float32Values({ min: -4, max: 4 }) },
  { weight: 1, arbitrary: float32Values({ min: -(2 ** -14), max: 2 ** -14 }) },
  { weight: 1, arbitrary: float32Values({ min: -30000, max: 30000 }) },
  { weight: 2, arbitrary: fc.integer({ min: -8, max: 8 }).map((n) => n / 4) },
  { weight: 1, arbitrary: fc.constantFrom(0, -0, 2 ** -149, -(2 ** -149), 2 ** -24, 2 ** -25) },
);

/** One group of 1 to 130 values whose range fits in f16. */
export function groupValues(): fc.Arbitrary<Float32Array> {
  return fc.array(element, { minLength: 1, maxLength: 130 }).map((values) => Float32Array.from(values));
}

/** A matrix of the given size ranges, with an outlier channel now and then. */
export function matrices(rows: fc.Arbitrary<number>, columns: fc.Arbitrary<number>): fc.Arbitrary<Matrix> {
  return fc
    .record({ rows, columns, seed: fc.nat(), outlier: fc.boolean() })
    .map(({ rows, columns, seed, outlier }) => gaussianMatrix(rows, columns, seed, outlier ? 20 : 1));
}

/** How a matrix may be quantized. */
export const groupedOptions: fc.Arbitrary<GroupedOptions> = fc.record({
  bits: anyBits,
  groupSize: fc.constantFrom(32, 64, 128),
  grouping: fc.constantFrom(...GROUPINGS),
  range: fc.constantFrom(...RANGE_RULES),
});

/** A small reproducible generator of numbers in [0, 1): mulberry32. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Normally distributed values; channel 5 is scaled by `outlierScale`.
 *
 * @returns [rows, columns]
 */
export function gaussianMatrix(rows: number, columns: number, seed: number, outlierScale = 1): Matrix {
  const random = seededRandom(seed);
  const result = matrix(rows, columns);
  for (let i = 0; i < result.data.length; i++) {
    const normal = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    result.data[i] = normal * (i % columns === 5 ? outlierScale : 1);
  }
  return result;
}
