/**
 * From results by window to numbers with error bars. All differences are paired: two caches saw the same windows, and
 * the mean difference of their log-likelihoods has a much smaller error than either mean.
 *
 * @module
 */

import type { CacheModelShape } from '../cache/options.js';
import type { WindowResult } from './evaluator.js';
import { isMultiHead } from './plans.js';
import type { CacheResult } from './runner.js';

/** A mean over windows. */
export interface Estimate {
  readonly mean: number;
  /** Standard error of the mean; null for one window. */
  readonly stdErr: number | null;
}

/** One cache over all windows. */
export interface CacheSummary {
  readonly cache: string;
  readonly windows: number;
  readonly perplexity: number;
  /** What the cache loses, in nats a token. */
  readonly loss: Estimate;
  /** By how much the perplexity is larger than the baseline's, as a fraction of it. */
  readonly relativePerplexity: Estimate;
  readonly klDivergence: Estimate;
  readonly klMax: number;
  readonly topOneAgreement: number;
  readonly rmsProbabilityChange: number;
  /** Counted bytes against f16 keys and values of the same tokens. */
  readonly size: number;
  /** 1 / size */
  readonly compression: number;
  /** Bytes of the accumulator against the same. */
  readonly scratchSize: number;
}

/** Mean and standard error, with n - 1 in the variance. */
export function estimate(values: readonly number[]): Estimate {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  if (values.length < 2) return { mean, stdErr: null };
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, stdErr: Math.sqrt(squares / (values.length - 1) / values.length) };
}

/** @param result with at least one window */
export function summarize({ cache, windows }: CacheResult): CacheSummary {
  const mean = (of: (each: WindowResult) => number) => estimate(windows.map(of)).mean;
  const loss = estimate(windows.map((each) => each.loss - each.baseline));
  const size = mean((each) => each.storedBytes) / mean((each) => each.float16Bytes);
  const ratio = Math.exp(loss.mean);
  return {
    cache,
    windows: windows.length,
    perplexity: Math.exp(mean((each) => each.loss)),
    loss,
    relativePerplexity: { mean: ratio - 1, stdErr: loss.stdErr === null ? null : ratio * loss.stdErr },
    klDivergence: estimate(windows.map((each) => each.klDivergence)),
    klMax: Math.max(...windows.map((each) => each.klMax)),
    topOneAgreement: mean((each) => each.topOneAgreement),
    rmsProbabilityChange: Math.sqrt(mean((each) => each.rmsProbabilityChange ** 2)),
    size,
    compression: 1 / size,
    scratchSize: mean((each) => each.scratchBytes) / mean((each) => each.float16Bytes),
  };
}

/** Perplexity of the f16 baseline. */
export function baselinePerplexity({ windows }: CacheResult): { perplexity: number; stdErr: number | null } {
  const { mean, stdErr } = estimate(windows.map(({ baseline }) => baseline));
  const perplexity = Math.exp(mean);
  return { perplexity, stdErr: stdErr === null ? null : perplexity * stdErr };
}

/** Loss of `a` minus loss of `b` over the windows that both have, in nats a token. */
export function pairedDifference(a: CacheResult, b: CacheResult): Estimate {
  const others = new Map(b.windows.map((each) => [each.window, each.loss]));
  return estimate(
    a.windows
      .filter(({ window }) => others.has(window))
      .map(({ window, loss }) => loss - (others.get(window) as number)),
  );
}

/**
 * The items that no other one beats: none is as good in both respects and better in one.
 *
 * @param of what is to be small, twice
 * @returns in ascending order of the first
 */
export function paretoFront<T>(items: readonly T[], of: (item: T) => readonly [number, number]): T[] {
  const sorted = [...items].sort((a, b) => of(a)[0] - of(b)[0] || of(a)[1] - of(b)[1]);
  let best = Number.POSITIVE_INFINITY;
  return sorted.filter((item) => {
    const isBetter = of(item)[1] < best;
    if (isBetter) best = of(item)[1];
    return isBetter;
  });
}

/** Something that should be so, and whether it is. */
export interface Claim {
  readonly text: string;
  /** `unclear`: within two standard errors of the limit. `untested`: a cache it needs was not run. */
  readonly verdict: 'holds' | 'fails' | 'unclear' | 'untested';
  /** The numbers. */
  readonly evidence: string;
}

/**
 * What the paper says about its methods against KIVI* and KVQuant, and what the tuned encoder adds, checked on
 * results. Sizes are counted bytes.
 *
 * @param results of one model
 */
export function checkClaims(results: readonly CacheResult[], shape: CacheModelShape): Claim[] {
  const find = (cache: string) => results.find((each) => each.cache === cache && each.windows.length > 0);

  /** `winner` loses less than `loser`, in at most `maxSizeRatio` of its bytes. */
  const beats = (winner: string, loser: string, maxSizeRatio: number, text: string): Claim => {
    const [a, b] = [find(winner), find(loser)];
    if (!a || !b) return { text, verdict: 'untested', evidence: '' };
    const difference = pairedDifference(a, b);
    const ratio = summarize(a).size / summarize(b).size;
    const evidence =
      `${signed(difference.mean, 4)} ${plusMinus(difference.stdErr, 4)} nats a token, ` +
      `${ratio.toFixed(3)} of the bytes`;
    return { text, verdict: judge(difference.mean, difference.stdErr, ratio <= maxSizeRatio), evidence };
  };

  /** A cache raises the perplexity by at most a fraction, at a compression. */
  const atMost = (cache: string, fraction: number, compression: number, text: string): Claim => {
    const found = find(cache);
    if (!found) return { text, verdict: 'untested', evidence: '' };
    const { relativePerplexity, compression: reached } = summarize(found);
    const { mean, stdErr } = relativePerplexity;
    const error = plusMinus(stdErr === null ? null : 100 * stdErr, 3);
    const evidence = `perplexity ${signed(100 * mean, 3)} ${error} %, ${reached.toFixed(2)}x smaller`;
    // Compressions are compared as they are printed.
    const isSmall = Number(reached.toFixed(1)) >= compression;
    return { text, verdict: judge(mean - fraction, stdErr, isSmall), evidence };
  };

  const first = `firstLayers=${Math.min(3, shape.numHiddenLayers)}`;
  // Key latents in per-token groups have more scales than per channel where a token has fewer channels than a group.
  const aboutTheSame = 1.05;
  const tuned = [
    beats(
      'xquant:4@tuned',
      'xquant:4@paper',
      aboutTheSame,
      'Tuned XQuant-4 loses less than that of the paper',
    ),
    beats(
      'xquant-cl:2@tuned',
      'xquant-cl:2@paper',
      aboutTheSame,
      'Tuned XQuant-CL-2 loses less than that of the paper',
    ),
    beats(
      'xquant-cl:3@tuned',
      'xquant-cl:3@paper',
      aboutTheSame,
      'Tuned XQuant-CL-3 loses less than that of the paper',
    ),
  ];
  if (isMultiHead(shape)) {
    return [
      beats('xquant:4@paper', 'kivi:2', 1, 'XQuant-4 loses less than KIVI*-2 in no more memory'),
      beats(
        'xquant-cl:2@paper',
        'kivi:2',
        0.6,
        'XQuant-CL-2 loses less than KIVI*-2 in about half the memory',
      ),
      beats('xquant-cl:2@paper', 'kvquant:2', 0.6, 'XQuant-CL-2 loses less than KVQuant-2-1% in about half'),
      beats(
        'xquant-cl:2@paper',
        `xquant:2@paper?${first}`,
        1,
        'XQuant-CL-2 loses less than XQuant-2 with the same layers at 4 bits',
      ),
      atMost('xquant-cl:2@tuned', 0.006, 12.5, 'Tuned XQuant-CL-2 loses at most 0.6 % at 12.5x or better'),
      atMost(
        'xquant-cl:2@tuned?baseBits=2',
        0.006,
        14.2,
        'Tuned XQuant-CL at 2 bits in every layer loses at most 0.6 % at 14.2x',
      ),
      atMost('xquant-cl:3@tuned', 0.0015, 9.4, 'Tuned XQuant-CL-3 loses at most 0.15 % at 9.4x'),
      ...tuned,
      atMost(
        'xquant-cl:1.275@calibrated',
        0.0012,
        12,
        'Calibrated XQuant-CL-1.275 loses at most 0.12 % at 12x or better',
      ),
      atMost(
        'xquant-cl:0.851@calibrated',
        0.0025,
        18,
        'Calibrated XQuant-CL-0.851 loses at most 0.25 % at 18x or better',
      ),
      atMost(
        'xquant-cl:0.599@calibrated',
        0.0035,
        25,
        'Calibrated XQuant-CL-0.599 loses at most 0.35 % at 25x or better',
      ),
    ];
  }
  const gqa = [4, 3, 2].map((bits) =>
    beats(
      `xquant:${bits}@paper`,
      `kivi:${bits}`,
      1,
      `XQuant-${bits} loses less than KIVI*-${bits} in the same memory`,
    ),
  );
  return [
    ...gqa,
    beats('xquant:2@paper', 'kvquant:2', 1, 'XQuant-2 loses less than KVQuant-2-1% in no more memory'),
    beats(
      'xquant-cl:2@paper',
      `xquant:2@paper?${first}`,
      1,
      'XQuant-CL-2 loses less than XQuant-2 with the same layers at 4 bits, in no more memory',
    ),
    beats(
      'xquant:2@paper?outlier=f16',
      'xquant:2@paper',
      1.1,
      'XQuant-2 loses less with its outlier channel in f16',
    ),
    ...tuned,
    beats('xquant:4@tuned', 'q4_0', 0.9, "Tuned XQuant-4 loses less than llama.cpp's q4_0, in less memory"),
    beats(
      'xquant-cl:3.25@calibrated',
      'q4_0',
      0.75,
      "Calibrated XQuant-CL-3.25 loses less than llama.cpp's q4_0, in three quarters of the memory",
    ),
    atMost(
      'xquant-cl:4.25@calibrated',
      0.0012,
      3.7,
      'Calibrated XQuant-CL-4.25 loses at most 0.12 % at 3.7x or better',
    ),
    atMost(
      'xquant-cl:2.25@calibrated',
      0.013,
      7,
      'Calibrated XQuant-CL-2.25 loses at most 1.3 % at 7x or better',
    ),
    atMost(
      'xquant-cl:2.25@calibrated?predict=2',
      0.009,
      7,
      'Calibrated XQuant-CL-2.25 from 2 layers loses at most 0.9 % at 7x or better',
    ),
  ];
}

/** Below zero is good; two standard errors decide. */
function judge(excess: number, stdErr: number | null, isSmallEnough: boolean): Claim['verdict'] {
  const margin = 2 * (stdErr ?? Number.POSITIVE_INFINITY);
  if (!isSmallEnough) return 'fails';
  if (excess <= -margin) return 'holds';
  return excess >= margin ? 'fails' : 'unclear';
}

function signed(value: number, digits: number): string {
  return `${value >= 0 ? '+' : ''}${value.toFixed(digits)}`;
}

function plusMinus(stdErr: number | null, digits: number): string {
  return stdErr === null ? '(one window)' : `± ${stdErr.toFixed(digits)}`;
}
