/** Threads share the work and change nothing; one that dies is an error, not a wrong number and not a hang. */

import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { WasmModel } from '../../../src/engine/wasm-model.js';
import { KernelError } from '../../../src/errors.js';
import { expectSame } from '../../helpers/expect-same.js';
import { randomTokens, randomWeights, TINY_CONFIG, TINY_GQA_CONFIG } from '../../helpers/tiny-model.js';
import { engineOf } from './engines.js';

/** Handles of all threads that were started, newest last. */
const threads = vi.hoisted(() => [] as { terminate(): unknown }[]);

vi.mock('../../../src/engine/workers-node.js', async (original) => {
  const real = await original<typeof import('../../../src/engine/workers-node.js')>();
  return {
    ...real,
    spawnThread: (...args: Parameters<typeof real.spawnThread>) => {
      const handle = real.spawnThread(...args);
      threads.push(handle);
      return handle;
    },
  };
});

const CACHES = [
  'kv?window=16',
  'kivi:2?window=16&group=16',
  'xquant:4?window=16',
  'xquant:2@paper?window=16&group=16&form=latent',
  'xquant-cl:2?window=16',
  'xquant-cl:2?window=16&form=x&accumulator=int8',
  'xquant-cl:2?window=16&accumulator=recompute',
];
const COUNTS = [1, 2, 3, 5];
const tokens = randomTokens(60);

describe.each([
  ['mha', TINY_CONFIG],
  ['gqa', TINY_GQA_CONFIG],
])('threads on %s', (_, config) => {
  let engines: WasmModel[];
  beforeAll(async () => {
    const weights = randomWeights(config, 7);
    engines = await Promise.all(COUNTS.map((count) => engineOf(config, weights, { threads: count })));
  });
  afterAll(async () => {
    for (const engine of engines) await engine.dispose();
  });

  it.each(CACHES)('%s: every number of threads gives the same bits', async (spec) => {
    const results = [];
    for (const engine of engines) {
      const cache = engine.createCache(spec);
      const logits: Float32Array[] = [];
      const run = async (from: number, to: number, of = cache) =>
        logits.push((await engine.forward(tokens.slice(from, to), of, { logits: 'all' })).data);
      await run(0, 37); // prefill
      for (let at = 37; at < 50; at++) await run(at, at + 1); // decode, sealing a block
      await run(50, 60);
      const batch = await engine.forwardBatch([[1], [2], [3, 4]], [cache, cache.clone(), cache.clone()]);
      const forced = engine.createCache(spec);
      const all = await engine.forward(tokens, forced, { logits: 'all', mode: 'teacherForced' });
      const states = [cache, forced].map(({ layers }) => layers.map((layer) => layer.state()));
      results.push({ logits: [...logits, batch.data, all.data], states });
      cache.dispose();
    }
    for (const result of results.slice(1)) expectSame(result, results[0]);
  });
});

describe('a thread that dies in the middle of a pass', () => {
  it('is an error that names it; the cache is as it was, and the model goes on with a new thread', async () => {
    const engine = await engineOf(TINY_CONFIG, randomWeights(TINY_CONFIG, 7), { threads: 3 });
    const cache = engine.createCache('xquant-cl:2?window=16');
    await engine.forward(tokens.slice(0, 20), cache);
    const copy = cache.clone();
    const before = cache.layers.map((layer) => layer.state());
    const expected = await engine.forward(tokens.slice(20), copy);

    const started = threads.length;
    const pass = engine.forward(tokens.slice(20), cache, {
      onTensor: ({ layer, tensor }) => {
        if (layer === 2 && tensor === 'x') threads[started - 1].terminate();
      },
    });
    const error = await pass.then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(KernelError);
    expect((error as KernelError).message).toMatch(/^threads: thread 2: it ended/);
    expectSame(
      cache.layers.map((layer) => layer.state()),
      before,
    );
    expectSame((await engine.forward(tokens.slice(20), cache)).data, expected.data);
    expect(threads.length).toBe(started + 2); // all are new: no old one may still write
    await engine.dispose();
  });

  it('between passes: the next pass starts new threads', async () => {
    const engine = await engineOf(TINY_CONFIG, randomWeights(TINY_CONFIG, 7), { threads: 2 });
    const expected = await engine.forward(tokens, engine.createCache('kv'));
    await threads.at(-1)?.terminate();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expectSame((await engine.forward(tokens, engine.createCache('kv'))).data, expected.data);
    await engine.dispose();
  });
});
