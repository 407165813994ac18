/**
 * One request after the other, several at once: finds its conversation, generates, and keeps the conversation.
 *
 * @module
 */

import { randomInt } from 'node:crypto';
import { type Generation, generate } from '../generate.js';
import { generateSamples, type SampleGeneration, type SampleToken } from '../samples.js';
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

/** The parts that answer requests. */
export interface CompletionOptions {
  readonly batching: BatchingModel;
  readonly tokenizer: Tokenizer;
  readonly template: string | undefined;
  readonly store: ConversationStore;
  readonly slots: Slots;
  readonly metrics: Metrics;
  /** Values for requests that leave them out. */
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
   * @returns the generation of each choice; they have ended
   * @throws {ApiError | ConfigError | RangeError} if the request cannot be answered
   * @throws {BusyError} if too many wait
   * @throws {TimeoutReason} if it takes too long
   */
  async run(
    request: CompletionRequest,
    signal: AbortSignal,
    onToken: (token: SampleToken, signal: AbortSignal) => void | Promise<void>,
  ): Promise<readonly Generation[]> {
    const { timeoutSeconds, slots, metrics } = this.#options;
    const { choices } = request;
    if (choices > slots.limit) {
      throw new ApiError(
        400,
        `"n": at most ${slots.limit} answers run at once here (--parallel)`,
        'n',
        'invalid_value',
      );
    }
    const started = performance.now();
    const seconds = () => (performance.now() - started) / 1000;
    const prompt = this.#encode(request);
    const timeout = new AbortController();
    const timer = setTimeout(() => {
      timeout.abort(new TimeoutReason(`the request took longer than ${timeoutSeconds} s`));
    }, timeoutSeconds * 1000);
    const both = AbortSignal.any([signal, timeout.signal]);
    try {
      const leave = await slots.acquire(both, choices);
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
    { options, useCache, choices }: CompletionRequest,
    prompt: readonly number[],
    signal: AbortSignal,
    onToken: (token: SampleToken, isFirst: boolean) => Promise<void>,
  ): Promise<readonly Generation[]> {
    const { batching, tokenizer, store, sampling } = this.#options;
    const seed = randomInt(2 ** 47); // unless the request asks for one
    const taken = useCache ? await store.take(prompt) : store.fresh();
    const { sequence: cache } = taken;
    const chosen = { ...sampling, prefillChunk: PREFILL_CHUNK, seed, ...options, signal, cache };
    const run = begin(taken, () =>
      choices === 1
        ? oneChoice(generate(batching, tokenizer, prompt, { ...chosen, speculate: 'off' })) // requests share passes instead
        : severalChoices(generateSamples(batching, tokenizer, prompt, { ...chosen, samples: choices })),
    );
    try {
      let isFirst = true;
      for await (const token of run.tokens) {
        await onToken(token, isFirst);
        isFirst = false;
      }
      return run.generations();
    } finally {
      await this.#settle(run.generations(), taken);
    }
  }

  /** Counts what was done, and keeps the conversations. */
  async #settle(generations: readonly Generation[], { source }: TakenConversation): Promise<void> {
    const { metrics, store } = this.#options;
    const [{ summary }] = generations; // the prompt is read once
    metrics.promptTokens += summary.promptTokens;
    metrics.cachedTokens += summary.reusedTokens;
    for (const { summary, sequence } of generations) {
      metrics.generatedTokens += summary.generatedTokens;
      await store.keep({ sequence, source }, Math.max(0, sequence.tokens.length - summary.promptTokens));
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

/** The choices of one request while they run. */
interface Choices {
  readonly tokens: AsyncIterable<SampleToken>;
  /** All of them once the prompt has been read. */
  readonly generations: () => readonly Generation[];
}

function oneChoice(generation: Generation): Choices {
  async function* tokens() {
    for await (const token of generation) yield { ...token, sample: 0 };
  }
  return { tokens: tokens(), generations: () => [generation] };
}

function severalChoices(samples: SampleGeneration): Choices {
  return { tokens: samples, generations: () => samples.generations };
}

/** Frees the cache if the options of a request are refused. */
function begin(taken: TakenConversation, start: () => Choices): Choices {
  try {
    return start();
  } catch (error) {
    taken.sequence.cache.dispose();
    throw error;
  }
}
