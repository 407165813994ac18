import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { lloydMaxLevels, roundTripLloydMax } from '../../../src/quant/lloyd-max.js';

/** Mean of a function of a unit normal variable, by a sum that shares nothing with the code under test. */
function expectation(of: (x: number) => number): number {
  const step = 1e-4;
  let sum = 0;
  for (let x = -8; x <= 8; x += step) sum += of(x) * Math.exp((-x * x) / 2);
  return (sum * step) / Math.sqrt(2 * Math.PI);
}

function nearest(levels: ArrayLike<number>, x: number): number {
  return Array.from(levels).reduce((a, b) => (Math.abs(b - x) < Math.abs(a - x) ? b : a));
}

describe('levels for a normal variable', () => {
  it('with one bit are the mean of half a normal variable', () => {
    const level = Math.sqrt(2 / Math.PI);
    expect(lloydMaxLevels(1)[0]).toBeCloseTo(-level, 9);
    expect(lloydMaxLevels(1)[1]).toBeCloseTo(level, 9);
  });

  it.each([2, 3, 4])('%s bits: ascending, symmetric, each the mean of its cell', (bits) => {
    const levels = lloydMaxLevels(bits);
    expect(levels).toHaveLength(2 ** bits);
    levels.forEach((level, i) => {
      expect(level).toBeCloseTo(-levels[levels.length - 1 - i], 8);
      if (i > 0) expect(level).toBeGreaterThan(levels[i - 1]);
      const inCell = (x: number) => (nearest(levels, x) === level ? 1 : 0);
      expect(expectation((x) => x * inCell(x)) / expectation(inCell)).toBeCloseTo(level, 3);
    });
  });

  // Max, "Quantizing for minimum distortion", 1960, table I.
  it.each([
    [2, 0.1175],
    [3, 0.03454],
    [4, 0.009497],
  ])('%s bits lose what Max found: %s of the variance', (bits, distortion) => {
    const levels = lloydMaxLevels(bits);
    expect(expectation((x) => (x - nearest(levels, x)) ** 2)).toBeCloseTo(distortion, 4);
  });
});

describe('vectors in these levels', () => {
  const vector = fc.array(fc.float({ min: -100, max: 100, noNaN: true }), { minLength: 32, maxLength: 32 });

  test.prop([vector, fc.constantFrom(2, 3, 4), fc.integer({ min: -8, max: 4 })])(
    'a power of two times the vector is as many times the result',
    (values, bits, exponent) => {
      const levels = Float32Array.from(lloydMaxLevels(bits));
      const one = Float32Array.from(values, (value) => Math.fround(value) + 1);
      const other = one.map((value) => value * 2 ** exponent);
      roundTripLloydMax(one, levels);
      roundTripLloydMax(other, levels);
      expect(other).toEqual(one.map((value) => value * 2 ** exponent));
    },
  );

  it('of normal numbers lose the distortion of the levels', () => {
    const levels = Float32Array.from(lloydMaxLevels(3));
    let seed = 1;
    const uniform = () => {
      seed = (Math.imul(seed, 48271) >>> 0) % 2147483647;
      return seed / 2147483647;
    };
    let [error, power] = [0, 0];
    for (let i = 0; i < 400; i++) {
      const exact = Float32Array.from(
        { length: 64 },
        () => 5 * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
      );
      const back = exact.slice();
      roundTripLloydMax(back, levels);
      exact.forEach((value, j) => {
        error += (value - back[j]) ** 2;
        power += value * value;
      });
    }
    expect(error / power).toBeGreaterThan(0.031);
    expect(error / power).toBeLessThan(0.038);
  });

  it('a vector of zeros stays one', () => {
    const zeros = new Float32Array(32);
    roundTripLloydMax(zeros, Float32Array.from(lloydMaxLevels(2)));
    expect(zeros.every((value) => value === 0)).toBe(true);
  });
});
