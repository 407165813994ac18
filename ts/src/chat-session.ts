/**
 * A conversation with a model: the turns, and the cache that holds them from one answer to the next.
 *
 *     const chat = new ChatSession(model, tokenizer, { template: file.chatTemplate });
 *     for await (const { text } of chat.send('Who wrote Moby-Dick?')) process.stdout.write(text);
 *
 * The conversation is rendered and encoded as a whole for every answer, and the longest prefix that the cache
 * already holds is reused: usually everything but the newest question. So a template may do as it likes (some
 * rewrite earlier turns), and the cache can never disagree with the text.
 *
 * @module
 */

import type { CacheRequest } from './cache/options.js';
import { CacheStateError, ConfigError, FormatError } from './errors.js';
import {
  CachedSequence,
  DEFAULT_CACHE,
  type GeneratedToken,
  type GenerateOptions,
  type Generation,
  type GenerationSummary,
  type GenerationTokenizer,
  generate,
} from './generate.js';
import { restoreSnapshot, writeSnapshot } from './io/snapshot.js';
import type { LanguageModel } from './model/language-model.js';
import { type ChatMessage, renderChat } from './text/chat-template.js';
import type { EncodeOptions } from './text/tokenizer.js';

/** What a conversation needs of a tokenizer; `Tokenizer` has it. */
export interface ChatTokenizer extends GenerationTokenizer {
  /** Ids of a text; a template writes special tokens by name, hence `parseSpecial`. */
  encode(text: string, options?: EncodeOptions): number[];
  readonly bosToken?: string;
  readonly eosToken?: string;
}

/** How to hold a conversation. */
export interface ChatOptions {
  /** Jinja template: the model's own (`file.chatTemplate`) or another one. */
  readonly template: string | undefined;
  /** System message; stays when old turns are dropped. */
  readonly system?: string;
  /** A cache argument, or a cache to continue with. Default {@link DEFAULT_CACHE}. */
  readonly cache?: CachedSequence | CacheRequest | string;
  /**
   * What to do when the conversation outgrows the context: drop the oldest turns until half of the context is free
   * again (the default, as llama.cpp shifts its context), or throw. The system message is never dropped.
   */
  readonly whenFull?: 'dropOldest' | 'error';
  /** Variables of the template, for instance `{ enable_thinking: false }`. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** How to generate one answer. */
export type AnswerOptions = Omit<GenerateOptions, 'cache' | 'generatedBefore'>;

/** An answer is given room for this part of the context, or for `maxTokens` if that is less. */
const ANSWER_SHARE = 1 / 8;

/** See the module. */
export class ChatSession {
  readonly #model: LanguageModel;
  readonly #tokenizer: ChatTokenizer;
  readonly #options: ChatOptions;
  #system: string | undefined;
  #turns: ChatMessage[] = [];
  #sequence: CachedSequence;
  #answering = false;

  /**
   * @param model runs the conversation; not disposed of by it
   * @throws {ConfigError} if the model has no template and none is given, or the cache does not fit the model
   */
  constructor(model: LanguageModel, tokenizer: ChatTokenizer, options: ChatOptions) {
    const { template, system, cache = DEFAULT_CACHE, whenFull = 'dropOldest' } = options;
    if (!template) renderChat(template, []); // says what is missing
    if (whenFull !== 'dropOldest' && whenFull !== 'error') {
      throw new ConfigError('whenFull', whenFull, 'dropOldest or error');
    }
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#options = options;
    this.#system = system;
    this.#sequence = cache instanceof CachedSequence ? cache : new CachedSequence(model.createCache(cache));
  }

  /** The system message, if there is one, and all turns so far, oldest first. */
  get messages(): readonly ChatMessage[] {
    return this.#withSystem(this.#turns);
  }

  /** The system message. */
  get system(): string | undefined {
    return this.#system;
  }

  /** Another system message, from the next answer on; the cache is then rebuilt from the start. */
  set system(text: string | undefined) {
    this.#assertIdle('change the system message');
    this.#system = text;
  }

  /** The cache and the ids that it holds. */
  get sequence(): CachedSequence {
    return this.#sequence;
  }

  /**
   * Asks for an answer. Nothing runs before the answer is iterated or finished; then question and answer become
   * part of the conversation. An answer that is interrupted stays as far as it came; a question that was
   * interrupted before any text came is taken back.
   *
   * @throws {ConfigError} if the question does not fit in the context, even without older turns, or the template
   *   refuses the conversation
   * @throws {CacheStateError} if another answer is being given
   */
  send(content: string, options: AnswerOptions = {}): ChatAnswer {
    this.#assertIdle('start an answer');
    const { kept, ids } = this.#fit([...this.#turns, { role: 'user', content }], options.maxTokens);
    const generation = generate(this.#model, this.#tokenizer, ids, { ...options, cache: this.#sequence });
    const dropped = this.#turns.length + 1 - kept.length;
    const begin = () => {
      this.#assertIdle('start an answer');
      this.#answering = true;
    };
    const end = () => {
      const { text, stopReason } = generation.summary;
      if (text !== '' || stopReason !== 'interrupted') {
        this.#turns = [...kept, { role: 'assistant', content: text }];
      }
      this.#answering = false;
    };
    return new ChatAnswer(generation, dropped, begin, end);
  }

  /** Forgets all turns. The cache keeps the beginning that the next conversation shares, the system message. */
  reset(): void {
    this.#assertIdle('reset');
    this.#turns = [];
  }

  /**
   * Continues with another cache, which the next answer fills.
   *
   * @throws {ConfigError} if it does not fit the model
   */
  changeCache(cache: CachedSequence | CacheRequest | string): void {
    this.#assertIdle('change the cache');
    const next = cache instanceof CachedSequence ? cache : new CachedSequence(this.#model.createCache(cache));
    if (next === this.#sequence) return;
    this.#sequence.cache.dispose();
    this.#sequence = next;
  }

  /**
   * The conversation as the bytes of a snapshot: the messages, and the cache that holds them.
   *
   * @param fingerprint of the model, `file.fingerprint`
   */
  save(fingerprint: string): Uint8Array {
    this.#assertIdle('save');
    const { cache, tokens } = this.#sequence;
    return writeSnapshot({ cache, tokens, fingerprint, messages: this.messages });
  }

  /**
   * Takes up a saved conversation in place of this one, with the cache that it was saved with.
   *
   * @param bytes from {@link save}
   * @param path for messages
   * @param fingerprint of the model, `file.fingerprint`
   * @throws {FormatError} if the snapshot is damaged, of another model, or holds no conversation; this one is unchanged then
   */
  load(bytes: Uint8Array, path: string, fingerprint: string): void {
    this.#assertIdle('load');
    const { cache, tokens, messages } = restoreSnapshot(bytes, path, { model: this.#model, fingerprint });
    if (messages.length === 0 && tokens.length > 0) {
      cache.dispose();
      throw new FormatError(path, 'messages', 'the snapshot holds a text, not a conversation');
    }
    const [first, ...others] = messages;
    const hasSystem = first?.role === 'system';
    this.#system = hasSystem ? first.content : undefined;
    this.#turns = hasSystem ? others : [...messages];
    this.changeCache(new CachedSequence(cache, tokens));
  }

  /**
   * The newest turns that fit in the context, with their ids.
   *
   * @param turns the last is the new question, which is never dropped
   */
  #fit(turns: readonly ChatMessage[], maxTokens = Number.POSITIVE_INFINITY) {
    const context = this.#model.config.maxPositionEmbeddings;
    const room = Math.min(maxTokens, Math.floor(context * ANSWER_SHARE));
    let kept = turns;
    let ids = this.#encode(kept);
    if (ids.length + room <= context || this.#options.whenFull === 'error') return { kept, ids };
    while (ids.length > context / 2) {
      const next = kept.findIndex(({ role }, i) => i > 0 && role === 'user');
      if (next < 0) break;
      kept = kept.slice(next);
      ids = this.#encode(kept);
    }
    return { kept, ids };
  }

  #encode(turns: readonly ChatMessage[]): number[] {
    const { template, variables } = this.#options;
    const { bosToken, eosToken } = this.#tokenizer;
    const text = renderChat(template, this.#withSystem(turns), { bosToken, eosToken, variables });
    return this.#tokenizer.encode(text, { addSpecial: false, parseSpecial: true });
  }

  #withSystem(turns: readonly ChatMessage[]): readonly ChatMessage[] {
    return this.#system === undefined ? turns : [{ role: 'system', content: this.#system }, ...turns];
  }

  #assertIdle(requested: string): void {
    if (!this.#answering) return;
    const { options, length } = this.#sequence.cache;
    throw new CacheStateError(options.variant, length, requested, 'an answer is being given');
  }
}

/** An answer that is being given: iterate it for tokens, or let it finish. It runs once. */
export class ChatAnswer implements AsyncIterable<GeneratedToken> {
  /** Messages that were dropped to make room, oldest first; they are no longer part of the conversation. */
  readonly droppedMessages: number;
  readonly #generation: Generation;
  readonly #steps: AsyncGenerator<GeneratedToken, void, undefined>;

  /** @see ChatSession.send */
  constructor(generation: Generation, droppedMessages: number, begin: () => void, end: () => void) {
    this.#generation = generation;
    this.droppedMessages = droppedMessages;
    this.#steps = steps(generation, begin, end);
  }

  /** The tokens, one by one. Leaving the loop ends the answer. */
  [Symbol.asyncIterator](): AsyncGenerator<GeneratedToken, void, undefined> {
    return this.#steps;
  }

  /** Runs what is left and tells what was done. */
  async finish(): Promise<GenerationSummary> {
    for await (const _token of this.#steps) {
      // Each step adds to the summary.
    }
    return this.summary;
  }

  /** What was done so far. */
  get summary(): GenerationSummary {
    return this.#generation.summary;
  }
}

async function* steps(
  generation: Generation,
  begin: () => void,
  end: () => void,
): AsyncGenerator<GeneratedToken, void, undefined> {
  begin();
  try {
    yield* generation;
  } finally {
    end();
  }
}
