/** Attention to what is near: close to the whole where nothing is far, cheap where much is, and gone without a trace. */

import { afterAll, describe, expect, it } from 'vitest';
import { RecentBlocks, recentParts } from '../../../src/engine/recent-blocks.js';
import { ConfigError } from '../../../src/errors.js';
import { expectSame } from '../../helpers/expect-same.js';
import { randomInputs } from '../../helpers/random-layers.js';
import {
  randomTokens,
  randomWeights,
  TINY_CONFIG,
  TINY_GQA_CONFIG,
  tinyModel,
} from '../../helpers/tiny-model.js';
import { sampleTransforms } from '../../helpers/transforms.js';
import { engineOf } from './engines.js';

const CACHES = [
  'kv?window=16',
  'kivi:4?window=16&group=16',
  'xquant:4?window=16',
  'xquant:4@paper?window=16&group=16&form=latent&outlier=f16',
  'xquant-cl:4?window=16',
  'xquant-cl:4?window=16&accumulator=int8',
  'xquant-cl:4?window=16&accumulator=recompute',
  'xquant:4@calibrated?window=16&group=16',
  'xquant-cl:4@calibrated?window=16&group=16&predict=2',
];

describe('the parts that are kept', () => {
  it('are the first tokens and the newest blocks', () => {
    expect(recentParts(0, 16)).toEqual([]);
    expect(recentParts(3, 16).map(({ index, tokens }) => [index, tokens])).toEqual([
      [0, 16],
      [1, 16],
      [2, 16],
    ]);
    expect(recentParts(9, 16).map(({ index, tokens }) => [index, tokens])).toEqual([
      [0, 4],
      [6, 16],
      [7, 16],
      [8, 16],
    ]);
  });
});

describe.each([
  ['mha', TINY_CONFIG],
  ['gqa', TINY_GQA_CONFIG],
])('%s', async (_, config) => {
  const engine = await engineOf(config, randomWeights(config, 7), { threads: 2 });
  const sample = randomInputs(engine.projections, 300, 1);
  engine.factors.presetCalibration('calibrated', sampleTransforms(engine.projections, sample, config));
  afterAll(() => engine.dispose());
  const tokens = randomTokens(160);

  it.each(CACHES)('%s: with three blocks, near is all', async (spec) => {
    const cache = engine.createCache(spec);
    await engine.forward(tokens.slice(0, 55), cache); // three blocks and a window
    const copy = cache.clone();
    const all = await engine.forward([7], cache);
    const near = await engine.forward([7], copy, { attention: 'recent' });
    const largest = Math.max(...all.data.map(Math.abs));
    const worst = Math.max(...near.data.map((value, i) => Math.abs(value - all.data[i])));
    expect(worst / largest).toBeLessThan(0.01); // keys and values in f16
    for (const each of [cache, copy]) each.dispose();
  });

  it.each(CACHES)('%s: after a trim nothing is left but what is counted', async (spec) => {
    const cache = engine.createCache(spec);
    const fresh = engine.createCache(spec);
    for (const each of [cache, fresh]) await engine.forward(tokens.slice(0, 130), each);
    for (let round = 0; round < 3; round++) {
      const { length } = cache;
      for (const id of [1, 2, 3]) await engine.forward([id], cache, { attention: 'recent' });
      cache.trim(length);
      const next = tokens.slice(130 + round * 9, 139 + round * 9);
      for (const id of next) {
        expectSame((await engine.forward([id], cache)).data, (await engine.forward([id], fresh)).data);
      }
      expectSame(
        cache.layers.map((layer) => layer.state()),
        fresh.layers.map((layer) => layer.state()),
      );
    }
    const kept = cache.bytes().scratch - fresh.bytes().scratch;
    const kvDim = config.numKeyValueHeads * config.headDim;
    const counted = spec.startsWith('kv?') ? 0 : (3 * 16 + 4) * kvDim * 2 * 2 * config.numHiddenLayers;
    expect(kept).toBe(counted);
    expect(cache.allocatedBytes - fresh.allocatedBytes).toBe(kept);
    const { used } = engine.memoryUse;
    const allocated = cache.allocatedBytes;
    cache.dispose();
    expect(used - engine.memoryUse.used).toBeGreaterThanOrEqual(allocated);
    fresh.dispose();
  });

  it('a block that was trimmed away and written anew is kept anew', async () => {
    const cache = engine.createCache('xquant-cl:4?window=16');
    await engine.forward(tokens.slice(0, 100), cache);
    await engine.forward([1], cache, { attention: 'recent' });
    cache.trim(64);
    await engine.forward(tokens.slice(120, 156), cache);
    const other = engine.createCache('xquant-cl:4?window=16');
    await engine.forward(tokens.slice(0, 64), other);
    await engine.forward(tokens.slice(120, 156), other);
    const near = (await engine.forward([5], cache, { attention: 'recent' })).data;
    expectSame(near, (await engine.forward([5], other, { attention: 'recent' })).data);
  });
});

describe('what is refused', () => {
  it('a sight that does not exist, and a short one where every token counts', async () => {
    const engine = await engineOf(TINY_CONFIG, randomWeights(TINY_CONFIG, 7));
    const cache = engine.createCache('kv');
    const near = { attention: 'recent' } as const;
    await expect(engine.forward([1], cache, { attention: 'near' as 'all' })).rejects.toThrow(ConfigError);
    await expect(engine.forward([1], cache, { ...near, mode: 'teacherForced' })).rejects.toThrow(ConfigError);
    const reference = tinyModel();
    await expect(reference.forward([1], reference.createCache('kv'), near)).rejects.toThrow(
      /reference backend/,
    );
    await engine.dispose();
  });

  it('memory that is not there: nothing is kept by halves', () => {
    let left = 3;
    const freed: number[] = [];
    const memory = {
      allocate: () => {
        if (left-- === 0) throw new Error('full');
        return 64 * (3 - left);
      },
      free: (pointer: number) => void freed.push(pointer),
    };
    const blocks = new RecentBlocks(memory as never, 32, 1);
    expect(() => blocks.keep(0, recentParts(9, 16))).toThrow('full');
    blocks.truncate(0, 0);
    expect(blocks.bytes).toBe(0);
    expect(freed.sort()).toEqual([128, 192, 64]);
  });
});
