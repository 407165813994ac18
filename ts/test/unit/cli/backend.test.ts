import { afterEach, describe, expect, it, vi } from 'vitest';
import { type OpenedModel, prepareCaches } from '../../../src/cli/backend.js';
import { fakeTerminal } from '../../helpers/fake-terminal.js';
import { TINY_GQA_CONFIG } from '../../helpers/tiny-model.js';

/** A model of which one matrix takes as long to factor as told. */
function modelThatFactorsIn(milliseconds: number): OpenedModel & { factored: string[] } {
  let now = 1e6;
  vi.spyOn(performance, 'now').mockImplementation(() => now);
  const factored: string[] = [];
  const factors = {
    factors(layer: number, matrix: string) {
      now += milliseconds;
      factored.push(`${layer}.${matrix}`);
    },
  };
  return { model: { config: TINY_GQA_CONFIG }, factors, factored } as never;
}

describe('factoring before the first token', () => {
  afterEach(() => void vi.restoreAllMocks());

  it('computes what the cache needs, and nothing for one that needs none', async () => {
    const opened = modelThatFactorsIn(1);
    await prepareCaches(opened, ['kv', 'kivi:2'], fakeTerminal(true));
    expect(opened.factored).toEqual([]);
    await prepareCaches(opened, ['xquant:4'], fakeTerminal(true));
    expect(opened.factored.length).toBe(2 * TINY_GQA_CONFIG.numHiddenLayers);
  });

  it('says how to keep the factors if it took long, on a terminal only', async () => {
    const slow = fakeTerminal(true);
    await prepareCaches(modelThatFactorsIn(4000), ['xquant:4'], slow);
    expect(slow.written()).toMatch(/factoring took \d+ s: "xquant svd" keeps the factors .*--svd.*\n$/m);

    for (const [milliseconds, isTTY] of [
      [1, true],
      [4000, false],
    ] as const) {
      const quiet = fakeTerminal(isTTY);
      await prepareCaches(modelThatFactorsIn(milliseconds), ['xquant:4'], quiet);
      expect(quiet.written()).toBe('');
    }
  });
});
