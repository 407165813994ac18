/**
 * Conversations as the model was trained to see them: its own Jinja template, rendered as transformers renders it.
 *
 * The interpreter in `jinja/` is our own. `@huggingface/jinja` and nunjucks compute with values of JavaScript
 * ("null", "true", "[object Object]"), and none of the three libraries for JavaScript, minijinja included, renders
 * what jinja2 renders (`%`, `rstrip('!')`, `None`). They also have no limit that can be set: a template is a
 * program of a stranger, and `{% for i in range(10 ** 9) %}` must not stop the process.
 *
 * @module
 */

import { ChatTemplateError, ConfigError } from '../errors.js';
import { TemplateError, type TemplateErrorKind } from './jinja/errors.js';
import { renderTemplate } from './jinja/interpreter.js';

/** One turn of a conversation. */
export interface ChatMessage {
  /** Usually `'system'`, `'user'` or `'assistant'`; the template decides. */
  readonly role: string;
  readonly content: string;
}

/** A turn with whatever else a template looks at, for instance `tool_calls`. */
export interface TemplateMessage {
  /** Usually `'system'`, `'user'` or `'assistant'`; the template decides. */
  readonly role: string;
  /** Text, or what else the template takes: `null` beside tool calls, or a list of parts. */
  readonly content?: string | null | readonly Readonly<Record<string, unknown>>[];
  readonly [key: string]: unknown;
}

/** Options of {@link renderChat}. */
export interface RenderChatOptions {
  /** Whether to end with what makes the model answer. Default `true`. */
  readonly addGenerationPrompt?: boolean;
  /** As the template writes it, see `Tokenizer.bosToken`. Without one the variable is undefined. */
  readonly bosToken?: string;
  /** As the template writes it, see `Tokenizer.eosToken`. Without one the variable is undefined. */
  readonly eosToken?: string;
  /** Other variables that a template may look at, for instance `{ enable_thinking: false, tools: [...] }`. */
  readonly variables?: Readonly<Record<string, unknown>>;
  /** The time that `strftime_now` writes. Default: now. */
  readonly now?: Date;
  /** Looked at before the template runs. It runs in one go, for two seconds at most. */
  readonly signal?: AbortSignal;
}

/**
 * Writes a conversation as the text that the model expects. Encode it with
 * `{ addSpecial: false, parseSpecial: true }`: the template writes BOS and the other special tokens itself.
 *
 * A template may take 5 million steps, make 128 million characters (intermediate ones included), nest 100 calls,
 * and run for two seconds.
 *
 * @param template the model's (`ModelFile.chatTemplate`) or one of your own
 * @throws {ConfigError} if there is no template or no message
 * @throws {ChatTemplateError} if the template is broken, needs too much, or refuses the conversation; says
 *   whether the template or the messages are at fault, and the line
 */
export function renderChat(
  template: string | undefined,
  messages: readonly (ChatMessage | TemplateMessage)[],
  options: RenderChatOptions = {},
): string {
  if (!template) {
    throw new ConfigError(
      'chatTemplate',
      template,
      'given, since this model has none of its own: pass a Jinja template',
    );
  }
  if (typeof template !== 'string')
    throw new ConfigError('chatTemplate', template, 'a Jinja template as text');
  if (!Array.isArray(messages)) throw new ConfigError('messages', messages, 'a list of messages');
  if (messages.length === 0) throw new ConfigError('messages', '[]', 'at least one message');
  for (const message of messages) {
    if (typeof message !== 'object' || message === null || typeof message.role !== 'string') {
      throw new ConfigError('messages', JSON.stringify(message), 'a list of objects with a role');
    }
  }
  options.signal?.throwIfAborted();
  try {
    return render(template, messages, options);
  } catch (cause) {
    if (!(cause instanceof TemplateError)) throw cause;
    const fault = faultOf(cause.kind, () => render(template, PLAIN_CONVERSATION, options));
    throw new ChatTemplateError(fault, `${cause.kind}: ${cause.message}`, cause.line, { cause });
  }
}

function render(
  template: string,
  messages: readonly (ChatMessage | TemplateMessage)[],
  { addGenerationPrompt = true, bosToken, eosToken, variables, now = new Date() }: RenderChatOptions,
): string {
  const all = {
    messages: messages.map(withReasoning),
    add_generation_prompt: addGenerationPrompt,
    bos_token: bosToken,
    eos_token: eosToken,
    tools: null,
    documents: null,
    ...variables,
  };
  return renderTemplate(template, all, { now });
}

/** Names under which messages carry reasoning; templates read the first, that of gpt-oss the second. */
const REASONING = ['reasoning_content', 'thinking', 'reasoning'] as const;

/** A message whose reasoning has the names that templates read, as in transformers. */
function withReasoning(message: ChatMessage | TemplateMessage): ChatMessage | TemplateMessage {
  const given = message as TemplateMessage;
  const reasoning = REASONING.map((name) => given[name]).find(
    (value) => value !== undefined && value !== null,
  );
  return reasoning === undefined ? message : { thinking: reasoning, ...given, reasoning_content: reasoning };
}

/** A conversation that every sound template accepts. */
const PLAIN_CONVERSATION: readonly ChatMessage[] = [{ role: 'user', content: 'Hi' }];

const TEMPLATE_FAULTS: readonly TemplateErrorKind[] = [
  'TemplateSyntaxError',
  'NotSupported',
  'BudgetError',
  'SecurityError',
];

/**
 * Who is to blame. An operation that fails can be due to either; a template that renders a plain conversation is
 * taken for sound.
 */
function faultOf(kind: TemplateErrorKind, renderPlain: () => string): 'template' | 'messages' {
  if (kind === 'TemplateError') return 'messages'; // the template refused them with raise_exception
  if (TEMPLATE_FAULTS.includes(kind)) return 'template';
  try {
    renderPlain();
    return 'messages';
  } catch (error) {
    if (!(error instanceof TemplateError)) throw error;
    return error.kind === 'TemplateError' ? 'messages' : 'template';
  }
}
