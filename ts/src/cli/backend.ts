/**
 * From `--model` and `--backend` to a model that runs.
 *
 * @module
 */

import { cacheBytes, float16KeyValueBytes } from '../analysis/memory.js';
import { startModel } from '../backends.js';
import type { ModelCache } from '../cache/contract.js';
import { AUTO_CACHE, type ChosenCache, chooseCache } from '../cache/default-cache.js';
import type { ComputedFactors } from '../cache/factors.js';
import type { CacheRequest } from '../cache/options.js';
import { resolveCacheOptions } from '../cache/presets.js';
import { planBytes } from '../engine/plan-bytes.js';
import { WasmModel } from '../engine/wasm-model.js';
import type { CachedSequence } from '../generate.js';
import { readCalibration } from '../io/kvquant-calibration.js';
import { useModelFile } from '../io/load-model.js';
import type { ModelHeader } from '../io/model-file.js';
import { embeddedCalibrations, nodeStore } from '../io/node-calibration.js';
import type { LoadProgress } from '../io/progress.js';
import { type FactorName, factorsOfCache, readFactors } from '../io/svd-factors.js';
import { type MemoryTotals, memoryTotals } from '../memory-totals.js';
import type { LanguageModel } from '../model/language-model.js';
import { pauseForEvents } from '../model/pause.js';
import type { ReferenceModel } from '../reference-model.js';
import { Tokenizer } from '../text/tokenizer.js';
import { usage } from './errors.js';
import type { ModelOptions } from './options.js';
import { withProgress } from './progress.js';
import { readInput, type Terminal, write } from './terminal.js';

/** A model that is loaded, and what belongs to it. */
export interface OpenedModel {
  readonly model: WasmModel | ReferenceModel;
  readonly header: ModelHeader;
  readonly fingerprint: string;
  readonly tokenizer: Tokenizer;
  readonly factors: ComputedFactors;
}

/**
 * Loads a model, uses it, and frees it however that ends.
 *
 * @throws what loading throws; see `useModelFile`
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
  return withProgress(terminal, 'loading', (update) => {
    const onProgress = ({ loadedBytes, totalBytes }: LoadProgress) =>
      update(loadedBytes, totalBytes ?? loadedBytes);
    return useModelFile(options.model, { keep: options.keep, signal, onProgress }, async (file) => {
      const tokenizer = new Tokenizer(file.tokenizer);
      const { weights: _weights, fingerprint, ...header } = file;
      const model = await startModel(file, options);
      model.factors.useKeeper(nodeStore(options.model, file, options.calibration));
      return { model, factors: model.factors, header, fingerprint, tokenizer };
    });
  });
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
  const plan =
    model instanceof WasmModel ? planBytes(cache.options, config, model.keyWeights, cache.calibrated) : 0;
  return memoryTotals(cache.bytes(), plan, float16KeyValueBytes(config, cache.length));
}

/** The same by formula, for a sequence of so many tokens. */
export function totalsAt(cache: CacheRequest | string, tokens: number, model: LanguageModel): MemoryTotals {
  const { config } = model;
  const options = resolveCacheOptions(cache, config);
  const plan = model instanceof WasmModel ? planBytes(options, config, model.keyWeights) : 0;
  return memoryTotals(cacheBytes(options, config, tokens), plan, float16KeyValueBytes(config, tokens));
}

/** A cache argument as reports name it: `auto` becomes the cache that it chose. */
export function namedCache(cache: string, opened: Pick<OpenedModel, 'model' | 'factors'>): string {
  return cache === AUTO_CACHE ? defaultCache(opened).cache : cache;
}

function defaultCache({ model, factors }: Pick<OpenedModel, 'model' | 'factors'>): ChosenCache {
  return chooseCache(model.config, factors.findCalibration());
}

/**
 * The cache of a command. What `auto` chose and why is said in a line: on a terminal, or to who asked for it.
 *
 * @param isAsked whether `--cache` was typed
 */
export async function chosenCache(
  cache: string,
  isAsked: boolean,
  opened: Pick<OpenedModel, 'model' | 'factors'>,
  { stderr }: Terminal,
): Promise<string> {
  if (cache !== AUTO_CACHE) return cache;
  const chosen = defaultCache(opened);
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
  await computeFactors(opened.factors, names, terminal);
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

/** Computes factors that no run before has kept, one by one, so that Ctrl-C is heard between them, and keeps them. */
export async function computeFactors(
  factors: ComputedFactors,
  names: readonly FactorName[],
  terminal: Terminal,
): Promise<void> {
  const missing = names.filter(({ layer, matrix }) => !factors.has(layer, matrix));
  await withProgress(
    terminal,
    'factoring',
    async (update) => {
      for (const [done, { layer, matrix }] of missing.entries()) {
        await pauseForEvents(terminal.signal);
        update(done, missing.length);
        factors.factors(layer, matrix);
      }
    },
    { lines: true },
  );
  factors.keepComputed();
}
