import { fc, test as propertyTest } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { CacheStateError, ShapeError } from '../../src/errors.js';
import { CachedSequence, type GeneratedToken, type GenerateOptions, generate } from '../../src/generate.js';
import type { ForwardOptions, LanguageModel } from '../../src/model/language-model.js';
import { type Matrix, matrix } from '../../src/numerics/matrix.js';
import { logSumExp } from '../../src/sampling.js';
import {
  ByteTokenizer,
  END_OF_SEQUENCE,
  randomTokens,
  TINY_CONFIG,
  tinyModel,
} from '../helpers/tiny-model.js';

const tokenizer = new ByteTokenizer();
const model = tinyModel();

/** A model that says a fixed text after the prompt "?", whatever the tokens are, over the caches of a real one. */
function speaking(text: string, end = true): LanguageModel {
  const said = [...new TextEncoder().encode(text), ...(end ? [END_OF_SEQUENCE] : [])];
  return {
    config: TINY_CONFIG,
    backend: 'reference',
    createCache: (request) => model.createCache(request),
    async forward(tokens: ArrayLike<number>, cache, options?: ForwardOptions): Promise<Matrix> {
      await model.forward(tokens, cache, options);
      const logits = matrix(1, TINY_CONFIG.vocabSize);
      logits.data[said[cache.length - 1] ?? END_OF_SEQUENCE] = 10;
      return logits;
    },
    forwardBatch: () => Promise.reject(new Error('not expected')),
    dispose() {},
    async [Symbol.asyncDispose]() {},
  };
}

async function collect(tokens: AsyncIterable<GeneratedToken>): Promise<GeneratedToken[]> {
  const all: GeneratedToken[] = [];
  for await (const token of tokens) all.push(token);
  return all;
}

/** Greedy generation written down directly: one pass a token, largest logit. */
async function greedyByHand(prompt: number[], count: number, cacheSpec: string): Promise<number[]> {
  const cache = model.createCache(cacheSpec);
  const ids: number[] = [];
  let logits = await model.forward(prompt, cache);
  while (ids.length < count) {
    const id = logits.data.indexOf(Math.max(...logits.data));
    ids.push(id);
    if (ids.length < count) logits = await model.forward([id], cache);
  }
  return ids;
}

describe('tokens', () => {
  it.each(['kv', 'xquant:4', 'xquant-cl:2@tuned?window=32'])(
    'are those of a loop over forward: %s',
    async (cache) => {
      const prompt = randomTokens(40);
      const { ids, stopReason } = await generate(model, tokenizer, prompt, {
        cache,
        maxTokens: 30,
        ignoreEos: true,
      }).finish();
      expect(ids).toEqual(await greedyByHand(prompt, 30, cache));
      expect(stopReason).toBe('maxTokens');
    },
  );

  it('carry the log probability of the model', async () => {
    const prompt = randomTokens(10);
    const [first] = await collect(
      generate(model, tokenizer, prompt, { maxTokens: 1, cache: 'kv', topLogprobs: 2 }),
    );
    const { data } = await model.forward(prompt, model.createCache('kv'));
    expect(first.logprob).toBeCloseTo(data[first.id] - logSumExp(data), 6);
    expect(first.topLogprobs[0].id).toBe(first.id); // greedy
    expect(first.topLogprobs[1].logprob).toBeLessThanOrEqual(first.logprob);
  });

  it('depend on the seed and on nothing else', async () => {
    const run = (seed: number) =>
      generate(model, tokenizer, 'Once', { maxTokens: 20, temperature: 1, seed, cache: 'kv' }).finish();
    const [a, again, other] = [await run(1), await run(1), await run(2)];
    expect(again.ids).toEqual(a.ids);
    expect(other.ids).not.toEqual(a.ids);
  });

  it('end at the end of the sequence, which has no text', async () => {
    const tokens = await collect(generate(speaking('ab'), tokenizer, '?'));
    expect(tokens.map(({ id, text }) => [id, text])).toEqual([
      [97, 'a'],
      [98, 'b'],
      [END_OF_SEQUENCE, ''],
    ]);
  });

  it('go on past the end of the sequence if asked to', async () => {
    const { ids, stopReason } = await generate(speaking('ab'), tokenizer, '?', {
      ignoreEos: true,
      maxTokens: 5,
    }).finish();
    expect(ids).not.toContain(END_OF_SEQUENCE);
    expect(stopReason).toBe('maxTokens');
  });

  it('end when the context is full, with the last one that the model can predict', async () => {
    const context = TINY_CONFIG.maxPositionEmbeddings;
    const run = (length: number) =>
      generate(model, tokenizer, randomTokens(length), { cache: 'kv', ignoreEos: true }).finish();
    expect(await run(context - 2)).toMatchObject({ generatedTokens: 3, stopReason: 'contextFull' });
    expect(await run(context)).toMatchObject({ generatedTokens: 1, stopReason: 'contextFull' });
  });
});

describe('text', () => {
  it('never splits a character', async () => {
    const text = 'naïve 日本 👩‍🚀!';
    const tokens = await collect(generate(speaking(text), tokenizer, '?'));
    expect(tokens.map((token) => token.text).join('')).toBe(text);
    for (const token of tokens) expect(token.text).not.toContain('\ufffd');
  });

  it('shows an unfinished character as U+FFFD when there will be no more', async () => {
    const { text } = await generate(speaking('é'), tokenizer, '?', { maxTokens: 1 }).finish();
    expect(text).toBe('\ufffd');
  });

  it('ends before a stop string that spans tokens', async () => {
    const tokens = await collect(
      generate(speaking('one. two. STOP three'), tokenizer, '?', { stop: 'STOP' }),
    );
    expect(tokens.map((token) => token.text).join('')).toBe('one. two. ');
    expect(tokens).toHaveLength('one. two. STOP'.length);
  });

  it('ends at a stop token, which is not shown, whether or not ends are ignored', async () => {
    const stopTokenIds = ['t'.charCodeAt(0), 256];
    const run = generate(speaking('one. two.'), tokenizer, '?', { stopTokenIds, ignoreEos: true });
    expect(await run.finish()).toMatchObject({ text: 'one. ', stopReason: 'stopToken', generatedTokens: 6 });
    expect(run.pending).toEqual([]);
    const end = generate(speaking('one'), tokenizer, '?', { stopTokenIds, ignoreEos: true });
    expect(await end.finish()).toMatchObject({ text: 'one', stopReason: 'stopToken' });
    expect(() => generate(speaking('a'), tokenizer, '?', { stopTokenIds: [9999] })).toThrow(RangeError);
  });

  it('ends at a stop string in special tokens, which are not shown', async () => {
    const hiding = Object.assign(new ByteTokenizer(), {
      createDecoder: () => {
        const decoder = new ByteTokenizer().createDecoder();
        return { ...decoder, push: (id: number) => (id === 0x7c ? '' : decoder.push(id)) };
      },
      hiddenText: (id: number) => (id === 0x7c ? '<end>' : undefined),
    });
    const run = (stop: string) => generate(speaking('a|b|c'), hiding, '?', { stop }).finish();
    expect(await run('<end>')).toMatchObject({ text: 'a', stopReason: 'stopString' });
    expect(await run('<end>c')).toMatchObject({ text: 'ab', stopReason: 'stopString' });
    expect(await run('never')).toMatchObject({ text: 'abc', stopReason: 'endOfSequence' });
  });

  it('gives back what only looked like a stop string', async () => {
    const run = generate(speaking('a STO b STOP c'), tokenizer, '?', { stop: ['STOP', 'never'] });
    expect((await run.finish()).text).toBe('a STO b ');
    const cut = generate(speaking('a STO'), tokenizer, '?', { stop: ['STOP'] });
    expect(await cut.finish()).toMatchObject({ text: 'a STO', stopReason: 'endOfSequence' });
  });
});

describe('prefill', () => {
  it('goes in chunks that end at multiples of their size, and tells how far it is', async () => {
    const progress: number[][] = [];
    const passes: number[] = [];
    const counting: LanguageModel = {
      ...speaking(''),
      forward: (tokens, cache, options) => {
        passes.push(tokens.length);
        return model.forward(tokens, cache, options);
      },
    };
    const options: GenerateOptions = {
      cache: 'kv',
      maxTokens: 0,
      prefillChunk: 16,
      onPrefill: (done, total) => progress.push([done, total]),
    };
    const first = generate(counting, tokenizer, randomTokens(37), options);
    expect(await first.finish()).toMatchObject({
      generatedTokens: 0,
      stopReason: 'maxTokens',
      promptTokens: 37,
    });
    expect(passes).toEqual([16, 16, 5]);
    expect(progress).toEqual([
      [16, 37],
      [32, 37],
      [37, 37],
    ]);

    passes.length = 0;
    await generate(counting, tokenizer, randomTokens(60), { ...options, cache: first.sequence }).finish();
    expect(passes).toEqual([11, 12]);
  });
});

describe('a cache that is carried on', () => {
  it('is prefilled with what is new only, and gives what a fresh one gives', async () => {
    const cache = 'kv';
    const question = randomTokens(30);
    const first = generate(model, tokenizer, question, { cache, maxTokens: 8, ignoreEos: true });
    const answer = (await first.finish()).ids;
    const next = [...question, ...answer, ...randomTokens(12, 5)];
    const options = { maxTokens: 10, ignoreEos: true };
    const carried = await generate(model, tokenizer, next, { ...options, cache: first.sequence }).finish();
    // The last generated token was never run.
    expect(carried.reusedTokens).toBe(30 + 8 - 1);
    const fresh = await generate(model, tokenizer, next, { ...options, cache }).finish();
    expect(carried.ids).toEqual(fresh.ids);
    expect(carried.cacheBytes).toEqual(fresh.cacheBytes);
  });

  it('is trimmed to the shared prefix', async () => {
    const tokens = randomTokens(50);
    const first = generate(model, tokenizer, tokens, { cache: 'xquant:4', maxTokens: 0 });
    await first.finish();
    const other = [...tokens.slice(0, 20), 1, 2, 3];
    const second = generate(model, tokenizer, other, { cache: first.sequence, maxTokens: 0 });
    expect((await second.finish()).reusedTokens).toBe(20);
    expect(second.sequence.tokens).toEqual(other);
    expect(second.sequence.cache.length).toBe(23);
  });

  it('is trimmed to the start of a block if the prefix ends inside a sealed one', async () => {
    const tokens = randomTokens(50);
    const first = generate(model, tokenizer, tokens, { cache: 'xquant:4?window=16', maxTokens: 0 });
    await first.finish();
    const other = [...tokens.slice(0, 40), 1];
    const second = generate(model, tokenizer, other, { cache: first.sequence, maxTokens: 0 });
    expect((await second.finish()).reusedTokens).toBe(32);
    expect(second.sequence.tokens).toEqual(other);
  });

  it('runs at least the last token of a prompt that it holds already', async () => {
    const tokens = randomTokens(20);
    const first = generate(model, tokenizer, tokens, { cache: 'kv', maxTokens: 3, ignoreEos: true });
    const { ids } = await first.finish();
    const again = generate(model, tokenizer, tokens, {
      cache: first.sequence,
      maxTokens: 3,
      ignoreEos: true,
    });
    expect(await again.finish()).toMatchObject({ ids, reusedTokens: 19 });
  });

  propertyTest.prop([fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 60 }), fc.nat(59)], {
    numRuns: 15,
  })('holds the prompt afterwards, whatever it held before', async (before, after, shared) => {
    const sequence = new CachedSequence(model.createCache('xquant-cl:2?window=16'));
    await sequence.run(model, randomTokens(before));
    const prompt = [...randomTokens(before).slice(0, shared), ...randomTokens(after, 9)];
    const kept = sequence.keepPrefix(prompt);
    expect(kept).toBeLessThan(prompt.length);
    expect(sequence.cache.length).toBe(kept);
    expect(sequence.tokens).toEqual(prompt.slice(0, kept));
  });

  it('must come with as many ids as it has tokens', () => {
    expect(() => new CachedSequence(model.createCache('kv'), [1])).toThrow(ShapeError);
  });

  it('of another backend is refused', async () => {
    const cache = model.createCache('kv');
    const foreign = new CachedSequence({
      ...cache,
      options: cache.options,
      length: 0,
      backend: 'other',
    } as never);
    foreign.cache.trim = () => undefined;
    await expect(generate(model, tokenizer, 'a', { cache: foreign }).finish()).rejects.toThrow(
      CacheStateError,
    );
  });
});

describe('interruption', () => {
  it('during prefill throws the reason, and model and cache stay usable', async () => {
    const controller = new AbortController();
    const prompt = randomTokens(64);
    const run = generate(model, tokenizer, prompt, {
      cache: 'xquant-cl:2@tuned?window=16',
      prefillChunk: 16,
      maxTokens: 5,
      ignoreEos: true,
      signal: controller.signal,
      onPrefill: (done) => done === 32 && controller.abort(new Error('enough')),
    });
    await expect(run.finish()).rejects.toThrow('enough');
    expect(run.summary).toMatchObject({ stopReason: 'interrupted', generatedTokens: 0 });
    expect(run.sequence.tokens).toEqual(prompt.slice(0, 32));

    const options = { maxTokens: 5, ignoreEos: true, prefillChunk: 16 };
    const resumed = await generate(model, tokenizer, prompt, { ...options, cache: run.sequence }).finish();
    const fresh = await generate(model, tokenizer, prompt, {
      ...options,
      cache: 'xquant-cl:2@tuned?window=16',
    }).finish();
    expect(resumed.reusedTokens).toBe(32);
    expect(resumed.ids).toEqual(fresh.ids);
  });

  it('between tokens throws the reason', async () => {
    const controller = new AbortController();
    const run = generate(model, tokenizer, 'a', { ignoreEos: true, signal: controller.signal });
    const seen: number[] = [];
    const loop = async () => {
      for await (const { id } of run) {
        seen.push(id);
        if (seen.length === 3) controller.abort();
      }
    };
    await expect(loop()).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }));
    expect(seen).toHaveLength(3);
    expect(run.summary.ids).toEqual(seen);
  });

  it('with a signal that has fired already runs nothing', async () => {
    const run = generate(model, tokenizer, 'abc', { signal: AbortSignal.abort() });
    await expect(run.finish()).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }));
    expect(run.sequence.cache.length).toBe(0);
  });

  it('by leaving the loop is no error', async () => {
    const run = generate(model, tokenizer, 'abc', { ignoreEos: true });
    for await (const _token of run) break;
    expect(run.summary).toMatchObject({ stopReason: 'interrupted', generatedTokens: 1 });
    expect((await run.finish()).generatedTokens).toBe(1);
  });
});

describe('bad input', () => {
  it.each<[string, string | number[], GenerateOptions]>([
    ['at least one token', '', {}],
    ['at least one token', [], {}],
    ['at most 320 tokens', randomTokens(321), {}],
    ['"maxTokens"', 'a', { maxTokens: -1 }],
    ['"maxTokens"', 'a', { maxTokens: 1.5 }],
    ['"prefillChunk"', 'a', { prefillChunk: 0 }],
    ['"stop"', 'a', { stop: '' }],
    ['"logitBias token"', 'a', { logitBias: new Map([[257, 1]]) }],
    ['"temperature"', 'a', { temperature: -1 }],
    ['"cache"', 'a', { cache: 'zip' }],
    ['"bits"', 'a', { cache: 'xquant:5' }],
  ])('%s', (message, prompt, options) => {
    expect(() => generate(model, tokenizer, prompt, options)).toThrow(message);
  });
});
