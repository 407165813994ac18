/**
 * `xquant info`: what a model is, and which caches it can have.
 *
 * @module
 */

import type { Command } from 'commander';
import { cacheSize, float16KeyValueBytes } from '../analysis/memory.js';
import type { Calibration, CalibrationSet } from '../cache/calibration.js';
import { chooseCache } from '../cache/default-cache.js';
import { resolveCacheOptions } from '../cache/presets.js';
import { ConfigError } from '../errors.js';
import { CachedSequence, generate } from '../generate.js';
import { isRemote } from '../io/hub.js';
import { loadModelFile, readModelHeader } from '../io/load-model.js';
import type { ModelHeader } from '../io/model-file.js';
import { mayHaveCalibration, nodeStore } from '../io/node-calibration.js';
import { isKept } from '../io/node-kept-models.js';
import { cacheTotals, type MemoryTotals } from '../memory-totals.js';
import { derivedSizes, describeContext, type ModelConfig } from '../model/config.js';
import { printableName } from '../printable.js';
import { Tokenizer } from '../text/tokenizer.js';
import { createCache, withModel } from './backend.js';
import { describeRatio, formatBytes, formatCount, formatTable } from './format.js';
import { knownLosses } from './known-losses.js';
import {
  addCalibrationOption,
  addCommonOptions,
  addOutputOption,
  addRunOptions,
  type ModelOptions,
  type OutputOptions,
  parsePositive,
} from './options.js';
import { Output, type Terminal } from './terminal.js';

/** Every variant and form, at the bits that matter most. */
const CACHES = [
  'kv',
  'kivi:2',
  'xquant:4?form=x',
  'xquant:4?form=latent',
  'xquant-cl:2?form=x',
  'xquant-cl:2?form=latent',
];

/** Rows of the table "which cache": what to choose from, most exact first. */
const CHOICES = [
  'kv',
  'kivi:4',
  'xquant:4@tuned',
  'xquant-cl:3@tuned',
  'xquant-cl:2@tuned',
  'kivi:2',
  'xquant:2@tuned',
];

/** More of them, where there is a calibration. */
const CALIBRATED_CHOICES = ['xquant-cl:2.25@calibrated', 'xquant-cl:2.25@calibrated?predict=2'];

/** Tokens that a speed is measured over. */
const MEASURED_TOKENS = 32;

interface InfoCommandOptions extends ModelOptions, OutputOptions {
  readonly tensors?: boolean;
  readonly fingerprint?: boolean;
  readonly context?: number;
  readonly measure?: boolean;
}

/** One row of the table "which cache". */
interface ChoiceInfo {
  readonly cache: string;
  readonly memory: MemoryTotals;
  /** Perplexity above that of f16 keys and values in percent, if it was measured on this model. */
  readonly lossPercent?: number;
  /** Tokens a second on this machine, with `--measure`. */
  readonly tokensPerSecond?: number;
  /** Whether it is used unless another one is asked for. */
  readonly isDefault: boolean;
}

type Info = ReturnType<typeof describeModel> & {
  /** With `--fingerprint`. */
  readonly fingerprint?: string;
  readonly choices: readonly ChoiceInfo[];
  /** Why the default is the default. */
  readonly defaultReason: string;
  readonly context: number;
};

interface CacheInfo {
  readonly cache: string;
  /** Why the model cannot have it. */
  readonly problem?: string;
  /** Whether the name without `?form=` means this one. */
  readonly isDefault?: boolean;
  readonly bytesPerToken?: number;
  readonly compression?: number;
}

/** Adds the command. */
export function addInfoCommand(program: Command, terminal: Terminal): void {
  const command = program.command('info').description('what a model is, and which caches it can have');
  command
    .option('--tensors', 'list all tensors')
    .option('--fingerprint', 'read the weights and print what calibrations and snapshots know the model by')
    .option(
      '--context <tokens>',
      'tokens for the table of caches (default: the context of the model)',
      parsePositive,
    )
    .option('--measure', 'load the model and measure the speed of each cache');
  addRunOptions(command);
  addCalibrationOption(command);
  addOutputOption(command);
  addCommonOptions(command, 'print one JSON object');
  command.action((options: InfoCommandOptions) => runInfo(options, terminal));
}

async function runInfo(options: InfoCommandOptions, terminal: Terminal): Promise<void> {
  const output = await Output.open(terminal, options.output);
  const header = await readModelHeader(options.model, {
    keep: options.keep,
    signal: terminal.signal,
  });
  const context = options.context ?? header.config.maxPositionEmbeddings;
  const known = await readKnown(options, terminal);
  const caches = [...CHOICES, ...calibratedChoices(header.config, known.calibration)];
  const speeds = options.measure ? await measureSpeeds(caches, options, terminal) : new Map<string, number>();
  const { cache: chosen, reason } = chooseCache(header.config, known.calibration);
  const info = {
    ...describeModel(header),
    fingerprint: options.fingerprint ? known.fingerprint : undefined,
    context,
    choices: caches.map(
      (cache): ChoiceInfo => ({
        cache,
        memory: cacheTotals(cache, header.config, context),
        lossPercent: lossOf(cache, header, known.calibration),
        tokensPerSecond: speeds.get(cache),
        isDefault: cache === chosen,
      }),
    ),
    defaultReason: reason,
  };
  if (options.json) {
    await output.json(options.tensors ? { ...info, tensors: header.tensors } : info);
  } else {
    await output.write(asText(info));
    if (options.tensors) await output.write(`\n${tensorTable(header)}`);
  }
  await output.close();
}

function describeModel(header: ModelHeader) {
  const { ropeFrequencyDivisors, ...config } = header.config;
  const { queryDim, kvDim, groupedHeads } = derivedSizes(header.config);
  return {
    name: header.name,
    format: header.format,
    parameterCount: header.parameterCount,
    byteLength: header.byteLength,
    weightTypes: header.weightTypes,
    config: { ...config, queryDim, kvDim, groupedHeads, hasRopeScaling: ropeFrequencyDivisors !== undefined },
    tokenizer: describeTokenizer(header),
    hasChatTemplate: header.chatTemplate !== undefined,
    /** Bytes of keys and values in f16. */
    kvBytesPerToken: float16KeyValueBytes(header.config, 1),
    caches: CACHES.map((cache) => describeCache(cache, header.config)),
  };
}

function describeTokenizer({ tokenizer: source }: ModelHeader) {
  if (source.kind === 'none') return undefined;
  const { vocabSize, bosTokenId, eosTokenIds } = new Tokenizer(source);
  return { kind: source.kind, vocabSize, bosTokenId, eosTokenIds };
}

/** Size and compression of sealed blocks: those of a long text. */
function describeCache(cache: string, config: ModelConfig): CacheInfo {
  try {
    const { residualWindow, form } = resolveCacheOptions(cache, config);
    const [name, query] = cache.split('?');
    const { bytesPerToken, compression } = cacheSize(cache, config, residualWindow);
    const isDefault = query === undefined || resolveCacheOptions(name, config).form === form;
    return { cache, isDefault, bytesPerToken, compression };
  } catch (error) {
    if (error instanceof ConfigError) return { cache, problem: error.message };
    throw error;
  }
}

/** Perplexity above that of f16 keys and values in percent: from the calibration itself, or measured on this model. */
function lossOf(
  cache: string,
  { name, config }: ModelHeader,
  calibration: Calibration | undefined,
): number | undefined {
  if (cache === 'kv') return 0;
  const { form, bits, predict, basis } = resolveCacheOptions(cache, config);
  if (form === 'calibrated') {
    const same = (set: CalibrationSet) =>
      set.predict === predict && set.basis === basis && (set.bits ?? bits) === bits;
    const own = calibration?.sets.find(same)?.loss?.percent;
    if (own !== undefined) return own;
  }
  return knownLosses(name, config)?.percent[cache];
}

/** Calibrated caches that a calibration has a set for. */
function calibratedChoices(config: ModelConfig, calibration: Calibration | undefined): string[] {
  return CALIBRATED_CHOICES.filter((cache) => {
    const { predict, basis } = resolveCacheOptions(cache, config);
    return calibration?.sets.some((set) => set.predict === predict && set.basis === basis);
  });
}

/** What only the weights tell: the fingerprint, and by it a calibration. Undefined where nobody needs it. */
async function readKnown(
  { model, keep, fingerprint: isAsked, calibration: path }: InfoCommandOptions,
  { signal }: Terminal,
): Promise<{ fingerprint?: string; calibration?: Calibration }> {
  const isHere = !isRemote(model) || (keep && (await isKept(model)));
  if (!isAsked && path === undefined && !(isHere && mayHaveCalibration(model))) return {};
  const file = await loadModelFile(model, { keep, signal });
  const { fingerprint } = file;
  return { fingerprint, calibration: nodeStore(model, file, path).findCalibration() };
}

/** Tokens a second of each choice, after a short prompt. */
async function measureSpeeds(
  caches: readonly string[],
  options: InfoCommandOptions,
  terminal: Terminal,
): Promise<Map<string, number>> {
  const speeds = new Map<string, number>();
  await withModel(options, terminal, async (opened) => {
    const { model, tokenizer } = opened;
    const ids = Array.from({ length: MEASURED_TOKENS }, (_, i) => i % model.config.vocabSize);
    for (const cache of caches) {
      using own = await createCache(opened, cache, terminal);
      const sequence = new CachedSequence(own);
      const { signal } = terminal;
      const settings = { cache: sequence, maxTokens: MEASURED_TOKENS, ignoreEos: true, signal };
      const { generatedTokens, generateSeconds } = await generate(model, tokenizer, ids, settings).finish();
      speeds.set(cache, generatedTokens / generateSeconds);
    }
  });
  return speeds;
}

function choiceTable({ choices, context, defaultReason }: Info): string {
  const isMeasured = choices.some(({ tokensPerSecond }) => tokensPerSecond !== undefined);
  const rows = choices.map(({ cache, memory, lossPercent, tokensPerSecond, isDefault }) => [
    cache,
    formatBytes(memory.total),
    describeRatio(memory.smaller).replace(' times smaller', 'x').replace(' times larger', 'x larger'),
    lossPercent === undefined ? 'not measured' : `${lossPercent.toFixed(2)} %`,
    ...(isMeasured ? [`${tokensPerSecond?.toFixed(1)}/s`] : []),
    isDefault ? 'default' : '',
  ]);
  const head = ['cache', 'memory in all', 'smaller', 'loss', ...(isMeasured ? ['tokens'] : []), ''];
  return `Which cache, at ${context} tokens (loss: perplexity above f16 keys and values, docs/results.md)\n\n${formatTable([head, ...rows])}default: ${defaultReason}\n`;
}

function asText(info: Info): string {
  const { config, tokenizer } = info;
  const types = info.weightTypes.map(({ type, bytes }) => `${type} ${formatBytes(bytes)}`).join(', ');
  const rope = `theta ${config.ropeTheta}, ${config.ropeLayout}${config.hasRopeScaling ? ', scaled' : ''}`;
  const tied = config.tieWordEmbeddings ? ', tied embeddings' : '';
  const lines: [string, string][] = [
    ['model', `${info.name} (${info.format})`],
    ['architecture', `${config.architecture}, ${formatCount(info.parameterCount)} parameters${tied}`],
    ['weights', `${formatBytes(info.byteLength)}: ${types}`],
    ['layers', `${config.numHiddenLayers}, hidden ${config.hiddenSize}, MLP ${config.intermediateSize}`],
    [
      'heads',
      `${config.numAttentionHeads} of ${config.headDim}, ${config.numKeyValueHeads} for keys and values ` +
        `(${config.groupedHeads === 1 ? 'MHA' : `GQA, ${config.groupedHeads} share one`}), K and V ${config.kvDim} wide`,
    ],
    ['context', `${describeContext(config)}, RoPE ${rope}`],
    [
      'tokenizer',
      tokenizer
        ? `${tokenizer.kind}, ${tokenizer.vocabSize} tokens, BOS ${tokenizer.bosTokenId ?? 'none'}, ` +
          `EOS ${tokenizer.eosTokenIds.join(' ') || 'none'}, chat template: ${info.hasChatTemplate ? 'yes' : 'no'}`
        : 'none',
    ],
    ['f16 KV cache', `${info.kvBytesPerToken} bytes a token`],
    ...(info.fingerprint === undefined ? [] : [['fingerprint', info.fingerprint] as [string, string]]),
  ];
  const text = lines.map(([name, value]) => `${name.padEnd(14)}${value}\n`).join('');
  const rows = info.caches.map(({ cache, problem, isDefault, bytesPerToken = 0, compression = 0 }) => [
    problem === undefined ? cache : `${cache}: no, ${problem}`,
    problem === undefined ? bytesPerToken.toFixed(0) : '',
    problem === undefined ? `${compression.toFixed(2)}x` : '',
    isDefault ? 'yes' : '',
  ]);
  const refused = rows.filter(([, bytes]) => bytes === '').map(([line]) => `${line}\n`);
  const possible = rows.filter(([, bytes]) => bytes !== '');
  const table = formatTable([['cache', 'bytes/token', 'smaller', 'default form'], ...possible]);
  return `${text}\n${choiceTable(info)}\n${table}${refused.join('')}`;
}

function tensorTable({ tensors }: ModelHeader): string {
  const rows = tensors.map(({ name, type, shape, byteLength }) => [
    printableName(name),
    type,
    `[${shape.join(', ')}]`,
    formatBytes(byteLength),
  ]);
  return formatTable([['tensor', 'type', 'shape', 'size'], ...rows]);
}
