import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { cacheBytes, cacheSize } from '../../../src/analysis/memory.js';
import { carrierWidth } from '../../../src/cache/calibration.js';
import { ReferenceCache } from '../../../src/cache/create.js';
import { ComputedFactors } from '../../../src/cache/factors.js';
import { project } from '../../../src/cache/fold.js';
import { formatCacheOptions, resolveCacheOptions } from '../../../src/cache/presets.js';
import type { KeyValueProjection } from '../../../src/cache/projection.js';
import { storedBytes } from '../../../src/cache/stored-matrix.js';
import { Transform } from '../../../src/cache/transform.js';
import { CacheStateError, ConfigError, NumericError, ShapeError } from '../../../src/errors.js';
import { dense, multiply } from '../../../src/numerics/dense.js';
import { inverse } from '../../../src/numerics/inverse.js';
import type { SymmetricMatrix } from '../../../src/quant/symmetric.js';
import { gaussianMatrix } from '../../helpers/arbitraries.js';
import { expectSame } from '../../helpers/expect-same.js';
import { inputRows, randomInputs, randomProjections, SHAPES } from '../../helpers/random-layers.js';
import { sampleTransforms } from '../../helpers/transforms.js';
import { append, CALIBRATED_CACHES, cacheLaws, read } from '../../laws/cache-laws.js';

const known = new Map<string, ComputedFactors>();

/** Calibrated on other tokens than those that are cached. */
function calibrated(projections: readonly KeyValueProjection[], withEncode = true): ComputedFactors {
  const shape = projections[0].hiddenSize === SHAPES.mha.hiddenSize ? 'mha' : 'gqa';
  const key = `${shape}, ${withEncode}, ${projections[0].wK.data[0]}`;
  const found = known.get(key);
  if (found) return found;
  const factors = new ComputedFactors(projections);
  const sample = randomInputs(projections, 400, 77);
  factors.presetCalibration('calibrated', sampleTransforms(projections, sample, SHAPES[shape], withEncode));
  known.set(key, factors);
  return factors;
}

cacheLaws(
  'reference',
  (options, projections) => new ReferenceCache(options, projections, calibrated(projections)),
  CALIBRATED_CACHES,
);

const TOKENS = 256;

function emptyCache(spec: string, shape: keyof typeof SHAPES, withEncode = true): ReferenceCache {
  const projections = randomProjections(SHAPES[shape], 3, true);
  return new ReferenceCache(
    resolveCacheOptions(spec, SHAPES[shape]),
    projections,
    calibrated(projections, withEncode),
  );
}

const inputsOf = (shape: keyof typeof SHAPES) =>
  randomInputs(randomProjections(SHAPES[shape], 3, true), TOKENS, 9);

/** Root mean square difference of keys and values from `first` on, relative to their own root mean square. */
function relativeError(spec: string, shape: keyof typeof SHAPES, first = 0, withEncode = true): number {
  const projections = randomProjections(SHAPES[shape], 3, true);
  const inputs = inputsOf(shape);
  const cache = append(emptyCache(spec, shape, withEncode), inputs);
  let [error, size] = [0, 0];
  read(cache).forEach(({ keys, values }, i) => {
    const exact = project(inputs[i].x, inputs[i].x, projections[i], projections[i]);
    for (const [a, b] of [
      [keys, exact.keys],
      [values, exact.values],
    ]) {
      for (let j = first * a.columns; j < a.data.length; j++) {
        error += (a.data[j] - b.data[j]) ** 2;
        size += b.data[j] ** 2;
      }
    }
  });
  return Math.sqrt(error / size);
}

describe.each(['mha', 'gqa'] as const)('on %s', (shape) => {
  it.each(['xquant:B@calibrated', 'xquant-cl:B@calibrated', 'xquant-cl:B@calibrated?predict=2'])(
    '%s loses less with more bits',
    (spec) => {
      const errors = [0.5, 1, 2, 4].map((bits) => relativeError(spec.replace('B', String(bits)), shape));
      expect(errors).toEqual([...errors].sort((a, b) => b - a));
      expect(errors[0]).toBeLessThan(1);
    },
  );

  it('loses less with a prediction, and less than a tuned cache of as many bits', () => {
    const none = relativeError('xquant:2.25@calibrated', shape);
    const one = relativeError('xquant-cl:2.25@calibrated', shape);
    expect(one).toBeLessThan(none);
    // A tuned MHA cache stores X at half of the bits an element of K and V.
    const tuned = shape === 'mha' ? 'xquant-cl:4@tuned' : 'xquant-cl:2@tuned?baseBits=2';
    expect(relativeError('xquant-cl:2.25@calibrated', shape)).toBeLessThan(relativeError(tuned, shape));
  });

  it.each(['xquant@calibrated', 'xquant-cl@calibrated?predict=1', 'xquant-cl@calibrated?predict=2'])(
    '%s with exact coordinates gives the exact keys and values',
    (spec) => {
      const identity = `${spec}${spec.includes('?') ? '&' : '?'}quantizer=identity`;
      // E is computed from D in f64 and rounded: a few ulp of each of 64 terms, times the condition of D.
      expect(relativeError(identity, shape, 0, false)).toBeLessThan(1e-4);
    },
  );

  it('keeps its sinks in f16, and outside of every group', () => {
    const spec = 'xquant-cl:1@calibrated?sinks=3';
    const projections = randomProjections(SHAPES[shape], 3, true);
    const inputs = inputsOf(shape);
    const cache = append(emptyCache(spec, shape), inputs);
    // Other values in the sinks change nothing but the sinks.
    const loud = inputs.map((input) => {
      const x = {
        ...input.x,
        data: input.x.data.map((value, i) => (i < 3 * input.x.columns ? 50 * value : value)),
      };
      return { ...input, x };
    });
    const other = append(emptyCache(spec, shape), loud);
    cache.layers.forEach((layer, i) => {
      const [ours, theirs] = [layer.state().blocks, other.layers[i].state().blocks];
      expectSame(ours[0].delta, theirs[0].delta);
      expect(Object.keys(ours[0])).toEqual(['sinkCarrier', 'delta']);
      expect(Object.keys(ours[1])).toEqual(['delta']);
      expect((ours[0].delta as SymmetricMatrix).rows).toBe(125);
    });
    const { keys } = read(cache)[2];
    const exact = project(inputs[2].x, inputs[2].x, projections[2], projections[2]).keys;
    for (let j = 0; j < 3 * keys.columns; j++)
      expect(Math.abs(keys.data[j] - exact.data[j])).toBeLessThan(1e-2);
  });

  it.each(CALIBRATED_CACHES.filter((each) => each.shape === shape))(
    '$spec takes the bytes of the formula, plan and scratch included',
    ({ spec }) => {
      for (const tokens of [0, 3, 128, 200, 256]) {
        const cache = append(
          emptyCache(spec, shape),
          inputRows(inputsOf(shape), 0, tokens),
        ) as ReferenceCache;
        read(cache);
        expect(cacheBytes(cache.options, SHAPES[shape], tokens, cache.calibrated)).toEqual(cache.bytes());
      }
    },
  );

  it('takes the bits that were asked for, or a fraction of a channel less', () => {
    for (const bits of [0.5, 1.25, 2.25]) {
      const cache = append(emptyCache(`xquant-cl:${bits}@calibrated?sinks=0`, shape), inputsOf(shape));
      const { numKeyValueHeads, headDim, numHiddenLayers } = SHAPES[shape];
      const elements = 2 * numKeyValueHeads * headDim * numHiddenLayers;
      const average = (8 * storedBytes(cache.bytes())) / (TOKENS * elements);
      expect(average).toBeLessThanOrEqual(bits);
      expect(average).toBeGreaterThan(bits - 4 / elements);
    }
  });
});

describe('sizes without a calibration', () => {
  it('are those of the average that is asked for', () => {
    const size = cacheSize('xquant-cl:2.25@calibrated?sinks=0', SHAPES.gqa, 4096);
    expect(size.bitsPerElement).toBeCloseTo(2.25, 2);
    expect(size.compression).toBeCloseTo(16 / 2.25, 1);
    const n = carrierWidth({ hiddenSize: 128, kvDim: 32 });
    // D and E in each of 5 layers, M in 4, f16; offsets in f32 and bits in a byte.
    expect(size.bytes.plan).toBe(14 * 2 * n * n + 5 * (4 * n + n));
  });
});

describe('layer order', () => {
  const inputs = inputsOf('gqa');

  it('a predicted layer read or sealed out of order throws and keeps nothing', () => {
    const cache = append(emptyCache('xquant-cl:2@calibrated', 'gqa'), inputs);
    read(cache);
    expect(() => cache.layers[3].keysAndValues()).toThrow(CacheStateError);
    expect(() => cache.layers[3].keysAndValues()).toThrow(/in order/);
    expect(() => read(cache)).not.toThrow();
    const empty = emptyCache('xquant-cl:2@calibrated', 'gqa');
    expect(() => empty.layers[4].append(inputs[4])).toThrow(CacheStateError);
    expect(empty.layers[4].length).toBe(0);
  });

  it('without prediction there is none', () => {
    const cache = append(emptyCache('xquant:2@calibrated', 'gqa'), inputs);
    const inOrder = read(cache);
    expectSame(cache.layers[4].keysAndValues(), inOrder[4]);
    expectSame(cache.layers[1].keysAndValues(), inOrder[1]);
    expect(cache.bytes().scratch).toBe(0);
  });
});

describe('arguments', () => {
  it.each([
    ['xquant:2.25@calibrated', { bits: 2.25, form: 'calibrated', basis: 'joint', predict: 0, sinks: 4 }],
    ['xquant:0.5@calibrated?basis=head', { bits: 0.5, basis: 'head', predict: 0 }],
    ['xquant-cl:8@calibrated', { bits: 8, predict: 1, sinks: 4 }],
    ['xquant-cl:1.8@calibrated?predict=2&sinks=1', { bits: 1.8, predict: 2, sinks: 1 }],
  ])('%s', (text, expected) => {
    const options = resolveCacheOptions(text, SHAPES.gqa);
    expect(options).toMatchObject(expected);
    expect(resolveCacheOptions(formatCacheOptions(options, SHAPES.gqa), SHAPES.gqa)).toEqual(options);
  });

  it.each([
    ['xquant:0.4@calibrated', 'gqa', /"bits"/],
    ['xquant:8.1@calibrated', 'gqa', /"bits"/],
    ['xquant:2.25@tuned', 'gqa', /"bits" must be one of 1, 2, 3, 4, 8/],
    ['xquant:2@calibrated?predict=1', 'gqa', /"cache option of xquant"/],
    ['xquant-cl:2@calibrated?predict=0', 'gqa', /"predict" must be 1 or 2/],
    ['xquant-cl:2@calibrated?predict=3', 'gqa', /"predict"/],
    ['xquant-cl:2@tuned?predict=1', 'gqa', /"predict" must be 0 unless/],
    ['xquant:2@tuned?basis=head', 'gqa', /"basis"/],
    ['xquant:2@calibrated?basis=head', 'mha', /"basis" must be "joint"/],
    ['xquant-cl:2@calibrated?basis=head', 'gqa', /"basis" must be "joint"/],
    ['xquant-cl:2@calibrated?rotation=hadamard', 'gqa', /"rotation" must be none with form/],
    ['xquant-cl:2@calibrated?accumulator=int8', 'gqa', /"accumulator" must be f32 with form/],
    ['xquant:2@calibrated?group=48', 'gqa', /"window" must be a multiple/],
    ['xquant:2@calibrated?sinks=129', 'gqa', /"sinks"/],
    ['kivi:2@calibrated', 'gqa', /without a preset/],
  ] as const)('%s on %s is refused', (text, shape, message) => {
    expect(() => resolveCacheOptions(text, SHAPES[shape])).toThrow(ConfigError);
    expect(() => resolveCacheOptions(text, SHAPES[shape])).toThrow(message);
  });

  it('without a calibration, or one that fits, it says how to make one', () => {
    const projections = randomProjections(SHAPES.gqa, 3, true);
    const options = resolveCacheOptions('xquant:2@calibrated', SHAPES.gqa);
    const factors = new ComputedFactors(projections);
    expect(() => new ReferenceCache(options, projections, factors)).toThrow(/"xquant calibrate" makes one/);
    const foreign = sampleTransforms(
      randomProjections(SHAPES.mha, 3),
      randomInputs(randomProjections(SHAPES.mha, 3), 100, 1),
      SHAPES.mha,
    );
    factors.presetCalibration('calibrated', foreign, 'same-width'); // n is 64 in both, only the fingerprint tells
    const fewer = { ...foreign, sets: foreign.sets.map((set) => ({ ...set, layers: set.layers.slice(1) })) };
    expect(() => factors.presetCalibration('calibrated', fewer)).toThrow(ConfigError);
  });
});

describe('transforms', () => {
  test.prop([fc.integer({ min: 1, max: 24 }), fc.nat()])('an inverse is an inverse', (n, seed) => {
    const source = dense(n, n, Float64Array.from(gaussianMatrix(n, n, seed).data));
    for (let i = 0; i < n; i++) source.data[i * n + i] += 3 * Math.sqrt(n);
    const product = multiply(source, inverse(source));
    product.data.forEach((value, i) => {
      expect(value).toBeCloseTo(i % (n + 1) === 0 ? 1 : 0, 10);
    });
  });

  it('a pivot of zero is exchanged; a singular or broken matrix is refused', () => {
    expect([...inverse(dense(2, 2, Float64Array.of(0, 1, 2, 0))).data]).toEqual([0, 0.5, 1, 0]);
    expect(() => inverse(dense(2, 2, Float64Array.of(1, 2, 2, 4)))).toThrow(NumericError);
    expect(() => inverse(dense(2, 2, Float64Array.of(1, Number.NaN, 2, 4)))).toThrow(NumericError);
    expect(() => inverse(dense(2, 3))).toThrow(ShapeError);
  });

  it('are prepared once for all caches of a model', () => {
    const { set } = emptyCache('xquant-cl:2@calibrated', 'gqa').calibrated!;
    expect(Transform.of(set.layers[1])).toBe(Transform.of(set.layers[1]));
  });
});
