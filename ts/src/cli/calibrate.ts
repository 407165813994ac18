/**
 * `xquant calibrate`: learns from text how a model's layer inputs are best coded, and writes it to a file.
 *
 * @module
 */

import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { type Command, Option } from 'commander';
import { calibrateModel, type MetricWeights, type SetPlan } from '../analysis/calibrate/calibrate.js';
import { CalibrationWindows, SINKS } from '../analysis/calibrate/windows.js';
import type { CalibrationWorker } from '../analysis/calibrate/worker.js';
import {
  type Calibration,
  type CalibrationBasis,
  type CalibrationText,
  carrierOf,
  type PredictedFrom,
} from '../cache/calibration.js';
import { resolveCacheOptions } from '../cache/presets.js';
import { FloatProducts } from '../engine/float-products.js';
import type { KernelChoice } from '../engine/load-wasm.js';
import { WasmModel, type WasmModelOptions } from '../engine/wasm-model.js';
import { physicalCores } from '../engine/workers-node.js';
import { writeCalibrationFile } from '../io/calibration-file.js';
import { loadModelFile } from '../io/load-model.js';
import type { ModelFile } from '../io/model-file.js';
import { NodePlaces } from '../io/node-calibration.js';
import { writeFileAtomically } from '../io/node-write.js';
import { derivedSizes, type ModelConfig } from '../model/config.js';
import { PERPLEXITY_WINDOW } from '../perplexity.js';
import { dequantizeWeights } from '../quant/weight-types.js';
import { Tokenizer } from '../text/tokenizer.js';
import { CalibrationStateFile } from './calibrate-state.js';
import { CalibrationThread, planThreads } from './calibrate-threads.js';
import { UsageError, usage } from './errors.js';
import { formatBytes } from './format.js';
import {
  addCommonOptions,
  addEngineOptions,
  addModelOption,
  type CommonOptions,
  collect,
  type ModelSourceOptions,
  parseCacheArgument,
  parsePositive,
} from './options.js';
import { withProgress, withStatus } from './progress.js';
import { assertWritable, readInputText, type Terminal, write } from './terminal.js';
import { packageVersion } from './version.js';

/** Windows of all texts together, unless told otherwise. */
const DEFAULT_WINDOWS = 16;

/** Windows on which sensitivities are measured, and their tokens. */
const PROBE_WINDOWS = 2;
const PROBE_TOKENS = 512;

/** Bits an element that prediction is fitted for: where keys and values are stored, and where X is, which serves both. */
const FITTED_BITS = { keysAndValues: 2.25, x: 0.85 } as const;

interface CalibrateCommandOptions extends CommonOptions, ModelSourceOptions {
  readonly text: readonly string[];
  readonly windows: number;
  readonly windowTokens?: number;
  readonly cache: readonly string[];
  readonly out?: string;
  readonly threads?: number;
  readonly kernel?: KernelChoice;
  readonly memoryLimit?: number;
}

/** A text, cut into windows. */
interface CutText {
  readonly about: CalibrationText;
  readonly windows: readonly (readonly number[])[];
}

/** Adds the command. */
export function addCalibrateCommand(program: Command, terminal: Terminal): void {
  const command = program
    .command('calibrate')
    .description('learn from text how a model is best coded, for the caches named "@calibrated"')
    .requiredOption(
      '--text <file>',
      'UTF-8 text of a kind that the model will read; repeatable, the windows are shared equally',
      collect,
      [],
    )
    .option('--windows <count>', 'windows of all texts together', parsePositive, DEFAULT_WINDOWS)
    .option(
      '--window-tokens <count>',
      `tokens of a window (default: ${PERPLEXITY_WINDOW}, or the context of the model if shorter)`,
      parsePositive,
    )
    .addOption(
      new Option(
        '-c, --cache <cache>',
        'also what this cache needs, for instance xquant-cl:1.25@calibrated?predict=2; repeatable',
      )
        .default([], 'none')
        .argParser((text: string, before: readonly string[]) => [...before, parseCacheArgument(text)]),
    )
    .option(
      '-o, --out <file>',
      'safetensors file to write (default: beside the model, or in the cache folder, where it is found by itself)',
    );
  addEngineOptions(addModelOption(command));
  addCommonOptions(command, 'print one JSON object');
  command.action((options: CalibrateCommandOptions) => runCalibrate(options, terminal));
}

async function runCalibrate(options: CalibrateCommandOptions, terminal: Terminal): Promise<void> {
  const { json } = options;
  if (options.out !== undefined) await assertWritable(options.out);
  const started = performance.now();
  const texts = await Promise.all(options.text.map((path) => readInputText(path, terminal)));
  const file = await withProgress(terminal, 'loading', (update) =>
    loadModelFile(options.model, {
      keep: options.keep,
      signal: terminal.signal,
      onProgress: ({ loadedBytes, totalBytes }) => update(loadedBytes, totalBytes ?? loadedBytes),
    }),
  );
  const out = options.out ?? new NodePlaces(options.model, file.fingerprint).target('calibration');
  if (options.out === undefined) {
    await mkdir(dirname(out), { recursive: true });
    await assertWritable(out);
  }
  const cut = withStatus(terminal, 'tokenizing', () => cutTexts(texts, options, file));
  const windows = interleave(cut.map((text) => text.windows));
  const probeWindows = windows.slice(0, PROBE_WINDOWS).map((window) => window.slice(0, PROBE_TOKENS));
  const sets = withoutDuplicates([
    ...defaultSets(file.config),
    ...options.cache.map((cache) => setOfCache(cache, file.config)),
  ]);
  const origin = {
    model: file.name ?? basename(options.model),
    texts: cut.map(({ about }) => about),
    windows: windows.length,
    windowTokens: windows[0].length,
    sensitivityWindows: probeWindows.length,
    madeBy: 'xquant calibrate',
  };
  const identity = { version: packageVersion(), fingerprint: file.fingerprint, origin, sets };
  const state = await CalibrationStateFile.open(`${out}.partial`, identity);
  if (state.size > 0) await write(terminal.stderr, `going on with ${out}.partial\n`);
  const result = await withThreads(options, file, windows, terminal, (workers) =>
    withProgress(
      terminal,
      'calibrating',
      (onProgress) =>
        calibrateModel({
          config: file.config,
          weights: metricWeights(file),
          workers,
          tokens: windows.length * windows[0].length,
          probeWindows,
          sets,
          state,
          onProgress,
        }),
      { lines: true },
    ),
  );
  const calibration: Calibration = { origin, ...result };
  const bytes = writeCalibrationFile(calibration, file.fingerprint);
  await writeFileAtomically(out, bytes);
  await state.remove();
  const seconds = (performance.now() - started) / 1000;
  const names = sets.map(({ name }) => name);
  const report = {
    file: out,
    fingerprint: file.fingerprint,
    ...origin,
    sets: names,
    bytes: bytes.length,
    seconds,
  };
  const text = `${out}: ${names.join(', ')}; ${formatBytes(bytes.length)}, ${seconds.toFixed(1)} s\n`;
  await write(terminal.stdout, json ? `${JSON.stringify(report)}\n` : text, terminal.signal);
}

/** Starts the threads, uses them, and ends them however that ends. */
async function withThreads<T>(
  { threads = physicalCores(), kernel, memoryLimit }: CalibrateCommandOptions,
  { config, weights }: ModelFile,
  windows: readonly (readonly number[])[],
  { signal }: Terminal,
  use: (workers: readonly CalibrationWorker[]) => Promise<T>,
): Promise<T> {
  const weightBytes = weights.layers.reduce((sum, layer) => sum + bytesOf(layer), bytesOf(weights));
  const plan = planThreads(threads, weightBytes, windows.length);
  const engine: WasmModelOptions = { threads: plan.engineThreads, kernel, memoryLimit };
  if (plan.workers === 1) {
    await using model = await WasmModel.load(config, weights, engine);
    return await use([
      new CalibrationWindows(model, await FloatProducts.create({ kernel }), windows, signal),
    ]);
  }
  const share = (own: number) => windows.filter((_, i) => i % plan.workers === own);
  const workers = Array.from(
    { length: plan.workers },
    (_, own) => new CalibrationThread({ config, weights, engine, windows: share(own) }),
  );
  const stop = () => Promise.all(workers.map((each) => each.stop()));
  signal.addEventListener('abort', stop, { once: true });
  try {
    signal.throwIfAborted();
    return await use(workers);
  } finally {
    signal.removeEventListener('abort', stop);
    await stop();
  }
}

/** Bytes of the matrices of a layer, or of a model outside its layers. */
function bytesOf(weights: object): number {
  return Object.values(weights).reduce((sum: number, each: unknown) => {
    const { bytes } = (each ?? {}) as { bytes?: Uint8Array };
    return sum + (bytes?.length ?? 0);
  }, 0);
}

function metricWeights({ weights }: ModelFile): (layer: number) => MetricWeights {
  return (layer) => {
    const { wK, wV, wO, keyNorm } = weights.layers[layer];
    return { wK: dequantizeWeights(wK), wV: dequantizeWeights(wV), wO: dequantizeWeights(wO), keyNorm };
  };
}

/**
 * Windows spread evenly over the second half of each text, so that the first is left for evaluation, or over all of a text
 * whose half is too short. Windows from many places say more than neighbours: on SmolLM2, spread over ten books instead of taken
 * from the last one, the cache of 2.25 bits loses 0.78 % on other books in place of 1.12 %.
 *
 * @throws {UsageError} if a text is too short, or a window too long for the model
 */
function cutTexts(
  texts: readonly string[],
  { text: paths, windows, windowTokens }: CalibrateCommandOptions,
  { config, tokenizer: source }: ModelFile,
): CutText[] {
  const context = config.maxPositionEmbeddings;
  const size = windowTokens ?? Math.min(PERPLEXITY_WINDOW, context);
  if (size > context || size <= SINKS) {
    throw new UsageError(
      `"--window-tokens" must be from ${SINKS + 1} to ${context}, the context of the model`,
    );
  }
  if (windows < texts.length) throw new UsageError(`"--windows" must be at least one for each text`);
  const tokenizer = new Tokenizer(source);
  return texts.map((text, i) => {
    const ids = tokenizer.encode(text, { parseSpecial: true });
    const count = Math.floor(windows / texts.length) + (i < windows % texts.length ? 1 : 0);
    const half = ids.length - Math.floor(ids.length / 2);
    const usable = half >= count * size ? half : ids.length;
    if (usable < count * size) {
      const needed = `${count} windows of ${size} tokens need ${count * size}`;
      throw new UsageError(
        `${paths[i]} has ${ids.length} tokens, ${needed}: give more text or fewer windows`,
      );
    }
    return {
      about: { name: basename(paths[i]), sha256: sha256(text), tokens: ids.length },
      windows: Array.from({ length: count }, (_, w) => {
        const first = ids.length - usable + w * Math.floor(usable / count);
        return Array.from(ids.slice(first, first + size));
      }),
    };
  });
}

/** One of each in turn: the first few are of all texts. */
function interleave<T>(lists: readonly (readonly T[])[]): T[] {
  const longest = Math.max(...lists.map(({ length }) => length));
  return Array.from({ length: longest }, (_, i) => lists.flatMap((list) => list.slice(i, i + 1))).flat();
}

/** What is made unless more is asked for. */
function defaultSets(config: ModelConfig): SetPlan[] {
  const sizes = { ...config, ...derivedSizes(config) };
  const carrier = carrierOf(sizes);
  const bases = carrier === 'x' ? (['joint'] as const) : (['joint', 'tensor', 'head'] as const);
  const bits = FITTED_BITS[carrier];
  return [
    ...bases.map((basis) => plan(0, basis, bits)),
    ...([1, 2] as const).map((predict) => plan(predict, 'joint', bits)),
  ];
}

/**
 * What a cache needs.
 *
 * @throws {UsageError} if it is not a calibrated one, or the model cannot have it
 */
function setOfCache(cache: string, config: ModelConfig): SetPlan {
  const { form, predict, basis, bits } = usage(() => resolveCacheOptions(cache, config));
  if (form !== 'calibrated') throw new UsageError(`"--cache" must name calibrated caches, got ${cache}`);
  return plan(predict as PredictedFrom, basis, bits);
}

function plan(predict: PredictedFrom, basis: CalibrationBasis, bits: number): SetPlan {
  if (predict === 0) return { name: basis, predict, basis, bits: null };
  return { name: `cl-p${predict}-b${bits}`, predict, basis, bits };
}

function withoutDuplicates(sets: readonly SetPlan[]): SetPlan[] {
  return [...new Map(sets.map((set) => [set.name, set])).values()];
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
