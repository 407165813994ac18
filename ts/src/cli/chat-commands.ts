/**
 * A conversation on the command line: answers, and the commands that begin with `/`.
 *
 * @module
 */

import { formatCacheOptions } from '../cache/presets.js';
import type { ChatSession } from '../chat-session.js';
import { LoadError } from '../errors.js';
import { CachedSequence, type GenerationSummary } from '../generate.js';
import { readSnapshotFile } from '../io/node-snapshot.js';
import { writeFileAtomically } from '../io/node-write.js';
import { assertSnapshotModel, readSnapshotInfo } from '../io/snapshot.js';
import { createCache, namedCache, type OpenedModel, prepareCaches, runsOn, totalsOf } from './backend.js';
import { UsageError } from './errors.js';
import { describeTotals, formatBytes } from './format.js';
import { describeGuesses } from './generate.js';
import {
  type ModelOptions,
  parseCacheArgument,
  type SamplingFlags,
  type SpeculateFlag,
  type StopFlags,
  samplingOptions,
  stopOptions,
} from './options.js';
import { Progress } from './progress.js';
import { type Terminal, write } from './terminal.js';

/** Options of `xquant chat`. */
export interface ChatCommandOptions extends ModelOptions, SamplingFlags, SpeculateFlag, StopFlags {
  readonly cache: string;
  readonly maxTokens?: number;
  readonly system?: string;
  readonly chatTemplate?: string;
  readonly file: readonly string[];
  readonly quiet?: boolean;
}

/** A command: what it does with the text after its name. Returns false to leave. */
interface ChatCommand {
  readonly usage: string;
  readonly about: string;
  run(argument: string, terminal: Terminal): Promise<boolean | undefined>;
}

/** Names that mean the same. */
const ALIASES: Readonly<Record<string, string>> = { exit: 'quit', bye: 'quit', clear: 'reset', '?': 'help' };

const NAMES = ['help', 'quit', 'reset', 'stats', 'cache', 'save', 'load', 'system'] as const;

/** See the module. */
export class ChatCommands {
  /** All names, with those that mean the same. */
  static readonly names: ReadonlySet<string> = new Set([...NAMES, ...Object.keys(ALIASES)]);
  readonly isJson: boolean;
  readonly #session: ChatSession;
  readonly #opened: OpenedModel;
  readonly #options: ChatCommandOptions;
  readonly #terminal: Terminal;
  readonly #commands: Readonly<Record<(typeof NAMES)[number], ChatCommand>>;
  /** The cache, as `--cache` writes it. */
  #cache: string;
  #last: GenerationSummary | undefined;

  constructor(session: ChatSession, opened: OpenedModel, options: ChatCommandOptions, terminal: Terminal) {
    this.isJson = options.json === true;
    this.#session = session;
    this.#opened = opened;
    this.#options = options;
    this.#terminal = terminal;
    this.#cache = options.cache;
    this.#commands = {
      help: { usage: '/help', about: 'this text', run: () => this.#help() },
      quit: { usage: '/quit', about: 'leave (or Ctrl-D)', run: async () => false },
      reset: { usage: '/reset', about: 'forget the conversation', run: () => this.#reset() },
      stats: { usage: '/stats', about: 'speed, memory and context so far', run: () => this.#stats() },
      cache: {
        usage: '/cache [CACHE]',
        about: 'show the cache, or go on with another one',
        run: (cache, stoppable) => this.#changeCache(cache, stoppable),
      },
      save: {
        usage: '/save FILE',
        about: 'save the conversation with its cache',
        run: (file) => this.#save(file),
      },
      load: {
        usage: '/load FILE',
        about: 'go on with a saved conversation',
        run: (file, stoppable) => this.#load(file, stoppable),
      },
      system: {
        usage: '/system [TEXT]',
        about: 'show the system message, or set it',
        run: (text) => this.#system(text),
      },
    };
  }

  /** Model, cache and context. */
  async header(isTerminal: boolean): Promise<void> {
    const { config } = this.#opened.model;
    const help = isTerminal ? '/help lists commands, Ctrl-D leaves\n' : '';
    await this.#note(
      `${this.#opened.header.name}, cache ${this.#cache}, context ${config.maxPositionEmbeddings} tokens\n${help}`,
    );
  }

  /** Says that the text of files waits for the first message. */
  async attached(text: string): Promise<void> {
    const tokens = this.#opened.tokenizer.encode(text, { addSpecial: false }).length;
    await this.#note(`${tokens} tokens from --file come before your first message; Enter sends them alone\n`);
  }

  /**
   * Runs a command.
   *
   * @param stop ends what takes long, by throwing its reason
   * @returns whether the conversation continues
   * @throws {UsageError} if there is no such command
   */
  async run(name: string, argument: string, stop?: AbortSignal): Promise<boolean> {
    const known = (ALIASES[name] ?? name) as (typeof NAMES)[number];
    if (!NAMES.includes(known)) throw new UsageError(`no command /${name}; /help lists them`);
    const command = this.#commands[known];
    if (argument !== '' && !command.usage.includes(' ')) {
      throw new UsageError(`/${name} takes no argument; a message must not begin with "/${name}"`);
    }
    const { signal } = this.#terminal;
    const stoppable = stop ? { ...this.#terminal, signal: AbortSignal.any([signal, stop]) } : this.#terminal;
    return (await command.run(argument, stoppable)) ?? true;
  }

  /**
   * Answers a message.
   *
   * @param stop ends the answer, which then stays as far as it came
   * @throws {ConfigError} if the message does not fit in the context
   */
  async answer(message: string, stop?: AbortSignal): Promise<void> {
    const { stdout, stderr, signal } = this.#terminal;
    const progress = new Progress(this.#terminal, 'reading');
    const answer = this.#session.send(message, {
      ...samplingOptions(this.#options),
      speculate: this.#options.speculate,
      maxTokens: this.#options.maxTokens,
      ...stopOptions(this.#options, this.#opened.tokenizer),
      signal: stop ? AbortSignal.any([signal, stop]) : signal,
      onPrefill: (done, total) => progress.update(done, total),
    });
    if (answer.droppedMessages > 0) {
      const dropped = `the context is full: the oldest ${answer.droppedMessages} messages are forgotten`;
      await write(stderr, `xquant: ${dropped}; /reset starts a new conversation\n`);
    }
    let isShown = false;
    try {
      for await (const { text } of answer) {
        progress.stop();
        isShown = true;
        if (!this.isJson) await write(stdout, text, signal);
      }
    } catch (error) {
      if (!stop?.aborted || signal.aborted) throw error;
    } finally {
      progress.stop();
      if (isShown && !this.isJson) await write(stdout, '\n');
    }
    await this.#report(answer.summary, answer.droppedMessages);
  }

  async #report(summary: GenerationSummary, droppedMessages: number): Promise<void> {
    this.#last = summary;
    const { stdout, stderr, signal } = this.#terminal;
    if (this.isJson) {
      const { header, model } = this.#opened;
      const result = {
        model: header.name,
        ...runsOn(model),
        cache: this.#cache,
        droppedMessages,
        ...summary,
      };
      await write(stdout, `${JSON.stringify(result)}\n`, signal);
      return;
    }
    await this.#note(`(${this.#describe(summary)})\n`);
    if (summary.stopReason !== 'contextFull') return;
    await write(
      stderr,
      'xquant: the context is full and the answer ends here; the next question drops the oldest turns\n',
    );
  }

  /** Speed and memory in a line. */
  #describe({ promptTokens, reusedTokens, generatedTokens, ...summary }: GenerationSummary): string {
    const { prefillSeconds, generateSeconds } = summary;
    if (prefillSeconds === 0) return 'interrupted while reading; the question is taken back';
    const { length } = this.#session.sequence.cache;
    const rate = (tokens: number, seconds: number) =>
      seconds > 0 ? `${(tokens / seconds).toFixed(1)}/s` : '0/s';
    const read = `read ${promptTokens - reusedTokens} of ${promptTokens} tokens (${rate(promptTokens - reusedTokens, prefillSeconds)})`;
    const wrote = `wrote ${generatedTokens} (${rate(generatedTokens, generateSeconds)}${describeGuesses(summary)})`;
    const stopped = summary.stopReason === 'interrupted' ? ', interrupted' : '';
    const totals = describeTotals(totalsOf(this.#session.sequence, this.#opened.model));
    return `${read}, ${wrote}${stopped}; ${length} tokens in ${totals}`;
  }

  async #help(): Promise<undefined> {
    const commands = Object.values(this.#commands);
    const width = Math.max(...commands.map(({ usage }) => usage.length)) + 2;
    const lines = commands.map(({ usage, about }) => `${usage.padEnd(width)}${about}\n`).join('');
    const hint =
      'Ctrl-C stops an answer. """ begins and ends a message of several lines; \\ continues a line.\n';
    await write(this.#terminal.stdout, lines + hint);
    return undefined;
  }

  async #reset(): Promise<undefined> {
    this.#session.reset();
    this.#last = undefined;
    return undefined;
  }

  async #stats(): Promise<undefined> {
    const { cache } = this.#session.sequence;
    const { config } = this.#opened.model;
    const messages = this.#session.messages.length;
    const lines = [
      `model    ${this.#opened.header.name}`,
      `context  ${cache.length} of ${config.maxPositionEmbeddings} tokens, ${messages} messages`,
      `cache    ${this.#cache}: ${describeTotals(totalsOf(this.#session.sequence, this.#opened.model))}`,
      ...(this.#last ? [`last     ${this.#describe(this.#last)}`] : []),
    ];
    await write(this.#terminal.stdout, `${lines.join('\n')}\n`);
    return undefined;
  }

  async #changeCache(argument: string, terminal: Terminal): Promise<undefined> {
    if (argument === '') {
      const { cache } = this.#session.sequence;
      await write(this.#terminal.stdout, `${formatCacheOptions(cache.options, this.#opened.model.config)}\n`);
      return undefined;
    }
    const spec = namedCache(parseCacheArgument(argument), this.#opened);
    const cache = await createCache(this.#opened, spec, terminal);
    this.#session.changeCache(new CachedSequence(cache));
    this.#cache = spec;
    await this.#note(`cache ${spec}; the next answer reads the conversation again\n`);
    return undefined;
  }

  async #save(path: string): Promise<undefined> {
    if (path === '') throw new UsageError('/save needs a file name');
    const bytes = this.#session.save(this.#opened.fingerprint);
    await writeFileAtomically(path, bytes);
    await this.#note(`saved ${this.#session.messages.length} messages in ${formatBytes(bytes.length)}\n`);
    return undefined;
  }

  async #load(path: string, terminal: Terminal): Promise<undefined> {
    if (path === '') throw new UsageError('/load needs a file name');
    const bytes = await readSnapshotFile(path);
    if (!bytes) throw new LoadError(path, 'there is no such file');
    const { model, fingerprint } = this.#opened;
    const info = readSnapshotInfo(bytes, path);
    assertSnapshotModel(info, path, fingerprint);
    await prepareCaches(this.#opened, [info.options], terminal);
    this.#session.load(bytes, path, fingerprint);
    this.#cache = formatCacheOptions(info.options, model.config);
    this.#last = undefined;
    await this.#note(
      `${this.#session.messages.length} messages, ${info.length} tokens, cache ${this.#cache}\n`,
    );
    return undefined;
  }

  async #system(text: string): Promise<undefined> {
    if (text === '') await write(this.#terminal.stdout, `${this.#session.system ?? '(none)'}\n`);
    else this.#session.system = text;
    return undefined;
  }

  /** Something that is neither answer nor error. */
  async #note(text: string): Promise<void> {
    if (this.#options.quiet || this.isJson) return;
    await write(this.#terminal.stderr, text);
  }
}
