import { describe, expect, it } from 'vitest';
import { storedBytes, totalBytes } from '../../src/cache/stored-matrix.js';
import { ConfigError } from '../../src/errors.js';
import type { AttentionMode } from '../../src/model/language-model.js';
import type { Matrix } from '../../src/numerics/matrix.js';
import { measurePerplexity, type PerplexityOptions } from '../../src/perplexity.js';
import { randomTokens, TINY_CONFIG, TINY_GQA_CONFIG, tinyModel } from '../helpers/tiny-model.js';

const model = tinyModel();
const WINDOW = 48;
const TEXT = randomTokens(3 * WINDOW + 20);

/** log softmax of every row, written down directly. */
function logProbabilities({ rows, columns, data }: Matrix): number[][] {
  return Array.from({ length: rows }, (_, r) => {
    const logits = Array.from(data.subarray(r * columns, (r + 1) * columns));
    const sum = logits.map(Math.exp).reduce((a, b) => a + b);
    return logits.map((logit) => logit - Math.log(sum));
  });
}

/** The logits of one window, in one pass or token by token. */
async function windowLogits(tokens: number[], cacheText: string, mode: AttentionMode): Promise<number[][]> {
  const cache = model.createCache(cacheText);
  if (mode === 'teacherForced')
    return logProbabilities(await model.forward(tokens, cache, { mode, logits: 'all' }));
  const rows: number[][] = [];
  for (const token of tokens) rows.push(...logProbabilities(await model.forward([token], cache)));
  return rows;
}

const average = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;

/** Everything that is measured, from its definition. */
async function byHand(cacheText: string, windows: number, mode: AttentionMode) {
  const losses: number[] = [];
  const baselineLosses: number[] = [];
  const divergences: number[] = [];
  const changes: number[] = [];
  let agreed = 0;
  for (let w = 0; w < windows; w++) {
    const tokens = TEXT.slice(w * WINDOW, (w + 1) * WINDOW);
    const p = await windowLogits(tokens, 'kv', mode);
    const q = await windowLogits(tokens, cacheText, mode);
    const negativeLogs: number[] = [];
    const baselineLogs: number[] = [];
    for (let t = 0; t + 1 < WINDOW; t++) {
      const target = tokens[t + 1];
      negativeLogs.push(-q[t][target]);
      baselineLogs.push(-p[t][target]);
      divergences.push(p[t].reduce((sum, logP, i) => sum + Math.exp(logP) * (logP - q[t][i]), 0));
      changes.push((Math.exp(q[t][target]) - Math.exp(p[t][target])) ** 2);
      if (p[t].indexOf(Math.max(...p[t])) === q[t].indexOf(Math.max(...q[t]))) agreed++;
    }
    losses.push(average(negativeLogs));
    baselineLosses.push(average(baselineLogs));
  }
  const differences = losses.map((loss, w) => loss - baselineLosses[w]);
  const variance =
    differences.reduce((sum, value) => sum + (value - average(differences)) ** 2, 0) / (windows - 1);
  return {
    perplexity: Math.exp(average(losses)),
    baseline: Math.exp(average(baselineLosses)),
    loss: average(differences),
    lossStdErr: Math.sqrt(variance / windows),
    klDivergence: average(divergences),
    klMax: Math.max(...divergences),
    topOneAgreement: agreed / divergences.length,
    rmsProbabilityChange: Math.sqrt(average(changes)),
  };
}

const measure = (options: PerplexityOptions) =>
  measurePerplexity(model, TEXT, { windowSize: WINDOW, ...options });

describe.each([
  ['teacherForced', 'teacherForced'],
  ['decode', 'generation'],
] as const)('mode %s', (mode, attention) => {
  it.each(['xquant:2@paper?window=16', 'xquant-cl:2@tuned?window=16', 'kivi:2?group=16&window=16'])(
    'gives what the definitions give: %s',
    async (cache) => {
      const expected = await byHand(cache, 3, attention);
      const { baseline, caches } = await measure({ caches: [cache], mode });
      const [result] = caches;
      expect(result.cache).toBe(cache);
      expect(result).toMatchObject({ windows: 3, windowSize: WINDOW, tokens: 3 * (WINDOW - 1), mode });
      for (const name of [
        'perplexity',
        'baseline',
        'loss',
        'lossStdErr',
        'klDivergence',
        'topOneAgreement',
        'rmsProbabilityChange',
      ] as const) {
        expect(result[name], name).toBeCloseTo(expected[name], 9);
      }
      expect(result.klQuantiles.max).toBeCloseTo(expected.klMax, 9);
      expect(baseline.perplexity).toBe(result.baseline);
      expect(result.klDivergence).toBeGreaterThan(0);
    },
  );
});

describe('measurement', () => {
  it('finds no difference between the baseline and itself', async () => {
    for (const mode of ['teacherForced', 'decode'] as const) {
      const { caches } = await measure({ caches: ['kv'], mode, windows: 2 });
      expect(caches[0]).toMatchObject({ loss: 0, lossStdErr: 0, klDivergence: 0, topOneAgreement: 1 });
      expect(caches[0]).toMatchObject({ compression: 1, bitsPerElement: 16, rmsProbabilityChange: 0 });
    }
  });

  it('does not depend on the other caches, nor on how tokens are cut into passes', async () => {
    const spec = ['xquant-cl:2@tuned?window=16&accumulator=int8', 'xquant:2?window=8'];
    const whole = await measure({ caches: spec });
    const pieces = await measure({ caches: spec, passTokens: 16 });
    const alone = await measure({ caches: [spec[1]] });
    const strip = ({ seconds, ...rest }: (typeof whole.caches)[number]) => ({
      ...rest,
      scratchBytesPerToken: undefined,
    });
    expect(pieces.caches.map(strip)).toEqual(whole.caches.map(strip));
    expect(strip(alone.caches[0])).toEqual(strip(whole.caches[1]));
  });

  it('counts the bytes of the cache', async () => {
    const spec = 'xquant-cl:2?window=16&accumulator=int8';
    const { caches } = await measure({ caches: [spec] });
    const cache = model.createCache(spec);
    await model.forward(TEXT.slice(0, WINDOW), cache, { mode: 'teacherForced' });
    const bytes = cache.bytes();
    const stored = storedBytes(bytes);
    expect(caches[0].bytesPerToken).toBe(stored / WINDOW);
    expect(caches[0].scratchBytesPerToken).toBe((totalBytes(bytes) - stored) / WINDOW);
    expect(caches[0].scratchBytesPerToken).toBeGreaterThan(0);
    expect(caches[0].compression).toBeCloseTo((2 * 2 * 64 * 4 * WINDOW) / stored, 12);
  });

  it('reports bits for each stored number: b + 32/G', async () => {
    const { caches } = await measure({
      caches: ['xquant:3?group=64&window=16&sinks=0', 'kivi:2?group=16&window=16'],
    });
    expect(caches.map((each) => each.bitsPerElement)).toEqual([3.5, 4]);
  });

  it('has no standard error for one window', async () => {
    const { baseline, caches } = await measure({ caches: ['xquant:4'], windows: 1 });
    expect(caches[0].lossStdErr).toBeNull();
    expect(baseline.perplexityStdErr).toBeNull();
  });

  it('takes the context of the model if that is shorter than 2048', async () => {
    const gqa = tinyModel({ ...TINY_GQA_CONFIG, maxPositionEmbeddings: 40 });
    const { caches } = await measurePerplexity(gqa, TEXT.slice(0, 100), { caches: ['xquant:4'] });
    expect(caches[0]).toMatchObject({ windowSize: 40, windows: 2 });
  });

  it('tells how far it is, and stops when told', async () => {
    const progress: [number, number][] = [];
    const options = { caches: ['xquant:4?window=16'], windows: 2, passTokens: 128 };
    await measure({ ...options, onProgress: (done, total) => progress.push([done, total]) });
    expect(progress).toEqual([1, 2, 3, 4].map((n) => [n * WINDOW, 4 * WINDOW]));

    const controller = new AbortController();
    const run = measure({ ...options, signal: controller.signal, onProgress: () => controller.abort() });
    await expect(run).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }));
  });
});

describe('bad input', () => {
  it('a text that is too short says how much is needed', async () => {
    await expect(measure({ caches: [], windows: 4 })).rejects.toThrow(/at least 192 tokens: 4 windows of 48/);
    const short = measurePerplexity(model, TEXT.slice(0, 10), { caches: [] });
    await expect(short).rejects.toThrow(`at least ${TINY_CONFIG.maxPositionEmbeddings} tokens`);
  });

  it.each<[string, Partial<PerplexityOptions>]>([
    ['"windows"', { windows: 0 }],
    ['"windows"', { windows: 1.5 }],
    ['"windowSize"', { windowSize: 0 }],
    ['"windowSize"', { windowSize: 1 }],
    ['"windowSize"', { windowSize: 321 }],
    ['"passTokens"', { passTokens: 0 }],
    ['"passTokens"', { passTokens: 0, mode: 'decode' }],
  ])('%s %o', async (message, options) => {
    await expect(measure({ caches: ['kv'], ...options })).rejects.toThrow(message);
  });

  it('a cache that does not fit the model', async () => {
    await expect(measure({ caches: ['xquant-cl:2?form=latent'] })).rejects.toThrow(ConfigError);
  });
});
