/** Rows of one pass and passes of one row: the same bits with real weight types, and on every way through attention. */

import { afterAll, describe, expect, it } from 'vitest';
import type { WasmModel } from '../../../src/engine/wasm-model.js';
import { loadModel } from '../../../src/load.js';
import { expectSame } from '../../helpers/expect-same.js';
import { randomTokens, randomWeights, TINY_CONFIG } from '../../helpers/tiny-model.js';
import { engineOf } from './engines.js';

/** One KV head for 64 query heads: here even a single row attends to rematerialized values (attention-many.ts). */
const ONE_KV_HEAD = {
  ...TINY_CONFIG,
  hiddenSize: 128,
  numHiddenLayers: 2,
  numAttentionHeads: 64,
  numKeyValueHeads: 1,
  headDim: 32,
};

/** Every other layer sees 20 tokens, which is more than a block and less than two. */
const SLIDING = {
  ...TINY_CONFIG,
  layers: Array.from({ length: TINY_CONFIG.numHiddenLayers }, (_, i) => (i % 2 ? { slidingWindow: 20 } : {})),
};

async function expectRowsAlone(model: WasmModel, spec: string, prompt: number, count: number): Promise<void> {
  const ids = randomTokens(prompt + count);
  const cache = model.createCache(spec);
  await model.forward(ids.slice(0, prompt), cache);
  const together = cache.clone();
  const rows = ids.slice(prompt);
  const all = await model.forward(rows, together, { mode: 'stepwise', logits: 'all' });
  expect(all.rows).toBe(count);
  for (const [i, id] of rows.entries()) {
    const alone = await model.forward([id], cache);
    expectSame(all.data.slice(i * all.columns, (i + 1) * all.columns), alone.data);
  }
  cache.dispose();
  together.dispose();
}

describe('one KV head', async () => {
  const model = await engineOf(ONE_KV_HEAD, randomWeights(ONE_KV_HEAD, 5), { threads: 2 });
  afterAll(() => model.dispose());

  it.each(['kv?window=32', 'xquant:4?window=32&form=x', 'xquant-cl:2?window=32&form=x'])(
    '%s',
    async (spec) => {
      await expectRowsAlone(model, spec, 70, 16);
    },
  );
});

describe('layers with sliding windows', async () => {
  const model = await engineOf(SLIDING, randomWeights(SLIDING, 5), { threads: 2 });
  afterAll(() => model.dispose());

  it.each(['kv?window=16', 'xquant:4?window=16', 'xquant-cl:2?window=16'])('%s', async (spec) => {
    for (const count of [3, 13]) await expectRowsAlone(model, spec, 82, count);
  });
});

describe.each([
  ['books-mha', ['kv', 'xquant-cl:2?accumulator=int8']],
  ['books-gqa', ['xquant:4', 'xquant-cl:2']],
])('%s, whose weights are quantized', async (name, specs) => {
  const { model } = await loadModel(name, { threads: 1 });
  afterAll(() => model.dispose());

  it.each(specs)('%s', async (spec) => {
    await expectRowsAlone(model as WasmModel, spec, 260, 16);
  });
});
