/**
 * Caches on one window of a text, teacher-forced as in the paper (XQuant §4.1): the unit of work of an evaluation.
 *
 * @module
 */

import { float16KeyValueBytes } from '../analysis/memory.js';
import type { ModelCache } from '../cache/contract.js';
import { storedBytes } from '../cache/stored-matrix.js';
import type { LanguageModel } from '../model/language-model.js';
import { BaselineLogits, TokenScores } from '../scoring.js';

/** The result of one window for one cache. Losses in nats a token. */
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

/** A window, and what to run on it. */
export interface WindowTask {
  readonly window: number;
  /** Ids of the window. */
  readonly ids: readonly number[];
  /** Cache arguments. */
  readonly caches: readonly string[];
  /** Tokens of one pass; a multiple of every cache's block. */
  readonly passTokens: number;
}

/** Who listens to an evaluation. */
export interface WindowListener {
  /** Called with each result; awaited. */
  onResult(cache: string, result: WindowResult): void | Promise<void>;
  /** Called with the count of tokens since the last call. */
  onTokens(count: number): void;
  readonly signal?: AbortSignal;
}

/** Runs one window at a time, here or in another thread. */
export interface WindowEvaluator {
  /** @throws what `forward` throws; results up to there have been told */
  evaluate(task: WindowTask, listener: WindowListener): Promise<void>;
}

/** The part of a model that an evaluation uses. */
export type EvaluatedModel = Pick<LanguageModel, 'config' | 'createCache' | 'forward'>;

/** Runs windows with a model of this thread. */
export class ModelEvaluator implements WindowEvaluator {
  readonly #model: EvaluatedModel;
  /** One cache for all windows: making one decomposes and folds weights, emptying one costs nothing. */
  readonly #caches = new Map<string, ModelCache>();

  /** @param model kept; its owner disposes of it */
  constructor(model: EvaluatedModel) {
    this.#model = model;
  }

  /**
   * The cache that windows are run with.
   *
   * @throws {ConfigError} if the model cannot have it
   */
  cache(argument: string): ModelCache {
    const found = this.#caches.get(argument) ?? this.#model.createCache(argument);
    this.#caches.set(argument, found);
    return found;
  }

  async evaluate({ window, ids, caches, passTokens }: WindowTask, listener: WindowListener): Promise<void> {
    const { config } = this.#model;
    const passes: BaselineLogits[] = [];
    const ownScores = new TokenScores();
    for await (const { position, logits } of this.#passes('kv', ids, passTokens, listener)) {
      const targets = ids.slice(position + 1, position + 1 + logits.rows);
      const pass = new BaselineLogits(logits, targets, position);
      ownScores.add(pass, logits);
      passes.push(pass);
    }
    for (const argument of caches) {
      const scores = new TokenScores();
      let index = 0;
      for await (const { logits } of this.#passes(argument, ids, passTokens, listener)) {
        scores.add(passes[index++], logits);
      }
      const bytes = this.cache(argument).bytes();
      await listener.onResult(argument, {
        window,
        baseline: ownScores.loss,
        loss: scores.loss,
        klDivergence: scores.klDivergence,
        klMax: scores.klQuantiles.max,
        topOneAgreement: scores.topOneAgreement,
        rmsProbabilityChange: scores.rmsProbabilityChange,
        storedBytes: storedBytes(bytes),
        scratchBytes: bytes.scratch,
        float16Bytes: float16KeyValueBytes(config, ids.length),
      });
    }
  }

  /** Runs one window through an emptied cache, pass by pass. */
  async *#passes(
    argument: string,
    ids: readonly number[],
    passTokens: number,
    { onTokens, signal }: WindowListener,
  ) {
    const cache = this.cache(argument);
    cache.trim(0);
    for (let position = 0; position < ids.length; position += passTokens) {
      const pass = ids.slice(position, position + passTokens);
      const logits = await this.#model.forward(pass, cache, { logits: 'all', mode: 'teacherForced', signal });
      yield { position, logits };
      onTokens(pass.length);
    }
  }
}
