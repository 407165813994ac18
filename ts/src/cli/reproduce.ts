/**
 * `xquant reproduce`: the evaluation of the paper on one model and text, as tables, figures and a page.
 *
 * @module
 */

import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { cpus, totalmem, type } from 'node:os';
import { basename, join } from 'node:path';
import { type Command, Option } from 'commander';
import { DEVICES, parseDevice } from '../analysis/roofline.js';
import { resolveCacheOptions } from '../cache/presets.js';
import { WasmModel } from '../engine/wasm-model.js';
import { ConfigError, LoadError, XQuantError } from '../errors.js';
import { readCalibration } from '../io/kvquant-calibration.js';
import { EMBEDDED_MODELS } from '../io/load-model.js';
import { writeFileAtomically } from '../io/node-write.js';
import type { FactorName } from '../io/svd-factors.js';
import { PERPLEXITY_WINDOW } from '../perplexity.js';
import { analyzeModel, type ModelAnalysis } from '../reproduce/analysis.js';
import { loadDrawing, standaloneSvg } from '../reproduce/draw.js';
import { reportFigures } from '../reproduce/figures.js';
import { KeyValueSimulation } from '../reproduce/key-value-simulation.js';
import { resultsMarkdown } from '../reproduce/markdown.js';
import { PLANS, type PlanName, plannedCaches, singleLayerCaches } from '../reproduce/plans.js';
import { type DrawnFigure, reportHtml } from '../reproduce/report.js';
import { assembleReproduction, type Reproduction, type ReproductionSetup } from '../reproduce/results.js';
import { type Job, missingWindows, type RunReport, runCaches } from '../reproduce/runner.js';
import { cacheCells } from '../reproduce/tables.js';
import { computeFactors, type OpenedModel, prepareCaches, runsOn, withModel } from './backend.js';
import { usage } from './errors.js';
import { formatTable } from './format.js';
import {
  addCalibrationOption,
  addCommonOptions,
  addRunOptions,
  type ModelOptions,
  parsePositive,
} from './options.js';
import { withProgress, withStatus } from './progress.js';
import { FolderStore, type RunIdentity } from './reproduce-store.js';
import { readInput, readInputText, type Terminal, write } from './terminal.js';
import { packageVersion } from './version.js';
import { startWindowThreads } from './window-threads.js';

/** Windows unless asked otherwise, if the text has that many. */
const DEFAULT_WINDOWS = 32;

/** Windows for the loss of single layers: differences between layers are large. */
const SINGLE_LAYER_WINDOWS = 2;

interface ReproduceCommandOptions extends ModelOptions {
  readonly text: string;
  readonly out: string;
  readonly plan: PlanName;
  readonly windows?: number;
  readonly windowSize?: number;
  readonly kvquantCalibration?: string;
  readonly device: string;
}

/** Adds the command. */
export function addReproduceCommand(program: Command, terminal: Terminal): void {
  const command = program
    .command('reproduce')
    .description("the paper's evaluation on a model and a text: tables, figures, a report")
    .requiredOption('--text <file>', 'UTF-8 text to predict; "-" reads stdin')
    .requiredOption(
      '--out <folder>',
      'for results.json, report.html, results.md and figures/; a run that was interrupted goes on from there',
    )
    .addOption(
      new Option(
        '--plan <plan>',
        'paper: the rows of its tables; tuned: from the encoder of the paper to ours; calibrated: calibrated caches ' +
          'beside what else users have; all: everything',
      )
        .choices(PLANS)
        .default(PLANS[0]),
    )
    .option(
      '--windows <count>',
      `use this many windows from the start of the text (default: ${DEFAULT_WINDOWS}, or all if the text has fewer)`,
      parsePositive,
    )
    .option(
      '--window-size <tokens>',
      `tokens of a window (default: ${PERPLEXITY_WINDOW}, or the context of the model if shorter)`,
      parsePositive,
    )
    .option(
      '--kvquant-calibration <file>',
      'of KVQuant for this model, from golden/generate/calibrate_kvquant.py; embedded models have theirs',
    )
    .option(
      '--device <name>',
      `of the system model: ${Object.keys(DEVICES).join(', ')}, or custom:TFLOPS:GBPS`,
      'h100',
    );
  addCalibrationOption(command);
  addRunOptions(command);
  addCommonOptions(command, 'print one JSON object for each cache');
  command.action((options: ReproduceCommandOptions) => runReproduce(options, terminal));
}

async function runReproduce(options: ReproduceCommandOptions, terminal: Terminal): Promise<void> {
  const device = usage(() => parseDevice(options.device));
  // Fail early, before hours of work.
  const draw = await loadDrawing();
  await makeFolder(join(options.out, 'figures'));
  const text = await readInputText(options.text, terminal);
  await withModel(options, terminal, async (opened) => {
    const calibration = calibrationIdentity(opened);
    const kvquantCalibration = await presetKvquant(opened, options.kvquantCalibration, terminal);
    const ids = withStatus(terminal, 'tokenizing', () =>
      Uint32Array.from(opened.tokenizer.encode(text, { parseSpecial: true })),
    );
    const setup = describeSetup(options, opened, ids);
    const { store, changed } = await FolderStore.open(options.out, {
      ...identityOf(setup),
      calibration,
      kvquantCalibration,
    });
    if (changed.length > 0) {
      terminal.stderr.write(
        `xquant: ${options.out} had results of another ${changed.join(', ')}: starting over\n`,
      );
    }
    const started = performance.now();
    const report = await runPlan(opened, ids, setup, store, options, terminal);
    const analysis = await analyze(opened, ids, setup, store, terminal);
    const { threads = 1 } = runsOn(opened.model);
    const results = assembleReproduction(setup, report, analysis, device, {
      date: new Date().toISOString(),
      machine: describeMachine(),
      threads,
    });
    await writeResults(options.out, results, draw);
    await print(results, options, (performance.now() - started) / 1000, terminal);
  });
}

/** Runs what has no result yet. */
async function runPlan(
  { model, factors }: OpenedModel,
  ids: Uint32Array,
  { plan, windows, windowSize }: ReproductionSetup,
  store: FolderStore,
  options: ReproduceCommandOptions,
  terminal: Terminal,
): Promise<RunReport> {
  const jobs: Job[] = [
    ...plannedCaches(plan, model.config).map(({ cache }) => ({ cache, windows })),
    ...singleLayerCaches(model.config).map((cache) => ({
      cache,
      windows: Math.min(SINGLE_LAYER_WINDOWS, windows),
    })),
  ];
  const pending: string[] = [];
  for (const job of jobs) {
    const known = new Set((await store.read(job.cache)).windows.map(({ window }) => window));
    if (missingWindows(job, known).length > 0 && fits(job.cache, model.config)) pending.push(job.cache);
  }
  const names = await prepareCaches({ model, factors }, pending, terminal);
  const threads =
    pending.length > 0 ? startWindowThreads({ model, factors }, options, names, windowSize) : [];
  try {
    const report = await withProgress(terminal, 'reproducing', (onProgress) =>
      runCaches(model instanceof WasmModel ? new KeyValueSimulation(model) : model, ids, {
        jobs,
        windowSize,
        store,
        evaluators: threads,
        signal: terminal.signal,
        onProgress,
      }),
    );
    // What is published names the model, not where it is on this machine.
    const skipped = report.skipped.map(({ cache, reason }) => ({
      cache,
      reason: reason.replaceAll(options.model, basename(options.model)),
    }));
    return { ...report, skipped };
  } finally {
    await Promise.all(threads.map((thread) => thread.stop()));
  }
}

/** Whether a model can have a cache; if not, the runner notes why. */
function fits(cache: string, config: OpenedModel['model']['config']): boolean {
  try {
    resolveCacheOptions(cache, config);
    return true;
  } catch (error) {
    if (error instanceof XQuantError || error instanceof RangeError) return false;
    throw error;
  }
}

async function analyze(
  { model, factors }: OpenedModel,
  ids: Uint32Array,
  { windowSize }: ReproductionSetup,
  store: FolderStore,
  terminal: Terminal,
): Promise<ModelAnalysis> {
  const known = await store.readPart('analysis');
  if (known) return known as ModelAnalysis;
  const names = model.projections.flatMap((_, layer): FactorName[] => [
    { layer, matrix: 'key' },
    { layer, matrix: 'value' },
  ]);
  await computeFactors(factors, names, terminal);
  const analysis = await withProgress(terminal, 'analysing', (onProgress) =>
    analyzeModel(model, [...ids.subarray(0, windowSize)], terminal.signal, onProgress),
  );
  await store.writePart('analysis', analysis);
  return analysis;
}

function describeSetup(
  options: ReproduceCommandOptions,
  { model, header, fingerprint }: OpenedModel,
  ids: Uint32Array,
): ReproductionSetup {
  const context = model.config.maxPositionEmbeddings;
  const windowSize = options.windowSize ?? Math.min(PERPLEXITY_WINDOW, context);
  if (windowSize < 2 || windowSize > context) {
    throw new ConfigError('window-size', windowSize, `from 2 to ${context}, the context of the model`);
  }
  const available = Math.floor(ids.length / windowSize);
  const windows = options.windows ?? Math.min(DEFAULT_WINDOWS, available);
  if (windows < 1 || windows > available) {
    const needed = `at least ${Math.max(1, windows) * windowSize} tokens: ${Math.max(1, windows)} windows of ${windowSize}`;
    throw new ConfigError('text', `${ids.length} tokens`, needed);
  }
  const { kernel, backend, keyWeights } = runsOn(model);
  const instructions = kernel?.replace(/-threads$/, '');
  return {
    command: commandLine(options, windows, windowSize),
    version: packageVersion(),
    plan: options.plan,
    windows,
    windowSize,
    model: {
      name: header.name,
      fingerprint,
      parameters: header.parameterCount,
      weights: header.weightTypes.map((each) => each.type).join(', '),
      config: model.config,
    },
    text: {
      name: options.text === '-' ? 'stdin' : basename(options.text),
      sha256: createHash('sha256').update(new Uint8Array(ids.buffer)).digest('hex'),
      tokens: ids.length,
    },
    engine: instructions ? `${backend} (${instructions}, key weights ${keyWeights})` : backend,
  };
}

function identityOf({
  version,
  model,
  text,
  windowSize,
  engine,
}: ReproductionSetup): Omit<RunIdentity, 'calibration' | 'kvquantCalibration'> {
  return { version, model: model.fingerprint, text: text.sha256, windowSize, engine };
}

/** Tells the calibration of the calibrated caches from others; empty if the model has none. */
function calibrationIdentity({ factors }: OpenedModel): string {
  try {
    const { origin, distortion, sets } = factors.calibration('calibrated', '') ?? { sets: [] };
    const about = [origin, distortion, sets.map(({ layers: _, ...set }) => set)];
    return createHash('sha256').update(JSON.stringify(about)).digest('hex');
  } catch (error) {
    if (error instanceof ConfigError) return '';
    throw error;
  }
}

/** The command that gives the same results, without the folders of this machine. */
function commandLine(options: ReproduceCommandOptions, windows: number, windowSize: number): string {
  const isName =
    (EMBEDDED_MODELS as readonly string[]).includes(options.model) || /^[a-z]+:/i.test(options.model);
  const parts = ['xquant reproduce', '--model', isName ? options.model : basename(options.model)];
  parts.push('--text', basename(options.text), '--plan', options.plan, '--windows', String(windows));
  if (options.windowSize !== undefined) parts.push('--window-size', String(windowSize));
  if (options.calibration !== undefined) parts.push('--calibration', basename(options.calibration));
  if (options.kvquantCalibration !== undefined) {
    parts.push('--kvquant-calibration', basename(options.kvquantCalibration));
  }
  if (options.backend !== 'wasm') parts.push('--backend', options.backend);
  if (options.keyWeights !== undefined) parts.push('--key-weights', options.keyWeights);
  return [...parts, '--out', basename(options.out)].join(' ');
}

/** Makes a calibration of KVQuant known to the model. Returns what tells it from others. */
async function presetKvquant(
  { model, factors }: OpenedModel,
  path: string | undefined,
  terminal: Terminal,
): Promise<string> {
  if (path === undefined) return '';
  const bytes = await readInput(path, terminal);
  const calibration = readCalibration(bytes, path, model.config);
  usage(() => factors.presetCalibration('kvquant', calibration));
  return createHash('sha256').update(bytes).digest('hex');
}

async function writeResults(
  folder: string,
  results: Reproduction,
  draw: Awaited<ReturnType<typeof loadDrawing>>,
): Promise<void> {
  const drawn: DrawnFigure[] = [];
  for (const { spec, ...figure } of reportFigures(results)) {
    const svg = await draw(spec, figure.id);
    drawn.push({ ...figure, svg });
    await writeFileAtomically(join(folder, 'figures', `${figure.id}.svg`), standaloneSvg(svg));
  }
  await writeFileAtomically(join(folder, 'results.json'), `${JSON.stringify(results, null, 1)}\n`);
  await writeFileAtomically(join(folder, 'results.md'), resultsMarkdown(results));
  await writeFileAtomically(join(folder, 'report.html'), reportHtml(results, drawn));
}

async function print(
  results: Reproduction,
  { json, out }: ReproduceCommandOptions,
  seconds: number,
  { stdout, signal }: Terminal,
): Promise<void> {
  const { caches, baseline, claims, skipped, windows, windowSize, model } = results;
  if (json) {
    const lines = caches.map((each) => `${JSON.stringify({ model: model.name, ...each })}\n`);
    await write(stdout, lines.join(''), signal);
    return;
  }
  const table = formatTable([
    ['cache', 'of f16 KV', 'smaller', 'in all', 'perplexity', 'loss/token', 'perplexity +%'],
    ...caches.map(cacheCells),
  ]);
  const verdicts = claims.map(({ text, verdict, evidence }) =>
    verdict === 'untested' ? '' : `${verdict.padEnd(8)} ${text}: ${evidence}\n`,
  );
  const missing = skipped.map(({ cache, reason }) => `not run: ${cache}: ${reason}\n`);
  const minutes = `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  await write(
    stdout,
    `${model.name}, ${windows} windows of ${windowSize} tokens; f16 KV cache: perplexity ` +
      `${baseline.perplexity.toFixed(3)}\n\n${table}\n${verdicts.join('')}${missing.join('')}` +
      `\n${minutes}; ${join(out, 'report.html')}\n`,
    signal,
  );
}

async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true });
  } catch (cause) {
    throw new LoadError(path, `cannot be made: ${(cause as Error).message}`, { cause });
  }
}

function describeMachine(): string {
  const processors = cpus();
  const memory = Math.round(totalmem() / 2 ** 30);
  const name = processors[0]?.model.trim() || 'unknown processor';
  return `${name}, ${processors.length} cores, ${memory} GiB, ${type()}, Node ${process.versions.node}`;
}
