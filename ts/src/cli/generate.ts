/**
 * `xquant generate`: continues a text.
 *
 * @module
 */

import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import { float16KeyValueBytes } from '../analysis/memory.js';
import { storedBytes } from '../cache/stored-matrix.js';
import { LoadError } from '../errors.js';
import {
  CachedSequence,
  type GeneratedToken,
  type GenerateOptions,
  type Generation,
  type GenerationSummary,
  generate,
} from '../generate.js';
import { generateSamples } from '../samples.js';
import {
  chosenCache,
  createCache,
  namedCache,
  type OpenedModel,
  runsOn,
  totalsOf,
  withModel,
} from './backend.js';
import { UsageError, usage } from './errors.js';
import { describeTotals } from './format.js';
import {
  addCacheOption,
  addCommonOptions,
  addOutputOption,
  addRunOptions,
  addSamplingOptions,
  addSpeculateOption,
  addStopOption,
  type ModelOptions,
  type OutputOptions,
  parseCount,
  parsePositive,
  type SamplingFlags,
  type SpeculateFlag,
  type StopFlags,
  samplingOptions,
  stopOptions,
} from './options.js';
import { Progress } from './progress.js';
import { InTurn } from './samples.js';
import { openSnapshot, saveText } from './snapshot.js';
import { assertWritable, Output, readInputText, type Terminal, write } from './terminal.js';

interface GenerateCommandOptions
  extends StopFlags,
    ModelOptions,
    OutputOptions,
    SamplingFlags,
    SpeculateFlag {
  readonly cache: string;
  readonly maxTokens: number;
  readonly ignoreEos?: boolean;
  readonly echo?: boolean;
  readonly logprobs?: number;
  readonly snapshot?: string;
  readonly samples: number;
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
    )
    .option(
      '--samples <count>',
      'continue the prompt this many times, with seeds from --seed on; the prompt runs once',
      parsePositive,
      1,
    )
    .option(
      '--snapshot <file>',
      'save the cache with its text here when done; if the file is there, the prompt reuses what it has in ' +
        'common with the saved text, and without a prompt that text goes on',
    );
  addStopOption(command, 'end before this text would appear');
  addSamplingOptions(command);
  addSpeculateOption(command);
  addRunOptions(command);
  addOutputOption(command);
  addCommonOptions(command, 'print one JSON object at the end: text, ids, stop reason, times, cache bytes');
  addCacheOption(command);
  command.action((prompt: string | undefined, options: GenerateCommandOptions) =>
    runGenerate(prompt, options, command.getOptionValueSource('cache') !== 'default', terminal),
  );
}

async function runGenerate(
  argument: string | undefined,
  options: GenerateCommandOptions,
  isCacheGiven: boolean,
  terminal: Terminal,
): Promise<void> {
  const { snapshot } = options;
  const sampling = samplingOptions(options, options.logprobs);
  if (options.logprobs !== undefined && !options.json) throw new UsageError('"--logprobs" needs "--json"');
  if (options.samples > 1 && typeof options.speculate !== 'string') {
    throw new UsageError('"--samples" share passes and cannot be used with "--speculate"');
  }
  if (snapshot !== undefined && options.samples > 1) {
    throw new UsageError('"--snapshot" keeps one text and cannot be used with "--samples"');
  }
  if (snapshot !== undefined) await assertWritable(snapshot);
  const goesOn = argument === undefined && snapshot !== undefined && existsSync(snapshot);
  const prompt = goesOn ? undefined : await readPrompt(argument, terminal);
  const output = await Output.open(terminal, options.output);
  await withModel(options, terminal, async (opened) => {
    const start = await prepareStart(prompt, options, isCacheGiven, opened, terminal);
    const progress = new Progress(terminal, 'prompt');
    const settings: GenerateOptions = {
      ...sampling,
      generatedBefore: start.generated,
      cache: start.sequence,
      maxTokens: options.maxTokens,
      ...usage(() => stopOptions(options, opened.tokenizer)),
      ignoreEos: options.ignoreEos,
      signal: terminal.signal,
      onPrefill: (done, total) => progress.update(done, total),
    };
    if (options.samples > 1) {
      await runSamples(start, settings, options, opened, progress, output, terminal);
      return;
    }
    const { speculate } = options;
    const generation = usage(() =>
      generate(opened.model, opened.tokenizer, start.ids, { ...settings, speculate }),
    );
    const tokens: GeneratedToken[] = [];
    const show = new TextLine(options.json ? undefined : output);
    try {
      if (options.echo) await show.write(start.prompt);
      for await (const token of generation) {
        progress.stop(); // before the first text
        await show.write(token.text);
        if (options.logprobs !== undefined) tokens.push(token);
      }
    } catch (error) {
      if (snapshot !== undefined && terminal.signal.aborted) await saveText(snapshot, generation, opened);
      throw error;
    } finally {
      progress.stop();
      await show.end();
    }
    if (snapshot !== undefined) await saveText(snapshot, generation, opened);
    if (options.json) await output.json(report(start, generation, tokens, options, opened));
    if (options.verbose || (terminal.stderr.isTTY && !options.json)) {
      await write(terminal.stderr, describe(generation, start.cache, opened));
    }
  });
  await output.close();
}

/** Several texts from one prompt. */
async function runSamples(
  start: Start,
  settings: GenerateOptions,
  options: GenerateCommandOptions,
  opened: OpenedModel,
  progress: Progress,
  output: Output,
  terminal: Terminal,
): Promise<void> {
  const { samples, seed, json } = options;
  const generating = usage(() =>
    generateSamples(opened.model, opened.tokenizer, start.ids, { ...settings, samples }),
  );
  const tokens: GeneratedToken[][] = Array.from({ length: samples }, () => []);
  const show = new InTurn(
    samples,
    async (text) => (json ? undefined : output.write(text)),
    (i) => `--- ${i + 1} of ${samples}, seed ${seed + i}\n${options.echo ? start.prompt : ''}`,
    (text) => (text.endsWith('\n') ? '' : '\n'),
  );
  try {
    for await (const { sample, ...token } of generating) {
      progress.stop();
      const { stopReason } = generating.generations[sample].summary;
      await show.add(sample, token.text, stopReason !== undefined);
      if (options.logprobs !== undefined) tokens[sample].push(token);
    }
  } finally {
    progress.stop();
    await show.finish();
  }
  for (const [i, generation] of generating.generations.entries()) {
    const own = { ...options, seed: seed + i };
    if (json) await output.json({ sample: i, ...report(start, generation, tokens[i], own, opened) });
    if (options.verbose || (terminal.stderr.isTTY && !json)) {
      await write(terminal.stderr, `${i + 1}: ${describe(generation, start.cache, opened)}`);
    }
  }
}

/** The start of a generation. */
interface Start {
  readonly prompt: string;
  readonly ids: readonly number[];
  /** How many of the ids an earlier run generated: the newest ones. */
  readonly generated: number;
  readonly sequence: CachedSequence;
  /** The cache, as `--cache` writes it. */
  readonly cache: string;
}

/** @param prompt undefined continues the saved text */
async function prepareStart(
  prompt: string | undefined,
  { snapshot, cache }: GenerateCommandOptions,
  isCacheGiven: boolean,
  opened: OpenedModel,
  terminal: Terminal,
): Promise<Start> {
  const { tokenizer } = opened;
  const saved =
    snapshot === undefined
      ? undefined
      : await openSnapshot(snapshot, opened, isCacheGiven ? namedCache(cache, opened) : undefined, terminal);
  if (prompt === undefined) {
    if (!saved) throw new LoadError(String(snapshot), 'disappeared while the model was loaded');
    return { ...saved, prompt: tokenizer.decode(saved.ids) };
  }
  // Like llama.cpp: in a prompt on the command line the spelling of a special token means the token.
  const ids = tokenizer.encode(prompt, { parseSpecial: true });
  if (!saved) {
    const chosen = await chosenCache(cache, isCacheGiven, opened, terminal);
    const sequence = new CachedSequence(await createCache(opened, chosen, terminal));
    return { prompt, ids, generated: 0, sequence, cache: chosen };
  }
  const { tokens } = saved.sequence;
  const differs = tokens.findIndex((id, i) => id !== ids[i]);
  // Stay quiet if the prompt extends the saved text or most of it.
  if (differs >= 0 && differs < ids.length && 2 * differs < tokens.length) {
    const shared = `the prompt shares the first ${differs} of ${tokens.length} tokens in ${snapshot}`;
    await write(terminal.stderr, `xquant: ${shared}; the others are dropped\n`);
  }
  return { ...saved, prompt, ids, generated: 0 };
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
  { prompt, cache }: Start,
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
    cache,
    seed: options.seed,
    prompt,
    ...summary,
    cachedTokens: length,
    bytesPerToken: stored / length,
    compression: float16KeyValueBytes(model.config, length) / stored,
    memory: totalsOf(sequence, model),
    ...(options.logprobs === undefined ? {} : { tokens }),
  };
}

/** The outcome in a line. */
function describe(generation: Generation, cache: string, { model }: OpenedModel): string {
  const { summary, sequence } = generation;
  const { promptTokens, reusedTokens, generatedTokens, prefillSeconds, generateSeconds } = summary;
  const { length } = sequence.cache;
  const rate = (tokens: number, seconds: number) =>
    seconds > 0 ? `${seconds.toFixed(1)} s, ${(tokens / seconds).toFixed(1)}/s` : '0 s';
  const reused = reusedTokens > 0 ? `, ${reusedTokens} of them cached` : '';
  const { backend, kernel, threads = 1 } = runsOn(model);
  const engine = kernel ? `${kernel}, ${threads} ${threads === 1 ? 'thread' : 'threads'}` : backend;
  const totals = describeTotals(totalsOf(sequence, model));
  return (
    `prompt ${promptTokens} tokens${reused} (${rate(promptTokens - reusedTokens, prefillSeconds)}), ` +
    `generated ${generatedTokens} (${rate(generatedTokens, generateSeconds)}${describeGuesses(summary)}), ended: ${summary.stopReason}, ` +
    `cache ${cache}: ${length} tokens in ${totals}, ${engine}\n`
  );
}

/** Quality of the guesses; empty if there were none. */
export function describeGuesses({ speculation }: Pick<GenerationSummary, 'speculation'>): string {
  const { drafted, accepted, passes, verified } = speculation;
  return passes === 0
    ? ''
    : `, ${accepted} of ${drafted} guesses right, ${verified} rows in ${passes} passes`;
}
