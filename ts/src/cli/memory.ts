/**
 * `xquant memory`: what caches take, for a model or a well-known shape.
 *
 * @module
 */

import type { Command } from 'commander';
import {
  type CacheSize,
  cacheSize,
  type MemoryShape,
  NAMED_SHAPES,
  namedShape,
  TABLE_CACHES,
} from '../analysis/memory.js';
import { readModelHeader } from '../io/load-model.js';
import { usage } from './errors.js';
import { formatBytes, formatTable } from './format.js';
import {
  addCacheListOption,
  addCommonOptions,
  addModelOption,
  addOutputOption,
  type CommonOptions,
  type OutputOptions,
  parsePositive,
} from './options.js';
import { Output, type Terminal } from './terminal.js';

interface MemoryCommandOptions extends CommonOptions, OutputOptions {
  readonly model: string;
  readonly shape?: string;
  readonly context?: number;
  readonly cache: readonly string[];
}

/** Adds the command. */
export function addMemoryCommand(program: Command, terminal: Terminal): void {
  const command = program
    .command('memory')
    .description('how many bytes caches take, exactly and as the paper counts');
  addModelOption(command)
    .option('--shape <name>', `instead of a model: ${Object.keys(NAMED_SHAPES).join(', ')}`)
    .option('--context <tokens>', 'tokens in the cache (default: the context of the model)', parsePositive);
  addOutputOption(command);
  addCommonOptions(command, 'print one JSON object for each cache');
  addCacheListOption(command, TABLE_CACHES, 'the rows of the size table');
  command.action((options: MemoryCommandOptions) => runMemory(options, terminal));
}

async function runMemory(options: MemoryCommandOptions, terminal: Terminal): Promise<void> {
  const output = await Output.open(terminal, options.output);
  const { name, shape } = await findShape(options, terminal);
  const context = options.context ?? shape.maxPositionEmbeddings;
  const sizes = options.cache.map((cache) => ({
    cache,
    ...usage(() => cacheSize(cache, shape, context)),
  }));
  if (options.json) {
    for (const size of sizes) await output.json({ model: name, context, ...size });
  } else {
    await output.write(`${name}, ${context} tokens\n\n${table(sizes)}`);
  }
  await output.close();
}

/** A named shape, also if it was given as `--model`, or the sizes of a model file. */
async function findShape(
  { model, shape }: MemoryCommandOptions,
  { signal }: Terminal,
): Promise<{ name: string; shape: MemoryShape }> {
  const name = shape ?? (Object.hasOwn(NAMED_SHAPES, model) ? model : undefined);
  if (name !== undefined) return { name, shape: usage(() => namedShape(name)) };
  const header = await readModelHeader(model, { signal });
  return { name: header.name, shape: header.config };
}

function table(sizes: readonly (CacheSize & { cache: string })[]): string {
  // Exact, and behind it what the paper would print: it rounds the fraction first and divides afterwards.
  const head = [
    'cache',
    'size',
    'bytes/token',
    'scratch',
    'bits',
    'of f16 KV',
    'rounded',
    'smaller',
    'rounded',
  ];
  const rows = sizes.map((size) => [
    size.cache,
    formatBytes(size.storedBytes),
    size.bytesPerToken.toFixed(0),
    size.bytes.scratch === 0 ? '-' : formatBytes(size.bytes.scratch),
    size.bitsPerElement.toFixed(3),
    size.fraction.toFixed(4),
    size.paperFraction.toFixed(2),
    `${size.compression.toFixed(2)}x`,
    `${size.paperCompression.toFixed(1)}x`,
  ]);
  return formatTable([head, ...rows]);
}
