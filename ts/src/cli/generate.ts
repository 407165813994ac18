/**
 * `xquant generate`: continues a text.
 *
 * @module
 */

import type { Command } from 'commander';
import { float16KeyValueBytes } from '../analysis/memory.js';
import { storedBytes } from '../cache/stored-matrix.js';
import { CachedSequence, type GeneratedToken, type Generation, generate } from '../generate.js';
import { createCache, type OpenedModel, runsOn, withModel } from './backend.js';
import { UsageError, usage } from './errors.js';
import { formatBytes } from './format.js';
import {
  addCacheOption,
  addCommonOptions,
  addOutputOption,
  addRunOptions,
  addSamplingOptions,
  addStopOption,
  type ModelOptions,
  type OutputOptions,
  parseCount,
  type SamplingFlags,
  samplingOptions,
} from './options.js';
import { Progress } from './progress.js';
import { Output, readInputText, type Terminal, write } from './terminal.js';

interface GenerateCommandOptions extends ModelOptions, OutputOptions, SamplingFlags {
  readonly cache: string;
  readonly maxTokens: number;
  readonly stop: readonly string[];
  readonly ignoreEos?: boolean;
  readonly echo?: boolean;
  readonly logprobs?: number;
}

/** Adds the command. */
export function addGenerateCommand(program: Command, terminal: Terminal): void {
  const command = program
    .command('generate')
    .description('continue a text')
    .argument('[prompt]', 'the text to continue; "-" or nothing reads it from stdin')
    .option('-n, --max-tokens <count>', 'stop after this many tokens', parseCount, 200)
    .option('--ignore-eos', 'go on where the model would end')
    .option('--echo', 'print the prompt, too')
    .option(
      '--logprobs <count>',
      'with --json: every token with its log probability and the best COUNT',
      parseCount,
    );
  addStopOption(command, 'end before this text would appear');
  addSamplingOptions(command);
  addRunOptions(command);
  addOutputOption(command);
  addCommonOptions(command, 'print one JSON object at the end: text, ids, stop reason, times, cache bytes');
  addCacheOption(command);
  command.action((prompt: string | undefined, options: GenerateCommandOptions) =>
    runGenerate(prompt, options, terminal),
  );
}

async function runGenerate(
  argument: string | undefined,
  options: GenerateCommandOptions,
  terminal: Terminal,
): Promise<void> {
  const sampling = samplingOptions(options, options.logprobs);
  if (options.logprobs !== undefined && !options.json) throw new UsageError('"--logprobs" needs "--json"');
  const prompt = await readPrompt(argument, terminal);
  const output = await Output.open(terminal, options.output);
  await withModel(options, terminal, async (opened) => {
    const cache = await createCache(opened, options.cache, terminal);
    const progress = new Progress(terminal, 'prompt');
    // Like llama.cpp: in a prompt on the command line the spelling of a special token means the token.
    const ids = opened.tokenizer.encode(prompt, { parseSpecial: true });
    const generation = usage(() =>
      generate(opened.model, opened.tokenizer, ids, {
        ...sampling,
        cache: new CachedSequence(cache),
        maxTokens: options.maxTokens,
        stop: options.stop,
        ignoreEos: options.ignoreEos,
        signal: terminal.signal,
        onPrefill: (done, total) => progress.update(done, total),
      }),
    );
    const tokens: GeneratedToken[] = [];
    const show = new TextLine(options.json ? undefined : output);
    try {
      if (options.echo) await show.write(prompt);
      for await (const token of generation) {
        progress.stop(); // before the first text
        await show.write(token.text);
        if (options.logprobs !== undefined) tokens.push(token);
      }
    } finally {
      progress.stop();
      await show.end();
    }
    if (options.json) await output.json(report(prompt, generation, tokens, options, opened));
    if (options.verbose || (terminal.stderr.isTTY && !options.json)) {
      await write(terminal.stderr, describe(generation, options.cache, opened));
    }
  });
  await output.close();
}

/** Text that ends with a line break, also when it is interrupted. */
class TextLine {
  readonly #output: Output | undefined;
  #end = '\n';

  /** @param output absent if the text is not shown */
  constructor(output: Output | undefined) {
    this.#output = output;
  }

  async write(text: string): Promise<void> {
    if (text === '' || !this.#output) return;
    this.#end = text;
    await this.#output.write(text);
  }

  async end(): Promise<void> {
    if (!this.#end.endsWith('\n')) await this.write('\n');
  }
}

async function readPrompt(argument: string | undefined, terminal: Terminal): Promise<string> {
  if (argument === undefined && terminal.stdin.isTTY) {
    throw new UsageError('there is no prompt: give one as argument, or "-" to read it from stdin');
  }
  const fromStdin = argument === undefined || argument === '-';
  // A text from a file or pipe ends with a line break that is not meant.
  const prompt = fromStdin ? (await readInputText('-', terminal)).replace(/\r?\n$/, '') : argument;
  if (prompt === '') throw new UsageError('the prompt is empty');
  return prompt;
}

function report(
  prompt: string,
  generation: Generation,
  tokens: readonly GeneratedToken[],
  options: GenerateCommandOptions,
  { header, model }: OpenedModel,
): object {
  const { summary, sequence } = generation;
  const { length } = sequence.cache;
  const stored = storedBytes(summary.cacheBytes);
  return {
    model: header.name,
    ...runsOn(model),
    cache: options.cache,
    seed: options.seed,
    prompt,
    ...summary,
    cachedTokens: length,
    bytesPerToken: stored / length,
    compression: float16KeyValueBytes(model.config, length) / stored,
    ...(options.logprobs === undefined ? {} : { tokens }),
  };
}

/** What happened, in a line. */
export function describe(generation: Generation, cache: string, { model }: OpenedModel): string {
  const { summary, sequence } = generation;
  const { promptTokens, reusedTokens, generatedTokens, prefillSeconds, generateSeconds } = summary;
  const { length } = sequence.cache;
  const stored = storedBytes(summary.cacheBytes);
  const rate = (tokens: number, seconds: number) =>
    seconds > 0 ? `${seconds.toFixed(1)} s, ${(tokens / seconds).toFixed(1)}/s` : '0 s';
  const reused = reusedTokens > 0 ? `, ${reusedTokens} of them cached` : '';
  const { backend, kernel, threads = 1 } = runsOn(model);
  const engine = kernel ? `${kernel}, ${threads} ${threads === 1 ? 'thread' : 'threads'}` : backend;
  const smaller = (float16KeyValueBytes(model.config, length) / stored).toFixed(1);
  return (
    `prompt ${promptTokens} tokens${reused} (${rate(promptTokens - reusedTokens, prefillSeconds)}), ` +
    `generated ${generatedTokens} (${rate(generatedTokens, generateSeconds)}), ended: ${summary.stopReason}, ` +
    `cache ${cache}: ${length} tokens in ${formatBytes(stored)}, ${smaller}x smaller than f16 KV, ${engine}\n`
  );
}
