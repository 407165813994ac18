/**
 * From a model file to something that runs: weights behind a backend, and a tokenizer.
 *
 * @module
 */

import type { FactorProgress } from './cache/factors.js';
import { type LoadOptions, loadModelFile, type ModelSource } from './io/load-model.js';
import type { ModelFile } from './io/model-file.js';
import type { LanguageModel } from './model/language-model.js';
import { ReferenceModel } from './model/transformer.js';
import { referenceWeights } from './model/weights.js';
import { Tokenizer } from './text/tokenizer.js';

/** Options of {@link loadModel}. */
export interface LoadModelOptions extends LoadOptions {
  /** Called before each SVD that a latent cache needs and no file provided. */
  readonly onFactor?: FactorProgress;
}

/** A model ready to run. */
export interface LoadedModel {
  readonly model: LanguageModel;
  readonly tokenizer: Tokenizer;
  /** Name, chat template and fingerprint of the file. */
  readonly file: Omit<ModelFile, 'weights'>;
}

/**
 * Loads a model and its tokenizer.
 *
 * @param source an embedded model's name, a path, a URL, `hf:owner/repo[/file]`, a `Blob`, bytes or files
 * @throws {LoadError | FormatError | UnsupportedModelError | ShapeError | NumericError} names what is wrong
 */
export async function loadModel(source: ModelSource, options: LoadModelOptions = {}): Promise<LoadedModel> {
  const { weights, ...file } = await loadModelFile(source, options);
  const model = new ReferenceModel(file.config, referenceWeights(weights), options.onFactor);
  return { model, tokenizer: new Tokenizer(file.tokenizer), file };
}
