import { describe, expect, it } from 'vitest';
import { cacheBytes, elementsPerToken } from '../../../src/analysis/memory.js';
import { ReferenceCache } from '../../../src/cache/create.js';
import { ComputedFactors } from '../../../src/cache/factors.js';
import { project } from '../../../src/cache/fold.js';
import { parseCacheSpec, resolveCacheOptions } from '../../../src/cache/presets.js';
import type { KeyValueProjection } from '../../../src/cache/projection.js';
import { storedBytes } from '../../../src/cache/stored-matrix.js';
import { ConfigError } from '../../../src/errors.js';
import { roundToFloat16 } from '../../../src/numerics/float16.js';
import { rowRange } from '../../../src/numerics/matrix.js';
import type { NuqMatrix } from '../../../src/quant/nuq.js';
import { sampleCalibration } from '../../helpers/calibrations.js';
import { expectSame } from '../../helpers/expect-same.js';
import { randomInputs, randomProjections, SHAPES } from '../../helpers/random-layers.js';
import { append, cacheLaws, read } from '../../laws/cache-laws.js';

const SPECS = [
  'kvquant:2',
  'kvquant:3?outliers=0',
  'kvquant:4?outliers=10%&sink=1&qnorm=on',
  'kvquant:2?sink=5&qnorm=on',
];

const factorsOf = new WeakMap<readonly KeyValueProjection[], ComputedFactors>();

/** Calibrated on other tokens than those that are cached. */
function calibrated(projections: readonly KeyValueProjection[]): ComputedFactors {
  const known = factorsOf.get(projections);
  if (known) return known;
  const factors = new ComputedFactors(projections);
  factors.presetCalibration('kvquant', sampleCalibration(projections, randomInputs(projections, 400, 77)));
  factorsOf.set(projections, factors);
  return factors;
}

cacheLaws(
  'reference',
  (options, projections) => new ReferenceCache(options, projections, calibrated(projections)),
  (['mha', 'gqa'] as const).flatMap((shape) => SPECS.map((spec) => ({ spec, shape }))),
);

const projections = randomProjections(SHAPES.mha, 3);
const inputs = randomInputs(projections, 256, 9);

function filled(spec: string) {
  const options = resolveCacheOptions(spec, SHAPES.mha);
  return append(new ReferenceCache(options, projections, calibrated(projections)), inputs) as ReferenceCache;
}

/** Root mean square difference of all keys and values, relative to their own root mean square. */
function relativeError(spec: string): number {
  let [error, size] = [0, 0];
  read(filled(spec)).forEach(({ keys, values }, i) => {
    const exact = project(inputs[i].x, inputs[i].x, projections[i], projections[i]);
    for (const [a, b] of [
      [keys, exact.keys],
      [values, exact.values],
    ]) {
      a.data.forEach((value, j) => {
        error += (value - b.data[j]) ** 2;
        size += b.data[j] ** 2;
      });
    }
  });
  return Math.sqrt(error / size);
}

describe('quality', () => {
  it('improves with bits and with outliers', () => {
    const [two, three, four] = [2, 3, 4].map((bits) => relativeError(`kvquant:${bits}`));
    expect(four).toBeLessThan(three);
    expect(three).toBeLessThan(two);
    expect(relativeError('kvquant:2?outliers=10%')).toBeLessThan(two);
    expect(two).toBeLessThan(relativeError('kvquant:2?outliers=0'));
  });

  it('is exact with the identity quantizer', () => {
    expect(relativeError('kvquant?quantizer=identity')).toBeLessThan(1e-6);
  });
});

describe('sink', () => {
  it('keeps the first tokens in f16 and leaves the others as they are', () => {
    const plain = read(filled('kvquant:2'));
    const withSink = read(filled('kvquant:2?sink=5'));
    for (const [layer, { keys, values }] of withSink.entries()) {
      const exact = project(inputs[layer].x, inputs[layer].x, projections[layer], projections[layer]);
      const first = (source: typeof keys) => rowRange(source, 0, 5).data;
      expect(first(keys)).toEqual(first(exact.keys).map(roundToFloat16));
      expect(first(values)).toEqual(first(exact.values).map(roundToFloat16));
      const rest = (source: typeof keys) => Float32Array.from(rowRange(source, 5, 256).data);
      expectSame(rest(keys), rest(plain[layer].keys));
      expectSame(rest(values), rest(plain[layer].values));
    }
  });
});

describe('bytes', () => {
  it('bills outliers by their number: 32 bits each and 32 a token', () => {
    const cache = filled('kvquant:3');
    let outliers = 0;
    for (const layer of cache.layers) {
      for (const block of layer.state().blocks) {
        for (const stored of [block.keys, block.values] as NuqMatrix[]) {
          outliers += stored.outlierValues.length;
          expect(stored.outlierStarts.length).toBe(128);
        }
      }
    }
    const { kvDim } = projections[0];
    const elements = 256 * 5 * 2 * kvDim;
    const bytes = cache.bytes();
    expect(bytes.codes).toBe((elements * 3) / 8);
    expect(bytes.outliers).toBe(4 * outliers + 4 * 256 * 5 * 2);
    expect(bytes.scales).toBe(2 * 256 * 5);
    expect(bytes.mins).toBe(2 * 256 * 5);
    // Keys about 1 %, values one on each side.
    expect(outliers / elements).toBeGreaterThan(0.015);
    expect(outliers / elements).toBeLessThan(0.035);
  });

  it('is what the formula expects, exactly without outliers', () => {
    for (const spec of [
      'kvquant:2?outliers=0',
      'kvquant:4?outliers=0&sink=5',
      'kvquant?quantizer=identity',
    ]) {
      const cache = filled(spec);
      expect(cacheBytes(cache.options, SHAPES.mha, 256)).toEqual(cache.bytes());
    }
    const cache = filled('kvquant:2?sink=1');
    const expected = storedBytes(cacheBytes(cache.options, SHAPES.mha, 256));
    expect(Math.abs(storedBytes(cache.bytes()) / expected - 1)).toBeLessThan(0.03);
    expect(elementsPerToken(cache.options, SHAPES.mha)).toBe(5 * 2 * 64);
  });
});

describe('the argument', () => {
  it('says outliers as a percentage or a fraction', () => {
    expect(parseCacheSpec('kvquant:3?outliers=1%&sink=1&qnorm=on&calibration=a/b.safetensors')).toEqual({
      variant: 'kvquant',
      bits: 3,
      outlierFraction: 0.01,
      sinks: 1,
      qNorm: 'on',
      calibration: 'a/b.safetensors',
    });
    expect(parseCacheSpec('kvquant?outliers=0.1')).toMatchObject({ outlierFraction: 0.1 });
    expect(resolveCacheOptions('kvquant:2', SHAPES.mha)).toMatchObject({
      outlierFraction: 0.01,
      sinks: 0,
      qNorm: 'off',
    });
  });

  it.each([
    'kvquant:8',
    'kvquant:1',
    'kvquant?outliers=100%',
    'kvquant?outliers=-1',
    'kvquant?outliers=%',
    'kvquant?sink=129',
    'kvquant?qnorm=yes',
    'kvquant?calibration=',
    'kvquant?group=64',
    'kvquant@paper',
    'kivi?outliers=1%',
  ])('%s is refused', (spec) => {
    expect(() => resolveCacheOptions(spec, SHAPES.mha)).toThrow(ConfigError);
  });

  it('without calibration says how to make one', () => {
    const make = (spec: string, factors: ComputedFactors) => () =>
      new ReferenceCache(resolveCacheOptions(spec, SHAPES.mha), projections, factors);
    expect(make('kvquant:2', new ComputedFactors(projections))).toThrow(/calibrate_kvquant\.py/);
    expect(make('kvquant:2?calibration=other', calibrated(projections))).toThrow(/calibrate_kvquant\.py/);
    expect(make('kvquant:2?sink=2', calibrated(projections))).toThrow(
      /made for: 2 bits, outliers 0 %, sink 0/,
    );
  });
});
