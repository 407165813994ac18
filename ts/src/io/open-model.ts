/**
 * A model whose headers are read and checked and whose weights are not loaded yet.
 *
 * @module
 */

import { readWeights } from '../model/weights.js';
import { assembleWeights, fetchTensors, type ModelLayout, type StoredTensor } from './assemble.js';
import { fingerprintModel } from './fingerprint.js';
import type { ModelFile, ModelHeader, UnreadModelFile } from './model-file.js';

/** A model that is open. */
export interface OpenModel {
  readonly header: ModelHeader;
  /** The tensors that make up the model. */
  readonly selected: readonly StoredTensor[];
  readonly layout: ModelLayout;
}

/**
 * Makes the weights of an open model readable, piece by piece where that is no slower. What a server has is fetched
 * first.
 *
 * @returns to be used while the files are open
 * @throws {LoadError} if something cannot be read
 * @throws {NumericError} if a norm gain or bias is not finite
 */
export async function unreadModel({ header, selected, layout }: OpenModel): Promise<UnreadModelFile> {
  const isRemote = selected.some(({ source }) => source.isRemote);
  const weights = await assembleWeights(isRemote ? await fetchTensors(selected) : selected, layout);
  return { ...header, weights, fingerprint: await fingerprintModel(header.config, weights) };
}

/**
 * Reads the weights of an open model.
 *
 * @throws {LoadError} if they cannot be read
 * @throws {NumericError} if a norm gain or bias is not finite
 */
export async function loadWeights(model: OpenModel): Promise<ModelFile> {
  const file = await unreadModel({ ...model, selected: await fetchTensors(model.selected) });
  return { ...file, weights: await readWeights(file.weights) };
}
