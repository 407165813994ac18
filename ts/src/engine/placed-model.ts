/**
 * A model in linear memory: matrices as panels, vectors as f32.
 *
 * @module
 */

import type { ModelConfig } from '../model/config.js';
import { MATRIX_ROLES, type MatrixRole, VECTOR_ROLES, type VectorRole } from '../model/tensors.js';
import { type AnyWeights, asUnread, type UnreadTensor } from '../model/weights.js';
import type { WeightTensor } from '../quant/weight-types.js';
import type { Pointer } from './kernels.js';
import type { LinearMemory } from './memory.js';
import { PieceBuffer, type PlacedMatrix, placeFloats, placeMatrix } from './placed-weights.js';
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
 * Copies weights into linear memory; those in files are read piece by piece.
 *
 * @throws {LoadError} if they cannot be read
 * @throws {MemoryError} if there is no room
 * @throws {NumericError} if a weight is NaN or infinite
 */
export async function placeModel(
  memory: LinearMemory,
  immediate: Recorder,
  config: ModelConfig,
  weights: AnyWeights,
): Promise<PlacedModel> {
  const buffer = new PieceBuffer();
  const place = (tensor: WeightTensor | UnreadTensor) =>
    placeMatrix(memory, immediate, asUnread(tensor), buffer);
  const vector = (values: Float32Array | undefined): number =>
    values ? placeFloats(memory, values, 'weights') : 0;
  const embedding = await place(weights.embedding);
  const layers: PlacedLayer[] = [];
  for (const layer of weights.layers) {
    const placed: [string, Pointer | PlacedMatrix][] = [];
    for (const role of VECTOR_ROLES) placed.push([role, vector(layer[role])]);
    for (const role of MATRIX_ROLES) placed.push([role, await place(layer[role])]);
    layers.push(Object.fromEntries(placed) as PlacedLayer);
  }
  const outputNorm = vector(weights.outputNorm);
  const output = weights.output === weights.embedding ? embedding : await place(weights.output);
  return { config, embedding, layers, outputNorm, output };
}
