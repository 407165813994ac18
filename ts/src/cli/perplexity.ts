/**
 * `xquant perplexity`: what caches cost in quality, against the f16 KV cache on the same text.
 *
 * @module
 */

import { type Command, Option } from 'commander';
import { DEFAULT_CACHE } from '../generate.js';
import type { LanguageModel } from '../model/language-model.js';
import {
  type CachePerplexity,
  measurePerplexity,
  PERPLEXITY_WINDOW,
  type PerplexityMode,
  type PerplexityReport,
} from '../perplexity.js';
import { namedCache, prepareCaches, runsOn, totalsAt, withModel } from './backend.js';
import { formatTable } from './format.js';
import {
  addCacheListOption,
  addCalibrationOption,
  addCommonOptions,
  addOutputOption,
  addRunOptions,
  type ModelOptions,
  type OutputOptions,
  parsePositive,
} from './options.js';
import { withProgress, withStatus } from './progress.js';
import { Output, readInputText, type Terminal } from './terminal.js';

/** How the modes are written on the command line. */
const MODES: Readonly<Record<string, PerplexityMode>> = {
  'teacher-forced': 'teacherForced',
  decode: 'decode',
};

interface PerplexityCommandOptions extends ModelOptions, OutputOptions {
  readonly text: string;
  readonly cache: readonly string[];
  readonly windows?: number;
  readonly windowSize?: number;
  readonly mode: string;
  readonly passTokens?: number;
}

/** Adds the command. */
export function addPerplexityCommand(program: Command, terminal: Terminal): void {
  const modes = Object.keys(MODES);
  const command = program
    .command('perplexity')
    .description('measure what caches cost in quality')
    .requiredOption('--text <file>', 'UTF-8 text to predict; "-" reads stdin')
    .option(
      '--windows <count>',
      'use this many windows from the start of the text (default: all)',
      parsePositive,
    )
    .option(
      '--window-size <tokens>',
      `tokens of a window (default: ${PERPLEXITY_WINDOW}, or the context of the model if shorter)`,
      parsePositive,
    )
    .addOption(
      new Option(
        '--mode <mode>',
        'teacher-forced: every key and value comes from the cache, as in the paper; decode: token by token, the newest block in f16, as in generation (slow)',
      )
        .choices(modes)
        .default(modes[0]),
    )
    .option(
      '--pass-tokens <count>',
      'tokens of a forward pass; decode: 1 by default, more is faster and less exact',
      parsePositive,
    );
  addRunOptions(command);
  addOutputOption(command);
  addCommonOptions(command, 'print one JSON object for each cache');
  addCalibrationOption(command);
  addCacheListOption(command, [DEFAULT_CACHE], DEFAULT_CACHE);
  command.action((options: PerplexityCommandOptions) => runPerplexity(options, terminal));
}

async function runPerplexity(options: PerplexityCommandOptions, terminal: Terminal): Promise<void> {
  const text = await readInputText(options.text, terminal);
  const output = await Output.open(terminal, options.output);
  await withModel(options, terminal, async (opened) => {
    const caches = options.cache.map((cache) => namedCache(cache, opened));
    await prepareCaches(opened, caches, terminal);
    // Documents in one file are divided by the spelling of the end-of-text token.
    const tokens = withStatus(terminal, 'tokenizing', () =>
      opened.tokenizer.encode(text, { parseSpecial: true }),
    );
    const report = await withProgress(terminal, 'perplexity', (onProgress) =>
      measurePerplexity(opened.model, tokens, {
        caches,
        windows: options.windows,
        windowSize: options.windowSize,
        mode: MODES[options.mode],
        passTokens: options.passTokens,
        signal: terminal.signal,
        onProgress,
      }),
    );
    if (!options.json) {
      await output.write(table(report, opened.model));
      return;
    }
    for (const result of report.caches) {
      const memory = totalsAt(result.cache, result.windowSize, opened.model);
      await output.json({ model: opened.header.name, ...runsOn(opened.model), ...result, memory });
    }
  });
  await output.close();
}

/** A row for each cache; what it takes in all is that of one window. */
function table({ baseline, caches }: PerplexityReport, model: LanguageModel): string {
  const [first] = caches;
  const error = (value: number | null) => (value === null ? '' : ` ±${value.toFixed(4)}`);
  const row = (each: CachePerplexity) => [
    String(each.cache),
    each.perplexity.toFixed(4),
    `${each.loss >= 0 ? '+' : ''}${each.loss.toFixed(5)}${error(each.lossStdErr)}`,
    each.klDivergence.toFixed(5),
    `${(100 * each.topOneAgreement).toFixed(2)} %`,
    each.bitsPerElement.toFixed(3),
    each.bytesPerToken.toFixed(0),
    `${each.compression.toFixed(2)}x`,
    `${totalsAt(each.cache, each.windowSize, model).smaller.toFixed(2)}x`,
    `${each.seconds.toFixed(1)} s`,
  ];
  const head = [
    'cache',
    'perplexity',
    'loss/token',
    'KL',
    'same top',
    'bits',
    'bytes/token',
    'cache alone',
    'in all',
    'time',
  ];
  return (
    `${first.windows} windows of ${first.windowSize} tokens, ${first.mode}; ` +
    `f16 KV cache: perplexity ${baseline.perplexity.toFixed(4)}${error(baseline.perplexityStdErr)}\n\n` +
    `${formatTable([head, ...caches.map(row)])}\n` +
    'cache alone: against keys and values in f16; in all: with accumulator and plan, for one window\n'
  );
}
