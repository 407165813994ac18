/**
 * One request after the other, several at once: finds its conversation, generates, and keeps the conversation.
 *
 * @module
 */

import { randomInt } from 'node:crypto';
import { type GeneratedToken, type Generation, generate } from '../generate.js';
import type { SamplingOptions } from '../sampling.js';
import { renderChat } from '../text/chat-template.js';
import type { Tokenizer } from '../text/tokenizer.js';
import { ApiError, TimeoutReason } from './api-error.js';
import type { BatchingModel } from './batching-model.js';
import type { ConversationStore, TakenConversation } from './conversation-store.js';
import type { Metrics } from './metrics.js';
import type { CompletionRequest } from './openai-request.js';
import type { Slots } from './slots.js';

/** Tokens of a prompt in one pass: a compromise between its speed and the wait of those who generate. */
const PREFILL_CHUNK = 256;

/** What answers requests. */
export interface CompletionOptions {
  readonly batching: BatchingModel;
  readonly tokenizer: Tokenizer;
  readonly template: string | undefined;
  readonly store: ConversationStore;
  readonly slots: Slots;
  readonly metrics: Metrics;
  /** Where a request says nothing. */
  readonly sampling: SamplingOptions;
  /** Seconds from the arrival of a request to its end. */
  readonly timeoutSeconds: number;
}

/** See the module. */
export class Completions {
  readonly #options: CompletionOptions;

  constructor(options: CompletionOptions) {
    this.#options = options;
  }

  /**
   * Answers a request. Its conversation is kept however the answer ends.
   *
   * @param signal fires when the client goes
   * @param onToken awaited: a slow reader slows down its own answer only. Its signal also fires at the timeout.
   * @returns the generation, which has ended
   * @throws {ApiError | ConfigError | RangeError} if the request cannot be answered
   * @throws {BusyError} if too many wait
   * @throws {TimeoutReason} if it takes too long
   */
  async run(
    request: CompletionRequest,
    signal: AbortSignal,
    onToken: (token: GeneratedToken, signal: AbortSignal) => void | Promise<void>,
  ): Promise<Generation> {
    const { timeoutSeconds, slots, metrics } = this.#options;
    const started = performance.now();
    const seconds = () => (performance.now() - started) / 1000;
    const prompt = this.#encode(request);
    const timeout = new AbortController();
    const timer = setTimeout(() => {
      timeout.abort(new TimeoutReason(`the request took longer than ${timeoutSeconds} s`));
    }, timeoutSeconds * 1000);
    const both = AbortSignal.any([signal, timeout.signal]);
    try {
      const leave = await slots.acquire(both);
      try {
        return await this.#generate(request, prompt, both, async (token, isFirst) => {
          if (isFirst) metrics.firstToken.observe(seconds());
          await onToken(token, both);
        });
      } finally {
        leave();
      }
    } finally {
      clearTimeout(timer);
      metrics.request.observe(seconds());
    }
  }

  async #generate(
    { options, useCache }: CompletionRequest,
    prompt: readonly number[],
    signal: AbortSignal,
    onToken: (token: GeneratedToken, isFirst: boolean) => Promise<void>,
  ): Promise<Generation> {
    const { batching, tokenizer, store, metrics, sampling } = this.#options;
    const seed = randomInt(2 ** 48 - 1); // unless the request asks for one
    const common = { prefillChunk: PREFILL_CHUNK, speculate: 'off' } as const; // requests share passes instead
    const chosen = { ...sampling, ...common, seed, ...options, signal };
    const taken = useCache ? await store.take(prompt) : store.fresh();
    const generation = start(taken, () =>
      generate(batching, tokenizer, prompt, { ...chosen, cache: taken.sequence }),
    );
    try {
      let isFirst = true;
      for await (const token of generation) {
        await onToken(token, isFirst);
        isFirst = false;
      }
      return generation;
    } finally {
      const { promptTokens, reusedTokens, generatedTokens } = generation.summary;
      metrics.promptTokens += promptTokens;
      metrics.cachedTokens += reusedTokens;
      metrics.generatedTokens += generatedTokens;
      await store.keep(taken, Math.max(0, taken.sequence.tokens.length - promptTokens));
    }
  }

  #encode({ kind, prompt }: CompletionRequest): readonly number[] {
    const { tokenizer, template } = this.#options;
    if (kind === 'text')
      return typeof prompt === 'string' ? tokenizer.encode(prompt) : (prompt as readonly number[]);
    if (!template) {
      throw new ApiError(
        400,
        'the model has no chat template: use /v1/completions, or start the server with --chat-template',
        'messages',
      );
    }
    const { bosToken, eosToken } = tokenizer;
    const text = renderChat(template, prompt as Parameters<typeof renderChat>[1], { bosToken, eosToken });
    return tokenizer.encode(text, { addSpecial: false, parseSpecial: true });
  }
}

/** Frees the cache if the options of a request are refused. */
function start(taken: TakenConversation, begin: () => Generation): Generation {
  try {
    return begin();
  } catch (error) {
    taken.sequence.cache.dispose();
    throw error;
  }
}
