/**
 * From `--model` and `--backend` to a model that runs.
 *
 * @module
 */

import { float16KeyValueBytes } from '../analysis/memory.js';
import { startModel } from '../backends.js';
import { AUTO_CACHE, chooseCache } from '../cache/default-cache.js';
import type { KvquantCalibration } from '../cache/kvquant.js';
import type { CacheRequest } from '../cache/options.js';
import { resolveCacheOptions } from '../cache/presets.js';
import type { Calibrations, FactoredMatrix, LatentFactors, ModelCache } from '../cache/types.js';
import { planBytes } from '../engine/plan-bytes.js';
import { WasmModel } from '../engine/wasm-model.js';
import type { CachedSequence } from '../generate.js';
import { readCalibration } from '../io/kvquant-calibration.js';
import { loadModelFile } from '../io/load-model.js';
import type { ModelHeader } from '../io/model-file.js';
import { embeddedCalibrations } from '../io/node-calibration.js';
import { type FactorName, factorsOfCache, readFactors } from '../io/svd-factors.js';
import { type MemoryTotals, memoryTotals } from '../memory-totals.js';
import type { LanguageModel } from '../model/language-model.js';
import { pauseForEvents } from '../model/pause.js';
import type { ReferenceModel } from '../model/transformer.js';
import { Tokenizer } from '../text/tokenizer.js';
import { usage } from './errors.js';
import type { ModelOptions } from './options.js';
import { withProgress } from './progress.js';
import { readInput, type Terminal, write } from './terminal.js';

/** Factoring that takes longer deserves to be done once and kept. */
const LONG_FACTORING_SECONDS = 5;

/** Factors of a model that are computed when first asked for. */
interface FactorStore {
  factors(layer: number, matrix: FactoredMatrix): LatentFactors;
  preset(layer: number, matrix: FactoredMatrix, factors: LatentFactors): void;
  calibration<K extends keyof Calibrations>(kind: K, path: string): Calibrations[K] | undefined;
  isCalibrationOf(calibration: KvquantCalibration): boolean;
  presetCalibration<K extends keyof Calibrations>(kind: K, calibration: Calibrations[K], path?: string): void;
}

/** A model that is loaded, and what belongs to it. */
export interface OpenedModel {
  readonly model: WasmModel | ReferenceModel;
  readonly header: ModelHeader;
  readonly fingerprint: string;
  readonly tokenizer: Tokenizer;
  readonly factors: FactorStore;
}

/**
 * Loads a model, uses it, and frees it however that ends.
 *
 * @throws what loading throws; see `loadModelFile`
 */
export async function withModel<T>(
  options: ModelOptions,
  terminal: Terminal,
  use: (opened: OpenedModel) => Promise<T>,
): Promise<T> {
  const opened = await openModel(options, terminal);
  try {
    if (options.svd !== undefined) await presetFactors(opened, options.svd, terminal);
    return await use(opened);
  } finally {
    await opened.model.dispose();
  }
}

async function openModel(options: ModelOptions, terminal: Terminal): Promise<OpenedModel> {
  const { signal } = terminal;
  const file = await withProgress(terminal, 'loading', (update) =>
    loadModelFile(options.model, {
      signal,
      onProgress: ({ loadedBytes, totalBytes }) => update(loadedBytes, totalBytes ?? loadedBytes),
    }),
  );
  const tokenizer = new Tokenizer(file.tokenizer);
  const { weights: _weights, fingerprint, ...header } = file;
  const model = await startModel(file, options);
  return { model, factors: model.factors, header, fingerprint, tokenizer };
}

/** What runs a model, for reports. */
export function runsOn(model: LanguageModel): {
  backend: string;
  kernel?: string;
  threads?: number;
  keyWeights?: string;
} {
  if (!(model instanceof WasmModel)) return { backend: model.backend };
  const { backend, build, threads, keyWeights } = model;
  return { backend, kernel: build, threads, keyWeights };
}

async function presetFactors(
  { header, fingerprint, factors }: OpenedModel,
  path: string,
  terminal: Terminal,
): Promise<void> {
  const owner = { config: header.config, fingerprint };
  for (const each of readFactors(await readInput(path, terminal), path, owner)) {
    factors.preset(each.layer, each.matrix, each.factors);
  }
}

/** What a sequence takes in all; the plan is the engine's, and the reference has none. */
export function totalsOf({ cache }: Pick<CachedSequence, 'cache'>, model: LanguageModel): MemoryTotals {
  const { config } = model;
  const plan = model instanceof WasmModel ? planBytes(cache.options, config, model.keyWeights) : 0;
  return memoryTotals(cache.bytes(), plan, float16KeyValueBytes(config, cache.length));
}

/** A cache argument as reports name it: `auto` becomes the cache that it chose. */
export function namedCache(cache: string, { model }: Pick<OpenedModel, 'model'>): string {
  return cache === AUTO_CACHE ? chooseCache(model.config).cache : cache;
}

/**
 * The cache of a command. What `auto` chose and why is said in a line: on a terminal, or to who asked for it.
 *
 * @param isAsked whether `--cache` was typed
 */
export async function chosenCache(
  cache: string,
  isAsked: boolean,
  { model }: Pick<OpenedModel, 'model'>,
  { stderr }: Terminal,
): Promise<string> {
  if (cache !== AUTO_CACHE) return cache;
  const chosen = chooseCache(model.config);
  if (isAsked || stderr.isTTY) await write(stderr, `cache ${chosen.cache}: ${chosen.reason}\n`);
  return chosen.cache;
}

/**
 * An empty cache; factors that it needs are computed before, with a progress bar.
 *
 * @throws {UsageError} if the cache does not fit the model
 */
export async function createCache(
  opened: OpenedModel,
  cache: CacheRequest | string,
  terminal: Terminal,
): Promise<ModelCache> {
  await prepareCaches(opened, [cache], terminal);
  return opened.model.createCache(cache);
}

/**
 * Computes the factors that caches need, and loads the calibrations of KVQuant.
 *
 * @returns the names of the factors; several caches may need the same
 * @throws {UsageError} if a cache does not fit the model
 */
export async function prepareCaches(
  opened: Pick<OpenedModel, 'model' | 'factors'>,
  caches: readonly (CacheRequest | string)[],
  terminal: Terminal,
): Promise<FactorName[]> {
  const { config } = opened.model;
  const calibrations = new Set<string>();
  const names = caches.flatMap((cache) => {
    const options = usage(() => resolveCacheOptions(cache, config));
    if (options.variant === 'kvquant') calibrations.add(options.calibration);
    return factorsOfCache(options, config);
  });
  for (const path of calibrations) await loadCalibration(opened, path, terminal);
  const started = performance.now();
  await computeFactors(opened.factors, names, terminal);
  const seconds = (performance.now() - started) / 1000;
  if (seconds >= LONG_FACTORING_SECONDS && terminal.stderr.isTTY) {
    const advice = '"xquant svd" keeps the factors in a file, and --svd takes them from there';
    await write(terminal.stderr, `factoring took ${seconds.toFixed(0)} s: ${advice}\n`);
  }
  return names;
}

/** Makes a calibration known to the model; an embedded model finds its own. */
async function loadCalibration(
  { model, factors }: Pick<OpenedModel, 'model' | 'factors'>,
  path: string,
  terminal: Terminal,
): Promise<void> {
  if (factors.calibration('kvquant', path)) return;
  if (path !== '') {
    const calibration = readCalibration(await readInput(path, terminal), path, model.config);
    usage(() => factors.presetCalibration('kvquant', calibration, path));
    return;
  }
  presetOwnCalibration({ model, factors });
}

/** Makes the calibration of an embedded model known to it; does nothing for others. */
export function presetOwnCalibration({ model, factors }: Pick<OpenedModel, 'model' | 'factors'>): void {
  const own = embeddedCalibrations(model.config).find((each) => factors.isCalibrationOf(each));
  if (own) factors.presetCalibration('kvquant', own);
}

/** Computes factors one by one, so that Ctrl-C is heard between them. */
export async function computeFactors(
  factors: Pick<FactorStore, 'factors'>,
  names: readonly FactorName[],
  terminal: Terminal,
): Promise<void> {
  await withProgress(terminal, 'factoring', async (update) => {
    for (const [done, { layer, matrix }] of names.entries()) {
      await pauseForEvents(terminal.signal);
      update(done, names.length);
      factors.factors(layer, matrix);
    }
  });
}
