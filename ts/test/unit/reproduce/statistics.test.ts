import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import type { CacheResult } from '../../../src/reproduce/runner.js';
import {
  baselinePerplexity,
  checkClaims,
  estimate,
  pairedDifference,
  paretoFront,
  summarize,
} from '../../../src/reproduce/statistics.js';
import { TINY_CONFIG, TINY_GQA_CONFIG } from '../../helpers/tiny-model.js';

/** Results with the given losses by window; all else is the same everywhere. */
function result(cache: string, losses: readonly number[], storedBytes = 100, baseline = 2): CacheResult {
  return {
    cache,
    windows: losses.map((loss, window) => ({
      window,
      baseline,
      loss,
      klDivergence: 0.1,
      klMax: 0.5,
      topOneAgreement: 0.9,
      rmsProbabilityChange: 0.2,
      storedBytes,
      scratchBytes: 0,
      float16Bytes: 800,
    })),
  };
}

const numbers = fc.array(fc.double({ min: -5, max: 5, noNaN: true }), { minLength: 2, maxLength: 20 });

describe('estimate', () => {
  it('of a set worked out by hand', () => {
    // Mean 5, squares 9 1 1 9: variance 20 / 3, error sqrt(20 / 3 / 4).
    expect(estimate([2, 4, 6, 8])).toEqual({ mean: 5, stdErr: Math.sqrt(20 / 12) });
    expect(estimate([7])).toEqual({ mean: 7, stdErr: null });
  });

  test.prop([numbers, fc.double({ min: -3, max: 3, noNaN: true })])(
    'moves with a shift, and its error does not',
    (values, shift) => {
      const moved = estimate(values.map((value) => value + shift));
      expect(moved.mean).toBeCloseTo(estimate(values).mean + shift, 9);
      expect(moved.stdErr).toBeCloseTo(estimate(values).stdErr as number, 9);
    },
  );
});

describe('summarize', () => {
  it('gives loss, perplexity and size', () => {
    const summary = summarize(result('xquant:4', [2.1, 2.3], 100));
    expect(summary.loss.mean).toBeCloseTo(0.2, 12);
    expect(summary.loss.stdErr).toBeCloseTo(0.1, 12);
    expect(summary.perplexity).toBeCloseTo(Math.exp(2.2), 12);
    expect(summary.relativePerplexity.mean).toBeCloseTo(Math.exp(0.2) - 1, 12);
    expect(summary.size).toBe(1 / 8);
    expect(summary.compression).toBe(8);
    const { perplexity, stdErr } = baselinePerplexity(result('kivi:2', [3, 3]));
    expect(perplexity).toBeCloseTo(Math.exp(2), 12);
    expect(stdErr).toBe(0);
  });
});

describe('pairedDifference', () => {
  test.prop([numbers, numbers])('is antisymmetric, over the windows that both have', (a, b) => {
    const [first, second] = [result('a', a), result('b', b)];
    const forward = pairedDifference(first, second);
    const backward = pairedDifference(second, first);
    expect(forward.mean).toBeCloseTo(-backward.mean, 9);
    const common = Math.min(a.length, b.length);
    const expected = a.slice(0, common).reduce((sum, value, i) => sum + value - b[i], 0) / common;
    expect(forward.mean).toBeCloseTo(expected, 9);
  });

  it('does not see what all caches have in common', () => {
    // Windows differ by much more than the caches do.
    const text = [1, 5, 2, 7];
    const { mean, stdErr } = pairedDifference(
      result(
        'a',
        text.map((each) => each + 0.01),
      ),
      result('b', text),
    );
    expect(mean).toBeCloseTo(0.01, 12);
    expect(stdErr).toBeCloseTo(0, 12);
  });
});

const points = fc.array(fc.tuple(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 0, max: 9 })), {
  minLength: 1,
  maxLength: 30,
});

test.prop([points])(
  'paretoFront keeps what no other one beats, and for everything else something that does',
  (all) => {
    const front = paretoFront(all, (point) => point);
    const dominates = (a: readonly number[], b: readonly number[]) =>
      a[0] <= b[0] && a[1] <= b[1] && (a[0] < b[0] || a[1] < b[1]);
    expect(front.length).toBeGreaterThan(0);
    for (const point of front) expect(all.some((other) => dominates(other, point))).toBe(false);
    for (const point of all) {
      const isKept = front.some((kept) => kept[0] === point[0] && kept[1] === point[1]);
      expect(isKept || front.some((kept) => dominates(kept, point))).toBe(true);
    }
  },
);

describe('checkClaims', () => {
  const verdictOf = (results: CacheResult[], text: string, config = TINY_CONFIG) =>
    checkClaims(results, config).find((claim) => claim.text.includes(text))?.verdict;
  const claim = 'XQuant-4 loses less than KIVI*-2';

  it('needs a difference of two standard errors, and the memory', () => {
    const kivi = result('kivi:2', [2.5, 2.6, 2.4], 100);
    const clear = [2.1, 2.21, 1.99];
    expect(verdictOf([result('xquant:4@paper', clear, 99), kivi], claim)).toBe('holds');
    expect(verdictOf([result('xquant:4@paper', clear, 101), kivi], claim)).toBe('fails');
    expect(verdictOf([result('xquant:4@paper', [2.9, 3.01, 2.8], 99), kivi], claim)).toBe('fails');
    expect(verdictOf([result('xquant:4@paper', [2.9, 2.2, 2.3], 99), kivi], claim)).toBe('unclear');
    expect(verdictOf([result('xquant:4@paper', [2.1], 99), result('kivi:2', [2.5])], claim)).toBe('unclear');
    expect(verdictOf([kivi], claim)).toBe('untested');
  });

  it('knows what is claimed of which kind of attention', () => {
    const [mha, gqa] = [TINY_CONFIG, TINY_GQA_CONFIG].map((config) => checkClaims([], config));
    expect(mha.every(({ verdict }) => verdict === 'untested')).toBe(true);
    expect(mha.some(({ text }) => text.includes('12.5x'))).toBe(true);
    expect(gqa.some(({ text }) => text.includes('12.5x'))).toBe(false);
    expect(gqa.some(({ text }) => text.includes('outlier channel'))).toBe(true);
  });
});
