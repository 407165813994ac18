/**
 * The laws of a language model, for any implementation: call {@link modelLaws} with a way to make one.
 *
 * @module
 */

import { describe, expect, it } from 'vitest';
import { CacheStateError, ConfigError, DisposedError } from '../../src/errors.js';
import type { ModelConfig } from '../../src/model/config.js';
import type { LanguageModel } from '../../src/model/language-model.js';
import type { ReferenceWeights } from '../../src/model/weights.js';
import type { Matrix } from '../../src/numerics/matrix.js';
import type { ReferenceModel } from '../../src/reference-model.js';
import { expectSame } from '../helpers/expect-same.js';
import { randomInputs } from '../helpers/random-layers.js';
import { randomTokens, randomWeights, TINY_CONFIG, TINY_GQA_CONFIG } from '../helpers/tiny-model.js';
import { sampleTransforms } from '../helpers/transforms.js';

/** Makes a model of f32 weights. */
export type ModelFactory = (
  config: ModelConfig,
  weights: ReferenceWeights,
) => CalibratedModel | Promise<CalibratedModel>;

type CalibratedModel = LanguageModel & Pick<ReferenceModel, 'projections' | 'factors'>;

const CONFIGS = { mha: TINY_CONFIG, gqa: TINY_GQA_CONFIG };

/** Caches that store everything exactly; blocks of 16 tokens, so that short texts seal some. */
const EXACT = [
  'kv?window=16',
  'kivi?window=16&group=16',
  'xquant?window=16',
  'xquant@paper?window=16&group=16',
  'xquant-cl?window=16',
  'xquant-cl@paper?window=16&group=16',
].map((spec) => `${spec}&quantizer=identity`);

/** One of each kind, and blocks that are no multiple of anything. */
const EACH_KIND = [
  'kv?window=16',
  'kv?window=128',
  'kv?window=11&quantizer=identity',
  'kivi:2?window=16&group=16',
  'xquant:4@tuned?window=16',
  'xquant:3@paper?window=16&group=16&form=latent',
  'xquant:4@paper?window=16&group=16&form=latent&outlier=f16',
  'xquant:2@paper?window=16&grouping=perChannel&group=16',
  'xquant-cl:2@tuned?window=16',
  'xquant-cl:2@tuned?window=16&form=x&accumulator=int8',
  'xquant-cl:2@paper?window=16&group=16&accumulator=recompute',
  'xquant:2.25@calibrated?window=16&group=16',
  'xquant-cl:2.25@calibrated?window=16&group=8&predict=2',
];

const QUANTIZED = [
  'kv?window=16',
  'xquant:4@tuned?window=16',
  'xquant-cl:4@tuned?window=16',
  'xquant-cl:3@calibrated?window=16&group=16',
];

/** Adds the calibration that caches need. */
async function calibrated(created: CalibratedModel | Promise<CalibratedModel>): Promise<LanguageModel> {
  const model = await created;
  const { config, projections, factors } = model;
  const sample = randomInputs(projections, 300, 1);
  factors.presetCalibration('calibrated', sampleTransforms(projections, sample, config));
  return model;
}

/**
 * @param tolerance largest difference of logits that the backend's float arithmetic explains, relative to
 *   the largest logit
 */
export function modelLaws(backend: string, create: ModelFactory, tolerance: number): void {
  describe.each(Object.entries(CONFIGS))(`${backend} model, %s`, (_, config) => {
    const weights = randomWeights(config, 7);
    const model = calibrated(create(config, weights));
    const tokens = randomTokens(53);

    async function logitsOf(spec: string, chunk: number, mode?: 'generation' | 'teacherForced') {
      const cache = (await model).createCache(spec);
      const rows: Float32Array[] = [];
      for (let at = 0; at < tokens.length; at += chunk) {
        const part = tokens.slice(at, at + chunk);
        const logits = await (await model).forward(part, cache, { logits: 'all', mode });
        rows.push(logits.data);
      }
      return Float32Array.from(rows.flatMap((row) => [...row]));
    }

    const expectClose = (actual: Float32Array, expected: Float32Array) => {
      expect(actual.length).toBe(expected.length);
      const largest = Math.max(...expected.map(Math.abs));
      const worst = Math.max(...actual.map((value, i) => Math.abs(value - expected[i])));
      expect(worst / largest).toBeLessThanOrEqual(tolerance);
    };

    it.each(EXACT)('%s: chunks of any size and both modes give the same logits', async (spec) => {
      const whole = await logitsOf('kv?quantizer=identity', tokens.length);
      for (const chunk of [1, 7, 16, tokens.length]) expectClose(await logitsOf(spec, chunk), whole);
      expectClose(await logitsOf(spec, tokens.length, 'teacherForced'), whole);
    });

    it('the last logits are the last of all logits', async () => {
      const m = await model;
      const all = await m.forward(tokens, m.createCache('kv'), { logits: 'all' });
      const last = await m.forward(tokens, m.createCache('kv'));
      expect([last.rows, all.rows]).toEqual([1, tokens.length]);
      expect(last.data).toEqual(all.data.subarray((tokens.length - 1) * config.vocabSize));
    });

    it.each(EACH_KIND)('%s: rows of mode stepwise are passes of one row, to the bit', async (spec) => {
      const m = await model;
      const cache = m.createCache(spec);
      const { residualWindow } = cache.options;
      await m.forward(tokens.slice(0, 2 * residualWindow + 1), cache);
      for (const count of [1, 2, 3, 4, 5, 8]) {
        const room = Math.max(1, residualWindow - (cache.length % residualWindow) - 1);
        const rows = randomTokens(Math.min(count, room), count);
        const together = cache.clone();
        const all = await m.forward(rows, together, { mode: 'stepwise', logits: 'all' });
        const alone: Float32Array[] = [];
        for (const id of rows) alone.push((await m.forward([id], cache)).data);
        expectSame(all.data, Float32Array.from(alone.flatMap((row) => [...row])));
        expectSame(
          together.layers.map((layer) => layer.state()),
          cache.layers.map((layer) => layer.state()),
        );
        expectSame((await m.forward([7], together)).data, (await m.forward([7], cache)).data);
        together.dispose();
      }
    });

    it('mode stepwise refuses several tokens that would complete a block, and tensors to be shown', async () => {
      const m = await model;
      const cache = m.createCache('xquant:4?window=16');
      await m.forward(tokens.slice(0, 20), cache);
      const rows = tokens.slice(0, 12);
      await expect(m.forward(rows, cache, { mode: 'stepwise' })).rejects.toThrow(CacheStateError);
      await expect(m.forward(rows, cache, { mode: 'stepwise' })).rejects.toThrow(/complete a block of 16/);
      const tapped = m.forward([1], cache, { mode: 'stepwise', onTensor: () => {} });
      await expect(tapped).rejects.toThrow(ConfigError);
      expect(cache.length).toBe(20);
      expect((await m.forward(rows.slice(1), cache, { mode: 'stepwise' })).rows).toBe(1);
    });

    it.each(QUANTIZED)('%s: the same tokens give the same bits', async (spec) => {
      expect(await logitsOf(spec, 5)).toEqual(await logitsOf(spec, 5));
    });

    it.each(QUANTIZED)('%s: going on after a trim is as if the rest had never been', async (spec) => {
      const m = await model;
      const cache = m.createCache(spec);
      await m.forward(tokens.slice(0, 32), cache);
      await m.forward(randomTokens(7, 9), cache);
      cache.trim(32);
      const again = await m.forward(tokens.slice(32, 40), cache);
      const fresh = m.createCache(spec);
      await m.forward(tokens.slice(0, 32), fresh);
      expectSame((await m.forward(tokens.slice(32, 40), fresh)).data, again.data);
    });

    it('a pass that is stopped leaves the cache as it was, and the model usable', async () => {
      const m = await model;
      for (const spec of QUANTIZED) {
        const cache = m.createCache(spec);
        await m.forward(tokens.slice(0, 15), cache);
        const before = cache.layers.map((layer) => layer.state());
        const reason = new Error('enough');
        await expect(m.forward(tokens.slice(15), cache, { signal: AbortSignal.abort(reason) })).rejects.toBe(
          reason,
        );
        expectSame(
          cache.layers.map((layer) => layer.state()),
          before,
        );
        const continued = await m.forward(tokens.slice(15, 20), cache);
        const fresh = m.createCache(spec);
        await m.forward(tokens.slice(0, 15), fresh);
        expectSame((await m.forward(tokens.slice(15, 20), fresh)).data, continued.data);
      }
    });

    it.each(QUANTIZED)('%s: several sequences in one pass are each as if alone', async (spec) => {
      const m = await model;
      const prompt = m.createCache(spec);
      await m.forward(tokens.slice(0, 37), prompt);
      const other = m.createCache(spec);
      await m.forward(randomTokens(20, 3), other);
      const caches = [prompt, prompt.clone(), other];
      const next = [[1, 2, 3], [4], [5, 6]];
      const alone: Float32Array[] = [];
      for (const [i, cache] of caches.entries()) {
        alone.push((await m.forward(next[i], cache.clone())).data);
      }
      const together = await m.forwardBatch(next, caches);
      expect([together.rows, together.columns]).toEqual([3, config.vocabSize]);
      expect(caches.map(({ length }) => length)).toEqual([40, 38, 22]);
      alone.forEach((logits, i) => {
        expectClose(together.data.slice(i * config.vocabSize, (i + 1) * config.vocabSize), logits);
      });
      const all = await m.forwardBatch([[1, 2], [3]], caches.slice(1), { logits: 'all' });
      expect(all.rows).toBe(3);
    });

    it('a pass of several sequences that fails changes none of them', async () => {
      const m = await model;
      const caches = [m.createCache('xquant-cl:2?window=16'), m.createCache('xquant-cl:2?window=16')];
      for (const cache of caches) await m.forward(tokens.slice(0, 15), cache);
      const states = () => caches.map(({ layers }) => layers.map((layer) => layer.state()));
      const before = states();
      await expect(m.forwardBatch([[1, 2, 3], [config.vocabSize]], caches)).rejects.toThrow(RangeError);
      const signal = AbortSignal.abort(new Error('enough'));
      await expect(m.forwardBatch([[1, 2, 3], [4]], caches, { signal })).rejects.toThrow('enough');
      expectSame(states(), before);
      await expect(m.forwardBatch([[1]], caches)).rejects.toThrow(/one list for each of 2 caches/);
      await expect(m.forwardBatch([], [])).rejects.toThrow(RangeError);
      await expect(m.forwardBatch([[1], [2]], [caches[0], caches[0]])).rejects.toThrow(/different caches/);
      await expect(m.forwardBatch([[1], [2]], [caches[0], m.createCache('kv')])).rejects.toThrow(ConfigError);
      expectSame(states(), before);
    });

    it('a cache that was disposed of says so, and its copies live on', async () => {
      const m = await model;
      const cache = m.createCache('xquant-cl:2?window=16');
      await m.forward(tokens.slice(0, 37), cache);
      const copy = cache.clone();
      const expected = await m.forward(tokens.slice(37, 40), copy.clone());
      cache.dispose();
      cache.dispose();
      await expect((async () => m.forward([1], cache))()).rejects.toThrow(DisposedError);
      expect(() => cache.trim(0)).toThrow(DisposedError);
      expect(() => cache.clone()).toThrow(DisposedError);
      expectSame((await m.forward(tokens.slice(37, 40), copy)).data, expected.data);
    });

    it('refuses tokens it cannot take', async () => {
      const m = await model;
      const cache = m.createCache('kv');
      await expect(m.forward([], cache)).rejects.toThrow(/at least one token/);
      for (const bad of [-1, config.vocabSize, 1.5, Number.NaN]) {
        await expect(m.forward([1, bad], cache)).rejects.toThrow(RangeError);
        await expect(m.forward([1, bad], cache)).rejects.toThrow(/tokens\[1\]/);
      }
      const tooMany = randomTokens(config.maxPositionEmbeddings + 1);
      await expect(m.forward(tooMany, cache)).rejects.toThrow(CacheStateError);
      await expect(m.forward(tooMany, cache)).rejects.toThrow(/context of the model is 320 tokens/);
      expect(cache.length).toBe(0);
    });

    it('refuses a cache of another backend and options that do not fit', async () => {
      const m = await model;
      const own = m.createCache('kv');
      const foreign = new Proxy(own, {
        get: (target, key) => (key === 'backend' ? 'elsewhere' : Reflect.get(target, key)),
        getPrototypeOf: () => Object.prototype,
      });
      await expect(m.forward([1], foreign)).rejects.toThrow(/belongs to backend "elsewhere"/);
      expect(() => m.createCache('xquant:5')).toThrow(ConfigError);
    });

    it('shows every tensor of every layer', async () => {
      const m = await model;
      const seen = new Map<string, Matrix>();
      await m.forward(tokens.slice(0, 20), m.createCache('kv?window=16'), {
        onTensor: ({ layer, tensor, value }) => seen.set(`${layer}.${tensor}`, value),
      });
      const kvDim = config.numKeyValueHeads * config.headDim;
      for (let layer = 0; layer < config.numHiddenLayers; layer++) {
        for (const tensor of ['stream', 'normalized', 'x', 'queries', 'attentionOutput', 'mlpOutput']) {
          expect(seen.get(`${layer}.${tensor}`)).toMatchObject({ rows: 20, columns: config.hiddenSize });
        }
        for (const tensor of ['keys', 'values']) {
          expect(seen.get(`${layer}.${tensor}`)).toMatchObject({ rows: 20, columns: kvDim });
        }
      }
      expect(seen.size).toBe(8 * config.numHiddenLayers);
    });
  });
}
