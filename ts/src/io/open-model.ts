/**
 * A model whose headers are read and checked and whose weights are not loaded yet.
 *
 * @module
 */

import { assembleWeights, type ModelLayout, readTensors, type StoredTensor } from './assemble.js';
import { fingerprintModel } from './fingerprint.js';
import type { ModelFile, ModelHeader } from './model-file.js';

/** A model that is open. */
export interface OpenModel {
  readonly header: ModelHeader;
  /** The tensors that make up the model. */
  readonly selected: readonly StoredTensor[];
  readonly layout: ModelLayout;
}

/**
 * Reads the weights of an open model.
 *
 * @throws {LoadError} if they cannot be read
 * @throws {NumericError} if a norm gain or bias is not finite
 */
export async function loadWeights({ header, selected, layout }: OpenModel): Promise<ModelFile> {
  const bytes = await readTensors(selected);
  const weights = assembleWeights(selected, bytes, layout);
  return { ...header, weights, fingerprint: fingerprintModel(header.config, weights) };
}
