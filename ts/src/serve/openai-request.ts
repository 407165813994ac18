/**
 * From the body of an OpenAI request to what the library takes. A parameter that would change the answer and is not
 * supported is refused, not ignored.
 *
 * @module
 */

import type { GenerateOptions } from '../generate.js';
import type { ChatMessage } from '../text/chat-template.js';
import { ApiError } from './api-error.js';

/** A request, checked. */
export interface CompletionRequest {
  readonly kind: 'chat' | 'text';
  /** The conversation, or the text or its ids. */
  readonly prompt: readonly ChatMessage[] | string | readonly number[];
  readonly model: string;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  /** Log probabilities are wanted, with as many alternatives as `options.topLogprobs`. */
  readonly logprobs: boolean;
  /** Whether a kept conversation may be used; as llama.cpp has it. */
  readonly useCache: boolean;
  /** How many answers are wanted. */
  readonly choices: number;
  /** Options of the request; the rest is the server's choice. */
  readonly options: GenerateOptions;
}

type Body = Readonly<Record<string, unknown>>;

/** Parameters that may be there and change nothing here. */
const IGNORED = new Set([
  'user',
  'store',
  'metadata',
  'service_tier',
  'parallel_tool_calls',
  'safety_identifier',
  'prompt_cache_key',
]);

/** Parameters that are refused unless they have a value that asks for nothing. */
const NEUTRAL: Readonly<Record<string, (value: unknown) => boolean>> = {
  best_of: (value) => value === 1,
  echo: (value) => value === false,
  suffix: (value) => value === '',
  presence_penalty: (value) => value === 0,
  frequency_penalty: (value) => value === 0,
  tools: (value) => Array.isArray(value) && value.length === 0,
  tool_choice: (value) => value === 'none' || value === 'auto',
  response_format: (value) => (value as { type?: unknown }).type === 'text',
  modalities: (value) => Array.isArray(value) && value.join() === 'text',
  verbosity: (value) => value === 'medium',
};

const COMMON = [
  'model',
  'stream',
  'stream_options',
  'max_tokens',
  'temperature',
  'top_p',
  'top_k',
  'min_p',
  'seed',
  'stop',
  'stop_token_ids',
  'logit_bias',
  'repetition_penalty',
  'logprobs',
  'cache_prompt',
  'n',
];

const KNOWN = {
  chat: new Set([...COMMON, 'messages', 'max_completion_tokens', 'top_logprobs']),
  text: new Set([...COMMON, 'prompt']),
};

/**
 * Checks the body of a request.
 *
 * @throws {ApiError} 400 that names the parameter
 */
export function parseRequest(kind: 'chat' | 'text', json: unknown): CompletionRequest {
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    throw new ApiError(400, 'the body must be a JSON object');
  // A parameter that is null is absent.
  const body: Body = Object.fromEntries(
    Object.entries(json).filter(([, value]) => value !== null && value !== undefined),
  );
  for (const [name, value] of Object.entries(body)) {
    if (KNOWN[kind].has(name) || IGNORED.has(name) || NEUTRAL[name]?.(value)) continue;
    const reason = NEUTRAL[name]
      ? `${JSON.stringify(value)} is not supported`
      : 'is not a parameter of this endpoint';
    throw new ApiError(
      400,
      `"${name}": ${reason}`,
      name,
      NEUTRAL[name] ? 'unsupported_value' : 'unknown_parameter',
    );
  }
  const { model } = body;
  if (typeof model !== 'string') throw bad('model', 'must be the name of a model; /v1/models lists them');
  const streamOptions = (body.stream_options ?? {}) as { include_usage?: unknown };
  const logprobs = parseLogprobs(kind, body);
  return {
    kind,
    model,
    prompt: kind === 'chat' ? parseMessages(body.messages) : parsePrompt(body.prompt),
    stream: boolean(body, 'stream') ?? false,
    includeUsage: streamOptions.include_usage === true,
    logprobs: logprobs !== undefined,
    useCache: boolean(body, 'cache_prompt') ?? true,
    choices: parseChoices(body),
    options: parseOptions(body, logprobs),
  };
}

function parseChoices(body: Body): number {
  const choices = count(body, 'n', MAX_CHOICES) ?? 1;
  if (choices === 0) throw bad('n', `must be an integer from 1 to ${MAX_CHOICES}`);
  return choices;
}

function parseOptions(body: Body, topLogprobs: number | undefined): GenerateOptions {
  return withoutUndefined({
    maxTokens: count(body, 'max_completion_tokens') ?? count(body, 'max_tokens'),
    temperature: number(body, 'temperature', 0, 2),
    topP: number(body, 'top_p', 0, 1),
    topK: count(body, 'top_k'),
    minP: number(body, 'min_p', 0, 1),
    repetitionPenalty: number(body, 'repetition_penalty', 0, 10),
    seed: count(body, 'seed'),
    stop: parseStop(body.stop),
    stopTokenIds: parseStopTokenIds(body.stop_token_ids),
    logitBias: parseLogitBias(body.logit_bias),
    topLogprobs,
  });
}

/** As OpenAI has it. */
const MAX_CHOICES = 128;

/** The roles that clients use; a template decides what it does with each. */
const ROLES = ['system', 'developer', 'user', 'assistant', 'tool'];

function parseMessages(messages: unknown): ChatMessage[] {
  if (!Array.isArray(messages) || messages.length === 0)
    throw bad('messages', 'must be a list with at least one message');
  return messages.map((message: unknown, index) => {
    const { role, content } = (message ?? {}) as Record<string, unknown>;
    const place = `messages[${index}]`;
    if (typeof role !== 'string' || !ROLES.includes(role))
      throw bad(`${place}.role`, `must be one of ${ROLES.join(', ')}`);
    return { role: role === 'developer' ? 'system' : role, content: textOf(content, `${place}.content`) };
  });
}

/** Text, or parts that are all text. */
function textOf(content: unknown, place: string): string {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) throw bad(place, 'must be text, or a list of parts of type "text"');
  return content
    .map((part: unknown) => {
      const { type, text } = (part ?? {}) as Record<string, unknown>;
      if (type === 'text' && typeof text === 'string') return text;
      throw bad(place, `has a part of type ${JSON.stringify(type)}; only "text" is supported`);
    })
    .join('');
}

function parsePrompt(prompt: unknown): string | readonly number[] {
  const one =
    Array.isArray(prompt) && prompt.length === 1 && typeof prompt[0] !== 'number' ? prompt[0] : prompt;
  if (typeof one === 'string' && one !== '') return one;
  const isIds =
    Array.isArray(one) && one.length > 0 && one.every((id) => Number.isSafeInteger(id) && id >= 0);
  if (isIds) return one as number[];
  throw bad(
    'prompt',
    'must be a text that is not empty, or a list of token ids; several prompts are several requests',
  );
}

function parseLogprobs(kind: 'chat' | 'text', body: Body): number | undefined {
  if (kind === 'text') return count(body, 'logprobs', 20);
  const wanted = boolean(body, 'logprobs') ?? false;
  const top = count(body, 'top_logprobs', 20);
  if (top !== undefined && !wanted) throw bad('top_logprobs', 'needs "logprobs": true');
  return wanted ? (top ?? 0) : undefined;
}

function parseStop(stop: unknown): readonly string[] | undefined {
  if (stop === undefined) return undefined;
  const list = typeof stop === 'string' ? [stop] : stop;
  const isText =
    Array.isArray(list) && list.length <= 16 && list.every((each) => typeof each === 'string' && each !== '');
  if (!isText) throw bad('stop', 'must be a text, or up to 16 texts, none of them empty');
  return list;
}

/** Not of OpenAI: tokens that end the answer, as vLLM has them. */
function parseStopTokenIds(ids: unknown): readonly number[] | undefined {
  if (ids === undefined) return undefined;
  const isIds =
    Array.isArray(ids) && ids.length <= 64 && ids.every((id) => Number.isSafeInteger(id) && id >= 0);
  if (!isIds) throw bad('stop_token_ids', 'must be a list of up to 64 token ids');
  return ids;
}

function parseLogitBias(bias: unknown): ReadonlyMap<number, number> | undefined {
  if (bias === undefined) return undefined;
  if (typeof bias !== 'object' || Array.isArray(bias))
    throw bad('logit_bias', 'must be an object of token ids');
  return new Map(
    Object.entries(bias as object).map(([id, value]) => {
      const isBias = /^\d+$/.test(id) && typeof value === 'number' && value >= -100 && value <= 100;
      if (!isBias) throw bad('logit_bias', 'must map token ids to numbers from -100 to 100');
      // As OpenAI has it, -100 forbids a token.
      return [Number(id), value === -100 ? Number.NEGATIVE_INFINITY : value];
    }),
  );
}

function number(body: Body, name: string, least: number, most: number): number | undefined {
  const value = body[name];
  if (value === undefined) return undefined;
  if (typeof value === 'number' && value >= least && value <= most) return value;
  throw bad(name, `must be a number from ${least} to ${most}`);
}

function count(body: Body, name: string, most = Number.MAX_SAFE_INTEGER): number | undefined {
  const value = body[name];
  if (value === undefined) return undefined;
  if (Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= most)
    return value as number;
  throw bad(
    name,
    most < Number.MAX_SAFE_INTEGER ? `must be an integer from 0 to ${most}` : 'must be an integer from 0',
  );
}

function boolean(body: Body, name: string): boolean | undefined {
  const value = body[name];
  if (value === undefined || typeof value === 'boolean') return value;
  throw bad(name, 'must be true or false');
}

function bad(param: string, reason: string): ApiError {
  return new ApiError(400, `"${param}" ${reason}`, param, 'invalid_value');
}

function withoutUndefined<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}
