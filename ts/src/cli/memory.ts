/**
 * `xquant memory`: what caches take, for a model or a well-known shape.
 *
 * @module
 */

import type { Command } from 'commander';
import { cacheSize, type MemoryShape, NAMED_SHAPES, namedShape, TABLE_CACHES } from '../analysis/memory.js';
import { AUTO_CACHE, chooseCache } from '../cache/default-cache.js';
import { resolveCacheOptions } from '../cache/presets.js';
import { readModelHeader } from '../io/load-model.js';
import { breakEvenTokens, bytesByKind, cacheTotals } from '../memory-totals.js';
import { usage } from './errors.js';
import { formatBytes, formatTable } from './format.js';
import {
  addCacheListOption,
  addCommonOptions,
  addModelOption,
  addOutputOption,
  type CommonOptions,
  type ModelSourceOptions,
  type OutputOptions,
  parsePositive,
} from './options.js';
import { Output, type Terminal } from './terminal.js';

interface MemoryCommandOptions extends CommonOptions, OutputOptions, ModelSourceOptions {
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
  const rows = options.cache.map((cache) => usage(() => memoryRow(cache, shape, context)));
  if (options.json) {
    for (const row of rows) await output.json({ model: name, ...row });
  } else {
    await output.write(
      `${name}, ${context} tokens; f16 keys and values: ${formatBytes(rows[0].memory.float16)}\n\n`,
    );
    await output.write(table(rows));
  }
  await output.close();
}

/** One cache in the table. */
type MemoryRow = ReturnType<typeof memoryRow>;

function memoryRow(given: string, shape: MemoryShape, context: number) {
  const cache = given === AUTO_CACHE ? chooseCache(shape).cache : given;
  const size = cacheSize(cache, shape, context);
  return {
    context,
    cache,
    ...size,
    bytes: bytesByKind(resolveCacheOptions(cache, shape), size.bytes),
    memory: cacheTotals(cache, shape, context),
    /** Tokens from which on the total is no larger than f16 keys and values; undefined: never. */
    breakEven: breakEvenTokens(cache, shape),
  };
}

/** A named shape, also if it was given as `--model`, or the sizes of a model file. */
async function findShape(
  { model, keep, shape }: MemoryCommandOptions,
  { signal }: Terminal,
): Promise<{ name: string; shape: MemoryShape }> {
  const name = shape ?? (Object.hasOwn(NAMED_SHAPES, model) ? model : undefined);
  if (name !== undefined) return { name, shape: usage(() => namedShape(name)) };
  const header = await readModelHeader(model, { keep, signal });
  return { name: header.name, shape: header.config };
}

/** Totals first, then the paper's count, which rounds the fraction before it divides. */
function table(rows: readonly MemoryRow[]): string {
  const head = [
    'cache',
    'size',
    'accumulator',
    'plan',
    'total',
    'smaller',
    'cache alone',
    'pays from',
    'bits',
    'paper',
  ];
  const optional = (bytes: number | undefined) =>
    bytes === undefined ? '?' : bytes === 0 ? '-' : formatBytes(bytes);
  const lines = rows.map(({ cache, memory, breakEven, bitsPerElement, paperCompression }) => [
    cache,
    formatBytes(memory.cache),
    optional(memory.accumulator),
    optional(memory.plan),
    formatBytes(memory.total),
    ratio(memory.smaller),
    ratio(memory.cacheSmaller),
    breakEven === undefined ? 'never' : `${breakEven}`,
    bitsPerElement.toFixed(3),
    `${paperCompression.toFixed(1)}x`,
  ]);
  return `${formatTable([head, ...lines])}${reasons(rows)}`;
}

/** `3.10x`, or in words where it is larger. */
function ratio(smaller: number): string {
  return smaller >= 1 ? `${smaller.toFixed(2)}x` : `${(1 / smaller).toFixed(2)}x larger`;
}

/** Why some rows are larger than keys and values in f16. */
function reasons(rows: readonly MemoryRow[]): string {
  const larger = rows.filter(({ memory }) => memory.smaller < 1);
  if (larger.length === 0) return '';
  const lines = larger.map(({ cache, memory, breakEven, context }) => {
    const why =
      memory.cacheSmaller >= 1
        ? 'the plan and the accumulator outweigh it'
        : context < 128
          ? 'short texts are in the window, which is exact'
          : 'what it stores is wider than keys and values';
    const from = breakEven === undefined ? '' : `; it pays from ${breakEven} tokens on`;
    return `${cache}: larger, since ${why}${from}\n`;
  });
  return `\n${lines.join('')}`;
}
