import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { LayerPlan } from '../../src/engine/plans/plan.js';
import { CachedSequence, generate } from '../../src/generate.js';
import { type LoadedModel, loadModel } from '../../src/load.js';
import { ReferenceModel } from '../../src/reference-model.js';
import { generateSamples } from '../../src/samples.js';
import { ByteTokenizer, END_OF_SEQUENCE, randomTokens, tinyModel } from '../helpers/tiny-model.js';

const SAMPLING = { temperature: 0.9, topK: 40, seed: 11 };
const PROMPT =
  'It was a dark night, and the old man had been at sea for many weeks, and had not seen a sail. '.repeat(6);

describe('generateSamples', () => {
  const model = tinyModel();
  const tokenizer = new ByteTokenizer();
  const prompt = randomTokens(40);

  it.each(['kv?window=16', 'xquant:4?window=16', 'xquant-cl:2?window=16'])(
    '%s: each sample is the run with its seed, token by token',
    async (cache) => {
      const options = { ...SAMPLING, cache, maxTokens: 12 };
      const all = await generateSamples(model, tokenizer, prompt, { ...options, samples: 3 }).finish();
      expect(new Set(all.map(({ ids }) => ids.join())).size).toBe(3);
      for (const [i, { ids, text, stopReason, promptTokens }] of all.entries()) {
        const single = await generate(model, tokenizer, prompt, { ...options, seed: 11 + i }).finish();
        expect({ ids, text, stopReason, promptTokens }).toEqual({
          ids: single.ids,
          text: single.text,
          stopReason: single.stopReason,
          promptTokens: 40,
        });
      }
    },
  );

  it('samples that end early leave the others running', async () => {
    const logitBias = new Map([[END_OF_SEQUENCE, 3]]);
    const options = { ...SAMPLING, cache: 'kv', maxTokens: 20, logitBias, samples: 4 };
    const all = await generateSamples(model, tokenizer, prompt, options).finish();
    expect(new Set(all.map(({ ids }) => ids.length)).size).toBeGreaterThan(1);
    for (const [i, { ids }] of all.entries()) {
      const single = await generate(model, tokenizer, prompt, { ...options, seed: 11 + i }).finish();
      expect(ids).toEqual(single.ids);
    }
  });

  it('runs the prompt once, on the cache that was given', async () => {
    const forward = vi.spyOn(ReferenceModel.prototype, 'forward');
    const sequence = new CachedSequence(model.createCache('kv'));
    await sequence.run(model, prompt.slice(0, 20));
    const samples = generateSamples(model, tokenizer, prompt, {
      ...SAMPLING,
      cache: sequence,
      samples: 3,
      maxTokens: 4,
    });
    const tokens = [];
    for await (const { sample } of samples) tokens.push(sample);
    expect(tokens).toEqual([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
    const passes = forward.mock.calls.map(([ids]) => ids.length);
    forward.mockRestore();
    expect(passes.filter((count) => count > 1)).toEqual([20, 20]);
    expect(samples.generations[0].sequence).toBe(sequence);
    expect(samples.generations.map(({ summary }) => summary.reusedTokens)).toEqual([20, 20, 20]);
  });

  it('stops when told to, and when the caller leaves', async () => {
    const controller = new AbortController();
    const options = { ...SAMPLING, cache: 'kv', samples: 2, signal: controller.signal };
    const stopped = generateSamples(model, tokenizer, prompt, options);
    const reason = new Error('enough');
    const run = (async () => {
      let count = 0;
      for await (const _token of stopped) if (++count === 5) controller.abort(reason);
    })();
    await expect(run).rejects.toBe(reason);
    expect(stopped.generations.map(({ summary }) => summary.stopReason)).toEqual([
      'interrupted',
      'interrupted',
    ]);
    const left = generateSamples(model, tokenizer, prompt, { ...SAMPLING, cache: 'kv', samples: 2 });
    for await (const _token of left) break;
    expect(left.generations.map(({ summary }) => summary.stopReason)).toEqual(['interrupted', 'interrupted']);
  });

  it('refuses a number of samples that is none', () => {
    for (const samples of [0, -1, 1.5, Number.NaN]) {
      expect(() => generateSamples(model, tokenizer, prompt, { samples })).toThrow(/"samples"/);
    }
  });
});

describe('samples on the engine', () => {
  let loaded: LoadedModel;
  beforeAll(async () => {
    loaded = await loadModel('books-gqa', { threads: 1 });
  });
  afterAll(() => loaded.model.dispose());

  it('are the runs with their seeds, token by token', async () => {
    const { model, tokenizer } = loaded;
    for (const cache of ['kv', 'xquant:4', 'xquant-cl:2']) {
      const options = { ...SAMPLING, cache, maxTokens: 25 };
      const all = await generateSamples(model, tokenizer, PROMPT, { ...options, samples: 3 }).finish();
      for (const [i, { ids }] of all.entries()) {
        const single = await generate(model, tokenizer, PROMPT, { ...options, seed: 11 + i }).finish();
        expect(ids).toEqual(single.ids);
      }
    }
  });

  it('rematerialize a block of the prompt once for all', async () => {
    const { model, tokenizer } = loaded;
    const ids = tokenizer.encode(PROMPT).slice(0, 130);
    const reads = vi.spyOn(LayerPlan.prototype, 'recordRead');
    try {
      const count = async (samples: number) => {
        const options = { ...SAMPLING, cache: 'xquant:4', maxTokens: 2, samples };
        reads.mockClear();
        await generateSamples(model, tokenizer, ids, options).finish();
        return reads.mock.calls.length;
      };
      const layers = model.config.numHiddenLayers;
      expect(await count(1)).toBe(layers); // one sealed block, one pass after the prompt
      expect(await count(5)).toBe(layers);
    } finally {
      reads.mockRestore();
    }
  });
});
