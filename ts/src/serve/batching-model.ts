/**
 * A model that many generations use at once: passes that wait at the same time run as one.
 *
 * Each generation runs its own loop and asks for its next pass when its reader has taken the last token. Whoever waits
 * when a pass begins is part of it (continuous batching; Orca, OSDI 2022), so generations join and leave between any
 * two tokens, and a slow reader holds up nobody. Chunks of prompts take turns with the batches.
 *
 * @module
 */

import type { ModelCache } from '../cache/contract.js';
import type { CacheRequest } from '../cache/options.js';
import type { BatchOptions, ForwardOptions, LanguageModel } from '../model/language-model.js';
import { type Matrix, matrix, row } from '../numerics/matrix.js';

/** How long a pass waits for generations that took part in the last one. */
const JOIN_MS = 3;

interface WaitingPass {
  readonly tokens: ArrayLike<number>;
  readonly cache: ModelCache;
  readonly options: ForwardOptions;
  readonly resolve: (logits: Matrix) => void;
  readonly reject: (error: unknown) => void;
}

/** See the module. */
export class BatchingModel implements LanguageModel {
  readonly config: LanguageModel['config'];
  readonly backend: string;
  readonly #model: LanguageModel;
  readonly #maxBatch: number;
  /** Single tokens, whose passes are joined. */
  #decoding: WaitingPass[] = [];
  /** Chunks of prompts, oldest first. */
  #prefilling: WaitingPass[] = [];
  /** Work that needs every cache at rest. */
  #exclusive: (() => void | Promise<void>)[] = [];
  #isRunning = false;
  /** Members of the last batch that have not come back. */
  #expected = new Set<ModelCache>();
  #batches = 0;
  #batchedTokens = 0;

  /** @param maxBatch sequences in one pass at most */
  constructor(model: LanguageModel, maxBatch: number) {
    this.config = model.config;
    this.backend = model.backend;
    this.#model = model;
    this.#maxBatch = maxBatch;
  }

  /** Passes of single tokens so far, and the tokens that they ran: their quotient is the mean batch. */
  get decoded(): { readonly passes: number; readonly tokens: number } {
    return { passes: this.#batches, tokens: this.#batchedTokens };
  }

  createCache(request: CacheRequest | string): ModelCache {
    return this.#model.createCache(request);
  }

  /**
   * Waits for a turn. A signal is looked at before the pass, and during it only if the pass is of this sequence alone:
   * one client must not stop the others. A pass that has run is always reported, so that caches and their ids agree.
   */
  forward(tokens: ArrayLike<number>, cache: ModelCache, options: ForwardOptions = {}): Promise<Matrix> {
    return new Promise((resolve, reject) => {
      const isDecoding = tokens.length === 1 && options.logits !== 'all' && options.onTensor === undefined;
      const queue = isDecoding ? this.#decoding : this.#prefilling;
      queue.push({ tokens, cache, options, resolve, reject });
      this.#expected.delete(cache);
      void this.#drain();
    });
  }

  /** Runs in turn. */
  forwardBatch(
    tokens: readonly ArrayLike<number>[],
    caches: readonly ModelCache[],
    options?: BatchOptions,
  ): Promise<Matrix> {
    return this.atRest(() => this.#model.forwardBatch(tokens, caches, options));
  }

  /** Runs some work between two passes, when no cache is being written to. */
  atRest<T>(work: () => T | Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#exclusive.push(async () => {
        try {
          resolve(await work());
        } catch (error) {
          reject(error);
        }
      });
      void this.#drain();
    });
  }

  dispose(): void | Promise<void> {
    return this.#model.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#model[Symbol.asyncDispose]();
  }

  async #drain(): Promise<void> {
    if (this.#isRunning) return;
    this.#isRunning = true;
    while (this.#exclusive.length + this.#decoding.length + this.#prefilling.length > 0) {
      for (const work of this.#exclusive.splice(0)) await work();
      await this.#joined();
      await this.#decode();
      const chunk = this.#prefilling.shift();
      if (chunk) await this.#runAlone(chunk);
    }
    this.#isRunning = false;
  }

  /** Gives generations of the last batch the time to take their tokens and come back. */
  async #joined(): Promise<void> {
    const deadline = performance.now() + JOIN_MS;
    do await new Promise(setImmediate);
    while (this.#expected.size > 0 && performance.now() < deadline);
    this.#expected.clear();
  }

  async #decode(): Promise<void> {
    const batch = this.#decoding.splice(0, this.#maxBatch);
    const passes = batch.filter((pass) => !rejectIfAborted(pass));
    if (passes.length === 0) return;
    this.#batches++;
    this.#batchedTokens += passes.length;
    if (passes.length === 1) await this.#runAlone(passes[0]);
    else await this.#runTogether(passes);
    for (const { cache } of passes) this.#expected.add(cache);
  }

  async #runTogether(passes: readonly WaitingPass[]): Promise<void> {
    let logits: Matrix;
    try {
      logits = await this.#model.forwardBatch(
        passes.map(({ tokens }) => tokens),
        passes.map(({ cache }) => cache),
      );
    } catch {
      // Nothing has changed. Whose fault it was, and only that one's, shows when each runs alone.
      for (const pass of passes) await this.#runAlone(pass);
      return;
    }
    for (const [i, { resolve }] of passes.entries())
      resolve(matrix(1, logits.columns, row(logits, i).slice()));
  }

  async #runAlone(pass: WaitingPass): Promise<void> {
    if (rejectIfAborted(pass)) return;
    try {
      pass.resolve(await this.#model.forward(pass.tokens, pass.cache, pass.options));
    } catch (error) {
      pass.reject(error);
    }
  }
}

function rejectIfAborted({ options, reject }: WaitingPass): boolean {
  if (!options.signal?.aborted) return false;
  reject(options.signal.reason);
  return true;
}
