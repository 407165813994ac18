/**
 * Answers in the shapes that an OpenAI client reads.
 *
 * @module
 */

import type { GeneratedToken, GenerationSummary, StopReason } from '../generate.js';
import type { Tokenizer } from '../text/tokenizer.js';
import type { CompletionRequest } from './openai-request.js';

/** What all parts of one answer share. */
export interface AnswerHead {
  readonly id: string;
  /** Seconds since 1970. */
  readonly created: number;
  readonly model: string;
}

/** Writes the answer to one request. */
export class AnswerWriter {
  readonly #request: CompletionRequest;
  readonly #head: AnswerHead;
  readonly #tokenizer: Tokenizer;
  readonly #logprobs: { readonly token: GeneratedToken; readonly offset: number }[] = [];
  #length = 0;
  #isFirst = true;

  constructor(request: CompletionRequest, head: AnswerHead, tokenizer: Tokenizer) {
    this.#request = request;
    this.#head = head;
    this.#tokenizer = tokenizer;
  }

  /** Notes a token, for an answer in one piece. */
  note(token: GeneratedToken): void {
    if (this.#request.logprobs && !this.#isEnd(token)) this.#logprobs.push({ token, offset: this.#length });
    this.#length += token.text.length;
  }

  /** One event of a stream. @returns undefined for a token that shows nothing */
  chunk(token: GeneratedToken): object | undefined {
    this.#logprobs.length = 0;
    this.note(token);
    if (token.text === '' && this.#logprobs.length === 0) return undefined;
    return this.#event(token.text, null);
  }

  /** The event that ends a stream. */
  lastChunk({ stopReason }: GenerationSummary): object {
    this.#logprobs.length = 0;
    return this.#event('', finishReason(stopReason));
  }

  /** The event after that, if the request asks for it. */
  usageChunk(summary: GenerationSummary): object {
    return { ...this.#head, object: this.#streamObject, choices: [], usage: usage(summary) };
  }

  /** The answer in one piece. */
  whole(summary: GenerationSummary): object {
    const isChat = this.#request.kind === 'chat';
    const said = isChat
      ? { message: { role: 'assistant', content: summary.text, refusal: null } }
      : { text: summary.text };
    const finish_reason = finishReason(summary.stopReason);
    const choice = { index: 0, ...said, logprobs: this.#logprobsOf(), finish_reason };
    const object = isChat ? 'chat.completion' : 'text_completion';
    return { ...this.#head, object, choices: [choice], usage: usage(summary) };
  }

  get #streamObject(): string {
    return this.#request.kind === 'chat' ? 'chat.completion.chunk' : 'text_completion';
  }

  #event(text: string, finish_reason: string | null): object {
    const role = this.#isFirst ? { role: 'assistant' } : {};
    const content = text === '' && !this.#isFirst ? {} : { content: text };
    const said = this.#request.kind === 'chat' ? { delta: { ...role, ...content } } : { text };
    this.#isFirst = false;
    const choice = { index: 0, ...said, logprobs: this.#logprobsOf(), finish_reason };
    const usage = this.#request.includeUsage ? { usage: null } : {};
    return { ...this.#head, object: this.#streamObject, choices: [choice], ...usage };
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

function usage({ promptTokens, generatedTokens, reusedTokens }: GenerationSummary): object {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: generatedTokens,
    total_tokens: promptTokens + generatedTokens,
    prompt_tokens_details: { cached_tokens: reusedTokens },
  };
}
