/**
 * From lines to what they mean in a conversation: messages and commands.
 *
 * @module
 */

import { PASTED_BREAK } from './paste.js';

/** Input of a user: to the model, or to the program. */
export type ChatInput =
  | { readonly kind: 'message'; readonly text: string }
  | { readonly kind: 'command'; readonly name: string; readonly argument: string };

/** A line of its own that begins and ends a message of several lines. */
const FENCE = '"""';

/**
 * Puts the lines of a terminal together. A line is a message, unless it ends with a backslash (the next line belongs to
 * it) or stands between two lines that begin and end with `"""`. A line that begins with `/word` is a command.
 */
export class MessageLines {
  #lines: string[] = [];
  #fenced = false;

  /** Whether the next line belongs to a message that has begun. */
  get isOpen(): boolean {
    return this.#fenced || this.#lines.length > 0;
  }

  /** Forgets a message that has begun. */
  clear(): void {
    this.#lines = [];
    this.#fenced = false;
  }

  /**
   * Takes the next line.
   *
   * @param line without its line break; line breaks of a paste are `PASTED_BREAK`
   * @returns what is complete now; a message may be empty
   */
  push(line: string): ChatInput | undefined {
    let text = line.replaceAll(PASTED_BREAK, '\n');
    if (!this.isOpen) {
      const command = parseCommand(text);
      if (command) return command;
      if (text.trimStart().startsWith(FENCE)) {
        this.#fenced = true;
        text = text.trimStart().slice(FENCE.length);
        if (text === '') return undefined;
      }
    }
    if (this.#fenced) {
      if (!text.trimEnd().endsWith(FENCE)) {
        this.#lines.push(text);
        return undefined;
      }
      text = text.trimEnd().slice(0, -FENCE.length);
      if (text !== '') this.#lines.push(text);
      return this.#finish();
    }
    const continues = text.endsWith('\\');
    this.#lines.push(continues ? text.slice(0, -1) : text);
    return continues ? undefined : this.#finish();
  }

  /** A message that the end of the input leaves open. */
  end(): ChatInput | undefined {
    return this.isOpen ? this.#finish() : undefined;
  }

  #finish(): ChatInput {
    const text = this.#lines.join('\n').trim();
    this.clear();
    return { kind: 'message', text };
  }
}

/**
 * Splits a text from a pipe: all of it is one message, but for lines that are commands, which end the message before
 * them.
 *
 * @param known names of commands. `/name` alone on a line is a command even if it is not known, since it is more often
 *   a slip than a text; with words after it, it is a command only if it is known.
 */
export function splitPipedText(text: string, known: ReadonlySet<string>): ChatInput[] {
  const inputs: ChatInput[] = [];
  let lines: string[] = [];
  const finish = () => {
    const message = withoutFence(lines.join('\n').trim());
    if (message !== '') inputs.push({ kind: 'message', text: message });
    lines = [];
  };
  for (const line of text.split(/\r?\n/)) {
    const command = parseCommand(line);
    if (command?.kind === 'command' && (command.argument === '' || known.has(command.name))) {
      finish();
      inputs.push(command);
    } else lines.push(line);
  }
  finish();
  return inputs;
}

/** A message without the fence around all of it. A fence inside is text: many programs contain one. */
function withoutFence(message: string): string {
  const parts = message.split(FENCE);
  return parts.length === 3 && parts[0] === '' && parts[2] === '' ? parts[1].trim() : message;
}

/** `/name` with or without an argument, on one line. `/usr/bin` is none. */
function parseCommand(line: string): ChatInput | undefined {
  const match = /^\s*\/([a-z?]+)(?:[ \t]+(.*))?$/i.exec(line.trimEnd());
  return match
    ? { kind: 'command', name: match[1].toLowerCase(), argument: match[2]?.trim() ?? '' }
    : undefined;
}
