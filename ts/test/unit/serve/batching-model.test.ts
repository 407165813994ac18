import { describe, expect, it } from 'vitest';
import { NumericError } from '../../../src/errors.js';
import { CachedSequence, generate } from '../../../src/generate.js';
import { BatchingModel } from '../../../src/serve/batching-model.js';
import { BusyError, Slots } from '../../../src/serve/slots.js';
import { ByteTokenizer, randomTokens, tinyModel } from '../../helpers/tiny-model.js';

const tokenizer = new ByteTokenizer();
const OPTIONS = { cache: 'xquant:4?window=16', maxTokens: 12, ignoreEos: true };

describe('generations that share a model', () => {
  it('say what each would say alone, in fewer passes', async () => {
    const model = tinyModel();
    const batching = new BatchingModel(model, 8);
    const prompts = [1, 2, 3, 4, 5].map((seed) => randomTokens(10 + seed, seed));
    const together = await Promise.all(
      prompts.map((prompt) => generate(batching, tokenizer, prompt, OPTIONS).finish()),
    );
    for (const [i, prompt] of prompts.entries()) {
      expect(together[i].ids).toEqual((await generate(model, tokenizer, prompt, OPTIONS).finish()).ids);
    }
    const { passes, tokens } = batching.decoded;
    expect(tokens).toBe(5 * 11); // the last token of each is not run
    expect(passes).toBeLessThan(25);
  });

  it('wait for nobody: a reader who stops taking tokens stops alone', async () => {
    const batching = new BatchingModel(tinyModel(), 8);
    const slow = generate(batching, tokenizer, randomTokens(10), OPTIONS)[Symbol.asyncIterator]();
    await slow.next();
    const { generatedTokens } = await generate(batching, tokenizer, randomTokens(10, 2), OPTIONS).finish();
    expect(generatedTokens).toBe(12);
    expect((await slow.next()).done).toBe(false);
  });

  it('fail alone', async () => {
    const model = tinyModel();
    const { forward, forwardBatch } = model;
    const bad = 255;
    const check = (tokens: ArrayLike<number>) => {
      if (Array.from(tokens).includes(bad))
        throw new NumericError('pass', Number.NaN, {}, 'not a finite number');
    };
    model.forward = async (tokens, cache, options) => {
      check(tokens);
      return forward.call(model, tokens, cache, options);
    };
    model.forwardBatch = async (tokens, caches, options) => {
      tokens.forEach(check);
      return forwardBatch.call(model, tokens, caches, options);
    };
    const batching = new BatchingModel(model, 8);
    const says = (token: number) => ({ ...OPTIONS, logitBias: new Map([[token, 1000]]) });
    const results = await Promise.allSettled([
      generate(batching, tokenizer, [1, 2, 3], says(7)).finish(),
      generate(batching, tokenizer, [1, 2, 3], says(bad)).finish(),
      generate(batching, tokenizer, [1, 2, 3], says(9)).finish(),
    ]);
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect(results[1]).toMatchObject({ reason: expect.any(NumericError) });
  });

  it('stop alone, and their caches hold the tokens that they note', async () => {
    const batching = new BatchingModel(tinyModel(), 8);
    const controller = new AbortController();
    const sequence = new CachedSequence(batching.createCache(OPTIONS.cache));
    const stopped = (async () => {
      let count = 0;
      const options = { ...OPTIONS, cache: sequence, signal: controller.signal };
      for await (const _ of generate(batching, tokenizer, randomTokens(10), options)) {
        if (++count === 4) setTimeout(() => controller.abort());
        await new Promise(setImmediate);
      }
    })();
    const others = [2, 3].map((seed) =>
      generate(batching, tokenizer, randomTokens(10, seed), OPTIONS).finish(),
    );
    await expect(stopped).rejects.toThrow();
    for (const { generatedTokens } of await Promise.all(others)) expect(generatedTokens).toBe(12);
    expect(sequence.cache.length).toBe(sequence.tokens.length);
  });
});

describe('slots', () => {
  const never = new AbortController().signal;

  it('are taken in order, and a full queue refuses', async () => {
    const slots = new Slots(1, 2);
    const order: number[] = [];
    const first = await slots.acquire(never);
    const waiting = [1, 2].map(async (i) => {
      const leave = await slots.acquire(never);
      order.push(i);
      leave();
    });
    await expect(slots.acquire(never)).rejects.toThrow(BusyError);
    first();
    first(); // counts once
    await Promise.all(waiting);
    expect(order).toEqual([1, 2]);
    await slots.idle();
    expect(slots.running).toBe(0);
  });

  it('are taken several at once, and nobody overtakes who needs more', async () => {
    const slots = new Slots(3, 3);
    const order: string[] = [];
    const enter = async (name: string, count: number, signal = never) => {
      const leave = await slots.acquire(signal, count);
      order.push(`${name} ${slots.running}`);
      return leave;
    };
    const first = await enter('first', 2);
    const large = enter('large', 3);
    const small = enter('small', 1); // there is room, but not its turn
    await Promise.resolve();
    expect(order).toEqual(['first 2']);
    first();
    (await large)();
    (await small)();
    expect(order).toEqual(['first 2', 'large 3', 'small 1']);

    const controller = new AbortController();
    const two = await enter('two', 2);
    const impatient = enter('impatient', 3, controller.signal);
    const behind = enter('behind', 1);
    controller.abort(new Error('gone'));
    await expect(impatient).rejects.toThrow('gone');
    (await behind)();
    two();
    expect(slots.running).toBe(0);
  });

  it('are not taken by who has gone', async () => {
    const slots = new Slots(1, 2);
    const leave = await slots.acquire(never);
    const controller = new AbortController();
    const gone = slots.acquire(controller.signal);
    controller.abort(new Error('gone'));
    await expect(gone).rejects.toThrow('gone');
    expect(slots.waiting).toBe(0);
    leave();
    expect(slots.running).toBe(0);
  });
});
