import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import {
  bitsForAverage,
  meanDistortion,
  measureDistortion,
} from '../../../../src/analysis/calibrate/allocation.js';
import { layerBasis, metricRoot } from '../../../../src/analysis/calibrate/basis.js';
import {
  inputMetric,
  keyMetric,
  keyValueMetric,
  metricDistances,
  valueMetric,
} from '../../../../src/analysis/calibrate/metric.js';
import { fitPrediction, predictionInCoordinates } from '../../../../src/analysis/calibrate/prediction.js';
import { probeRows, sensitivity } from '../../../../src/analysis/calibrate/sensitivities.js';
import { type CoMoments, combineMoments, covariance } from '../../../../src/analysis/calibrate/statistics.js';
import { basisBlocks } from '../../../../src/cache/calibration.js';
import { ConfigError, ShapeError } from '../../../../src/errors.js';
import type { ModelConfig } from '../../../../src/model/config.js';
import { applyRope, layerRope } from '../../../../src/model/rope.js';
import {
  addScaled,
  type Dense,
  dense,
  diagonal,
  multiply,
  toDense,
  transposeDense,
} from '../../../../src/numerics/dense.js';
import { linear, matrix, row, rowRange } from '../../../../src/numerics/matrix.js';
import { gaussianMatrix } from '../../../helpers/arbitraries.js';

const config: ModelConfig = {
  architecture: 'llama',
  hiddenSize: 64,
  intermediateSize: 64,
  numHiddenLayers: 3,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  headDim: 16,
  vocabSize: 32,
  maxPositionEmbeddings: 2048,
  rmsNormEps: 1e-5,
  ropeTheta: 10000,
  ropeLayout: 'half',
  tieWordEmbeddings: true,
};

const seeds = fc.nat();
const gaussian = (rows: number, columns: number, seed: number) =>
  toDense(gaussianMatrix(rows, columns, seed));

/** A covariance with a spread of variances. */
function randomCovariance(n: number, seed: number): Dense {
  const root = gaussian(2 * n, n, seed);
  for (let i = 0; i < root.data.length; i++) root.data[i] *= 2 ** -(i % 5);
  return multiply(transposeDense(root), root);
}

/** e M e^T */
function form(e: ArrayLike<number>, m: Dense): number {
  let sum = 0;
  for (let i = 0; i < m.rows; i++)
    for (let j = 0; j < m.rows; j++) sum += e[i] * m.data[i * m.rows + j] * e[j];
  return sum;
}

function momentsOf(a: Dense, b: Dense): CoMoments {
  const mean = ({ rows, columns, data }: Dense) => {
    const result = new Float64Array(columns);
    for (let i = 0; i < data.length; i++) result[i % columns] += data[i] / rows;
    return result;
  };
  const [meanA, meanB] = [mean(a), mean(b)];
  const centered = (source: Dense, means: Float64Array) =>
    dense(
      source.rows,
      source.columns,
      source.data.map((value, i) => value - means[i % source.columns]),
    );
  const product = multiply(transposeDense(centered(a, meanA)), centered(b, meanB));
  return { count: a.rows, meanA, meanB, product };
}

const rowsOf = (source: Dense, from: number, to: number) =>
  dense(to - from, source.columns, source.data.slice(from * source.columns, to * source.columns));

function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  expect(actual.length).toBe(expected.length);
  for (let i = 0; i < actual.length; i++)
    expect(Math.abs(actual[i] - expected[i])).toBeLessThanOrEqual(tolerance);
}

describe('statistics', () => {
  test.prop([fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 2, maxLength: 5 }), seeds])(
    'parts together are the whole, in any order',
    (sizes, seed) => {
      const total = sizes.reduce((sum, each) => sum + each, 0);
      const [a, b] = [gaussian(total, 3, seed), gaussian(total, 4, seed + 1)];
      for (let i = 0; i < a.data.length; i++) a.data[i] += 100; // a mean far from zero
      let from = 0;
      const parts = sizes.map((size) => {
        const part = momentsOf(rowsOf(a, from, from + size), rowsOf(b, from, from + size));
        from += size;
        return part;
      });
      const whole = momentsOf(a, b);
      for (const order of [parts, [...parts].reverse()]) {
        const combined = order.reduce(combineMoments);
        expect(combined.count).toBe(total);
        expectClose(combined.meanA, whole.meanA, 1e-11);
        expectClose(covariance(combined).data, covariance(whole).data, 1e-11);
      }
    },
  );

  it('refuses parts of other channels', () => {
    const part = momentsOf(gaussian(4, 3, 1), gaussian(4, 4, 2));
    expect(() => combineMoments(part, momentsOf(gaussian(4, 4, 1), gaussian(4, 3, 2)))).toThrow(ShapeError);
  });
});

describe('metric', () => {
  const layouts = fc.constantFrom('half' as const, 'interleaved' as const);

  test.prop([layouts, seeds])(
    'of keys is the mean squared error of the scores, measured',
    (ropeLayout, seed) => {
      const rope = { ropeTheta: 500, ropeMagnitude: 1.25 };
      const own: ModelConfig = { ...config, ropeLayout, attentionScale: 0.3, layers: [{}, { rope }, {}] };
      const { headDim } = config;
      const grouped = 2;
      const queries = Array.from({ length: config.numAttentionHeads }, (_, h) =>
        gaussianMatrix(6, headDim, seed + h),
      );
      const moments = queries.map((q) => {
        const product = multiply(transposeDense(toDense(q)), toDense(q));
        return dense(
          headDim,
          headDim,
          product.data.map((value) => value / q.rows),
        );
      });
      const distances = [0, 3, 700];
      const metrics = keyMetric(moments, own, 1, undefined, distances);
      const { frequencies, magnitudes } = layerRope(own, 1);
      for (const [head, metric] of metrics.entries()) {
        const error = gaussianMatrix(1, headDim, seed + 90 + head);
        let measured = 0;
        for (const distance of distances) {
          // The error of a key at position 5, read by queries `distance` later.
          const turnedError = applyRope(error, 5, frequencies, ropeLayout, magnitudes);
          for (let h = head * grouped; h < (head + 1) * grouped; h++) {
            for (let t = 0; t < queries[h].rows; t++) {
              const q = applyRope(
                rowRange(queries[h], t, t + 1),
                5 + distance,
                frequencies,
                ropeLayout,
                magnitudes,
              );
              const change = linear(q, turnedError).data[0] * 0.3;
              measured += change ** 2 / (queries[h].rows * distances.length);
            }
          }
        }
        expect(form(error.data, metric) / measured).toBeCloseTo(1, 4);
      }
    },
  );

  test.prop([seeds])('of keys with a norm is that of the finished key', (seed) => {
    const moments = Array.from({ length: 4 }, (_, h) => randomCovariance(16, seed + h));
    const gain = Float32Array.from({ length: 16 }, (_, i) => 1 + i / 8);
    const rms = [2, 0.5];
    const plain = keyMetric(moments, config, 0);
    const metrics = keyMetric(moments, config, 0, { gain, rms });
    for (const [head, metric] of metrics.entries()) {
      const error = row(gaussianMatrix(1, 16, seed + 9), 0);
      const finished = error.map((value, i) => (value * gain[i]) / rms[head]);
      expect(form(error, metric) / form(finished, plain[head])).toBeCloseTo(1, 4);
    }
  });

  test.prop([seeds])('of values is the squared change of the stream, measured', (seed) => {
    const wO = gaussianMatrix(config.hiddenSize, 64, seed);
    for (const [head, metric] of valueMetric(wO, config).entries()) {
      const error = row(gaussianMatrix(1, 16, seed + 9 + head), 0);
      let measured = 0;
      for (const query of [2 * head, 2 * head + 1]) {
        const attended = matrix(1, 64);
        attended.data.set(error, query * 16);
        measured += linear(attended, wO).data.reduce((sum, value) => sum + value * value, 0);
      }
      expect(form(error, metric) / measured).toBeCloseTo(1, 4);
    }
  });

  test.prop([seeds])('of X is that of the keys and values projected from the error', (seed) => {
    const blocks = keyValueMetric(
      [randomCovariance(16, seed), randomCovariance(16, seed + 1)],
      [randomCovariance(16, seed + 2), randomCovariance(16, seed + 3)],
      { keys: 3, values: 0.25 },
    );
    const projection = gaussianMatrix(64, config.hiddenSize, seed + 4);
    const error = gaussianMatrix(1, config.hiddenSize, seed + 5);
    const projected = row(linear(error, projection), 0);
    const expected = blocks.reduce(
      (sum, block, i) => sum + form(projected.subarray(16 * i, 16 * i + 16), block),
      0,
    );
    expect(form(error.data, inputMetric(blocks, toDense(projection))) / expected).toBeCloseTo(1, 4);
  });

  it('distances are in range, the two spacings half each', () => {
    const distances = metricDistances();
    expect(distances).toHaveLength(128);
    expect(distances[0]).toBe(0);
    expect(distances[63]).toBe(2047);
    expect(distances[64]).toBe(1);
    expect(distances[127]).toBe(2047);
    expect(Math.max(...metricDistances(99))).toBe(99);
  });
});

describe('basis', () => {
  const cuts = fc.constantFrom([12], [6, 6], [4, 2, 6]);

  test.prop([cuts, seeds])('E D = I, and coded parts are uncorrelated with variance 1', (blocks, seed) => {
    const metric = metricRoot(
      [4, 2, 6].map((size, i) => randomCovariance(size, seed + i)),
      blocks,
    );
    const residual = randomCovariance(12, seed + 3);
    const { encode, decode, importance } = layerBasis(metric, residual, blocks);
    expectClose(multiply(encode, decode).data, diagonal(new Float64Array(12).fill(1)).data, 1e-6);
    const coordinates = multiply(multiply(transposeDense(encode), residual), encode);
    let first = 0;
    for (const size of blocks) {
      for (let r = first; r < first + size; r++) {
        for (let c = first; c < first + size; c++) {
          expect(Math.abs(coordinates.data[r * 12 + c] - (r === c ? 1 : 0))).toBeLessThan(1e-6);
        }
        if (r > first) expect(importance[r]).toBeLessThanOrEqual(importance[r - 1]);
      }
      first += size;
    }
  });

  test.prop([seeds])('an error of a coordinate costs its importance', (seed) => {
    const metric = [randomCovariance(12, seed)];
    const identity = diagonal(new Float64Array(12).fill(1));
    // Far above the floor of the metric, so that A^2 is the metric itself.
    const form1 = addScaled(metric[0], identity, 1);
    const { decode, importance } = layerBasis(
      metricRoot([form1], [12]),
      randomCovariance(12, seed + 1),
      [12],
    );
    const cost = multiply(multiply(decode, form1), transposeDense(decode));
    expectClose(cost.data, diagonal(importance).data, 1e-6 * importance[0]);
  });

  it('the floor of the metric is that of the part', () => {
    const blocks = [diagonal([1000, 0]), diagonal([1, 0])];
    const together = metricRoot(blocks, [4]).root.data;
    const apart = metricRoot(blocks, [2, 2]).root.data;
    const squares = (root: Float64Array) => [0, 1, 2, 3].map((k) => root[5 * k] ** 2);
    expectClose(squares(together), [1000, 0.25025, 1, 0.25025], 1e-9);
    expectClose(squares(apart), [1000, 0.5, 1, 0.0005], 1e-9);
  });

  it('a dead channel stays finite', () => {
    const residual = diagonal([4, 1, 0, 0]);
    const identity = diagonal([1, 1, 1, 1]);
    const { encode, decode, importance } = layerBasis(metricRoot([identity], [4]), residual, [4]);
    for (const value of [...encode.data, ...decode.data]) expect(Number.isFinite(value)).toBe(true);
    expectClose(importance, [4, 1, 4e-6, 4e-6], 1e-12);
  });

  it('of X cannot be cut', () => {
    expect(basisBlocks('head', config, 64)).toEqual([16, 16, 16, 16]);
    expect(basisBlocks('tensor', config, 64)).toEqual([32, 32]);
    const wide = { ...config, numKeyValueHeads: 4 };
    expect(basisBlocks('joint', wide, 64)).toEqual([64]);
    expect(() => basisBlocks('tensor', wide, 64)).toThrow(ConfigError);
  });
});

describe('prediction', () => {
  /** Rows of a layer that depends on the one below, and both moments. */
  function related(seed: number) {
    const below = gaussian(60, 5, seed);
    const own = addScaled(multiply(below, gaussian(5, 4, seed + 1)), gaussian(60, 4, seed + 2), 0.1);
    const cov = (a: Dense, b: Dense) => covariance(momentsOf(a, b));
    return { below, own, moments: { inputs: cov(below, below), cross: cov(below, own), own: cov(own, own) } };
  }

  test.prop([seeds])('solves the normal equations', (seed) => {
    const { moments } = related(seed);
    const { weights } = fitPrediction(moments);
    const ridge =
      (1e-4 * moments.inputs.data.filter((_, i) => i % 6 === 0).reduce((sum, x) => sum + x, 0)) / 5;
    const left = addScaled(multiply(moments.inputs, weights), weights, ridge);
    expectClose(left.data, moments.cross.data, 1e-9);
  });

  test.prop([seeds])(
    'the residual is the covariance of what is left, and never more than without',
    (seed) => {
      const { below, own, moments } = related(seed);
      const { weights, residual } = fitPrediction(moments);
      const left = addScaled(own, multiply(below, weights), -1);
      expectClose(residual.data, covariance(momentsOf(left, left)).data, 1e-9);
      for (let k = 0; k < 4; k++) expect(residual.data[k * 5]).toBeLessThanOrEqual(moments.own.data[k * 5]);
    },
  );

  test.prop([seeds])('in coordinates predicts the same', (seed) => {
    const { below, own, moments } = related(seed);
    const { weights } = fitPrediction(moments);
    const encode = gaussian(4, 4, seed + 3);
    const two = [gaussian(5, 5, seed + 4)]; // D of the layer below; its coordinates are y = x D^-1
    const means = { own: momentsOf(own, own).meanA, inputs: momentsOf(below, below).meanA };
    const square = dense(
      5,
      5,
      Float64Array.from({ length: 25 }, (_, i) =>
        i % 5 < 4 ? weights.data[Math.floor(i / 5) * 4 + (i % 5)] : 0,
      ),
    );
    const wideEncode = dense(
      5,
      5,
      Float64Array.from({ length: 25 }, (_, i) =>
        i % 5 < 4 && i < 20 ? encode.data[Math.floor(i / 5) * 4 + (i % 5)] : 0,
      ),
    );
    const wideMeans = { own: Float64Array.of(...means.own, 0), inputs: means.inputs };
    const { matrices, offset } = predictionInCoordinates(square, two, wideEncode, wideMeans);
    const y = gaussian(3, 5, seed + 5);
    const x = multiply(y, two[0]);
    const actual = multiply(y, matrices[0]);
    for (let i = 0; i < actual.data.length; i++) actual.data[i] += offset[i % 5];
    const expected = multiply(x, square);
    const shift = multiply(dense(1, 5, means.inputs.slice()), square).data;
    for (let i = 0; i < expected.data.length; i++) expected.data[i] += wideMeans.own[i % 5] - shift[i % 5];
    expectClose(actual.data, multiply(expected, wideEncode).data, 1e-8);
  });
});

describe('sensitivities', () => {
  test.prop([seeds])('the error of a probe is that of its rows in the metric', (seed) => {
    const rows = gaussianMatrix(40, 8, seed);
    const metric = addScaled(randomCovariance(8, seed + 1), diagonal(new Float64Array(8).fill(1)), 1);
    const moments = momentsOf(toDense(rows), toDense(rows));
    const basis = layerBasis(metricRoot([metric], [8]), covariance(moments), [8]);
    const probe = probeRows(rows, basis, moments.meanA);
    let measured = 0;
    for (let t = 0; t < rows.rows; t++) {
      measured += form(
        row(rows, t).map((value, i) => value - row(probe.rows, t)[i]),
        metric,
      );
    }
    expect(probe.error / measured).toBeCloseTo(1, 3);
    // 2 bits leave something and not too much.
    const cost = basis.importance.reduce((sum, value) => sum + value, 0) * rows.rows;
    expect(probe.error).toBeGreaterThan(0.02 * cost);
    expect(probe.error).toBeLessThan(0.3 * cost);
  });

  it('divides what all windows say', () => {
    const probes = [
      { divergence: 1, error: 2 },
      { divergence: 3, error: 6 },
    ];
    expect(sensitivity(probes)).toBe(0.5);
    expect(() => sensitivity([{ divergence: 0, error: 0 }])).toThrow(RangeError);
  });
});

describe('allocation', () => {
  test.prop([fc.double({ min: 0.5, max: 8, noNaN: true }), seeds])(
    'spends no more than the average, and nearly all of it',
    (average, seed) => {
      const importance = Array.from({ length: 3 }, (_, layer) =>
        row(gaussianMatrix(1, 64, seed + layer), 0).map((value) => value ** 4 + 1e-6),
      );
      const distortion = { 0: 1, 1: 0.425, 2: 0.15, 3: 0.047, 4: 0.014, 8: 1e-4 };
      const bits = bitsForAverage(importance, average, config, distortion);
      const spent = bits.flat().reduce((sum: number, each) => sum + (each > 0 ? each + 0.125 : 0), 0);
      const budget = average * 3 * 64;
      expect(spent).toBeLessThanOrEqual(budget + 1e-9);
      if (average <= 8) expect(spent).toBeGreaterThan(Math.min(budget, 3 * 64 * 8.125) - 4.125);
    },
  );

  it('measures what a normal variable loses to 1, 2, 3, 4 and 8 bits', () => {
    const measured = meanDistortion([1, 2].map((seed) => measureDistortion(gaussianMatrix(512, 32, seed))));
    // Max (1960), Table II: the best uniform quantizer of a normal variable; the scale of a group adapts a little.
    const published = { 0: 1, 1: 0.3634, 2: 0.1188, 3: 0.03744, 4: 0.01154 };
    for (const [bits, value] of Object.entries(published)) {
      const ratio = measured[Number(bits) as 0] / value;
      expect(ratio).toBeGreaterThan(0.85);
      expect(ratio).toBeLessThan(1.1);
    }
    expect(measured[8]).toBeLessThan(3e-4);
  });
});
