/** What happens at the edges: memory that runs out, passes that are stopped, models that are gone. */

import { afterEach, describe, expect, it, vi } from 'vitest';
import { MAX_MEMORY_BYTES } from '../../../src/engine/memory.js';
import { WasmModel } from '../../../src/engine/wasm-model.js';
import { ConfigError, DisposedError, KernelError, MemoryError } from '../../../src/errors.js';
import { CachedSequence, generate } from '../../../src/generate.js';
import { loadModel } from '../../../src/load.js';
import { expectSame } from '../../helpers/expect-same.js';
import { tinyModelGguf } from '../../helpers/gguf-writer.js';
import {
  ByteTokenizer,
  randomTokens,
  randomWeights,
  TINY_CONFIG,
  TINY_GQA_CONFIG,
} from '../../helpers/tiny-model.js';
import { engineOf, fileWeights } from './engines.js';

const CACHES = [
  'kv?window=16',
  'xquant:4?window=16',
  'xquant-cl:2?window=16',
  'xquant-cl:2?form=latent&window=16',
];
const config = { ...TINY_GQA_CONFIG, maxPositionEmbeddings: 100_000 };
const weights = randomWeights(config, 3);
const tokens = randomTokens(300);

afterEach(() => vi.restoreAllMocks());

describe('memory that runs out', () => {
  it.each(CACHES)('%s: is an error that says for what; the cache keeps what it held', async (spec) => {
    const roomy = await engineOf(config, weights);
    const filled = roomy.createCache(spec);
    for (let at = 0; at < 300; at += 100) await roomy.forward(tokens.slice(at, at + 100), filled);
    // enough for the model and a short text, not for a long one
    const limit = roomy.memoryUse.peak + 300_000;
    await roomy.dispose();

    const engine = await engineOf(config, weights, { threads: 1, memoryLimit: limit });
    const cache = engine.createCache(spec);
    let held = 0;
    const fill = async () => {
      for (;;) {
        await engine.forward(tokens.slice(0, 100), cache);
        held = cache.length;
      }
    };
    const error = await fill().then(undefined, (thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(MemoryError);
    expect((error as MemoryError).limitBytes).toBe(limit);
    expect((error as MemoryError).message).toMatch(/bytes do not fit in the limit of \d+ bytes/);
    expect(held).toBeGreaterThanOrEqual(300);
    expect(cache.length).toBe(held);
    expect(engine.memoryUse.committed).toBeLessThanOrEqual(Math.ceil(limit / 65536) * 65536);

    // still usable: shorter, and with the same logits as a model with room
    cache.trim(96);
    const again = await engine.forward(tokens.slice(96, 120), cache);
    const other = await engineOf(config, weights);
    const fresh = other.createCache(spec);
    await other.forward(tokens.slice(0, 100), fresh);
    fresh.trim(96);
    expectSame(again.data, (await other.forward(tokens.slice(96, 120), fresh)).data);
    await other.dispose();
    await engine.dispose();
  });

  it('weights that do not fit are refused by name', async () => {
    const file = fileWeights(randomWeights(TINY_CONFIG));
    await expect(WasmModel.load(TINY_CONFIG, file, { threads: 1, memoryLimit: 200_000 })).rejects.toThrow(
      /weights "\w+": \d+ bytes do not fit in the limit of 200000 bytes/,
    );
  });

  it('a runtime that refuses to grow is the same error, below the end of 4 GiB', async () => {
    const engine = await engineOf(config, weights);
    expect(engine.memory.limitBytes).toBe(MAX_MEMORY_BYTES);
    expect(() => engine.memory.allocate(2 ** 32, 'everything')).toThrow(MemoryError);
    vi.spyOn(engine.memory.memory, 'grow').mockImplementation(() => {
      throw new RangeError('WebAssembly.Memory.grow(): Maximum memory size exceeded');
    });
    const cache = engine.createCache('kv');
    const fill = async () => {
      for (;;) await engine.forward(tokens, cache);
    };
    await expect(fill()).rejects.toThrow(MemoryError);
    expect(cache.length % tokens.length).toBe(0);
    await engine.dispose();
  });
});

describe('a pass that is stopped', () => {
  it('between any two layers, in prefill and decode, changes nothing, and the engine goes on', async () => {
    const engine = await engineOf(config, weights, { threads: 2 });
    for (const spec of CACHES) {
      const cache = engine.createCache(spec);
      await engine.forward(tokens.slice(0, 30), cache);
      const before = cache.layers.map((layer) => layer.state());
      for (const next of [tokens.slice(30, 80), [7]]) {
        for (let stopAt = 0; stopAt < config.numHiddenLayers; stopAt++) {
          const controller = new AbortController();
          const reason = new Error(`at layer ${stopAt}`);
          const pass = engine.forward(next, cache, {
            signal: controller.signal,
            onTensor: ({ layer, tensor }) => {
              if (layer === stopAt && tensor === 'mlpOutput') controller.abort(reason);
            },
          });
          await expect(pass).rejects.toBe(reason);
          expectSame(
            cache.layers.map((layer) => layer.state()),
            before,
          );
        }
      }
      const continued = await engine.forward(tokens.slice(30, 80), cache);
      const fresh = engine.createCache(spec);
      await engine.forward(tokens.slice(0, 30), fresh);
      expectSame(continued.data, (await engine.forward(tokens.slice(30, 80), fresh)).data);
      fresh.dispose();
      cache.dispose();
    }
    await engine.dispose();
  });

  it('a generation stopped in prefill leaves whole chunks, and goes on from them', async () => {
    const engine = await engineOf(TINY_CONFIG, randomWeights(TINY_CONFIG, 7));
    const tokenizer = new ByteTokenizer();
    const prompt = tokens.slice(0, 250);
    const sequence = new CachedSequence(engine.createCache('xquant-cl:2?window=16'));
    const controller = new AbortController();
    const stopped = generate(engine, tokenizer, prompt, {
      cache: sequence,
      prefillChunk: 64,
      signal: controller.signal,
      onPrefill: (done) => done === 128 && controller.abort(new Error('enough')),
    });
    await expect(stopped.finish()).rejects.toThrow('enough');
    expect(sequence.cache.length).toBe(128);
    const options = { prefillChunk: 64, maxTokens: 10 };
    const continued = await generate(engine, tokenizer, prompt, { ...options, cache: sequence }).finish();
    const cache = 'xquant-cl:2?window=16';
    const whole = await generate(engine, tokenizer, prompt, { ...options, cache }).finish();
    expect(continued.reusedTokens).toBe(128);
    expect(continued.ids).toEqual(whole.ids);
    await engine.dispose();
  });
});

describe('a model that is gone', () => {
  it('says so at once, and again', async () => {
    const engine = await engineOf(TINY_CONFIG, randomWeights(TINY_CONFIG), { threads: 2 });
    const cache = engine.createCache('kv');
    await engine.forward([1, 2], cache);
    const running = engine.forward(tokens.slice(0, 200), cache); // ends before the memory goes
    await Promise.all([engine.dispose(), running]);
    await engine.dispose();
    await expect((async () => engine.forward([1], cache))()).rejects.toThrow(DisposedError);
    await expect((async () => engine.forwardBatch([[1]], [cache]))()).rejects.toThrow(DisposedError);
    expect(() => engine.createCache('kv')).toThrow(DisposedError);
    expect(() => engine.memoryUse).toThrow(DisposedError);
    cache.dispose(); // gives back what is no longer there, without harm
  });
});

describe('kernels that cannot be had', () => {
  const gguf = tinyModelGguf();

  it('a damaged binary is named by loadModel, with one thread and with two', async () => {
    for (const threads of [1, 2]) {
      const load = loadModel(gguf, {
        threads,
        kernel: 'simd',
        binary: Uint8Array.of(0, 0x61, 0x73, 0x6d, 1),
      });
      const error = await load.then(undefined, (thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(KernelError);
      expect((error as KernelError).message).toMatch(/^simd.*: the WebAssembly binary is damaged/);
    }
  });

  it('a runtime without SIMD is told to use the reference, which runs there', async () => {
    vi.spyOn(WebAssembly, 'validate').mockReturnValue(false);
    const error = await loadModel(gguf, { threads: 1 }).then(undefined, (thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(KernelError);
    expect((error as KernelError).message).toMatch(/no WebAssembly SIMD; .*reference/);
    vi.stubGlobal('WebAssembly', undefined);
    try {
      await expect(loadModel(gguf, { threads: 1 })).rejects.toThrow(/no WebAssembly SIMD/);
      const { model } = await loadModel(gguf, { backend: 'reference' });
      expect((await model.forward([1], model.createCache('kv'))).rows).toBe(1);
    } finally {
      vi.unstubAllGlobals();
    }
  });

  it('a cache without kernels is refused with the way out', async () => {
    const { model } = await loadModel(gguf, { threads: 1 });
    expect(() => model.createCache('kvquant:4')).toThrow(ConfigError);
    expect(() => model.createCache('kvquant:4')).toThrow(/kvquant.*reference/);
    await model.dispose();
  });
});
