/**
 * Runs many caches over the windows of a text, so that it can be stopped at any moment and continue later.
 *
 * Window by window: the f16 baseline runs once, then every cache that has no result for this window yet, and each
 * result is written at once. What a cache gives on a window depends on nothing but model, text and cache, so a run
 * that was interrupted ends with the same numbers as one that was not, and windows may run side by side.
 *
 * @module
 */

import { assertPositiveInteger, ConfigError, XQuantError } from '../errors.js';
import { passSize } from '../perplexity.js';
import { type EvaluatedModel, ModelEvaluator, type WindowEvaluator, type WindowResult } from './evaluator.js';

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
  /** Take windows from one queue. None: the model itself. */
  readonly evaluators?: readonly WindowEvaluator[];
  readonly signal?: AbortSignal;
  /** Called with the tokens run so far by this call, and with their total. */
  readonly onProgress?: (done: number, total: number) => void;
}

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
 * @param model says which caches there can be; runs them, if there are no other evaluators
 * @param tokens ids of the whole text
 * @throws {ConfigError | RangeError} if the text is too short, or a size is outside its range
 * @throws what `forward` throws; all results up to there have been written
 */
export async function runCaches(
  model: EvaluatedModel,
  tokens: ArrayLike<number>,
  { jobs, windowSize, store, evaluators = [], signal, onProgress }: RunOptions,
): Promise<RunReport> {
  assertPositiveInteger(windowSize, 'windowSize');
  for (const { windows } of jobs) assertPositiveInteger(windows, 'windows');
  const windows = Math.max(0, ...jobs.map((job) => job.windows));
  if (windows * windowSize > tokens.length) {
    const needed = `at least ${windows * windowSize} tokens: ${windows} windows of ${windowSize}`;
    throw new ConfigError('text', `${tokens.length} tokens`, needed);
  }
  const own = new ModelEvaluator(model);
  const instances = [own.cache('kv')];
  const running: RunningJob[] = [];
  const skipped: SkippedCache[] = [];
  for (const job of jobs) {
    const known = new Map((await store.read(job.cache)).windows.map((each) => [each.window, each]));
    try {
      if (missingWindows(job, known).length > 0) instances.push(own.cache(job.cache));
      running.push({ ...job, known });
    } catch (error) {
      if (!(error instanceof XQuantError || error instanceof RangeError)) throw error;
      skipped.push({ cache: job.cache, reason: error.message });
    }
  }
  const passTokens = passSize(windowSize, instances, model, {});
  const queue = Array.from({ length: windows }, (_, window) => ({
    window,
    pending: running.filter((job) => window < job.windows && !job.known.has(window)),
  })).filter(({ pending }) => pending.length > 0);

  let done = 0;
  const total = queue.reduce((sum, { pending }) => sum + (pending.length + 1) * windowSize, 0);
  const onTokens = (count: number) => {
    done += count;
    onProgress?.(done, total);
  };
  // One file is written at a time: two windows of a cache may end together.
  let lastWrite = Promise.resolve();
  const save = ({ cache, known }: RunningJob) => {
    lastWrite = lastWrite.then(() => store.write({ cache, windows: inOrder(known) }));
    return lastWrite;
  };

  const failure = new AbortController();
  const stop = signal ? AbortSignal.any([signal, failure.signal]) : failure.signal;
  const takeWindows = async (evaluator: WindowEvaluator) => {
    for (let next = queue.shift(); next; next = queue.shift()) {
      const { window, pending } = next;
      const byCache = new Map(pending.map((job) => [job.cache, job]));
      const ids = Array.from({ length: windowSize }, (_, i) => tokens[window * windowSize + i]);
      const onResult = async (cache: string, result: WindowResult) => {
        const job = byCache.get(cache) as RunningJob;
        job.known.set(window, result);
        await save(job);
      };
      const task = { window, ids, caches: [...byCache.keys()], passTokens };
      await evaluator.evaluate(task, { onResult, onTokens, signal: stop });
    }
  };
  const ends = await Promise.allSettled(
    (evaluators.length > 0 ? evaluators : [own]).map((evaluator) =>
      takeWindows(evaluator).catch((error) => {
        failure.abort(error); // stops the others
        throw failure.signal.reason;
      }),
    ),
  );
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
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
}

/** Windows of a job that have no result yet. */
export function missingWindows({ windows }: Job, known: { has(window: number): boolean }): number[] {
  return Array.from({ length: windows }, (_, window) => window).filter((window) => !known.has(window));
}

function inOrder(results: ReadonlyMap<number, WindowResult>): WindowResult[] {
  return [...results.values()].sort((a, b) => a.window - b.window);
}
