/** Memory over time: a long text takes what its cache takes, and a model that is gone takes nothing. */

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it, vi } from 'vitest';
import { LinearMemory } from '../../../src/engine/memory.js';
import { WasmModel } from '../../../src/engine/wasm-model.js';
import { MemoryError } from '../../../src/errors.js';
import { randomTokens, randomWeights, TINY_CONFIG, TINY_GQA_CONFIG } from '../../helpers/tiny-model.js';
import { engineOf, fileWeights } from './engines.js';

const CACHES = [
  'kv?window=16',
  'kivi:2?window=16&group=16',
  'xquant:4?window=16',
  'xquant-cl:2?window=16',
  'xquant-cl:2?window=16&accumulator=recompute',
];

setFlagsFromString('--expose-gc');
const collectNow: () => void = runInNewContext('gc');

/** Collects what nobody holds any more; finalizers run between. */
async function collect(): Promise<void> {
  for (let i = 0; i < 3; i++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    collectNow();
  }
}

describe('a long text', () => {
  it.each(CACHES)('%s: what is used beyond weights, RoPE tables and cache stays the same', async (spec) => {
    const config = { ...TINY_GQA_CONFIG, maxPositionEmbeddings: 2000 };
    const engine = await engineOf(config, randomWeights(config, 2));
    const cache = engine.createCache(spec);
    const others = (): number => {
      const { used, weights, ropeTables } = engine.memoryUse;
      return used - weights - ropeTables - cache.allocatedBytes;
    };
    const tokens = randomTokens(1100); // more positions than the first RoPE tables have
    await engine.forward(tokens.slice(0, 400), cache);
    for (const token of tokens.slice(400, 420)) await engine.forward([token], cache);
    const before = others();
    for (const token of tokens.slice(420, 600)) {
      await engine.forward([token], cache);
      expect(others()).toBe(before);
    }
    await engine.forward(tokens.slice(600), cache);
    expect(others()).toBe(before);
    cache.trim(0);
    await engine.forward([1], cache);
    expect(others()).toBe(before);
    await engine.dispose();
  });

  it('caches that are disposed of, or that nobody holds any more, give their memory back', async () => {
    const engine = await engineOf(TINY_CONFIG, randomWeights(TINY_CONFIG, 2));
    const fill = async (): Promise<void> => {
      await engine.forward(randomTokens(200), engine.createCache('xquant-cl:2?window=16'));
    };
    const cache = engine.createCache('xquant-cl:2?window=16');
    await engine.forward(randomTokens(200), cache);
    const shared = cache.clone();
    cache.dispose();
    shared.dispose();
    const before = engine.memoryUse.used;
    const { committed } = engine.memoryUse;
    for (let i = 0; i < 8; i++) {
      await fill();
      await collect();
    }
    await collect();
    expect(engine.memoryUse.used).toBe(before);
    expect(engine.memoryUse.committed).toBeLessThan(committed + 2 ** 21);
    await engine.dispose();
  });
});

describe('decoding', () => {
  it.each(CACHES)('%s: allocates when it begins a block, and else never', async (spec) => {
    const engine = await engineOf(TINY_GQA_CONFIG, randomWeights(TINY_GQA_CONFIG, 2));
    const cache = engine.createCache(spec);
    await engine.forward(randomTokens(35), cache);
    await engine.forward([1], cache);
    const allocate = vi.spyOn(engine.memory, 'allocate');
    while (cache.length % 16 !== 15) await engine.forward([cache.length % 7], cache);
    expect(allocate).not.toHaveBeenCalled();
    allocate.mockRestore();
    await engine.dispose();
  });
});

describe('models that come and go', () => {
  /** Loads and uses a model, and gives back only a way to see whether its memory is still there. */
  async function comeAndGo(threads: number): Promise<WeakRef<WebAssembly.Memory>> {
    const engine = await engineOf(TINY_CONFIG, randomWeights(TINY_CONFIG, 1), { threads });
    const memory = new WeakRef(engine.memory.memory);
    await engine.forward(randomTokens(20), engine.createCache('xquant-cl:2?window=16'));
    await engine.dispose();
    return memory;
  }

  it.each([1, 2])('leave no memory behind (%i threads)', async (threads) => {
    const memories: WeakRef<WebAssembly.Memory>[] = [];
    for (let i = 0; i < 6; i++) memories.push(await comeAndGo(threads));
    await collect();
    expect(memories.filter((memory) => memory.deref() !== undefined)).toHaveLength(0);
  });

  it('a load that fails leaves none, either', async () => {
    const made: WeakRef<LinearMemory>[] = [];
    const allocate = LinearMemory.prototype.allocate;
    LinearMemory.prototype.allocate = function (...args) {
      if (made.at(-1)?.deref() !== this) made.push(new WeakRef(this));
      return allocate.apply(this, args);
    };
    try {
      for (let i = 0; i < 4; i++) {
        const load = WasmModel.load(TINY_CONFIG, fileWeights(randomWeights(TINY_CONFIG, 1)), {
          threads: 2,
          memoryLimit: 200_000,
        });
        const error: unknown = await load.then(undefined, (thrown) => thrown);
        expect(error).toBeInstanceOf(MemoryError);
      }
    } finally {
      LinearMemory.prototype.allocate = allocate;
    }
    await collect();
    expect(made).toHaveLength(4);
    expect(made.filter((memory) => memory.deref() !== undefined)).toHaveLength(0);
  });
});
