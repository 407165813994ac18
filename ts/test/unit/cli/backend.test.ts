import { afterEach, describe, expect, it, vi } from 'vitest';
import { type OpenedModel, prepareCaches } from '../../../src/cli/backend.js';
import { fakeTerminal } from '../../helpers/fake-terminal.js';
import { TINY_GQA_CONFIG } from '../../helpers/tiny-model.js';

/** A model of which one matrix takes as long to factor as told. */
function modelThatFactorsIn(milliseconds: number): OpenedModel & { factored: string[]; kept: string[][] } {
  let now = 1e6;
  vi.spyOn(performance, 'now').mockImplementation(() => now);
  const factored: string[] = [];
  const kept: string[][] = [];
  const factors = {
    factors(layer: number, matrix: string) {
      now += milliseconds;
      factored.push(`${layer}.${matrix}`);
    },
    has: (layer: number, matrix: string) => factored.includes(`${layer}.${matrix}`),
    keepComputed: () => kept.push([...factored]),
  };
  return { model: { config: TINY_GQA_CONFIG }, factors, factored, kept } as never;
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

  it('keeps what it computed, and computes nothing twice', async () => {
    const opened = modelThatFactorsIn(1);
    await prepareCaches(opened, ['xquant:4'], fakeTerminal(true));
    const all = [...opened.factored];
    expect(opened.kept).toEqual([all]);
    await prepareCaches(opened, ['xquant:4'], fakeTerminal(true));
    expect(opened.factored).toEqual(all);
  });

  it('says every ten seconds how far it is where there is no terminal', async () => {
    const log = fakeTerminal(false);
    await prepareCaches(modelThatFactorsIn(6000), ['xquant:4'], log);
    expect(log.written()).toMatch(/^(factoring \d+% \| (\d+ min )?\d+ s left\n)+$/);
    const quick = fakeTerminal(false);
    await prepareCaches(modelThatFactorsIn(1), ['xquant:4'], quick);
    expect(quick.written()).toBe('');
  });
});
