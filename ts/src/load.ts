/**
 * From a model file to something that runs: a backend with the weights, and a tokenizer.
 *
 * @module
 */

import { type BackendOptions, startModel } from './backends.js';
import { ConfigError } from './errors.js';
import { type LoadOptions, type ModelSource, useModelFile } from './io/load-model.js';
import type { ModelFile, UnreadModelFile } from './io/model-file.js';
import type { LanguageModel } from './model/language-model.js';
import { inNode } from './platform.js';
import { Tokenizer } from './text/tokenizer.js';

/** Options of {@link loadModel}. */
export interface LoadModelOptions extends LoadOptions, BackendOptions {
  /**
   * File of the calibration for caches of form `calibrated` (Node only). By default it is looked for beside the model and
   * in `$XDG_CACHE_HOME/xquant`, where SVD factors are kept, too.
   */
  readonly calibration?: string;
}

/** A model ready to run. */
export interface LoadedModel {
  readonly model: LanguageModel;
  readonly tokenizer: Tokenizer;
  /** Name, chat template and fingerprint of the file. */
  readonly file: Omit<ModelFile, 'weights'>;
}

/**
 * Loads a model and its tokenizer. The model runs on the engine unless `backend: 'reference'` is asked for.
 *
 * @param source an embedded model's name, a path, a URL, `hf:owner/repo[/file]`, a `Blob`, bytes or files
 * @throws {LoadError | FormatError | UnsupportedModelError | ShapeError | NumericError} names what is wrong
 * @throws {ConfigError} if an option is outside its set, or is not for the backend
 * @throws {KernelError} if the runtime has no WebAssembly SIMD, or a kernel binary is missing or damaged
 * @throws {MemoryError} if the weights do not fit in the memory limit
 *
 * @example
 * ```ts
 * const { model, tokenizer } = await loadModel('books-mha', { threads: 2 });
 * const { text } = await generate(model, tokenizer, 'Call me', { maxTokens: 20 }).finish();
 * await model.dispose();
 * ```
 */
export async function loadModel(source: ModelSource, options: LoadModelOptions = {}): Promise<LoadedModel> {
  return useModelFile(source, { keep: inNode(), ...options }, (file) => startLoaded(file, source, options));
}

async function startLoaded(
  { weights, ...file }: UnreadModelFile,
  source: ModelSource,
  options: LoadModelOptions,
): Promise<LoadedModel> {
  // First: a tokenizer that cannot be built must not leave an engine behind.
  const tokenizer = new Tokenizer(file.tokenizer);
  const model = await startModel({ ...file, weights }, options);
  if (inNode()) {
    const { nodeStore } = await import('./io/node-calibration.js');
    model.factors.useKeeper(nodeStore(sourceName(source), file, options.calibration));
  } else if (options.calibration !== undefined) {
    await model.dispose();
    throw new ConfigError('calibration', options.calibration, 'absent: files by their path need Node');
  }
  return { model, tokenizer, file };
}

/** The user's name of a model; empty for one that has no name. */
function sourceName(source: ModelSource): string {
  return typeof source === 'string' || source instanceof URL ? String(source) : '';
}
