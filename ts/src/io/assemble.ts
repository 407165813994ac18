/**
 * From tensors by name to weights by role: the part of loading that GGUF and Hugging Face files share.
 *
 * All checks run on the list of tensors, before any weight is read: three gigabytes should not be downloaded
 * to find that a tensor is missing.
 *
 * @module
 */

import { FormatError, ShapeError, UnsupportedModelError } from '../errors.js';
import { derivedSizes, type ModelConfig } from '../model/config.js';
import { assertWeightShapes, type FileWeights, type LayerWeights } from '../model/weights.js';
import {
  dequantizeWeights,
  isWeightType,
  WEIGHT_TYPES,
  type WeightTensor,
  type WeightType,
} from '../quant/weight-types.js';
import type { TensorInfo } from './model-file.js';
import type { ByteSource } from './source.js';

/** The tensors of a layer, by role. */
export type LayerRole = keyof LayerWeights<unknown>;

/** How a file format calls the tensors. */
export interface TensorNames {
  readonly embedding: string;
  readonly outputNorm: string;
  readonly output: string;
  /** Behind the prefix of the layer. */
  readonly layer: Readonly<Record<LayerRole, string>>;
  /** For instance `'blk.3.'`. */
  readonly layerPrefix: (layer: number) => string;
}

/** A tensor and where its bytes are. */
export interface StoredTensor extends TensorInfo {
  readonly source: ByteSource;
  /** Bytes from the start of the source. */
  readonly offset: number;
}

const MATRIX_ROLES = ['wQ', 'wK', 'wV', 'wO', 'wGate', 'wUp', 'wDown'] as const;
const BIAS_ROLES = ['bQ', 'bK', 'bV'] as const;
const HEAD_NORM_ROLES = ['queryNorm', 'keyNorm'] as const;

// One buffer holds neighbouring tensors up to this size; above it, and for larger tensors, there are several.
const BUFFER_BYTES = 2 ** 30;

/**
 * Requires exactly the tensors that the config implies, of the right shapes and of types that can be read.
 *
 * @param tensors all tensors of the file
 * @param ignored says which tensors mean nothing, for instance buffers that old checkpoints carry
 * @returns those that make up the model, in file order
 * @throws {FormatError} if one is missing
 * @throws {ShapeError} if a shape disagrees with the config
 * @throws {UnsupportedModelError} if one is of another type, or has no place in the forward pass
 */
export function selectTensors<T extends TensorInfo>(
  tensors: readonly T[],
  config: ModelConfig,
  names: TensorNames,
  path: string,
  ignored: (name: string) => boolean = () => false,
): T[] {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const wanted = new Set<string>();
  // One by one: a config that claims 2^40 layers fails at the first that is missing.
  for (const [name, shape] of expectedShapes(config, names)) {
    const tensor = byName.get(name);
    if (!tensor) throw new FormatError(path, name, 'the tensor is missing');
    if (!isWeightType(tensor.type)) {
      throw new UnsupportedModelError(
        path,
        `type ${tensor.type} of tensor "${name}"`,
        WEIGHT_TYPES.join(', '),
      );
    }
    if (tensor.shape.length !== shape.length || tensor.shape.some((size, i) => size !== shape[i])) {
      throw new ShapeError(path, name, shape, tensor.shape);
    }
    wanted.add(name);
  }
  const selected: T[] = [];
  for (const tensor of tensors) {
    if (wanted.has(tensor.name)) selected.push(tensor);
    else if (!ignored(tensor.name)) {
      const supported = 'the tensors of a dense Llama, Mistral, Qwen2 or Qwen3 model';
      throw new UnsupportedModelError(path, `tensor "${tensor.name}"`, supported);
    }
  }
  return selected;
}

/** Every tensor of a model, with its shape. */
function* expectedShapes(config: ModelConfig, names: TensorNames): Generator<[string, readonly number[]]> {
  const { hiddenSize, intermediateSize, vocabSize, headDim } = config;
  const { queryDim, kvDim } = derivedSizes(config);
  const layer: Partial<Record<LayerRole, readonly number[]>> = {
    attentionNorm: [hiddenSize],
    wQ: [queryDim, hiddenSize],
    wK: [kvDim, hiddenSize],
    wV: [kvDim, hiddenSize],
    wO: [hiddenSize, queryDim],
    mlpNorm: [hiddenSize],
    wGate: [intermediateSize, hiddenSize],
    wUp: [intermediateSize, hiddenSize],
    wDown: [hiddenSize, intermediateSize],
  };
  if (config.architecture === 'qwen2') Object.assign(layer, { bQ: [queryDim], bK: [kvDim], bV: [kvDim] });
  if (config.architecture === 'qwen3') Object.assign(layer, { queryNorm: [headDim], keyNorm: [headDim] });

  yield [names.embedding, [vocabSize, hiddenSize]];
  for (let i = 0; i < config.numHiddenLayers; i++) {
    for (const [role, shape] of Object.entries(layer)) {
      yield [names.layerPrefix(i) + names.layer[role as LayerRole], shape];
    }
  }
  yield [names.outputNorm, [hiddenSize]];
  if (!config.tieWordEmbeddings) yield [names.output, [vocabSize, hiddenSize]];
}

/**
 * Reads the bytes of tensors. A source in memory gives views; anything else is read into one buffer per
 * stretch of neighbouring tensors, so that no weight is copied after it has arrived.
 *
 * @throws {LoadError} if they cannot be read
 */
export async function readTensors(tensors: readonly StoredTensor[]): Promise<Map<string, Uint8Array>> {
  const bytes = new Map<string, Uint8Array>();
  for (const stretch of stretches(tensors)) {
    const { source, offset: start } = stretch[0];
    const last = stretch[stretch.length - 1];
    const buffer = await source.read(start, last.offset + last.byteLength - start);
    for (const { name, offset, byteLength } of stretch) {
      bytes.set(name, buffer.subarray(offset - start, offset - start + byteLength));
    }
  }
  return bytes;
}

/** Neighbouring tensors that are read together. */
function stretches(tensors: readonly StoredTensor[]): StoredTensor[][] {
  const result: StoredTensor[][] = [];
  for (const source of new Set(tensors.map((tensor) => tensor.source))) {
    const group = tensors.filter((tensor) => tensor.source === source);
    group.sort((a, b) => a.offset - b.offset);
    let current: StoredTensor[] = [];
    for (const tensor of group) {
      const previous = current[current.length - 1];
      const fits = previous && tensor.offset + tensor.byteLength - current[0].offset <= BUFFER_BYTES;
      const near = previous && tensor.offset - (previous.offset + previous.byteLength) < 2 ** 16;
      if (!fits || !near) {
        current = [];
        result.push(current);
      }
      current.push(tensor);
    }
  }
  return result;
}

/**
 * Puts tensors into their roles.
 *
 * @param tensors as {@link selectTensors} gave them
 * @param bytes of every tensor; kept by matrices, decoded for norms and biases
 * @throws {NumericError} if a norm gain or bias is not finite
 */
export function assembleWeights(
  tensors: readonly TensorInfo[],
  bytes: ReadonlyMap<string, Uint8Array>,
  config: ModelConfig,
  names: TensorNames,
): FileWeights {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const stored = (name: string): WeightTensor => {
    const { type, shape } = byName.get(name)!;
    const columns = shape[shape.length - 1];
    const rows = shape.length === 2 ? shape[0] : 1;
    return { name, type: type as WeightType, rows, columns, bytes: bytes.get(name)! };
  };
  const vector = (name: string): Float32Array => dequantizeWeights(stored(name)).data;

  const layers: LayerWeights<WeightTensor>[] = [];
  for (let i = 0; i < config.numHiddenLayers; i++) {
    const nameOf = (role: LayerRole) => names.layerPrefix(i) + names.layer[role];
    const pick = <R extends LayerRole, V>(roles: readonly R[], decode: (name: string) => V) =>
      Object.fromEntries(roles.map((role) => [role, decode(nameOf(role))])) as Record<R, V>;
    layers.push({
      attentionNorm: vector(nameOf('attentionNorm')),
      mlpNorm: vector(nameOf('mlpNorm')),
      ...pick(MATRIX_ROLES, stored),
      ...(config.architecture === 'qwen2' ? pick(BIAS_ROLES, vector) : {}),
      ...(config.architecture === 'qwen3' ? pick(HEAD_NORM_ROLES, vector) : {}),
    });
  }
  const embedding = stored(names.embedding);
  const weights: FileWeights = {
    embedding,
    layers,
    outputNorm: vector(names.outputNorm),
    output: config.tieWordEmbeddings ? embedding : stored(names.output),
  };
  assertWeightShapes(weights, config);
  return weights;
}
