/**
 * Answers in the shapes that an OpenAI client reads.
 *
 * @module
 */

import type { GeneratedToken, GenerationSummary, StopReason } from '../generate.js';
import type { SampleToken } from '../samples.js';
import type { Tokenizer } from '../text/tokenizer.js';
import type { CompletionRequest } from './openai-request.js';

/** Fields that all parts of one answer share. */
export interface AnswerHead {
  readonly id: string;
  /** Seconds since 1970. */
  readonly created: number;
  readonly model: string;
}

/** Writes the choices of the answer to one request. */
export class AnswerWriter {
  readonly #request: CompletionRequest;
  readonly #head: AnswerHead;
  readonly #choices: readonly ChoiceWriter[];

  constructor(request: CompletionRequest, head: AnswerHead, tokenizer: Tokenizer) {
    this.#request = request;
    this.#head = head;
    this.#choices = Array.from(
      { length: request.choices },
      (_, index) => new ChoiceWriter(index, request, tokenizer),
    );
  }

  /** Notes a token, for an answer in one piece. */
  note(token: SampleToken): void {
    this.#choices[token.sample].note(token);
  }

  /** One event of a stream. @returns undefined for a token that shows nothing */
  chunk(token: SampleToken): object | undefined {
    const choice = this.#choices[token.sample].chunk(token);
    return choice && this.#event(choice);
  }

  /** The events that end the choices of a stream. */
  lastChunks(summaries: readonly GenerationSummary[]): object[] {
    return this.#choices.map((choice, i) => this.#event(choice.lastChunk(summaries[i])));
  }

  /** The event after those, if the request asks for it. */
  usageChunk(summaries: readonly GenerationSummary[]): object {
    return { ...this.#head, object: this.#streamObject, choices: [], usage: usage(summaries) };
  }

  /** The answer in one piece. */
  whole(summaries: readonly GenerationSummary[]): object {
    const object = this.#request.kind === 'chat' ? 'chat.completion' : 'text_completion';
    const choices = this.#choices.map((choice, i) => choice.whole(summaries[i]));
    return { ...this.#head, object, choices, usage: usage(summaries) };
  }

  get #streamObject(): string {
    return this.#request.kind === 'chat' ? 'chat.completion.chunk' : 'text_completion';
  }

  #event(choice: object): object {
    const usage = this.#request.includeUsage ? { usage: null } : {};
    return { ...this.#head, object: this.#streamObject, choices: [choice], ...usage };
  }
}

/** Writes one choice. */
class ChoiceWriter {
  readonly #index: number;
  readonly #request: CompletionRequest;
  readonly #tokenizer: Tokenizer;
  readonly #logprobs: { readonly token: GeneratedToken; readonly offset: number }[] = [];
  #length = 0;
  #isFirst = true;

  constructor(index: number, request: CompletionRequest, tokenizer: Tokenizer) {
    this.#index = index;
    this.#request = request;
    this.#tokenizer = tokenizer;
  }

  note(token: GeneratedToken): void {
    if (this.#request.logprobs && !this.#isEnd(token)) this.#logprobs.push({ token, offset: this.#length });
    this.#length += token.text.length;
  }

  chunk(token: GeneratedToken): object | undefined {
    this.#logprobs.length = 0;
    this.note(token);
    if (token.text === '' && this.#logprobs.length === 0) return undefined;
    return this.#delta(token.text, null);
  }

  lastChunk({ stopReason }: GenerationSummary): object {
    this.#logprobs.length = 0;
    return this.#delta('', finishReason(stopReason));
  }

  whole({ text, stopReason }: GenerationSummary): object {
    const isChat = this.#request.kind === 'chat';
    const said = isChat ? { message: { role: 'assistant', content: text, refusal: null } } : { text };
    return {
      index: this.#index,
      ...said,
      logprobs: this.#logprobsOf(),
      finish_reason: finishReason(stopReason),
    };
  }

  #delta(text: string, finish_reason: string | null): object {
    const role = this.#isFirst ? { role: 'assistant' } : {};
    const content = text === '' && !this.#isFirst ? {} : { content: text };
    const said = this.#request.kind === 'chat' ? { delta: { ...role, ...content } } : { text };
    this.#isFirst = false;
    return { index: this.#index, ...said, logprobs: this.#logprobsOf(), finish_reason };
  }

  #logprobsOf(): object | null {
    if (!this.#request.logprobs || (this.#logprobs.length === 0 && this.#length > 0)) return null;
    return this.#request.kind === 'chat' ? this.#chatLogprobs() : this.#textLogprobs();
  }

  #chatLogprobs(): object {
    const entry = ({ id, logprob }: { id: number; logprob: number }) => {
      const token = this.#textOf(id);
      // A part of a character has no text of its own.
      return {
        token,
        logprob,
        bytes: token.includes('\ufffd') ? null : [...new TextEncoder().encode(token)],
      };
    };
    return {
      content: this.#logprobs.map(({ token }) => ({
        ...entry(token),
        top_logprobs: token.topLogprobs.map(entry),
      })),
      refusal: null,
    };
  }

  #textLogprobs(): object {
    const tokens = this.#logprobs.map(({ token }) => token);
    return {
      tokens: tokens.map(({ id }) => this.#textOf(id)),
      token_logprobs: tokens.map(({ logprob }) => logprob),
      top_logprobs: tokens.map(({ topLogprobs }) =>
        Object.fromEntries(topLogprobs.map(({ id, logprob }) => [this.#textOf(id), logprob])),
      ),
      text_offset: this.#logprobs.map(({ offset }) => offset),
    };
  }

  #textOf(id: number): string {
    return this.#tokenizer.decode([id], { skipSpecial: false });
  }

  #isEnd({ id }: GeneratedToken): boolean {
    return this.#tokenizer.eosTokenIds.includes(id);
  }
}

function finishReason(reason: StopReason | undefined): 'stop' | 'length' {
  return reason === 'maxTokens' || reason === 'contextFull' ? 'length' : 'stop';
}

/** The prompt is read once, however many choices there are. */
function usage(summaries: readonly GenerationSummary[]): object {
  const [{ promptTokens, reusedTokens }] = summaries;
  const completion = summaries.reduce((sum, { generatedTokens }) => sum + generatedTokens, 0);
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completion,
    total_tokens: promptTokens + completion,
    prompt_tokens_details: { cached_tokens: reusedTokens },
  };
}
