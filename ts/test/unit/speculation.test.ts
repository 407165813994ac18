/** Guesses make a text faster and never another one: same tokens, same cache, whatever is guessed and wherever it ends. */

import { fc, test } from '@fast-check/vitest';
import { afterAll, describe, expect, it } from 'vitest';
import { ConfigError } from '../../src/errors.js';
import { type GeneratedToken, type GenerateOptions, generate } from '../../src/generate.js';
import type { LanguageModel } from '../../src/model/language-model.js';
import {
  DraftPolicy,
  MAX_DRAFT,
  ngramDraft,
  resolveSpeculate,
  type Speculate,
  type SpeculationCounts,
} from '../../src/speculation.js';
import { expectSame } from '../helpers/expect-same.js';
import {
  ByteTokenizer,
  END_OF_SEQUENCE,
  randomTokens,
  randomWeights,
  TINY_CONFIG,
  TINY_GQA_CONFIG,
  tinyModel,
} from '../helpers/tiny-model.js';
import { engineOf } from './engine/engines.js';

const tokenizer = new ByteTokenizer();
const NGRAM: Speculate = { draft: 'ngram' };

/** Leaves a few ids, so that texts repeat themselves. */
function only(...ids: number[]): ReadonlyMap<number, number> {
  const others = Array.from({ length: TINY_CONFIG.vocabSize }, (_, id) => id).filter(
    (id) => !ids.includes(id),
  );
  return new Map(others.map((id) => [id, Number.NEGATIVE_INFINITY]));
}

interface Outcome {
  readonly tokens: readonly GeneratedToken[];
  readonly text: string;
  readonly stopReason: string | undefined;
  readonly held: readonly number[];
  readonly pending: readonly number[];
  readonly state: unknown;
  readonly counts: SpeculationCounts;
}

/** @param leave tokens after which the caller leaves the loop */
async function outcome(model: LanguageModel, options: GenerateOptions, leave = Infinity): Promise<Outcome> {
  const prompt = randomTokens(37);
  const generation = generate(model, tokenizer, prompt, options);
  const tokens: GeneratedToken[] = [];
  for await (const token of generation) if (tokens.push(token) === leave) break;
  const { sequence, pending, summary } = generation;
  const { text, stopReason, speculation } = summary;
  const state = sequence.cache.layers.map((layer) => layer.state());
  return { tokens, text, stopReason, held: [...sequence.tokens], pending, state, counts: speculation };
}

/** @param options with `speculate` as an object */
async function expectAsWithout(model: LanguageModel, options: GenerateOptions, leave?: number) {
  const { counts: none, ...without } = await outcome(model, { ...options, speculate: 'off' }, leave);
  const { counts, ...guessed } = await outcome(model, { speculate: NGRAM, ...options }, leave);
  expect(none.passes).toBe(0);
  expectSame(guessed, without);
  return counts;
}

describe('the text', async () => {
  const engines = {
    mha: await engineOf(TINY_CONFIG, randomWeights(TINY_CONFIG, 7)),
    gqa: await engineOf(TINY_GQA_CONFIG, randomWeights(TINY_GQA_CONFIG, 7), { threads: 2 }),
  };
  afterAll(async () => {
    for (const engine of Object.values(engines)) await engine.dispose();
  });

  describe.each([
    ['mha', 'kv?window=16'],
    ['gqa', 'kivi:2?window=16&group=16'],
    ['mha', 'xquant:4?window=16'],
    ['gqa', 'xquant:4?window=16'],
    ['mha', 'xquant-cl:2?window=16'],
    ['gqa', 'xquant-cl:2?window=32&form=latent'],
    ['gqa', 'xquant-cl:2?window=16&accumulator=int8'],
    ['mha', 'xquant-cl:2?window=16&accumulator=recompute'],
  ] as const)('%s, %s', (name, cache) => {
    const model = engines[name];

    it('greedy, with guesses right and wrong, over several blocks', async () => {
      const logitBias = only(65, 66, 67);
      const counts = await expectAsWithout(model, { cache, maxTokens: 90, logitBias });
      expect(counts.accepted).toBeGreaterThan(0);
      expect(counts.verified).toBe(counts.drafted + counts.passes);
    });

    it('sampled: every position has its own random number', async () => {
      for (const seed of [1, 2]) {
        const sampling = { temperature: 2, seed, repetitionPenalty: 1.1, logitBias: only(65, 66) };
        const counts = await expectAsWithout(model, { cache, maxTokens: 60, ...sampling });
        expect(counts.accepted).toBeGreaterThan(0);
        expect(counts.accepted).toBeLessThan(counts.drafted);
      }
    });

    it('guessed by the model with a short sight', async () => {
      const speculate: Speculate = { draft: 'window', maxTokens: 5 };
      for (const sampling of [{}, { temperature: 1.5, seed: 3 }]) {
        const counts = await expectAsWithout(model, { cache, maxTokens: 90, speculate, ...sampling });
        expect(counts.accepted).toBeGreaterThan(counts.drafted / 10); // chance: one in 257
      }
      for (const leave of [1, 12, 25]) await expectAsWithout(model, { cache, speculate }, leave);
    });

    it('left in the middle: cache and pending ids are as without guesses', async () => {
      const sampling = { temperature: 2, logitBias: only(65, 66) };
      for (const leave of [1, 7, 12, 25]) await expectAsWithout(model, { cache, ...sampling }, leave);
    });
  });

  it('ends at a stop string, at the end of the sequence, and where the context is full', async () => {
    const model = engines.gqa;
    const cache = 'xquant:4?window=16';
    const sampling = { temperature: 2, logitBias: only(65, 66) };
    await expectAsWithout(model, { cache, ...sampling, stop: 'ABBA' });
    await expectAsWithout(model, { cache, temperature: 2, logitBias: only(65, 66, END_OF_SEQUENCE) });
    await expectAsWithout(model, { cache, logitBias: only(65, 66) }); // to the end of the context
  });

  it('is looked at in the middle: what the cache shows is what was given', async () => {
    const generation = generate(engines.mha, tokenizer, randomTokens(37), {
      cache: 'xquant-cl:2?window=16',
      maxTokens: 40,
      logitBias: only(65, 66),
      speculate: NGRAM,
    });
    let given = 0;
    for await (const _token of generation) {
      given++;
      if (given % 3 !== 0) continue;
      expect(generation.sequence.tokens.length).toBe(37 + given - 1);
      expect(generation.sequence.cache.length).toBe(37 + given - 1);
      expect(generation.pending).toHaveLength(1);
    }
    expect(generation.summary.ids).toEqual(
      (
        await outcome(engines.mha, { cache: 'xquant-cl:2?window=16', maxTokens: 40, logitBias: only(65, 66) })
      ).tokens.map(({ id }) => id),
    );
  });

  it('auto is the same text, and tells of every pass', async () => {
    const told: SpeculationCounts[] = [];
    const options = { cache: 'xquant:4?window=16', maxTokens: 60, logitBias: only(65, 66) };
    const { counts, ...auto } = await outcome(engines.mha, {
      ...options,
      speculate: 'auto',
      onSpeculation: (each) => void told.push(each),
    });
    const { counts: _none, ...off } = await outcome(engines.mha, { ...options, speculate: 'off' });
    expectSame(auto, off);
    expect(told).toHaveLength(counts.passes);
    expect(told.at(-1) ?? counts).toEqual(counts);
  });

  it('on the reference: the same when asked for, and never by itself', async () => {
    const reference = tinyModel();
    const options = { cache: 'xquant-cl:2?window=16', maxTokens: 30, logitBias: only(65, 66) };
    const counts = await expectAsWithout(reference, options);
    expect(counts.accepted).toBeGreaterThan(0);
    expect((await outcome(reference, { ...options, speculate: 'auto' })).counts.passes).toBe(0);
  });
});

describe('guesses by n-grams', () => {
  const histories = fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 60 });

  test.prop([histories, fc.integer({ min: 1, max: 12 })])(
    'continue a place with the same three ids',
    (ids, count) => {
      const draft = ngramDraft(ids, count);
      const tail = ids.slice(-3).join();
      const places = ids
        .map((_, i) => i)
        .filter((i) => i < ids.length - 1 && ids.slice(i - 2, i + 1).join() === tail);
      const found = places.filter((i) => i >= 2 && ids.length >= 3);
      expect(draft).toHaveLength(found.length > 0 ? count : 0);
      const longer = [...ids, ...draft];
      const continued = found.some((place) => draft.every((id, i) => id === longer[place + 1 + i]));
      expect(continued).toBe(found.length > 0);
    },
  );

  it('take the longest match, and of equals the newest', () => {
    expect(ngramDraft([1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3], 1)).toEqual([7]);
    expect(ngramDraft([1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3], 2)).toEqual([8, 1]);
    expect(ngramDraft([5, 6, 5, 6, 5, 6], 5)).toEqual([5, 6, 5, 6, 5]);
    expect(ngramDraft([1, 2], 3)).toEqual([]);
  });
});

describe('the policy', () => {
  it('guesses more when right and less when wrong', () => {
    const policy = new DraftPolicy(8, false);
    expect(policy.length).toBe(4);
    policy.noteDraft(4, 4, 1);
    expect(policy.length).toBe(8);
    policy.noteDraft(8, 8, 1);
    expect(policy.length).toBe(8);
    policy.noteDraft(8, 2, 1);
    expect(policy.length).toBe(3);
    policy.noteDraft(3, 0, 1);
    expect(policy.length).toBe(1);
  });

  /** Tokens a second of a text in which `right` of all guesses are right, where a row costs `row` of a pass. */
  function simulate(right: number, row: number, tokens: number): { auto: number; tried: number } {
    const policy = new DraftPolicy(8, true);
    let [seconds, done, tried] = [0, 0, 0];
    let state = 12345;
    const isRight = () => (state = (state * 1103515245 + 12345) % 2 ** 31) / 2 ** 31 < right;
    while (done < tokens) {
      const { length } = policy;
      const cost = 1 + row * length;
      seconds += cost;
      if (length === 0) {
        policy.noteSingle(cost);
        done++;
        continue;
      }
      tried++;
      let accepted = 0;
      while (accepted < length && isRight()) accepted++;
      policy.noteDraft(length, accepted, cost);
      done += accepted + 1;
    }
    return { auto: done / seconds, tried };
  }

  it('auto gives up where nothing is right, and loses next to nothing', () => {
    const { auto, tried } = simulate(0, 0.3, 2000);
    expect(auto).toBeGreaterThan(0.97);
    expect(tried).toBeLessThan(50);
  });

  it('auto gives up where rows cost as much as passes', () => {
    expect(simulate(0.7, 1, 2000).auto).toBeGreaterThan(0.95);
  });

  it('auto goes on where it pays', () => {
    expect(simulate(0.8, 0.05, 2000).auto).toBeGreaterThan(2);
  });
});

describe('what is asked for', () => {
  it('must exist', () => {
    const engine = { backend: 'wasm' };
    expect(resolveSpeculate('auto', engine)).toEqual({ draft: 'window', maxTokens: 8, auto: true });
    expect(resolveSpeculate({ draft: 'ngram', maxTokens: 3 }, engine)).toMatchObject({
      maxTokens: 3,
      auto: false,
    });
    expect(() => resolveSpeculate({ draft: 'window' }, { backend: 'reference' })).toThrow(
      /reference backend/,
    );
    for (const wrong of [
      'on',
      '',
      null,
      7,
      { draft: 'model' },
      {},
      { draft: 'ngram', maxTokens: MAX_DRAFT + 1 },
    ]) {
      expect(() => resolveSpeculate(wrong as Speculate, engine), JSON.stringify(wrong)).toThrow(ConfigError);
    }
    expect(() => resolveSpeculate({ draft: 'ngram', maxTokens: 0 }, engine)).toThrow(/maxTokens/);
    const asked = { speculate: 'fast' as Speculate };
    expect(() => generate(tinyModel(), tokenizer, 'a', asked)).toThrow(/"speculate"/);
  });
});
