/**
 * A model in linear memory: matrices as panels, vectors as f32.
 *
 * @module
 */

import type { ModelConfig } from '../model/config.js';
import { MATRIX_ROLES, type MatrixRole, VECTOR_ROLES, type VectorRole } from '../model/tensors.js';
import type { FileWeights } from '../model/weights.js';
import type { Pointer } from './kernels.js';
import type { LinearMemory } from './memory.js';
import { type PlacedMatrix, placeFloats, placeMatrix } from './placed-weights.js';
import type { Recorder } from './team.js';

/** Weights of one layer; vectors are pointers, 0 where the model has none. */
export type PlacedLayer = { readonly [role in MatrixRole]: PlacedMatrix } & {
  readonly [role in VectorRole]: Pointer;
};

/** See the module. */
export interface PlacedModel {
  readonly config: ModelConfig;
  readonly embedding: PlacedMatrix;
  readonly layers: readonly PlacedLayer[];
  readonly outputNorm: number;
  readonly output: PlacedMatrix;
}

/**
 * Copies weights into linear memory.
 *
 * @throws {MemoryError} if there is no room
 * @throws {NumericError} if a weight is NaN or infinite
 */
export function placeModel(
  memory: LinearMemory,
  immediate: Recorder,
  config: ModelConfig,
  weights: FileWeights,
): PlacedModel {
  const vector = (values: Float32Array | undefined): number =>
    values ? placeFloats(memory, values, 'weights') : 0;
  const embedding = placeMatrix(memory, immediate, weights.embedding);
  const layers = weights.layers.map((layer) => {
    const vectors = VECTOR_ROLES.map((role) => [role, vector(layer[role])]);
    const matrices = MATRIX_ROLES.map((role) => [role, placeMatrix(memory, immediate, layer[role])]);
    return Object.fromEntries([...vectors, ...matrices]) as PlacedLayer;
  });
  const outputNorm = vector(weights.outputNorm);
  const output =
    weights.output === weights.embedding ? embedding : placeMatrix(memory, immediate, weights.output);
  return { config, embedding, layers, outputNorm, output };
}
