/**
 * `xquant info`: what a model is, and which caches it can have.
 *
 * @module
 */

import type { Command } from 'commander';
import { cacheSize, float16KeyValueBytes } from '../analysis/memory.js';
import { resolveCacheOptions } from '../cache/presets.js';
import { ConfigError } from '../errors.js';
import { readModelHeader } from '../io/load-model.js';
import type { ModelHeader } from '../io/model-file.js';
import { derivedSizes, type ModelConfig } from '../model/config.js';
import { printableName } from '../printable.js';
import { Tokenizer } from '../text/tokenizer.js';
import { formatBytes, formatCount, formatTable } from './format.js';
import {
  addCommonOptions,
  addModelOption,
  addOutputOption,
  type CommonOptions,
  type OutputOptions,
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

interface InfoCommandOptions extends CommonOptions, OutputOptions {
  readonly model: string;
  readonly tensors?: boolean;
}

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
  addModelOption(command).option('--tensors', 'list all tensors');
  addOutputOption(command);
  addCommonOptions(command, 'print one JSON object');
  command.action((options: InfoCommandOptions) => runInfo(options, terminal));
}

async function runInfo(options: InfoCommandOptions, terminal: Terminal): Promise<void> {
  const output = await Output.open(terminal, options.output);
  const header = await readModelHeader(options.model, { signal: terminal.signal });
  const info = describeModel(header);
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
    /** Of keys and values in f16. */
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

function asText(info: ReturnType<typeof describeModel>): string {
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
    ['context', `${config.maxPositionEmbeddings} tokens, RoPE ${rope}`],
    [
      'tokenizer',
      tokenizer
        ? `${tokenizer.kind}, ${tokenizer.vocabSize} tokens, BOS ${tokenizer.bosTokenId ?? 'none'}, ` +
          `EOS ${tokenizer.eosTokenIds.join(' ') || 'none'}, chat template: ${info.hasChatTemplate ? 'yes' : 'no'}`
        : 'none',
    ],
    ['f16 KV cache', `${info.kvBytesPerToken} bytes a token`],
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
  return `${text}\n${table}${refused.join('')}`;
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
