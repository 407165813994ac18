/**
 * Runs many caches over the windows of a text, so that it can be stopped at any moment and go on later.
 *
 * Window by window: the f16 baseline runs once, then every cache that has no result for this window yet, and each
 * result is written at once. What a cache gives on a window depends on nothing but model, text and cache, so a run
 * that was interrupted ends with the same numbers as one that was not. Teacher forcing, as in the paper (XQuant §4.1).
 *
 * @module
 */

import { float16KeyValueBytes } from '../analysis/memory.js';
import { storedBytes } from '../cache/stored-matrix.js';
import type { ModelCache } from '../cache/types.js';
import { assertPositiveInteger, ConfigError, XQuantError } from '../errors.js';
import type { LanguageModel } from '../model/language-model.js';
import { passSize } from '../perplexity.js';
import { BaselineLogits, TokenScores } from '../scoring.js';

/** What one window says about one cache. Losses in nats a token. */
export interface WindowResult {
  readonly window: number;
  /** Mean negative log-likelihood with f16 keys and values. */
  readonly baseline: number;
  /** The same with the cache. */
  readonly loss: number;
  /** Mean over tokens of KL(baseline || cache), in nats. */
  readonly klDivergence: number;
  /** The largest of a token. */
  readonly klMax: number;
  readonly topOneAgreement: number;
  readonly rmsProbabilityChange: number;
  /** Counted bytes of the cache at the end of the window, without scratch. */
  readonly storedBytes: number;
  /** Bytes of the cross-layer accumulator. */
  readonly scratchBytes: number;
  /** Bytes of f16 keys and values of the same tokens. */
  readonly float16Bytes: number;
}

/** What is known about one cache. */
export interface CacheResult {
  /** The cache argument. */
  readonly cache: string;
  /** In order of windows. */
  readonly windows: readonly WindowResult[];
}

/** Keeps results between runs. */
export interface ResultStore {
  /** What is known about a cache; no windows if nothing. */
  read(cache: string): Promise<CacheResult>;
  /** Replaces what is known: all or nothing, whatever happens meanwhile. */
  write(result: CacheResult): Promise<void>;
}

/** A cache, and over how many windows from the start of the text. */
export interface Job {
  readonly cache: string;
  readonly windows: number;
}

/** What to run. */
export interface RunOptions {
  readonly jobs: readonly Job[];
  /** Tokens of a window. */
  readonly windowSize: number;
  readonly store: ResultStore;
  readonly signal?: AbortSignal;
  /** Told tokens run so far by this call, and how many there are in all. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** What it takes of a model. */
export type EvaluatedModel = Pick<LanguageModel, 'config' | 'createCache' | 'forward'>;

/** The outcome: results in the order of the jobs, and why some have none. */
export interface RunReport {
  readonly results: readonly CacheResult[];
  /** Caches that this model cannot have, with the reason. */
  readonly skipped: readonly SkippedCache[];
}

/** A cache that was not run. */
export interface SkippedCache {
  readonly cache: string;
  readonly reason: string;
}

/**
 * Runs what is missing.
 *
 * @param tokens ids of the whole text
 * @throws {ConfigError | RangeError} if the text is too short, or a size is outside its range
 * @throws what `forward` throws; all results up to there have been written
 */
export async function runCaches(
  model: EvaluatedModel,
  tokens: ArrayLike<number>,
  { jobs, windowSize, store, signal, onProgress }: RunOptions,
): Promise<RunReport> {
  assertPositiveInteger(windowSize, 'windowSize');
  for (const { windows } of jobs) assertPositiveInteger(windows, 'windows');
  const windows = Math.max(0, ...jobs.map((job) => job.windows));
  if (windows * windowSize > tokens.length) {
    const needed = `at least ${windows * windowSize} tokens: ${windows} windows of ${windowSize}`;
    throw new ConfigError('text', `${tokens.length} tokens`, needed);
  }
  const running: RunningJob[] = [];
  const skipped: SkippedCache[] = [];
  for (const job of jobs) {
    const known = new Map((await store.read(job.cache)).windows.map((each) => [each.window, each]));
    try {
      // One cache for all windows: making one decomposes and folds weights, emptying one costs nothing.
      const isComplete = missingWindows(job, known).length === 0;
      running.push({ ...job, known, instance: isComplete ? undefined : model.createCache(job.cache) });
    } catch (error) {
      if (!(error instanceof XQuantError || error instanceof RangeError)) throw error;
      skipped.push({ cache: job.cache, reason: error.message });
    }
  }
  const pendingIn = (window: number) =>
    running.filter((job) => window < job.windows && !job.known.has(window));
  const baseline = model.createCache('kv');
  const instances = running.flatMap(({ instance }) => instance ?? []);
  const passTokens = passSize(windowSize, [baseline, ...instances], model, {});

  let [done, total] = [0, 0];
  for (let window = 0; window < windows; window++) {
    const pending = pendingIn(window).length;
    if (pending > 0) total += (pending + 1) * windowSize;
  }
  const step = (count: number) => onProgress?.((done += count), total);

  for (let window = 0; window < windows; window++) {
    const pending = pendingIn(window);
    if (pending.length === 0) continue;
    const ids = Array.from({ length: windowSize }, (_, i) => tokens[window * windowSize + i]);
    const passes: BaselineLogits[] = [];
    const ownScores = new TokenScores();
    for await (const { position, logits } of forwardPasses(model, baseline, ids, passTokens, signal)) {
      const targets = ids.slice(position + 1, position + 1 + logits.rows);
      const pass = new BaselineLogits(logits, targets, position);
      ownScores.add(pass, logits);
      passes.push(pass);
      step(logits.rows);
    }
    for (const job of pending) {
      const scores = new TokenScores();
      let index = 0;
      const cache = job.instance as ModelCache; // it has missing windows
      for await (const { logits } of forwardPasses(model, cache, ids, passTokens, signal)) {
        scores.add(passes[index++], logits);
        step(logits.rows);
      }
      const bytes = cache.bytes();
      job.known.set(window, {
        window,
        baseline: ownScores.loss,
        loss: scores.loss,
        klDivergence: scores.klDivergence,
        klMax: scores.klQuantiles.max,
        topOneAgreement: scores.topOneAgreement,
        rmsProbabilityChange: scores.rmsProbabilityChange,
        storedBytes: storedBytes(bytes),
        scratchBytes: bytes.scratch,
        float16Bytes: float16KeyValueBytes(model.config, windowSize),
      });
      await store.write({ cache: job.cache, windows: inOrder(job.known) });
    }
  }
  return {
    results: running.map((job) => ({
      cache: job.cache,
      windows: inOrder(job.known).filter(({ window }) => window < job.windows),
    })),
    skipped,
  };
}

interface RunningJob extends Job {
  readonly known: Map<number, WindowResult>;
  /** Absent if nothing is missing. */
  readonly instance: ModelCache | undefined;
}

/** Windows of a job that have no result yet. */
export function missingWindows({ windows }: Job, known: { has(window: number): boolean }): number[] {
  return Array.from({ length: windows }, (_, window) => window).filter((window) => !known.has(window));
}

/** Runs one window through an emptied cache, pass by pass. */
async function* forwardPasses(
  model: EvaluatedModel,
  cache: ModelCache,
  ids: readonly number[],
  passTokens: number,
  signal?: AbortSignal,
) {
  cache.trim(0);
  for (let position = 0; position < ids.length; position += passTokens) {
    const pass = ids.slice(position, position + passTokens);
    const logits = await model.forward(pass, cache, { logits: 'all', mode: 'teacherForced', signal });
    yield { position, logits };
  }
}

function inOrder(results: ReadonlyMap<number, WindowResult>): WindowResult[] {
  return [...results.values()].sort((a, b) => a.window - b.window);
}
