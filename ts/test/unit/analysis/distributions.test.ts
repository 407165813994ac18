import { describe, expect, it } from 'vitest';
import {
  compareLayers,
  meanLoss,
  measureCacheErrors,
  measureDistributions,
  predictOutlierChannel,
  profileChannels,
} from '../../../src/analysis/distributions.js';
import { latentFactors } from '../../../src/cache/factors.js';
import { project } from '../../../src/cache/fold.js';
import { matrix } from '../../../src/numerics/matrix.js';
import { randomTokens, TINY_CONFIG, TINY_GQA_CONFIG, tinyModel } from '../../helpers/tiny-model.js';

describe.each([
  ['mha', TINY_CONFIG],
  ['gqa', TINY_GQA_CONFIG],
])('of a %s model', (_, config) => {
  const model = tinyModel(config);
  const tokens = randomTokens(64);

  it('sees every layer once', async () => {
    const { distributions, samples } = await measureDistributions(model, tokens, model.factors, {
      sampleSize: 16,
    });
    const { layers, steps } = distributions;
    expect(layers.map(({ layer }) => layer)).toEqual([0, 1, 2, 3]);
    const kvDim = config.numKeyValueHeads * config.headDim;
    for (const { profiles } of layers) {
      expect(profiles.x.meanAbs.length).toBe(config.hiddenSize);
      for (const name of ['keys', 'values', 'keyLatent', 'valueLatent'] as const) {
        expect(profiles[name].meanAbs.length).toBe(kvDim);
      }
    }
    expect(steps.stream.map(({ layer }) => layer)).toEqual([1, 2, 3]);
    expect(steps.stream.every(({ cosine }) => cosine > 0 && cosine <= 1)).toBe(true);
    expect(samples.length).toBe(2 * 5);
    expect(samples[0].magnitudes.length).toBe(16);
    expect(samples[0].magnitudes[0].length).toBe(16);
  });

  it('measures no error with an exact cache, and less with more bits', async () => {
    const exact = (layer: number, x: Parameters<typeof project>[0]) =>
      project(x, x, model.projections[layer], model.projections[layer]);
    const total = async (cache: string) => {
      const errors = await measureCacheErrors(model, tokens, cache, exact);
      expect(errors.length).toBe(4);
      return errors.reduce((sum, { keys, values }) => sum + keys + values, 0);
    };
    expect(await total('kv?quantizer=identity&window=32')).toBeLessThan(1e-5);
    const four = await total('kivi:4?group=32&window=32');
    expect(four).toBeLessThan(await total('kivi:2?group=32&window=32'));
  });
});

it('finds the outlier channel where the weights put it', () => {
  // Wk of rank one: its channels follow (1, 5, 2, 3) times one direction.
  const wK = matrix(
    4,
    8,
    Float32Array.from({ length: 32 }, (_, i) => [1, 5, 2, 3][i >> 3] + 1e-3 * Math.sin(i)),
  );
  const profile = { meanAbs: [1, 2, 9, 3], maxAbs: [1, 2, 9, 3] };
  // Channel 2 is third in the row.
  expect(predictOutlierChannel({ factors: () => latentFactors(wK) }, [profile])).toEqual([
    { k: 1, layers: 0 },
    { k: 2, layers: 0 },
    { k: 4, layers: 1 },
    { k: 8, layers: 1 },
  ]);
});

it('profiles channels', () => {
  expect(profileChannels(matrix(2, 2, Float32Array.of(1, -2, -3, 4)))).toEqual({
    meanAbs: [2, 3],
    maxAbs: [3, 4],
  });
});

it('compares layers', () => {
  const a = matrix(1, 3, Float32Array.of(1, 0, 0));
  const b = matrix(1, 3, Float32Array.of(1, 1, 0));
  const step = compareLayers(1, a, b);
  expect(step.cosine).toBeCloseTo(Math.SQRT1_2, 9);
  expect(step).toMatchObject({ layer: 1, differenceRange: 1, range: 1 });
});

it('a uniform guess among four costs log 4', () => {
  expect(meanLoss(matrix(2, 4), [0, 3])).toBeCloseTo(Math.log(4), 9);
});
