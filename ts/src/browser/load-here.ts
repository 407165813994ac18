/**
 * Loads a model on this thread, which should be a worker's: through the storage of the browser, into an engine.
 *
 * @module
 */

import type { FactorProgress } from '../cache/factors.js';
import type { KernelChoice, LoadOptions as KernelOptions, WasmBuild } from '../engine/load-wasm.js';
import { WasmModel } from '../engine/wasm-model.js';
import { ConfigError } from '../errors.js';
import { type LoadOptions, loadModelFile, type ModelSource } from '../io/load-model.js';
import type { ModelFile } from '../io/model-file.js';
import type { LanguageModel } from '../model/language-model.js';
import { ReferenceModel } from '../model/transformer.js';
import { referenceWeights } from '../model/weights.js';
import type { BackendChoice } from './protocol.js';
import { type ModelStorage, StoredFetch } from './storage.js';

/** Options of {@link loadHere}. */
export interface LoadHereOptions extends LoadOptions {
  readonly backend?: BackendChoice;
  readonly kernel?: KernelChoice;
  readonly threads?: number;
  readonly memoryLimit?: number;
  readonly binary?: KernelOptions['binary'];
  readonly onFactor?: FactorProgress;
  /** Keeps what is downloaded; absent: nothing is kept. */
  readonly storage?: ModelStorage;
}

/** A model on this thread. */
export interface LoadedHere {
  readonly model: LanguageModel;
  readonly file: Omit<ModelFile, 'weights'>;
  readonly backend: BackendChoice;
  readonly threads: number;
  readonly build?: WasmBuild;
}

/**
 * Loads a model on this thread.
 *
 * @throws what `loadModelFile` and `WasmModel.load` throw
 * @throws {StorageError} if the model cannot be kept
 */
export async function loadHere(source: ModelSource, options: LoadHereOptions = {}): Promise<LoadedHere> {
  const { backend = 'wasm', storage, onFactor, kernel, threads, memoryLimit, binary, ...rest } = options;
  if (backend !== 'wasm' && backend !== 'reference') {
    throw new ConfigError('backend', backend, 'wasm or reference');
  }
  const { weights, ...file } = await loadThrough(storage, source, rest);
  if (backend === 'reference') {
    const model = new ReferenceModel(file.config, referenceWeights(weights), onFactor);
    return { model, file, backend, threads: 1 };
  }
  const model = await WasmModel.load(file.config, weights, {
    kernel,
    threads,
    memoryLimit,
    binary,
    onFactor,
  });
  return { model, file, backend, threads: model.threads, build: model.build };
}

async function loadThrough(
  storage: ModelStorage | undefined,
  source: ModelSource,
  options: LoadOptions,
): Promise<ModelFile> {
  const remote = typeof source === 'string' || source instanceof URL;
  if (!storage || !remote) return loadModelFile(source, options);
  const stored = new StoredFetch(storage, options.fetch);
  try {
    return await loadModelFile(source, { ...options, fetch: stored.fetch });
  } catch (error) {
    // A reader sees a broken connection; this is what broke it.
    throw stored.failure ?? error;
  } finally {
    await stored.close();
  }
}
