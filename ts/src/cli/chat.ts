/**
 * `xquant chat`: a conversation, in which the cache of one turn is the start of the next.
 *
 * @module
 */

import { createInterface, type Interface } from 'node:readline';
import type { Command } from 'commander';
import { ChatSession } from '../chat-session.js';
import { CachedSequence } from '../generate.js';
import { chosenCache, createCache, type OpenedModel, withModel } from './backend.js';
import { type ChatCommandOptions, ChatCommands } from './chat-commands.js';
import { type ChatInput, MessageLines, splitPipedText } from './chat-messages.js';
import { EXIT, exitCodeOf, formatError, Interruption, UsageError } from './errors.js';
import {
  addCacheOption,
  addCommonOptions,
  addRunOptions,
  addSamplingOptions,
  addSpeculateOption,
  addStopOption,
  collect,
  parseCount,
  samplingOptions,
} from './options.js';
import { TerminalInput } from './paste.js';
import { readInputText, type Terminal, write } from './terminal.js';

/** Adds the command. */
export function addChatCommand(program: Command, terminal: Terminal): void {
  const command = program
    .command('chat')
    .description('talk with a model that has a chat template; /help lists commands')
    .option('--system <text>', 'system message')
    .option('--chat-template <file>', "Jinja template to use instead of the model's own")
    .option('-f, --file <file>', 'put the text of a file before the first message; repeatable', collect, [])
    .option(
      '-n, --max-tokens <count>',
      'end an answer after this many tokens (default: when the context is full)',
      parseCount,
    )
    .option('-q, --quiet', 'neither header nor a line about speed and memory after each answer');
  addStopOption(command, 'end an answer before this text would appear');
  addSamplingOptions(command);
  addSpeculateOption(command);
  addRunOptions(command);
  addCommonOptions(command, 'print one JSON object for each answer');
  addCacheOption(command);
  command.addHelpText(
    'after',
    '\nA line is a message. A paste is one message, and so is all of a pipe; by hand, """ begins and ends a message of\n' +
      'several lines, and a line that ends with \\ goes on with the next.\n',
  );
  command.action((options: ChatCommandOptions) =>
    runChat(options, command.getOptionValueSource('cache') !== 'default', terminal),
  );
}

async function runChat(
  options: ChatCommandOptions,
  isCacheGiven: boolean,
  terminal: Terminal,
): Promise<void> {
  samplingOptions(options); // before the model is loaded
  const given = options.chatTemplate && (await readInputText(options.chatTemplate, terminal));
  const files: string[] = [];
  for (const path of options.file) files.push((await readInputText(path, terminal)).trim());
  await withModel(options, terminal, async (opened) => {
    const template = given ?? opened.header.chatTemplate;
    if (!template) {
      throw new UsageError(
        `model ${opened.header.name} has no chat template: use "xquant generate", or give one with --chat-template`,
      );
    }
    const chosen = await chosenCache(options.cache, isCacheGiven, opened, terminal);
    const cache = new CachedSequence(await createCache(opened, chosen, terminal));
    const session = new ChatSession(opened.model, opened.tokenizer, {
      template,
      system: options.system,
      cache,
    });
    await new Conversation(
      session,
      opened,
      { ...options, cache: chosen },
      terminal,
      files.join('\n\n'),
    ).run();
  });
}

/** Reads messages and writes answers until there are no more. */
class Conversation {
  readonly #terminal: Terminal;
  readonly #commands: ChatCommands;
  readonly #lines = new MessageLines();
  /** Comes before the first message. */
  #attached: string;

  constructor(
    session: ChatSession,
    opened: OpenedModel,
    options: ChatCommandOptions,
    terminal: Terminal,
    attached: string,
  ) {
    this.#terminal = terminal;
    this.#attached = attached;
    this.#commands = new ChatCommands(session, opened, options, terminal);
  }

  async run(): Promise<void> {
    const { stdin, stdout } = this.#terminal;
    const isTerminal = stdin.isTTY === true && stdout.isTTY === true && !this.#commands.isJson;
    await this.#commands.header(isTerminal);
    if (this.#attached !== '') await this.#commands.attached(this.#attached);
    if (isTerminal) await this.#talk();
    else if (stdin.isTTY) await this.#readLines();
    else await this.#readPipe();
    this.#terminal.signal.throwIfAborted();
  }

  /** All of a pipe at once; an error ends the run. */
  async #readPipe(): Promise<void> {
    const text = await readInputText('-', this.#terminal);
    const inputs = splitPipedText(text, ChatCommands.names);
    if (inputs.length === 0 && this.#attached !== '') inputs.push({ kind: 'message', text: '' });
    for (const input of inputs) if (!(await this.#take(input))) return;
  }

  /** Lines of a keyboard whose answers go to a file. */
  async #readLines(): Promise<void> {
    const { stdin, signal } = this.#terminal;
    const lines = createInterface({ input: stdin });
    const close = () => lines.close();
    signal.addEventListener('abort', close, { once: true });
    try {
      for await (const line of lines) {
        const input = this.#lines.push(line);
        if (input && !(await this.#take(input))) return;
      }
      const rest = this.#lines.end();
      if (rest) await this.#take(rest);
    } finally {
      signal.removeEventListener('abort', close);
      lines.close();
    }
  }

  /** A terminal: with a prompt, and errors that do not end the conversation. */
  async #talk(): Promise<void> {
    const { stdin, stdout, signal } = this.#terminal;
    const input = new TerminalInput(stdin, stdout);
    const lines = createInterface({ input, output: stdout, terminal: true, escapeCodeTimeout: 50 });
    const close = () => lines.close();
    signal.addEventListener('abort', close, { once: true });
    let interrupted = false;
    // readline takes Ctrl-C for itself. It gives up what was begun, or leaves where there is nothing to give up.
    lines.on('SIGINT', () => {
      const isEmpty = lines.line === '' && !this.#lines.isOpen;
      if (isEmpty) {
        interrupted = true;
        lines.close();
        return;
      }
      this.#lines.clear();
      stdout.write('^C\n');
      lines.write(null, { ctrl: true, name: 'e' });
      lines.write(null, { ctrl: true, name: 'u' });
      this.#prompt(lines);
    });
    try {
      this.#prompt(lines);
      for await (const line of lines) {
        const said = this.#lines.push(line);
        if (said && !(await this.#takeHeld(said, input))) break;
        this.#prompt(lines);
      }
    } finally {
      signal.removeEventListener('abort', close);
      lines.close();
      input.close();
      stdout.write('\n'); // leaves the line of the prompt
    }
    if (interrupted) throw new Interruption(EXIT.interrupted);
  }

  #prompt(lines: Interface): void {
    lines.setPrompt(this.#lines.isOpen ? '. ' : '> ');
    lines.prompt();
  }

  /** Answers while keys wait; Ctrl-C stops the answer. */
  async #takeHeld(said: ChatInput, input: TerminalInput): Promise<boolean> {
    const answering = new AbortController();
    input.hold(() => answering.abort());
    try {
      return await this.#take(said, answering.signal);
    } catch (error) {
      if (this.#terminal.signal.aborted) throw error;
      if (answering.signal.aborted) return true;
      if (!isRecoverable(error)) throw error;
      await write(this.#terminal.stderr, formatError(error, false));
      return true;
    } finally {
      input.release();
    }
  }

  /** @returns whether the conversation continues */
  async #take(input: ChatInput, stop?: AbortSignal): Promise<boolean> {
    if (input.kind === 'command') return this.#commands.run(input.name, input.argument, stop);
    const text = [this.#attached, input.text].filter((part) => part !== '').join('\n\n');
    if (text === '') return true;
    await this.#commands.answer(text, stop);
    this.#attached = '';
    return true;
  }
}

/** Errors about what was typed, or about a file. The model and the conversation are as they were. */
function isRecoverable(error: unknown): boolean {
  return exitCodeOf(error) === EXIT.usage || (error instanceof Error && 'code' in error);
}
