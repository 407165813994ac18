/**
 * Windows of an evaluation side by side: worker threads with an engine of one thread each. Nothing waits for anything
 * then, while an engine of many threads leaves them idle whenever JavaScript scores what it computed.
 *
 * @module
 */

import { existsSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { WasmModel, type WasmModelOptions } from '../engine/wasm-model.js';
import { KernelError } from '../errors.js';
import { EMBEDDED_MODELS } from '../io/load-model.js';
import type { FactorName, NamedFactors } from '../io/svd-factors.js';
import type { WindowEvaluator, WindowListener, WindowResult, WindowTask } from '../reproduce/evaluator.js';
import type { OpenedModel } from './backend.js';
import type { ModelOptions } from './options.js';

/** Most bytes of all threads together, beside the model of the main thread. */
const MEMORY_BUDGET_BYTES = 2 * 2 ** 30;

/** The start data of a thread. */
export interface WindowThreadSetup {
  readonly model: string;
  readonly engine: WasmModelOptions;
  readonly factors: readonly NamedFactors[];
  /** Of calibrated caches, a file; found by itself without one. */
  readonly calibration?: string;
  /** Of KVQuant, a file; without one, an embedded model has its own. */
  readonly kvquantCalibration?: string;
}

/** A message of a thread. */
export type WindowThreadMessage =
  | { readonly tokens: number }
  | { readonly cache: string; readonly result: WindowResult }
  | { readonly done: true }
  | { readonly error: string };

/**
 * Starts a thread for each core that the model would use.
 *
 * @param names of the factors that the caches need, already computed
 * @returns nothing if the model runs on the reference, comes from the network, or copies of it would take too much memory
 */
export function startWindowThreads(
  { model, factors }: Pick<OpenedModel, 'model' | 'factors'>,
  options: ModelOptions & { readonly kvquantCalibration?: string },
  names: readonly FactorName[],
  windowSize: number,
): WindowThread[] {
  if (!(model instanceof WasmModel) || model.threads === 1) return [];
  // Every thread reads the model itself: from the network, or from a pipe, that cannot be done again.
  const isHere = (EMBEDDED_MODELS as readonly string[]).includes(options.model) || existsSync(options.model);
  if (!isHere || options.kvquantCalibration === '-') return [];
  // Weights, and the probabilities of the baseline that caches are compared with.
  const bytes = model.memoryUse.weights + windowSize * model.config.vocabSize * 8;
  if (bytes * model.threads > MEMORY_BUDGET_BYTES) return [];
  const { kernel, keyWeights, memoryLimit } = options;
  const setup: WindowThreadSetup = {
    model: options.model,
    engine: { threads: 1, kernel, keyWeights, memoryLimit },
    factors: names.map((name) => ({ ...name, factors: factors.factors(name.layer, name.matrix) })),
    calibration: options.calibration,
    kvquantCalibration: options.kvquantCalibration,
  };
  return Array.from({ length: model.threads }, () => new WindowThread(setup));
}

/** One thread; see window-thread.ts for its side. */
export class WindowThread implements WindowEvaluator {
  readonly #worker: Worker;
  #ended: string | undefined;

  constructor(setup: WindowThreadSetup) {
    const script = new URL('./window-thread.js', import.meta.url);
    this.#worker = new Worker(script, { execArgv: [], workerData: setup });
    this.#worker.on('error', ({ message }) => {
      this.#ended ??= message;
    });
    this.#worker.on('exit', (code) => {
      this.#ended ??= `it ended (exit code ${code})`;
    });
  }

  evaluate(task: WindowTask, { onResult, onTokens, signal }: WindowListener): Promise<void> {
    const worker = this.#worker;
    return new Promise<void>((resolve, reject) => {
      let writes = Promise.resolve();
      const fail = (error: unknown) => end(() => reject(error));
      const onMessage = (message: WindowThreadMessage) => {
        if ('tokens' in message) onTokens(message.tokens);
        else if ('error' in message) fail(new KernelError('reproduce', message.error));
        else if ('result' in message) {
          writes = writes.then(() => onResult(message.cache, message.result));
          writes.catch(fail); // at once: further results could not be kept either
        } else writes.then(() => end(resolve), fail);
      };
      const onExit = () => fail(new KernelError('reproduce', `a thread died: ${this.#ended}`));
      const onAbort = () => fail(signal?.reason);
      const end = (settle: () => void) => {
        worker.off('message', onMessage);
        worker.off('exit', onExit);
        signal?.removeEventListener('abort', onAbort);
        settle();
      };
      if (signal?.aborted) return reject(signal.reason);
      if (this.#ended !== undefined) return onExit();
      worker.on('message', onMessage);
      worker.on('exit', onExit);
      signal?.addEventListener('abort', onAbort);
      worker.postMessage(task);
    });
  }

  /** Ends the thread, whatever it does. */
  async stop(): Promise<void> {
    await this.#worker.terminate();
  }
}
