/**
 * Text from a model, token by token: prefill in chunks, then one token at a time, until something says stop.
 *
 *     for await (const { text } of generate(model, tokenizer, 'Call me')) process.stdout.write(text);
 *
 * The text never splits a character and never shows a part of a stop string. A cache can be carried from
 * one call to the next: only what is new in the prompt is run through the model.
 *
 * @module
 */

import type { CacheBytes, ModelCache } from './cache/contract.js';
import { AUTO_CACHE } from './cache/default-cache.js';
import type { CacheRequest } from './cache/options.js';
import { assertIndex, assertPositiveInteger, ConfigError, ShapeError } from './errors.js';
import { describeContext } from './model/config.js';
import type { ForwardOptions, LanguageModel } from './model/language-model.js';
import { assertCache, assertTokenList, tokenIds } from './model/tokens.js';
import type { Matrix } from './numerics/matrix.js';
import { type SampledToken, Sampler, type SamplingOptions } from './sampling.js';
import { Lookahead, resolveSpeculate, type Speculate, type SpeculationCounts } from './speculation.js';
import { StopFilter } from './stop-filter.js';

/** The cache that is used unless another one is asked for: by the model, see `chooseCache`. */
export const DEFAULT_CACHE = AUTO_CACHE;

/** Tokens of a prompt that go through the model together, unless asked otherwise. */
export const PREFILL_CHUNK = 512;

/** What generation needs of a tokenizer; `Tokenizer` of text/tokenizer.ts has it. */
export interface GenerationTokenizer {
  /** Ids of a text, with the special tokens that the model expects at its start. */
  encode(text: string): ArrayLike<number>;
  /** Ids that end a sequence. */
  readonly eosTokenIds: readonly number[];
  /** The text of a token that {@link createDecoder} does not show, so that a stop string can be found in it. */
  hiddenText?(id: number): string | undefined;
  /**
   * A decoder that keeps the bytes of unfinished characters back.
   *
   * @param context ids of what comes before the text
   */
  createDecoder(context: Iterable<number>): StreamingDecoder;
}

/** Ids in, whole characters out. */
export interface StreamingDecoder {
  /** Text that became complete with this id, perhaps none. */
  push(id: number): string;
  /** The rest at the end; unfinished characters become U+FFFD. */
  flush(): string;
}

/** Why generation ended. */
export type StopReason =
  /** The model gave an end-of-sequence token. */
  | 'endOfSequence'
  /** One of the stop strings appeared. */
  | 'stopString'
  /** One of `stopTokenIds` was generated. */
  | 'stopToken'
  /** `maxTokens` were generated. */
  | 'maxTokens'
  /** The context of the model is full. */
  | 'contextFull'
  /** The caller left the loop, the signal fired, or an error was thrown. */
  | 'interrupted';

/** How to generate. Sampling is greedy unless its options say otherwise. */
export interface GenerateOptions extends SamplingOptions {
  /**
   * A cache argument, or the cache of an earlier call, of which the longest prefix shared with the prompt is
   * used. Default {@link DEFAULT_CACHE}.
   */
  readonly cache?: CachedSequence | CacheRequest | string;
  /** Tokens to generate at most; unlimited (the context of the model) by default. */
  readonly maxTokens?: number;
  /**
   * Generation ends before any of these strings would be shown. They are also found in special tokens, which are
   * not shown: `'<|im_end|>'`.
   */
  readonly stop?: string | readonly string[];
  /** Generation ends at any of these tokens; its text is not shown. `ignoreEos` leaves them alone. */
  readonly stopTokenIds?: readonly number[];
  /**
   * How many of the prompt's newest ids an earlier generation chose. With the same seed, random numbers then continue
   * after theirs, as if it had not been interrupted. Default 0.
   */
  readonly generatedBefore?: number;
  /** Forbids end-of-sequence tokens, but for those in `stopTokenIds`: for measurements of a fixed length. */
  readonly ignoreEos?: boolean;
  /** Tokens of the prompt that go through the model together. Default {@link PREFILL_CHUNK}. */
  readonly prefillChunk?: number;
  /**
   * Whether to guess the next tokens and check the guesses in one pass. The tokens are the same; while it runs, the
   * cache may hold some that are ahead of those given. Default `'auto'`: as long as it measures a gain.
   */
  readonly speculate?: Speculate;
  /** Called after every pass that checked guesses. */
  readonly onSpeculation?: (counts: SpeculationCounts) => void;
  /** Stops prefill and generation; model and cache stay usable. */
  readonly signal?: AbortSignal;
  /** Called during prefill with the tokens of the prompt that are done, reused ones included, and all. */
  readonly onPrefill?: (done: number, total: number) => void;
}

/** One generated token. */
export interface GeneratedToken extends SampledToken {
  /**
   * Text to show now: whole characters, and nothing that may yet become a stop string. May be empty, and may
   * belong to earlier tokens in part.
   */
  readonly text: string;
}

/** The outcome of a generation. */
export interface GenerationSummary {
  /** All text shown. */
  readonly text: string;
  /** Generated ids, with the end-of-sequence token if there was one. */
  readonly ids: readonly number[];
  readonly promptTokens: number;
  /** Tokens of the prompt that were in the cache already. */
  readonly reusedTokens: number;
  readonly generatedTokens: number;
  readonly prefillSeconds: number;
  /** Time of sampling and of the passes after prefill; the caller's own work between tokens does not count. */
  readonly generateSeconds: number;
  /** Guesses at the next tokens, and how many were right. */
  readonly speculation: SpeculationCounts;
  /** Undefined while it runs. */
  readonly stopReason: StopReason | undefined;
  readonly cacheBytes: CacheBytes;
}

/** A cache and the ids of the tokens that it holds. */
export class CachedSequence {
  readonly cache: ModelCache;
  readonly #tokens: number[];

  /**
   * @param cache kept
   * @param tokens ids of what the cache holds
   * @throws {ShapeError} if there are more or fewer ids than tokens in the cache
   */
  constructor(cache: ModelCache, tokens: ArrayLike<number> = []) {
    assertCache(cache);
    assertTokenList(tokens);
    if (tokens.length !== cache.length) {
      throw new ShapeError('CachedSequence', 'tokens', [cache.length], [tokens.length]);
    }
    this.cache = cache;
    this.#tokens = tokenIds(tokens, Number.MAX_SAFE_INTEGER);
  }

  /** Ids in the cache, oldest first. */
  get tokens(): readonly number[] {
    return this.#tokens;
  }

  /**
   * Trims the cache to the longest prefix it shares with a prompt, but for the last token of the prompt: at
   * least one has to run to give logits. A cut inside a sealed block moves to the start of the block.
   *
   * @returns tokens kept
   */
  keepPrefix(prompt: ArrayLike<number>): number {
    let shared = 0;
    const limit = Math.min(this.#tokens.length, prompt.length - 1);
    while (shared < limit && this.#tokens[shared] === prompt[shared]) shared++;

    const block = this.cache.options.residualWindow;
    const sealed = Math.floor(this.cache.length / block) * block;
    if (shared < sealed) shared -= shared % block;
    this.cache.trim(shared);
    this.#tokens.length = shared;
    return shared;
  }

  /**
   * Forgets the newest tokens.
   *
   * @throws {CacheStateError} if that would cut a sealed block
   */
  dropNewest(count: number): void {
    this.cache.trim(this.#tokens.length - count);
    this.#tokens.length -= count;
  }

  /**
   * Runs tokens through the model and notes them.
   *
   * @returns logits, [1 or tokens, vocabSize]
   * @throws what the model throws; nothing is noted then
   */
  async run(model: LanguageModel, tokens: readonly number[], options?: ForwardOptions): Promise<Matrix> {
    const logits = await model.forward(tokens, this.cache, options);
    this.#tokens.push(...tokens);
    return logits;
  }
}

/** The result of running a prompt. */
export interface PromptRun {
  /** Logits of the last token, [1, vocabSize]. */
  readonly logits: Matrix;
  /** Tokens that the cache had already. */
  readonly reusedTokens: number;
  readonly seconds: number;
}

/**
 * Brings a cache to the end of a prompt: runs what of the prompt it does not hold.
 *
 * @throws what the model throws, or the signal's reason; the cache then holds what was run
 */
export async function runPrompt(
  model: LanguageModel,
  sequence: CachedSequence,
  prompt: readonly number[],
  options: Pick<GenerateOptions, 'prefillChunk' | 'signal' | 'onPrefill'> = {},
): Promise<PromptRun> {
  const { prefillChunk = PREFILL_CHUNK, signal, onPrefill } = options;
  const started = performance.now();
  signal?.throwIfAborted();
  const reusedTokens = sequence.keepPrefix(prompt);
  let at = reusedTokens;
  let logits: Matrix | undefined;
  while (logits === undefined || at < prompt.length) {
    // Chunks end at multiples of their size, wherever they start: tokens of a chunk see each other exactly,
    // so the same prompt should be cut in the same places whether or not its beginning was in the cache.
    const end = Math.min(prompt.length, at - (at % prefillChunk) + prefillChunk);
    logits = await sequence.run(model, prompt.slice(at, end), { signal });
    at = end;
    onPrefill?.(at, prompt.length);
  }
  return { logits, reusedTokens, seconds: (performance.now() - started) / 1000 };
}

/**
 * Starts a generation. Nothing runs before it is iterated or finished.
 *
 * @param prompt text, or ids as they are
 * @throws {ConfigError} if the prompt is empty or longer than the context, or an option is outside its set
 * @throws {RangeError} if a number is outside its range
 */
export function generate(
  model: LanguageModel,
  tokenizer: GenerationTokenizer,
  prompt: string | ArrayLike<number>,
  options: GenerateOptions = {},
): Generation {
  return new Generation(model, tokenizer, prompt, options);
}

/** A running generation: iterate it for tokens, or let it finish. It runs once. */
export class Generation implements AsyncIterable<GeneratedToken> {
  /** Ids of the prompt. */
  readonly prompt: readonly number[];
  readonly #sequence: CachedSequence;
  readonly #model: LanguageModel;
  readonly #tokenizer: GenerationTokenizer;
  readonly #options: GenerateOptions;
  readonly #sampler: Sampler;
  readonly #output: StopFilter;
  readonly #runPrompt: () => Promise<PromptRun>;
  readonly #steps: AsyncGenerator<GeneratedToken, void, undefined>;
  readonly #ids: number[] = [];
  #text = '';
  #reusedTokens = 0;
  #prefillSeconds = 0;
  #generateSeconds = 0;
  #stopReason: StopReason | undefined;
  #lookahead: Lookahead | undefined;

  /**
   * @param prompted brings `sequence` to the end of the prompt in another way than {@link runPrompt}
   * @see generate
   */
  constructor(
    model: LanguageModel,
    tokenizer: GenerationTokenizer,
    prompt: string | ArrayLike<number>,
    options: GenerateOptions,
    prompted?: () => Promise<PromptRun>,
  ) {
    const { cache = DEFAULT_CACHE, stop = [], ignoreEos, logitBias, prefillChunk, maxTokens } = options;
    const { generatedBefore = 0, speculate = 'auto', stopTokenIds = [] } = options;
    resolveSpeculate(speculate, model);
    this.prompt = promptIds(prompt, tokenizer, model.config);
    if (prefillChunk !== undefined) assertPositiveInteger(prefillChunk, 'prefillChunk');
    if (maxTokens !== undefined) assertIndex(maxTokens, Number.MAX_SAFE_INTEGER, 'maxTokens');

    const bias = new Map(logitBias);
    for (const id of bias.keys()) assertIndex(id, model.config.vocabSize - 1, 'logitBias token');
    for (const id of stopTokenIds) assertIndex(id, model.config.vocabSize - 1, 'stopTokenIds token');
    const forbidden = ignoreEos ? tokenizer.eosTokenIds.filter((id) => !stopTokenIds.includes(id)) : [];
    for (const id of forbidden) bias.set(id, Number.NEGATIVE_INFINITY);
    assertIndex(generatedBefore, this.prompt.length, 'generatedBefore');
    this.#sampler = new Sampler({ ...options, logitBias: bias });
    this.#sampler.skip(generatedBefore);
    this.#output = new StopFilter(typeof stop === 'string' ? [stop] : stop);
    this.#sequence = cache instanceof CachedSequence ? cache : new CachedSequence(model.createCache(cache));
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#options = options;
    this.#runPrompt = prompted ?? (() => runPrompt(model, this.#sequence, this.prompt, options));
    this.#steps = this.#run();
  }

  /** The tokens, one by one. Leaving the loop ends the generation. */
  [Symbol.asyncIterator](): AsyncGenerator<GeneratedToken, void, undefined> {
    return this.#steps;
  }

  /** The cache with what it holds; hand it to the next call to continue. Guesses are taken back first. */
  get sequence(): CachedSequence {
    this.#lookahead?.settle();
    return this.#sequence;
  }

  /**
   * Ids of prompt and text that have not been run: the newest token, or the rest of a prompt that was interrupted.
   * A token that ended the text is left out, since nothing follows it. With the ids of {@link sequence} before them,
   * they are the prompt that continues where this generation stopped.
   */
  get pending(): readonly number[] {
    return [...this.prompt, ...this.#chosen].slice(this.sequence.tokens.length);
  }

  /**
   * How many of the ids of {@link sequence} and {@link pending} were generated, `generatedBefore` included: the
   * newest ones.
   */
  get generated(): number {
    return (this.#options.generatedBefore ?? 0) + this.#chosen.length;
  }

  /** Generated ids that something can follow. */
  get #chosen(): readonly number[] {
    return endsWithToken(this.#stopReason) ? this.#ids.slice(0, -1) : this.#ids;
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
    return {
      text: this.#text,
      ids: [...this.#ids],
      promptTokens: this.prompt.length,
      reusedTokens: this.#reusedTokens,
      generatedTokens: this.#ids.length,
      prefillSeconds: this.#prefillSeconds,
      generateSeconds: this.#generateSeconds,
      speculation: this.#lookahead?.counts ?? { passes: 0, verified: 0, drafted: 0, accepted: 0 },
      stopReason: this.#stopReason,
      cacheBytes: this.#sequence.cache.bytes(),
    };
  }

  async *#run(): AsyncGenerator<GeneratedToken, void, undefined> {
    const { maxTokens = Number.POSITIVE_INFINITY, speculate = 'auto', signal, onSpeculation } = this.#options;
    const context = this.#model.config.maxPositionEmbeddings;
    const endIds = new Set(this.#tokenizer.eosTokenIds);
    const stopIds = new Set(this.#options.stopTokenIds);
    const decoder = this.#tokenizer.createDecoder(this.prompt);
    const history = [...this.prompt];
    try {
      const prompted = await this.#runPrompt();
      this.#reusedTokens = prompted.reusedTokens;
      this.#prefillSeconds = prompted.seconds;
      const chooser = () => {
        const sampler = this.#sampler.fork();
        return (logits: Float32Array, ids: readonly number[]) => sampler.sample(logits, ids).id;
      };
      const guessing = { speculate, chooser, signal, onSpeculation };
      const lookahead = new Lookahead(this.#model, this.#sequence, prompted.logits, guessing);
      this.#lookahead = lookahead;
      let reason: StopReason | undefined = maxTokens === 0 ? 'maxTokens' : undefined;
      while (reason === undefined) {
        let started = performance.now();
        const token = this.#sampler.sample(lookahead.logits, history);
        this.#ids.push(token.id);
        history.push(token.id);

        if (stopIds.has(token.id)) reason = 'stopToken';
        else if (endIds.has(token.id)) reason = 'endOfSequence';
        else if (this.#ids.length >= maxTokens) reason = 'maxTokens';
        else if (history.length > context) reason = 'contextFull';
        const isText = !endsWithToken(reason);
        let piece = isText ? decoder.push(token.id) : '';
        const hidden = isText ? this.#tokenizer.hiddenText?.(token.id) : undefined;
        if (reason !== undefined) piece += decoder.flush();
        const { text, stopped } = this.#output.push(piece, reason !== undefined, hidden);
        if (stopped) reason = 'stopString';

        this.#text += text;
        if (reason !== undefined) {
          this.#stopReason = reason;
          lookahead.settle();
        }
        this.#generateSeconds += (performance.now() - started) / 1000;
        yield { ...token, text };
        started = performance.now();
        if (reason === undefined) {
          await lookahead.advance(token.id, history, maxTokens - this.#ids.length);
        }
        this.#generateSeconds += (performance.now() - started) / 1000;
      }
      this.#stopReason = reason;
    } finally {
      this.#stopReason ??= 'interrupted'; // an error, or the caller left the loop
      this.#lookahead?.settle();
    }
  }
}

/** Whether the last token is an end, which has no text and which nothing follows. */
function endsWithToken(reason: StopReason | undefined): boolean {
  return reason === 'endOfSequence' || reason === 'stopToken';
}

/** The ids of a prompt, fresh: at least one, and no more than the context has room for. */
function promptIds(
  prompt: string | ArrayLike<number>,
  tokenizer: GenerationTokenizer,
  config: LanguageModel['config'],
): number[] {
  // Looked at before encoding: a BOS token in front would make an empty text look like one.
  if (prompt === '') throw new ConfigError('prompt', '', 'at least one token');
  const tokens = typeof prompt === 'string' ? tokenizer.encode(prompt) : prompt;
  assertTokenList(tokens, 'prompt');
  if (tokens.length === 0) throw new ConfigError('prompt', '', 'at least one token');
  if (tokens.length > config.maxPositionEmbeddings) {
    const allowed = `at most ${describeContext(config)}, the context of the model`;
    throw new ConfigError('prompt', `${tokens.length} tokens`, allowed);
  }
  return tokenIds(tokens, config.vocabSize, 'prompt');
}
