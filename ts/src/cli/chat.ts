/**
 * `xquant chat`: a conversation, in which the cache of one turn is the start of the next.
 *
 * @module
 */

import { createInterface } from 'node:readline';
import type { Command } from 'commander';
import { ConfigError } from '../errors.js';
import { CachedSequence, generate } from '../generate.js';
import { type ChatMessage, renderChat } from '../text/chat-template.js';
import { createCache, type OpenedModel, runsOn, withModel } from './backend.js';
import { EXIT, formatError, Interruption, UsageError } from './errors.js';
import { describe } from './generate.js';
import {
  addCacheOption,
  addCommonOptions,
  addRunOptions,
  addSamplingOptions,
  addStopOption,
  type ModelOptions,
  parseCount,
  type SamplingFlags,
  samplingOptions,
} from './options.js';
import { readInputText, type Terminal, write } from './terminal.js';

interface ChatCommandOptions extends ModelOptions, SamplingFlags {
  readonly cache: string;
  readonly maxTokens?: number;
  readonly system?: string;
  readonly chatTemplate?: string;
  readonly stop: readonly string[];
}

const HELP = `/reset  forget the conversation
/help   this text
/exit   leave (or Ctrl-D)
Ctrl-C stops an answer.
`;

/** Adds the command. */
export function addChatCommand(program: Command, terminal: Terminal): void {
  const command = program
    .command('chat')
    .description('talk with a model that has a chat template; /help lists commands')
    .option('--system <text>', 'system message')
    .option('--chat-template <file>', "Jinja template to use instead of the model's own")
    .option(
      '-n, --max-tokens <count>',
      'end an answer after this many tokens (default: when the context is full)',
      parseCount,
    );
  addStopOption(command, 'end an answer before this text would appear');
  addSamplingOptions(command);
  addRunOptions(command);
  addCommonOptions(command, 'print one JSON object for each answer');
  addCacheOption(command);
  command.action((options: ChatCommandOptions) => runChat(options, terminal));
}

async function runChat(options: ChatCommandOptions, terminal: Terminal): Promise<void> {
  samplingOptions(options); // before the model is loaded
  const template = options.chatTemplate && (await readInputText(options.chatTemplate, terminal));
  await withModel(options, terminal, async (opened) => {
    const chosen = template ?? opened.header.chatTemplate;
    if (!chosen) {
      throw new UsageError(
        `model ${opened.header.name} has no chat template: use "xquant generate", or give one with --chat-template`,
      );
    }
    const sequence = new CachedSequence(await createCache(opened, options.cache, terminal));
    await new Conversation(opened, options, chosen, sequence, terminal).run();
  });
}

/** Reads questions and writes answers until there are no more. */
class Conversation {
  readonly #opened: OpenedModel;
  readonly #options: ChatCommandOptions;
  readonly #template: string;
  readonly #sequence: CachedSequence;
  readonly #terminal: Terminal;
  #messages: ChatMessage[] = [];
  /** Stops the answer that is being given. */
  #answering: AbortController | undefined;

  constructor(
    opened: OpenedModel,
    options: ChatCommandOptions,
    template: string,
    sequence: CachedSequence,
    terminal: Terminal,
  ) {
    this.#opened = opened;
    this.#options = options;
    this.#template = template;
    this.#sequence = sequence;
    this.#terminal = terminal;
    this.#reset();
  }

  async run(): Promise<void> {
    const { stdin, stdout, signal } = this.#terminal;
    const interactive = stdin.isTTY === true && stdout.isTTY === true && !this.#options.json;
    const lines = createInterface({
      input: stdin,
      output: interactive ? stdout : undefined,
      terminal: interactive,
    });
    let interrupted = false;
    // On a terminal readline takes Ctrl-C for itself.
    lines.on('SIGINT', () => {
      if (this.#answering) this.#answering.abort();
      else {
        interrupted = true;
        lines.close();
      }
    });
    const close = () => lines.close();
    signal.addEventListener('abort', close, { once: true });
    try {
      lines.setPrompt('> ');
      if (interactive) lines.prompt();
      for await (const line of lines) {
        if (line.trim() === '/exit') break;
        await this.#take(line.trim());
        if (interactive) lines.prompt();
      }
    } finally {
      signal.removeEventListener('abort', close);
      lines.close();
      if (interactive) stdout.write('\n'); // leaves the line of the prompt
    }
    signal.throwIfAborted();
    if (interrupted) throw new Interruption(EXIT.interrupted);
  }

  async #take(line: string): Promise<void> {
    const { stdout, stderr } = this.#terminal;
    if (line === '') return;
    if (line === '/reset') this.#reset();
    else if (line === '/help') await write(stdout, HELP);
    else if (/^\/\w+$/.test(line)) await write(stderr, `xquant: no command ${line}; /help lists them\n`);
    else await this.#answer(line);
  }

  #reset(): void {
    const { system } = this.#options;
    this.#messages = system === undefined ? [] : [{ role: 'system', content: system }];
  }

  async #answer(question: string): Promise<void> {
    const { signal, stderr } = this.#terminal;
    const answering = new AbortController();
    this.#answering = answering;
    const before = this.#messages;
    this.#messages = [...before, { role: 'user', content: question }];
    let answer = '';
    try {
      for await (const text of this.#generate(AbortSignal.any([signal, answering.signal]))) answer += text;
    } catch (error) {
      // A question that does not fit is taken back; the conversation goes on.
      if (error instanceof ConfigError) {
        this.#messages = before;
        await write(stderr, formatError(error, false).replace(/\n$/, '; /reset starts anew\n'));
        return;
      }
      if (!answering.signal.aborted || signal.aborted) throw error;
      if (!this.#options.json) await write(this.#terminal.stdout, '\n');
    } finally {
      this.#answering = undefined;
    }
    this.#messages = [...this.#messages, { role: 'assistant', content: answer }];
  }

  /** Gives the answer piece by piece, and writes it. */
  async *#generate(signal: AbortSignal): AsyncGenerator<string> {
    const { json, verbose, maxTokens, stop, cache } = this.#options;
    const { model, tokenizer, header } = this.#opened;
    const { stdout, stderr } = this.#terminal;
    const { bosToken, eosToken } = tokenizer;
    const prompt = renderChat(this.#template, this.#messages, { bosToken, eosToken });
    const ids = tokenizer.encode(prompt, { addSpecial: false, parseSpecial: true });
    const sampling = samplingOptions(this.#options);
    const options = { ...sampling, cache: this.#sequence, maxTokens, stop, signal };
    const generation = generate(model, tokenizer, ids, options);
    for await (const { text } of generation) {
      if (!json) await write(stdout, text, signal);
      yield text;
    }
    if (json) {
      const result = { model: header.name, ...runsOn(model), cache, ...generation.summary };
      await write(stdout, `${JSON.stringify(result)}\n`, signal);
    } else await write(stdout, '\n', signal);
    if (verbose) await write(stderr, describe(generation, cache, this.#opened));
  }
}
