/** A pass writes into what it allocated and nowhere else, whatever the size of a block. */

import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LinearMemory } from '../../../src/engine/memory.js';
import { randomTokens, randomWeights, TINY_GQA_CONFIG } from '../../helpers/tiny-model.js';
import { engineOf } from './engines.js';

/** Bytes after every allocation that nobody may touch. */
const GUARD = 4096;
const MARK = 0xa5;

describe('with guards after every allocation', () => {
  const { allocate, free } = LinearMemory.prototype;
  const guards = new Map<number, number>();
  let memory: LinearMemory | undefined;

  beforeEach(() => {
    guards.clear();
    LinearMemory.prototype.allocate = function (bytes, purpose) {
      memory = this;
      const pointer = allocate.call(this, bytes + GUARD, purpose);
      this.u8.fill(MARK, pointer + bytes, pointer + bytes + GUARD);
      guards.set(pointer, pointer + bytes);
      return pointer;
    };
    LinearMemory.prototype.free = function (pointer) {
      expectGuard(this, guards.get(pointer));
      guards.delete(pointer);
      free.call(this, pointer);
    };
  });
  afterEach(() => {
    LinearMemory.prototype.allocate = allocate;
    LinearMemory.prototype.free = free;
  });

  function expectGuard({ u8 }: LinearMemory, at: number | undefined): void {
    if (at !== undefined) expect(u8.subarray(at, at + GUARD).every((byte) => byte === MARK)).toBe(true);
  }

  it.each([
    'kv?window=9',
    'kv?window=3',
    'xquant:4?window=10&form=x',
    'xquant:4?window=10&form=latent',
    'xquant-cl:2?window=17&form=x',
    'xquant-cl:2?window=16&accumulator=int8',
    'kivi:2?window=16&group=16',
  ])('%s: prefill, decode, short passes and batches', async (spec) => {
    const engine = await engineOf(TINY_GQA_CONFIG, randomWeights(TINY_GQA_CONFIG, 3), { threads: 2 });
    const cache = engine.createCache(spec);
    const tokens = randomTokens(200);
    await engine.forward(tokens.slice(0, 100), cache);
    for (const token of tokens.slice(100, 112)) await engine.forward([token], cache);
    await engine.forward(tokens.slice(112, 119), cache, { logits: 'all' });
    await engine.forward(tokens.slice(119, 150), cache, { mode: 'teacherForced', logits: 'all' });
    await engine.forwardBatch([[1], [2, 3, 4, 5]], [cache, cache.clone()]);
    for (const at of guards.values()) expectGuard(memory as LinearMemory, at);
    await engine.dispose();
  });
});
