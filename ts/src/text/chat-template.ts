/**
 * Conversations as the model was trained to see them: its own Jinja template, through `@huggingface/jinja`.
 *
 * @module
 */

import { Template } from '@huggingface/jinja';
import { ConfigError } from '../errors.js';

/** One turn of a conversation. */
export interface ChatMessage {
  /** Usually `'system'`, `'user'` or `'assistant'`; the template decides. */
  readonly role: string;
  readonly content: string;
}

/** What {@link renderChat} takes. */
export interface RenderChatOptions {
  /** Whether to end with what makes the model answer. Default `true`. */
  readonly addGenerationPrompt?: boolean;
  /** As the template writes it, see `Tokenizer.bosToken`. */
  readonly bosToken?: string;
  /** As the template writes it, see `Tokenizer.eosToken`. */
  readonly eosToken?: string;
  /** Other variables that a template may look at, for instance `{ enable_thinking: false }`. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/**
 * Writes a conversation as the text that the model expects. Encode it with
 * `{ addSpecial: false, parseSpecial: true }`: the template writes BOS and the other special tokens itself.
 *
 * @param template the model's (`ModelFile.chatTemplate`) or one of your own
 * @throws {ConfigError} if there is no template, the template is broken, or refuses the conversation
 */
export function renderChat(
  template: string | undefined,
  messages: readonly ChatMessage[],
  options: RenderChatOptions = {},
): string {
  if (!template) {
    throw new ConfigError(
      'chatTemplate',
      template,
      'given, since this model has none of its own: pass a Jinja template',
    );
  }
  if (messages.length === 0) throw new ConfigError('messages', '[]', 'at least one message');
  const { addGenerationPrompt = true, bosToken = '', eosToken = '', variables } = options;
  try {
    return new Template(template).render({
      messages: messages.map((message) => ({ ...message })),
      add_generation_prompt: addGenerationPrompt,
      bos_token: bosToken,
      eos_token: eosToken,
      tools: null,
      ...variables,
    });
  } catch (cause) {
    // Templates refuse a conversation with raise_exception, for instance two user turns in a row.
    const error = new ConfigError(
      'messages',
      (cause as Error).message,
      'a conversation that the chat template accepts',
    );
    error.cause = cause;
    throw error;
  }
}
