/**
 * A model in linear memory: matrices as panels, vectors as f32.
 *
 * @module
 */

import type { ModelConfig } from '../model/config.js';
import type { FileWeights } from '../model/weights.js';
import type { AttentionWeights } from './layer-plan.js';
import type { LinearMemory } from './memory.js';
import { type PlacedMatrix, placeFloats, placeMatrix } from './placed-weights.js';
import type { Recorder } from './team.js';

/** Weights of one layer; vectors are pointers, 0 where the model has none. */
export interface PlacedLayer extends AttentionWeights {
  readonly wQ: PlacedMatrix;
  readonly wO: PlacedMatrix;
  readonly bQ: number;
  readonly queryNorm: number;
  readonly mlpNorm: number;
  readonly wGate: PlacedMatrix;
  readonly wUp: PlacedMatrix;
  readonly wDown: PlacedMatrix;
}

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
  const layers = weights.layers.map((layer) => ({
    attentionNorm: vector(layer.attentionNorm),
    mlpNorm: vector(layer.mlpNorm),
    bQ: vector(layer.bQ),
    bK: vector(layer.bK),
    bV: vector(layer.bV),
    queryNorm: vector(layer.queryNorm),
    keyNorm: vector(layer.keyNorm),
    wQ: placeMatrix(memory, immediate, layer.wQ),
    wK: placeMatrix(memory, immediate, layer.wK),
    wV: placeMatrix(memory, immediate, layer.wV),
    wO: placeMatrix(memory, immediate, layer.wO),
    wGate: placeMatrix(memory, immediate, layer.wGate),
    wUp: placeMatrix(memory, immediate, layer.wUp),
    wDown: placeMatrix(memory, immediate, layer.wDown),
  }));
  const outputNorm = vector(weights.outputNorm);
  const output =
    weights.output === weights.embedding ? embedding : placeMatrix(memory, immediate, weights.output);
  return { config, embedding, layers, outputNorm, output };
}
