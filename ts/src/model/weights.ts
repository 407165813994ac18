/**
 * The weights of a model, by role. `T` is how a matrix is held: a plain f32 matrix for the reference, the bytes of
 * the file for the engine.
 *
 * @module
 */

import { NumericError, ShapeError } from '../errors.js';
import type { Matrix } from '../numerics/matrix.js';
import { dequantizeWeights, type WeightTensor } from '../quant/weight-types.js';
import { derivedSizes, type ModelConfig } from './config.js';
import { LAYER_TENSORS, layerTensors, MATRIX_ROLES, type MatrixRole, type VectorRole } from './tensors.js';

/** One transformer layer; tensors.ts has shape and meaning of each. Vectors that a model lacks are absent. */
export type LayerWeights<T> = { readonly [role in MatrixRole]: T } & {
  readonly [role in VectorRole]?: Float32Array;
};

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

/** A matrix that is still in its file and is read piece by piece, so that it is never in memory twice. */
export interface UnreadTensor extends Omit<WeightTensor, 'bytes'> {
  readonly byteLength: number;
  /**
   * Reads some bytes of the matrix.
   *
   * @param offset bytes from its start
   * @param target where they may be put, at least `length` bytes
   * @returns exactly `length` bytes, in `target` or elsewhere; not to be written to
   * @throws {LoadError} if they cannot be read
   */
  read(offset: number, length: number, target?: Uint8Array): Promise<Uint8Array>;
}

/** Weights that are read while they are placed. Vectors are small and are there. */
export type UnreadWeights = ModelWeights<UnreadTensor>;

/** Weights of which each matrix is here or in its file. */
export type AnyWeights = ModelWeights<WeightTensor | UnreadTensor>;

/** Weights of the reference: everything in f32. */
export type ReferenceWeights = ModelWeights<Matrix>;

/**
 * Requires exactly the tensors that the config implies, of the shapes that it implies, and every vector to be finite.
 *
 * @throws {ShapeError} names layer and tensor
 * @throws {NumericError} if a norm gain or bias is not finite
 */
export function assertWeightShapes(
  weights: ModelWeights<{ rows: number; columns: number }>,
  config: ModelConfig,
): void {
  const { hiddenSize, vocabSize } = config;
  if (weights.layers.length !== config.numHiddenLayers) {
    throw new ShapeError('weights', 'layers', [config.numHiddenLayers], [weights.layers.length]);
  }
  assertShape(weights.embedding, [vocabSize, hiddenSize], 'embedding');
  assertShape(weights.output, [vocabSize, hiddenSize], 'output');
  assertVector(weights.outputNorm, [hiddenSize], 'outputNorm');
  const expected = new Map(layerTensors(config, derivedSizes(config)).map((each) => [each.role, each.shape]));
  for (const [index, layer] of weights.layers.entries()) {
    for (const role of Object.keys(LAYER_TENSORS) as (keyof typeof LAYER_TENSORS)[]) {
      const tensor = layer[role];
      const shape = expected.get(role);
      const name = `layer ${index} ${role}`;
      if (!tensor) {
        if (shape) throw new ShapeError('weights', name, shape, []);
      } else if (!shape) {
        throw new ShapeError('weights', name, ['no tensor in this model'], sizeOf(tensor));
      } else if (tensor instanceof Float32Array) assertVector(tensor, shape, name);
      else assertShape(tensor, shape, name);
    }
  }
}

/** A matrix in memory in the form of one that is not. */
export function asUnread(tensor: WeightTensor | UnreadTensor): UnreadTensor {
  if ('read' in tensor) return tensor;
  const { bytes, ...rest } = tensor;
  return {
    ...rest,
    byteLength: bytes.length,
    read: async (offset, length) => bytes.subarray(offset, offset + length),
  };
}

/**
 * Reads a whole matrix.
 *
 * @throws {LoadError} if it cannot be read
 */
export async function readTensor(tensor: WeightTensor | UnreadTensor): Promise<WeightTensor> {
  if ('bytes' in tensor) return tensor;
  const { name, type, rows, columns, byteLength } = tensor;
  return { name, type, rows, columns, bytes: await tensor.read(0, byteLength) };
}

/**
 * Reads all weights.
 *
 * @returns a tied output stays the embedding
 * @throws {LoadError} if they cannot be read
 */
export async function readWeights(weights: AnyWeights): Promise<FileWeights> {
  const embedding = await readTensor(weights.embedding);
  const layers: LayerWeights<WeightTensor>[] = [];
  for (const layer of weights.layers) {
    const matrices: Partial<Record<MatrixRole, WeightTensor>> = {};
    for (const role of MATRIX_ROLES) matrices[role] = await readTensor(layer[role]);
    layers.push({ ...layer, ...(matrices as Record<MatrixRole, WeightTensor>) });
  }
  const { outputNorm } = weights;
  const output = weights.output === weights.embedding ? embedding : await readTensor(weights.output);
  return { embedding, layers, outputNorm, output };
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
        MatrixRole,
        Matrix
      >),
    })),
    outputNorm: weights.outputNorm,
    output: weights.output === weights.embedding ? embedding : decode(weights.output),
  };
}

function sizeOf(tensor: Float32Array | { rows: number; columns: number }): number[] {
  return tensor instanceof Float32Array ? [tensor.length] : [tensor.rows, tensor.columns];
}

function assertShape(
  tensor: { rows: number; columns: number },
  expected: readonly number[],
  name: string,
): void {
  if (tensor.rows !== expected[0] || tensor.columns !== expected[1]) {
    throw new ShapeError('weights', name, expected, [tensor.rows, tensor.columns]);
  }
}

function assertVector(vector: Float32Array, expected: readonly number[], name: string): void {
  if (vector.length !== expected[0]) throw new ShapeError('weights', name, expected, [vector.length]);
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
