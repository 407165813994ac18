import { fc, test as propertyTest } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { cacheBytes, float16KeyValueBytes, NAMED_SHAPES } from '../../src/analysis/memory.js';
import { resolveCacheOptions } from '../../src/cache/presets.js';
import { planBytes } from '../../src/engine/plan-bytes.js';
import { KEY_WEIGHTS } from '../../src/engine/small-product.js';
import { WasmModel } from '../../src/engine/wasm-model.js';
import { breakEvenTokens, bytesByKind, cacheTotals, memoryTotals } from '../../src/memory-totals.js';
import { randomInputs } from '../helpers/random-layers.js';
import { randomTokens, randomWeights, TINY_CONFIG, TINY_GQA_CONFIG } from '../helpers/tiny-model.js';
import { sampleTransforms } from '../helpers/transforms.js';
import { fileWeights } from './engine/engines.js';

const CACHES = [
  'kv',
  'kivi:2?group=16&window=32',
  'xquant:4?window=32',
  'xquant:2@paper?window=32&group=32',
  'xquant:4?form=latent&window=32',
  'xquant:2@paper?form=latent&window=32&group=32',
  'xquant:2@paper?form=latent&window=32&group=32&outlier=f16',
  'xquant-cl:2?window=32',
  'xquant-cl:2@paper?window=32',
  'xquant-cl:2@paper?window=32&form=x&grouping=perChannel&group=32',
  'xquant-cl:2?window=32&form=x&accumulator=int8',
  'xquant-cl:2?window=32&baseStore=latent',
];

/** Others need a calibration to be made. */
const CALIBRATED = [
  'xquant:2.25@calibrated?window=32&group=32',
  'xquant-cl:2.25@calibrated?window=32&group=32&sinks=0',
  'xquant-cl:2.25@calibrated?window=32&group=32&predict=2',
  'xquant:1.25@calibrated?window=32&group=32&basis=head',
  'xquant:3@calibrated?window=32&group=32&basis=tensor&sinks=0',
  'xquant:3@calibrated?window=32&quantizer=identity',
];

function presetSample({ config, projections, factors }: WasmModel): void {
  const sample = randomInputs(projections, 300, 1);
  factors.presetCalibration('calibrated', sampleTransforms(projections, sample, config));
}

describe('the plan', () => {
  it.each([
    ['mha', TINY_CONFIG],
    ['gqa', TINY_GQA_CONFIG],
  ])('has the bytes that the engine holds (%s)', async (_, config) => {
    for (const keyWeights of KEY_WEIGHTS) {
      await using model = await WasmModel.load(config, fileWeights(randomWeights(config)), {
        threads: 1,
        keyWeights,
      });
      presetSample(model);
      for (const cache of [...CACHES, ...CALIBRATED]) {
        const options = (() => {
          try {
            return resolveCacheOptions(cache, config);
          } catch {
            return undefined; // one that this shape cannot have
          }
        })();
        if (!options) continue;
        using held = model.createCache(options);
        const bytes = held.plan.layers.reduce((sum, layer) => sum + layer.bytes, 0);
        const formula = planBytes(options, config, keyWeights, held.calibrated);
        expect(formula, `${cache}, ${keyWeights}`).toBe(bytes);
      }
    }
  });
});

describe('totals', () => {
  it('of a cache that has run are those of the formula', async () => {
    await using model = await WasmModel.load(TINY_CONFIG, fileWeights(randomWeights(TINY_CONFIG)), {
      threads: 1,
    });
    presetSample(model);
    for (const cache of ['kv?window=32', 'xquant:4?window=32', 'xquant-cl:2?window=32', CALIBRATED[2]]) {
      using held = model.createCache(cache);
      await model.forward(randomTokens(70), held);
      const plan = planBytes(held.options, TINY_CONFIG, 'exact', held.calibrated);
      const formula = cacheBytes(held.options, TINY_CONFIG, 70, held.calibrated);
      const expected = memoryTotals(formula, plan, float16KeyValueBytes(TINY_CONFIG, 70));
      if (!held.calibrated) expect(cacheTotals(cache, TINY_CONFIG, 70)).toEqual(expected);
      expect(memoryTotals(held.bytes(), plan, expected.float16)).toEqual(expected);
    }
  });

  propertyTest.prop([fc.constantFrom(...CACHES.slice(0, 4), CACHES[7]), fc.integer({ min: 1, max: 4000 })])(
    'add up, and the cache alone is never the larger figure',
    (cache, tokens) => {
      const { cache: own, accumulator, plan = 0, total, ...all } = cacheTotals(cache, TINY_CONFIG, tokens);
      expect(own + accumulator + plan).toBe(total);
      expect(all.smaller).toBeLessThanOrEqual(all.cacheSmaller);
      expect(all.smaller * total).toBeCloseTo(all.float16, 3);
    },
  );

  it('pay from the first block on that is smaller, and not before', () => {
    const shape = NAMED_SHAPES['smollm2-135m'];
    for (const cache of ['kv', 'kivi:2', 'xquant:4', 'xquant-cl:2']) {
      const tokens = breakEvenTokens(cache, shape) as number;
      const { residualWindow: block } = resolveCacheOptions(cache, shape);
      expect(cacheTotals(cache, shape, tokens).smaller).toBeGreaterThanOrEqual(1);
      expect(cacheTotals(cache, shape, 10 * tokens).smaller).toBeGreaterThanOrEqual(1);
      if (tokens > block) expect(cacheTotals(cache, shape, tokens - block).smaller).toBeLessThan(1);
    }
  });

  it('never pay for a cache that is larger for each token', () => {
    // X of a grouped-query model is as wide as all its heads.
    expect(
      breakEvenTokens('xquant:8?form=x', { ...NAMED_SHAPES['smollm2-135m'], numKeyValueHeads: 1 }),
    ).toBeUndefined();
  });

  it('book f16 keys and values as what they are', () => {
    const shape = NAMED_SHAPES['smollm2-135m'];
    const bytes = {
      codes: 0,
      scales: 0,
      mins: 0,
      window: 3,
      outliers: 4,
      baseLayers: 0,
      scratch: 0,
      plan: 0,
    };
    expect(bytesByKind(resolveCacheOptions('kv', shape), bytes)).toMatchObject({
      keysAndValues: 7,
      window: 0,
      outliers: 0,
    });
    expect(bytesByKind(resolveCacheOptions('xquant:4', shape), bytes)).toMatchObject({
      ...bytes,
      keysAndValues: 0,
    });
  });
});
