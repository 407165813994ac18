/**
 * Options that several commands share, and how their values are read.
 *
 * @module
 */

import { type Command, InvalidArgumentError, Option } from 'commander';
import { BACKENDS, type BackendName } from '../backends.js';
import { AUTO_CACHE } from '../cache/default-cache.js';
import { CACHE_VARIANTS, PRESETS, VARIANTS } from '../cache/options.js';
import { cacheOptionNames, parseCacheSpec } from '../cache/presets.js';
import { KERNEL_CHOICES, type KernelChoice } from '../engine/load-wasm.js';
import { KEY_WEIGHTS, type KeyWeights } from '../engine/small-product.js';
import { DEFAULT_CACHE } from '../generate.js';
import { BITS } from '../quant/uniform.js';
import { assertSamplingOptions, type SamplingOptions } from '../sampling.js';
import { parseSpeculate, type Speculate } from '../speculation.js';
import type { Tokenizer } from '../text/tokenizer.js';
import { UsageError, usage } from './errors.js';

/** The model that is used unless another one is named. */
const DEFAULT_MODEL = 'books-mha';

/** Options of every command. */
export interface CommonOptions {
  readonly json?: boolean;
  readonly verbose?: boolean;
}

/** Options of commands that have a result to write. */
export interface OutputOptions {
  readonly output?: string;
}

/** Options of commands that read a model. */
export interface ModelSourceOptions {
  readonly model: string;
  readonly keep: boolean;
}

/** Options of commands that run a model. */
export interface ModelOptions extends CommonOptions, ModelSourceOptions {
  readonly backend: BackendName;
  readonly threads?: number;
  readonly kernel?: KernelChoice;
  readonly memoryLimit?: number;
  readonly keyWeights?: KeyWeights;
  readonly svd?: string;
  readonly calibration?: string;
}

/** Options of commands that sample. */
export interface SamplingFlags {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly repetitionWindow: number;
  readonly logitBias: ReadonlyMap<number, number>;
  readonly seed: number;
}

/** Options of commands that write one text. */
export interface SpeculateFlag {
  readonly speculate: Speculate;
}

/** Adds `--json` and `--verbose`. */
export function addCommonOptions(command: Command, json: string): Command {
  return command.option('--json', json).option('--verbose', 'more on stderr; errors with their stack', false);
}

/** Adds `--output`. */
export function addOutputOption(command: Command): Command {
  return command.option(
    '-o, --output <file>',
    'write to a file, once everything has worked, instead of stdout',
  );
}

/** Adds `--model`. */
export function addModelOption(command: Command): Command {
  return command
    .option(
      '-m, --model <model>',
      'books-mha or books-gqa (in a clone), a .gguf file, a Hugging Face folder, a URL, or hf:owner/repo[/file]',
      DEFAULT_MODEL,
    )
    .option('--no-keep', 'do not keep a model from a URL or the hub on disk (see "xquant models")');
}

/** Adds how the engine runs. */
export function addEngineOptions(command: Command): Command {
  return command
    .option('--threads <count>', 'of the engine (default: physical cores)', parsePositive)
    .addOption(
      new Option(
        '--kernel <set>',
        'instructions of the engine (default: auto, relaxed SIMD where the runtime has it)',
      ).choices(KERNEL_CHOICES),
    )
    .addOption(
      new Option(
        '--memory-limit <size>',
        'most memory the engine may take, in bytes or as 512M or 1.5G (default: 4G)',
      ).argParser(parseByteSize),
    );
}

/** Adds what every command that runs a model takes. */
export function addRunOptions(command: Command): Command {
  addModelOption(command).addOption(
    new Option('--backend <name>', 'wasm: the engine; reference: the definition in TypeScript, slow')
      .choices(BACKENDS)
      .default(BACKENDS[0]),
  );
  return addEngineOptions(command)
    .addOption(
      new Option(
        '--key-weights <precision>',
        'of the weights that rematerialize keys: as the file has them, or in 8 bits (default: exact)',
      ).choices(KEY_WEIGHTS),
    )
    .option('--svd <file>', 'factors for the latent forms, from "xquant svd"; computed if not given');
}

/** Adds `--calibration`. */
export function addCalibrationOption(command: Command): Command {
  return command.option(
    '--calibration <file>',
    'for "@calibrated", from "xquant calibrate" (default: looked for beside the model and in the cache folder)',
  );
}

/** Adds `--cache` for one cache. */
export function addCacheOption(command: Command): Command {
  return addCalibrationOption(command)
    .addOption(
      new Option('-c, --cache <cache>', 'cache, see below')
        .default(DEFAULT_CACHE, 'auto, by the model')
        .argParser(parseCacheArgument),
    )
    .addHelpText('after', cacheHelp());
}

/** Adds `--cache` for several caches. */
export function addCacheListOption(
  command: Command,
  defaultCaches: readonly string[],
  shown: string,
): Command {
  return command
    .addOption(
      new Option('-c, --cache <caches>', 'caches, separated by commas, see below')
        .default(defaultCaches, shown)
        .argParser(parseCacheList),
    )
    .addHelpText('after', cacheHelp());
}

/** The values of `--stop` and `--stop-token`. */
export interface StopFlags {
  readonly stop: readonly string[];
  readonly stopToken: readonly string[];
}

/** Adds `--stop` and `--stop-token`. */
export function addStopOption(command: Command, description: string): Command {
  return command
    .addOption(
      new Option('--stop <text>', `${description}; repeatable`).default([], 'none').argParser(collect),
    )
    .addOption(
      new Option('--stop-token <token>', 'end at this token, a name like "<|im_end|>" or an id; repeatable')
        .default([], 'none')
        .argParser(collect),
    );
}

/**
 * The end of a text, as `generate` takes it.
 *
 * @throws {UsageError} if the model has no token of a name or id
 */
export function stopOptions(
  { stop, stopToken }: StopFlags,
  tokenizer: Tokenizer,
): { stop: readonly string[]; stopTokenIds: readonly number[] } {
  const stopTokenIds = stopToken.map((token) => {
    const id = tokenizer.tokenToId(token) ?? (/^\d+$/.test(token) ? Number(token) : undefined);
    if (id !== undefined && tokenizer.idToToken(id) !== undefined) return id;
    throw new UsageError(`"--stop-token ${token}": the model has no such token`);
  });
  return { stop, stopTokenIds };
}

/** Adds the sampling options. */
export function addSamplingOptions(command: Command): Command {
  return command
    .option('-t, --temperature <number>', '0 always takes the most likely token', parseNumber, 0.8)
    .option('--top-k <count>', 'keep this many most likely tokens; 0 keeps all', parseCount, 40)
    .option(
      '--top-p <fraction>',
      'keep the most likely tokens that make up this probability',
      parseNumber,
      0.95,
    )
    .option('--min-p <fraction>', 'drop tokens less likely than this fraction of the best', parseNumber, 0.05)
    .option('--repetition-penalty <factor>', 'above 1: make recent tokens less likely', parseNumber, 1)
    .option('--repetition-window <tokens>', 'how many tokens are recent; 0 means all', parseCount, 64)
    .addOption(
      new Option('--logit-bias <id=bias>', 'add to the logit of a token, -inf forbids it; repeatable')
        .default(new Map(), 'none')
        .argParser(parseLogitBias),
    )
    .option('--seed <integer>', 'of the random numbers; the same seed gives the same text', parseCount, 0);
}

/** Adds `--speculate`. */
export function addSpeculateOption(command: Command): Command {
  return command.addOption(
    new Option(
      '--speculate <how>',
      'guess tokens and check them in one pass, which gives the same text: auto (while it is measured to be faster), ' +
        'off, ngram[:COUNT] (from what the text repeats, at most COUNT at once) or window[:COUNT] (also by the model ' +
        'itself from what is near)',
    )
      .default('auto')
      .argParser((text) => usage(() => parseSpeculate(text))),
  );
}

/**
 * The sampling options that were typed.
 *
 * @throws {UsageError} if one is outside its range
 */
export function samplingOptions(flags: SamplingFlags, topLogprobs = 0): SamplingOptions {
  const { temperature, topK, topP, minP, repetitionPenalty, repetitionWindow, logitBias, seed } = flags;
  const options = {
    temperature,
    topK,
    topP,
    minP,
    repetitionPenalty,
    repetitionWindow,
    logitBias,
    seed,
    topLogprobs,
  };
  usage(() => assertSamplingOptions(options));
  return options;
}

/** An integer from 0. */
export function parseCount(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) {
    throw new InvalidArgumentError('It must be an integer from 0.');
  }
  return value;
}

/** An integer from 1. */
export function parsePositive(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value === 0) {
    throw new InvalidArgumentError('It must be a positive integer.');
  }
  return value;
}

/** A number of bytes, with or without K, M or G of 1024 (also KB or KiB). */
export function parseByteSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(?:([KMG])(?:i?B)?|B)?$/i.exec(text);
  const power = match?.[2] === undefined ? 0 : 1 + 'KMG'.indexOf(match[2].toUpperCase());
  const bytes = match ? Math.floor(Number(match[1]) * 1024 ** power) : 0;
  if (!Number.isSafeInteger(bytes) || bytes < 1) {
    throw new InvalidArgumentError('It must be a size like 800000000, 512M or 1.5G.');
  }
  return bytes;
}

/** Appends to the values given before: for options that can be repeated. */
export function collect(text: string, before: readonly string[]): readonly string[] {
  if (text === '') throw new InvalidArgumentError('It must not be empty.');
  return [...before, text];
}

/** A finite decimal number. */
function parseNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('It must be a number.');
  return value;
}

/** Checks the grammar of a cache argument, and keeps it as the user wrote it. */
export function parseCacheArgument(text: string): string {
  if (text !== AUTO_CACHE) usage(() => parseCacheSpec(text));
  return text;
}

function parseCacheList(text: string): readonly string[] {
  const caches = text.split(',').map((each) => each.trim());
  if (new Set(caches).size < caches.length) throw new UsageError(`"--cache" names a cache twice: ${text}`);
  return caches.map(parseCacheArgument);
}

function parseLogitBias(text: string, before: ReadonlyMap<number, number>): ReadonlyMap<number, number> {
  const match = /^(\d+)=(.+)$/.exec(text);
  const bias = match?.[2] === '-inf' ? Number.NEGATIVE_INFINITY : Number(match?.[2]);
  if (!match || Number.isNaN(bias)) throw new InvalidArgumentError('It must be ID=NUMBER or ID=-inf.');
  return new Map(before).set(Number(match[1]), bias);
}

/** The grammar of a cache argument, by the tables of cache/options.ts. */
function cacheHelp(): string {
  const examples = CACHE_VARIANTS.map((variant) => {
    const { example, about } = VARIANTS[variant];
    return `  ${example.padEnd(28)} ${about}`;
  });
  const presets = Object.entries(PRESETS).map(([preset, about]) => `${preset} (${about})`);
  const options = CACHE_VARIANTS.map((variant) => {
    const names = cacheOptionNames().filter(({ variants }) => variants.includes(variant));
    return `  ${variant.padEnd(10)} ${wrap(names.map(({ name }) => name).join(' '), 13)}`;
  });
  return `
Caches: auto (by the model), or NAME[:BITS][@PRESET][?option=value&...]
${examples.join('\n')}
  ${'xquant-cl:2@paper?group=64'.padEnd(28)} presets: ${presets.join(', ')}
Bits: ${BITS.slice(0, -1).join(', ')} or ${BITS.at(-1)} (default 4); @calibrated: 0.5 to 8. Options by cache:
${options.join('\n')}`;
}

function wrap(text: string, indent: number): string {
  const lines = [''];
  for (const word of text.split(' ')) {
    const line = lines[lines.length - 1];
    if (line.length + word.length + indent > 95) lines.push(word);
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`;
  }
  return lines.join(`\n${' '.repeat(indent)}`);
}
