/**
 * Loads a model on this thread, which should be a worker's: through the storage of the browser, into an engine.
 *
 * @module
 */

import { type BackendName, type BackendOptions, startModel } from '../backends.js';
import type { WasmBuild } from '../engine/load-wasm.js';
import { WasmModel } from '../engine/wasm-model.js';
import { type LoadOptions, type ModelSource, useModelFile } from '../io/load-model.js';
import type { ModelFile, UnreadModelFile } from '../io/model-file.js';
import type { LanguageModel } from '../model/language-model.js';
import type { ModelStorage } from './storage.js';
import { keepFactors } from './stored-factors.js';
import { StoredFetch } from './stored-fetch.js';

/** Options of {@link loadHere}. */
export interface LoadHereOptions extends LoadOptions, BackendOptions {
  /** Keeps what is downloaded; absent: nothing is kept. */
  readonly storage?: ModelStorage;
}

/** A model on this thread. */
export interface LoadedHere {
  readonly model: LanguageModel;
  readonly file: Omit<ModelFile, 'weights'>;
  readonly backend: BackendName;
  readonly threads: number;
  readonly build?: WasmBuild;
}

/**
 * Loads a model on this thread.
 *
 * @throws what `useModelFile` and `startModel` throw
 * @throws {StorageError} if the model cannot be kept
 */
export async function loadHere(source: ModelSource, options: LoadHereOptions = {}): Promise<LoadedHere> {
  const { storage, ...rest } = options;
  // Where the kernels are is always known, whether or not they will be asked for.
  const binary = rest.backend === 'reference' ? undefined : rest.binary;
  return useThrough(storage, source, rest, async ({ weights, ...file }) => {
    const model = await startModel({ ...file, weights }, { ...rest, binary });
    try {
      if (storage) await keepFactors(storage, model.factors, file);
    } catch (error) {
      await model.dispose();
      throw error;
    }
    return model instanceof WasmModel
      ? { model, file, backend: model.backend, threads: model.threads, build: model.build }
      : { model, file, backend: model.backend, threads: 1 };
  });
}

async function useThrough<T>(
  storage: ModelStorage | undefined,
  source: ModelSource,
  options: LoadOptions,
  use: (file: UnreadModelFile) => Promise<T>,
): Promise<T> {
  const remote = typeof source === 'string' || source instanceof URL;
  if (!storage || !remote) return useModelFile(source, options, use);
  const stored = new StoredFetch(storage, options.fetch);
  try {
    return await useModelFile(source, { ...options, fetch: stored.fetch }, use);
  } catch (error) {
    // A reader sees a broken connection; this is what broke it.
    throw stored.failure ?? error;
  } finally {
    await stored.close();
  }
}
