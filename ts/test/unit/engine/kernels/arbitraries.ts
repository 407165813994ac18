/**
 * Values that try kernels: ordinary ones, and those that rounding, ranges and ties make difficult.
 *
 * @module
 */

import fc from 'fast-check';

/** Pseudo-random f32 with a normal distribution, the same for the same seed. */
export function gaussian(count: number, seed: number, deviation = 1): Float32Array {
  let state = (seed ^ 0x9e3779b9) >>> 0 || 1;
  const uniform = (): number => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return (state + 0.5) / 2 ** 32;
  };
  return Float32Array.from(
    { length: count },
    () => deviation * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
  );
}

/** Pseudo-random bytes. */
export function randomBytes(count: number, seed: number): Uint8Array {
  const values = gaussian(count, seed, 1e6);
  return Uint8Array.from(values, (value) => Math.floor(value) & 255);
}

/** Finite f32 that f16 can hold, with the edges. */
export const storable: fc.Arbitrary<number> = fc.oneof(
  { weight: 4, arbitrary: fc.float({ min: -8, max: 8, noNaN: true }) },
  { weight: 1, arbitrary: fc.float({ min: -65504, max: 65504, noNaN: true }) },
  { weight: 1, arbitrary: fc.integer({ min: -40, max: 40 }).map((n) => n / 8) }, // ties
  {
    weight: 1,
    arbitrary: fc.constantFrom(0, -0, 65504, -65504, 2 ** -24, -(2 ** -25), 1e-45, -1e-45, 2 ** -14),
  },
);

/** What one matrix is filled with: a kind of content, and a seed. */
export interface Filling {
  kind: 'gaussian' | 'constant' | 'ties' | 'wide' | 'tiny' | 'outliers' | 'edges';
  seed: number;
}

/** Contents of matrices. */
export const filling: fc.Arbitrary<Filling> = fc.record({
  kind: fc.constantFrom('gaussian', 'gaussian', 'constant', 'ties', 'wide', 'tiny', 'outliers', 'edges'),
  seed: fc.integer({ min: 1, max: 2 ** 31 }),
});

/** Makes the content. Every value is finite in f16. */
export function fill(count: number, { kind, seed }: Filling): Float32Array {
  const values = gaussian(count, seed);
  switch (kind) {
    case 'gaussian':
      return values;
    case 'constant':
      return values.fill(values[0] ?? 0);
    case 'ties':
      return values.map((value) => Math.round(value * 4) / 2);
    case 'wide':
      return values.map((value) => Math.max(-65504, Math.min(65504, value * 20000)));
    case 'tiny':
      return values.map((value) => value * 2 ** -20);
    case 'outliers':
      return values.map((value, i) => (i % 37 === 5 ? value * 500 : value));
    case 'edges':
      return values.map(
        (_, i) => [0, -0, 65504, -65504, 2 ** -24, -(2 ** -25), 1e-45, 1][(i * 7 + seed) % 8],
      );
  }
}
