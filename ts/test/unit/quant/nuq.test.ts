import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { roundToFloat16 } from '../../../src/numerics/float16.js';
import { matrix } from '../../../src/numerics/matrix.js';
import {
  decodeNuq,
  dequantizeNuq,
  encodeNuq,
  expectedNuqBytes,
  nearestLevel,
  nuqBytes,
  nuqCodebook,
  nuqRowRange,
  quantileOfSorted,
  quantizeNuqChannels,
  quantizeNuqRows,
} from '../../../src/quant/nuq.js';
import { fitQNorm, weightedKMeans } from '../../../src/quant/nuq-fit.js';
import { gaussianMatrix } from '../../helpers/arbitraries.js';

const LEVELS = Float32Array.of(-0.9, -0.25, 0.2, 0.8);

const expectClose = (actual: ArrayLike<number>, expected: readonly number[], digits = 6) => {
  expect(actual.length).toBe(expected.length);
  expected.forEach((value, i) => {
    expect(actual[i], `element ${i}`).toBeCloseTo(value, digits);
  });
};

describe('worked examples', () => {
  const x = Float32Array.of(0.1, -0.4, 3, 0.25, -2, 0.6, -0.1, 0.3);
  const decodeRow = (codebook = nuqCodebook(LEVELS)) => {
    const { center, radius, outliers } = nuqRowRange(x, 0.01);
    return Float32Array.from(x, (value, c) =>
      outliers.includes(c)
        ? value
        : decodeNuq(codebook, encodeNuq(codebook, value, center, radius), center, radius),
    );
  };

  it('N1: a row of values', () => {
    const sorted = x.slice().sort();
    expect(quantileOfSorted(sorted, 0.995)).toBeCloseTo(2.916, 6);
    expect(quantileOfSorted(sorted, 0.005)).toBeCloseTo(-1.944, 6);
    const { center, radius, outliers } = nuqRowRange(x, 0.01);
    expect(outliers).toEqual([2, 4]);
    expect(center).toBeCloseTo(0.1, 6);
    expect(radius).toBeCloseTo(0.5, 6);
    const codebook = nuqCodebook(LEVELS);
    const inliers = [...x].filter((_, c) => !outliers.includes(c));
    expect(inliers.map((value) => encodeNuq(codebook, value, center, radius))).toEqual([2, 0, 2, 3, 1, 2]);
    expectClose(decodeRow(), [0.2, -0.35, 3, 0.2, -2, 0.5, -0.025, 0.2]);
  });

  it('N1 with Q-Norm: other values, the same codes', () => {
    const codebook = nuqCodebook(LEVELS, { scale: 1.1, shift: -0.02 });
    expectClose(decodeRow(codebook), [0.2, -0.405, 3, 0.2, -2, 0.53, -0.0475, 0.2]);
  });

  it('N2: a channel of keys, thresholds not included', () => {
    const k = Float32Array.of(0, 1.5, 1.6, -0.5, -0.51, 0.9);
    const ranges = { lower: Float32Array.of(-0.5), upper: Float32Array.of(1.5) };
    const codebook = nuqCodebook(LEVELS);
    const sparse = quantizeNuqChannels(matrix(6, 1, k), 2, codebook, ranges, true);
    expect([...sparse.outlierStarts]).toEqual([0, 0, 0, 1, 1, 2]);
    const kept = [1.6, -0.51].map(roundToFloat16);
    expectClose(dequantizeNuq(sparse, codebook, ranges).data, [0.25, 1.3, kept[0], -0.4, kept[1], 0.7]);
    const dense = quantizeNuqChannels(matrix(6, 1, k), 2, codebook, ranges, false);
    expectClose(dequantizeNuq(dense, codebook, ranges).data, [0.25, 1.3, 1.3, -0.4, -0.4, 0.7]);
  });

  it('N3: the optimum of weighted k-means', () => {
    const points = [-1, -0.8, -0.1, 0.1, 0.7, 0.9];
    const weights = [1, 2, 10, 5, 1, 3];
    const two = weightedKMeans(points, weights, 2);
    expectClose(two.centers, [-0.1722222, 0.85]);
    expect(two.cost).toBeCloseTo(1.9261111, 6);
    const three = weightedKMeans(points, weights, 3);
    expectClose(three.centers, [-0.8666667, -0.0333333, 0.85]);
    expect(three.cost).toBeCloseTo(0.19, 6);
  });

  it('N4: Q-Norm restores mean and deviation', () => {
    const y = [-1, -0.5, 0, 0.25, 1];
    const levels = Float32Array.of(-0.75, 0.3);
    const qNorm = fitQNorm(y, levels);
    expect(qNorm.scale).toBeCloseTo(1.3185117, 6);
    expect(qNorm.shift).toBeCloseTo(0.1082214, 6);
    const { decoded } = nuqCodebook(levels, qNorm);
    expectClose(decoded, [-0.8806624, 0.5037749]);
    const read = y.map((value) => decoded[nearestLevel(levels, value)]);
    const mean = read.reduce((sum, value) => sum + value, 0) / read.length;
    expect(mean).toBeCloseTo(-0.05, 6);
    expect(Math.sqrt(read.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 5)).toBeCloseTo(0.678233, 6);
  });
});

describe('rows', () => {
  const codebook = nuqCodebook(LEVELS);
  const rows = fc.integer({ min: 1, max: 1e6 }).map((seed) => gaussianMatrix(3, 64, seed, 2));

  test.prop([rows, fc.constantFrom(0, 0.01, 0.1)])(
    'bytes are counted from the arrays',
    (source, fraction) => {
      const stored = quantizeNuqRows(source, 2, codebook, fraction);
      const held = Object.values(stored).reduce(
        (sum: number, part) => sum + (ArrayBuffer.isView(part) ? part.byteLength : 0),
        0,
      );
      const { codes, scales, mins, outliers } = nuqBytes(stored);
      expect(codes + scales + mins + outliers).toBe(held);
      // Without ties the count is that of the formula.
      const format = { bits: 2, outlierFraction: fraction, rowRanges: true } as const;
      expect(nuqBytes(stored)).toEqual(expectedNuqBytes(3, 64, format));
    },
  );

  test.prop([rows])('outliers come back exactly (in f16), others within the gap of two levels', (source) => {
    const stored = quantizeNuqRows(source, 2, codebook, 0.1);
    const read = dequantizeNuq(stored, codebook);
    for (let t = 0; t < source.rows; t++) {
      const values = source.data.subarray(t * 64, (t + 1) * 64);
      const { outliers, radius } = nuqRowRange(values, 0.1);
      values.forEach((value, c) => {
        const back = read.data[t * 64 + c];
        if (outliers.includes(c)) expect(back).toBe(roundToFloat16(value));
        else expect(Math.abs(back - value)).toBeLessThanOrEqual(radius * 0.325 * 1.01 + 1e-3);
      });
    }
  });

  it.each([
    [64, 1],
    [128, 1],
    [256, 2],
    [512, 3],
    [768, 4],
    [1024, 6],
    [4096, 21],
  ])('of %d channels keeps %d on each side at 1 %%', (channels, perSide) => {
    const values = Float32Array.from({ length: channels }, (_, i) => Math.fround(Math.sin(i * 12.9898) * 3));
    expect(nuqRowRange(values, 0.01).outliers.length).toBe(2 * perSide);
  });

  it('a constant row is read back as it is', () => {
    for (const fraction of [0, 0.01]) {
      const source = matrix(1, 32, new Float32Array(32).fill(-0.75));
      expect(
        dequantizeNuq(
          quantizeNuqRows(source, 3, nuqCodebook(new Float32Array(8).fill(0.5)), fraction),
          codebook,
        ).data,
      ).toEqual(source.data);
    }
  });

  it('a channel without extent is its center', () => {
    const ranges = { lower: Float32Array.of(2), upper: Float32Array.of(2) };
    const stored = quantizeNuqChannels(matrix(2, 1, Float32Array.of(2, 2)), 2, codebook, ranges, true);
    expect([...dequantizeNuq(stored, codebook, ranges).data]).toEqual([2, 2]);
  });

  it('everything kept is the identity up to f16', () => {
    const source = gaussianMatrix(2, 32, 5);
    const ranges = { lower: new Float32Array(32).fill(10), upper: new Float32Array(32).fill(-10) };
    const stored = quantizeNuqChannels(source, 4, nuqCodebook(new Float32Array(16)), ranges, true);
    expect(stored.outlierValues.length).toBe(64);
    expect(dequantizeNuq(stored, codebook, ranges).data).toEqual(source.data.map(roundToFloat16));
  });
});

describe('fitting', () => {
  test.prop([
    fc.array(fc.tuple(fc.double({ min: -1, max: 1, noNaN: true }), fc.integer({ min: 1, max: 9 })), {
      minLength: 4,
      maxLength: 9,
    }),
  ])('no partition into runs is cheaper', (pairs) => {
    const sorted = pairs.sort(([a], [b]) => a - b);
    const points = sorted.map(([point]) => point);
    const weights = sorted.map(([, weight]) => weight);
    const cost = (from: number, to: number) => {
      const weight = weights.slice(from, to).reduce((sum, each) => sum + each, 0);
      const mean =
        points.slice(from, to).reduce((sum, each, i) => sum + each * weights[from + i], 0) / weight;
      return points.slice(from, to).reduce((sum, each, i) => sum + weights[from + i] * (each - mean) ** 2, 0);
    };
    let best = Number.POSITIVE_INFINITY;
    for (let a = 1; a < points.length - 1; a++) {
      for (let b = a + 1; b < points.length; b++) {
        best = Math.min(best, cost(0, a) + cost(a, b) + cost(b, points.length));
      }
    }
    expect(weightedKMeans(points, weights, 3).cost).toBeCloseTo(best, 9);
  });

  it('refuses what it cannot cluster', () => {
    expect(() => weightedKMeans([1, 2], [1, 1], 3)).toThrow(RangeError);
    expect(() => weightedKMeans([2, 1], [1, 1], 1)).toThrow(/ascending/);
  });
});
