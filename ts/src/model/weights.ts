/**
 * The weights of a Llama-family model, by role. `T` is what a linear layer's matrix is: a plain f32 matrix
 * for the reference, the bytes of the file for the engine.
 *
 * @module
 */

import { NumericError, ShapeError } from '../errors.js';
import type { Matrix } from '../numerics/matrix.js';
import { dequantizeWeights, type WeightTensor } from '../quant/weight-types.js';
import { derivedSizes, type ModelConfig } from './config.js';

/** One transformer layer. Matrices are [outChannels, inChannels], as files store them. */
export interface LayerWeights<T> {
  /** [hiddenSize] */
  readonly attentionNorm: Float32Array;
  /** [queryDim, hiddenSize] */
  readonly wQ: T;
  /** [kvDim, hiddenSize] */
  readonly wK: T;
  /** [kvDim, hiddenSize] */
  readonly wV: T;
  /** [hiddenSize, queryDim] */
  readonly wO: T;
  /** [queryDim], Qwen2 */
  readonly bQ?: Float32Array;
  /** [kvDim], Qwen2 */
  readonly bK?: Float32Array;
  /** [kvDim], Qwen2 */
  readonly bV?: Float32Array;
  /** Gain of the norm of each query head, Qwen3. [headDim] */
  readonly queryNorm?: Float32Array;
  /** Gain of the norm of each key head, Qwen3. [headDim] */
  readonly keyNorm?: Float32Array;
  /** [hiddenSize] */
  readonly mlpNorm: Float32Array;
  /** [intermediateSize, hiddenSize] */
  readonly wGate: T;
  /** [intermediateSize, hiddenSize] */
  readonly wUp: T;
  /** [hiddenSize, intermediateSize] */
  readonly wDown: T;
}

/** A whole model. */
export interface ModelWeights<T> {
  /** [vocabSize, hiddenSize] */
  readonly embedding: T;
  readonly layers: readonly LayerWeights<T>[];
  /** [hiddenSize] */
  readonly outputNorm: Float32Array;
  /** [vocabSize, hiddenSize]; the embedding itself where the two are tied. */
  readonly output: T;
}

/** Weights as a file stores them. */
export type FileWeights = ModelWeights<WeightTensor>;

/** Weights of the reference: everything in f32. */
export type ReferenceWeights = ModelWeights<Matrix>;

const MATRIX_ROLES = ['wQ', 'wK', 'wV', 'wO', 'wGate', 'wUp', 'wDown'] as const;
const VECTOR_ROLES = ['attentionNorm', 'mlpNorm', 'bQ', 'bK', 'bV', 'queryNorm', 'keyNorm'] as const;

/**
 * Requires every tensor to have the shape that the config implies, and every vector to be finite.
 *
 * @throws {ShapeError} names layer and tensor
 * @throws {NumericError} if a norm gain or bias is not finite
 */
export function assertWeightShapes(
  weights: ModelWeights<{ rows: number; columns: number }>,
  config: ModelConfig,
): void {
  const { hiddenSize, intermediateSize, vocabSize, headDim } = config;
  const { queryDim, kvDim } = derivedSizes(config);
  const matrices: Record<(typeof MATRIX_ROLES)[number], [number, number]> = {
    wQ: [queryDim, hiddenSize],
    wK: [kvDim, hiddenSize],
    wV: [kvDim, hiddenSize],
    wO: [hiddenSize, queryDim],
    wGate: [intermediateSize, hiddenSize],
    wUp: [intermediateSize, hiddenSize],
    wDown: [hiddenSize, intermediateSize],
  };
  const vectors: Record<(typeof VECTOR_ROLES)[number], number> = {
    attentionNorm: hiddenSize,
    mlpNorm: hiddenSize,
    bQ: queryDim,
    bK: kvDim,
    bV: kvDim,
    queryNorm: headDim,
    keyNorm: headDim,
  };
  if (weights.layers.length !== config.numHiddenLayers) {
    throw new ShapeError('weights', 'layers', [config.numHiddenLayers], [weights.layers.length]);
  }
  assertShape(weights.embedding, [vocabSize, hiddenSize], 'embedding');
  assertShape(weights.output, [vocabSize, hiddenSize], 'output');
  assertVector(weights.outputNorm, hiddenSize, 'outputNorm');
  for (const [index, layer] of weights.layers.entries()) {
    for (const role of MATRIX_ROLES) assertShape(layer[role], matrices[role], `layer ${index} ${role}`);
    for (const role of VECTOR_ROLES) {
      const vector = layer[role];
      if (vector) assertVector(vector, vectors[role], `layer ${index} ${role}`);
    }
  }
}

/**
 * Dequantizes a file's weights to f32.
 *
 * @returns fresh; a tied output shares the embedding
 * @throws {NumericError} if a weight is NaN or infinite; names tensor and position
 */
export function referenceWeights(weights: FileWeights): ReferenceWeights {
  const decode = (tensor: WeightTensor): Matrix => {
    const decoded = dequantizeWeights(tensor);
    const bad = decoded.data.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) {
      const place = { tensor: `${tensor.name}, element ${bad}` };
      throw new NumericError('load', decoded.data[bad], place, 'a weight is not a finite number');
    }
    return decoded;
  };
  const embedding = decode(weights.embedding);
  return {
    embedding,
    layers: weights.layers.map((layer) => ({
      ...layer,
      ...(Object.fromEntries(MATRIX_ROLES.map((role) => [role, decode(layer[role])])) as Record<
        (typeof MATRIX_ROLES)[number],
        Matrix
      >),
    })),
    outputNorm: weights.outputNorm,
    output: weights.output === weights.embedding ? embedding : decode(weights.output),
  };
}

function assertShape(
  tensor: { rows: number; columns: number },
  expected: [number, number],
  name: string,
): void {
  if (tensor.rows !== expected[0] || tensor.columns !== expected[1]) {
    throw new ShapeError('weights', name, expected, [tensor.rows, tensor.columns]);
  }
}

function assertVector(vector: Float32Array, length: number, name: string): void {
  if (vector.length !== length) throw new ShapeError('weights', name, [length], [vector.length]);
  const bad = vector.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) {
    throw new NumericError(
      'load',
      vector[bad],
      { tensor: name, channel: bad },
      'a weight is not a finite number',
    );
  }
}
