/**
 * Arguments that are no token ids are refused at the door of both backends, with an error that names the argument,
 * and the next good call gives what it always gave.
 */

import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import type { ModelCache } from '../../src/cache/contract.js';
import { LinearMemory } from '../../src/engine/memory.js';
import { Team } from '../../src/engine/team.js';
import type { WasmModel } from '../../src/engine/wasm-model.js';
import { KernelError, type XQuantError } from '../../src/errors.js';
import { CachedSequence, generate } from '../../src/generate.js';
import type { LanguageModel } from '../../src/model/language-model.js';
import { measurePerplexity } from '../../src/perplexity.js';
import { generateSamples } from '../../src/samples.js';
import { assertOwnError } from '../fuzz/judge.js';
import { ByteTokenizer, randomTokens, randomWeights, TINY_CONFIG, tinyModel } from '../helpers/tiny-model.js';
import { engineOf } from './engine/engines.js';

/** What is given for tokens; each is no list of ids of a vocabulary of 257. */
const NO_TOKENS: readonly [string, unknown][] = [
  ['an object', {}],
  ['a number', 5],
  ['an object with length NaN', { length: Number.NaN }],
  ['an object with a length', { length: 2, 0: 1, 1: 2 }],
  ['an object with a huge length', { length: 2 ** 40 }],
  ['an object with a negative length', { length: -1 }],
  ['null', null],
  ['undefined', undefined],
  ['a function', (_a: unknown, _b: unknown) => 1],
  ['a set', new Set([1, 2])],
  ['a list of holes', new Array(3)],
  ['a list of a huge length', new Array(2 ** 32 - 1)],
  ['fractions', [1.5]],
  ['a negative id', [-1]],
  ['an id beyond the vocabulary', [257]],
  ['NaN', [Number.NaN]],
  ['infinity', [Number.POSITIVE_INFINITY]],
  ['strings', ['1']],
  ['lists', [['x']]],
  ['null inside', [null]],
  ['objects with valueOf', [{ valueOf: () => 1 }]],
  ['bigints', [1n]],
  ['BigInt64Array', new BigInt64Array([1n])],
  ['Float32Array of fractions', new Float32Array([0.5])],
  ['a DataView', new DataView(new ArrayBuffer(8))],
  ['an ArrayBuffer', new ArrayBuffer(8)],
];

/** Values that are no list of tokens, no cache, no length and no options. */
const ODD_VALUES = [
  null,
  undefined,
  5.5,
  '12',
  {},
  [],
  { length: Number.NaN },
  Symbol('x'),
  () => 1,
  2n ** 70n,
];

const PROMPT = randomTokens(20);
const tokenizer = new ByteTokenizer();

async function answerOf(model: LanguageModel): Promise<readonly number[]> {
  return (await generate(model, tokenizer, PROMPT, { cache: 'xquant-cl:2', maxTokens: 6 }).finish()).ids;
}

/** Requires an error of the package. */
async function refused(call: () => unknown): Promise<void> {
  let error: unknown;
  try {
    await call();
  } catch (thrown) {
    error = thrown;
  }
  expect(error, 'nothing was thrown').toBeDefined();
  assertOwnError(error);
}

describe.each(['reference', 'wasm'])('hostile arguments of %s', (backend) => {
  let model: LanguageModel;
  let expected: readonly number[];
  let cache: ModelCache;
  beforeAll(async () => {
    model = backend === 'wasm' ? await engineOf(TINY_CONFIG, randomWeights(TINY_CONFIG)) : tinyModel();
    expected = await answerOf(model);
    cache = model.createCache('xquant:4');
    await model.forward(PROMPT, cache);
  });

  it.each(NO_TOKENS)('tokens: %s', async (_, tokens) => {
    const given = tokens as number[];
    await refused(() => model.forward(given, cache));
    await refused(() => model.forwardBatch([given], [cache]));
    await refused(() => model.forwardBatch(given as unknown as number[][], [cache]));
    await refused(() => generate(model, tokenizer, given).finish());
    await refused(() => generateSamples(model, tokenizer, given, { samples: 2 }).finish());
    await refused(() => measurePerplexity(model, given, { caches: ['kv'], windowSize: 2 }));
    await refused(() => new CachedSequence(cache, given));
    expect(cache.length).toBe(PROMPT.length);
    expect(await answerOf(model)).toEqual(expected);
  });

  it.each(ODD_VALUES.map((value) => [typeof value, value]))(
    '%s for a cache, a request, a length, options',
    async (_, value) => {
      const odd = value as never;
      await refused(() => model.forward([1], odd));
      await refused(() => model.forwardBatch([[1]], odd));
      await refused(() => model.forwardBatch([[1]], [odd]));
      await refused(() => model.createCache(odd));
      await refused(() => cache.trim(odd));
      if (value !== undefined) {
        await refused(() => model.forward([1], cache, { logits: odd }));
        await refused(() => model.forward([1], cache, { mode: odd }));
        await refused(() => model.forward([1], cache, { signal: odd }));
        await refused(() => measurePerplexity(model, PROMPT, { caches: ['kv'], windowSize: odd }));
      }
      expect(await answerOf(model)).toEqual(expected);
    },
  );

  it('tokens that change during the pass are not looked at twice', async () => {
    const tokens = Int32Array.from(PROMPT);
    const own = model.createCache('kv');
    const pass = model.forward(tokens, own);
    tokens.fill(-1);
    const { data } = await pass;
    expect(data).toEqual((await model.forward(PROMPT, model.createCache('kv'))).data);
  });
});

describe('the allocator', () => {
  it.each([Number.NaN, 0.5, -1, 2 ** 53, '8', undefined, null, 8n])(
    'refuses %s bytes and stays as it was',
    (bytes) => {
      const memory = new LinearMemory({ shared: false });
      expect(() => memory.allocate(bytes as number, 'test')).toThrow(/^"bytes" must be/);
      expect(memory.usedBytes).toBe(0);
      expect(memory.allocate(64, 'test') % 64).toBe(0);
    },
  );
});

describe('an error from inside the engine', () => {
  let engine: WasmModel;
  beforeAll(async () => {
    engine = await engineOf(TINY_CONFIG, randomWeights(TINY_CONFIG));
  });
  afterEach(() => void vi.restoreAllMocks());

  it('an error that the caller throws in a pass is none', async () => {
    const cache = engine.createCache('kv');
    const mine = new Error('mine');
    const onTensor = () => {
      throw mine;
    };
    await expect(engine.forward([1], cache, { onTensor })).rejects.toBe(mine);
    await expect(engine.forward([1], cache, { signal: AbortSignal.abort(mine) })).rejects.toBe(mine);
    await expect(engine.forward([1, 2], cache)).resolves.toBeDefined();
  });

  it('stops the model: every later call says so, and disposing works', async () => {
    const cache = engine.createCache('xquant:4');
    const trap = new WebAssembly.RuntimeError('memory access out of bounds');
    vi.spyOn(Team.prototype, 'call').mockImplementationOnce(() => {
      throw trap;
    });
    await expect(engine.forward([1], cache)).rejects.toBe(trap);
    const calls: (() => unknown)[] = [
      () => engine.forward([1], cache),
      () => engine.forwardBatch([[1]], [cache]),
      () => engine.createCache('kv'),
      () => cache.layers[0].keysAndValues(),
      () => generate(engine, tokenizer, PROMPT).finish(),
    ];
    for (const call of calls) {
      const error = await Promise.resolve()
        .then(call)
        .then(
          () => undefined,
          (thrown: unknown) => thrown,
        );
      expect(error).toBeInstanceOf(KernelError);
      expect((error as XQuantError).message).toMatch(/internal error.*load it again.*out of bounds/);
    }
    cache.dispose();
    await engine.dispose();
  });
});
