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
import { type LayerRole, layerTensors, MODEL_TENSORS, NORM_ROLES } from '../model/tensors.js';
import {
  assertWeightShapes,
  type LayerWeights,
  readTensor,
  type UnreadTensor,
  type UnreadWeights,
} from '../model/weights.js';
import {
  dequantizeWeights,
  isWeightType,
  WEIGHT_TYPES,
  type WeightType,
  weightBytes,
} from '../quant/weight-types.js';
import type { Family } from './families/family.js';
import type { TensorInfo } from './model-file.js';
import { type ByteSource, memorySource } from './source.js';

/** Kinds of files; tensors.ts has a name of each tensor in each of them. */
export type FileFormat = 'gguf' | 'huggingFace';

/** The file format, family and config, which decide the names and shapes of tensors in a file. */
export interface ModelLayout {
  readonly format: FileFormat;
  readonly family: Family;
  readonly config: ModelConfig;
}

/** A tensor and where its bytes are. */
export interface StoredTensor extends TensorInfo {
  readonly source: ByteSource;
  /** Bytes from the start of the source. */
  readonly offset: number;
}

/** One or more tensors of a layer that a file stores as one, row after row. */
interface StoredRoles {
  readonly name: string;
  readonly shape: readonly number[];
  readonly roles: readonly { readonly role: LayerRole; readonly rows: number }[];
}

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
  layout: ModelLayout,
  path: string,
  ignored: (name: string) => boolean = () => false,
): T[] {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const wanted = new Set<string>();
  // One by one: a config that claims 2^40 layers fails at the first that is missing.
  for (const [name, shape] of expectedShapes(layout)) {
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
      const supported = `the tensors of a dense ${layout.family.name} model`;
      throw new UnsupportedModelError(path, `tensor "${tensor.name}"`, supported);
    }
  }
  return selected;
}

/** Every tensor of a model's file, with its shape. */
function* expectedShapes(layout: ModelLayout): Generator<[string, readonly number[]]> {
  const { format, config } = layout;
  const { hiddenSize, vocabSize } = config;
  const stored = storedRoles(layout);
  yield [MODEL_TENSORS.embedding[format], [vocabSize, hiddenSize]];
  for (let i = 0; i < config.numHiddenLayers; i++) {
    for (const { name, shape } of stored) yield [layerPrefix(format, i) + name, shape];
  }
  yield [MODEL_TENSORS.outputNorm[format], [hiddenSize]];
  if (!config.tieWordEmbeddings) yield [MODEL_TENSORS.output[format], [vocabSize, hiddenSize]];
}

function layerPrefix(format: FileFormat, layer: number): string {
  return format === 'gguf' ? `blk.${layer}.` : `model.layers.${layer}.`;
}

/** The tensors of a layer as a file stores them. */
function storedRoles({ format, family, config }: ModelLayout): StoredRoles[] {
  const tensors = layerTensors(config, derivedSizes(config));
  const fused = family.fused?.[format] ?? [];
  const alone = tensors.filter(({ role }) => !fused.some(({ roles }) => roles.includes(role)));
  const together = fused.map(({ name, roles }): StoredRoles => {
    const parts = roles.map((role) => tensors.find((tensor) => tensor.role === role)!);
    const rows = parts.reduce((sum, { shape }) => sum + shape[0], 0);
    return {
      name,
      shape: [rows, ...parts[0].shape.slice(1)],
      roles: parts.map(({ role, shape }) => ({ role, rows: shape[0] })),
    };
  });
  return [
    ...alone.map((tensor) => ({
      name: tensor[format],
      shape: tensor.shape,
      roles: [{ role: tensor.role, rows: tensor.shape[0] }],
    })),
    ...together,
  ];
}

/** Count of weights. */
export function countElements(tensors: readonly TensorInfo[]): number {
  return tensors.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0);
}

/**
 * Brings tensors into memory. A source in memory gives views; anything else is read into one buffer per stretch of
 * neighbouring tensors, so that a server gets few requests and no weight is copied after it has arrived.
 *
 * @returns the same tensors, each with a source in memory
 * @throws {LoadError} if they cannot be read
 */
export async function fetchTensors(tensors: readonly StoredTensor[]): Promise<StoredTensor[]> {
  const fetched: StoredTensor[] = [];
  for (const stretch of stretches(tensors)) {
    const { source, offset: start } = stretch[0];
    const last = stretch[stretch.length - 1];
    const buffer = await source.read(start, last.offset + last.byteLength - start);
    const memory = memorySource(buffer, source.name);
    for (const tensor of stretch) fetched.push({ ...tensor, source: memory, offset: tensor.offset - start });
  }
  return fetched;
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
 * Puts tensors into their roles. Norms and biases are read, matrices when somebody wants them.
 *
 * @param tensors as {@link selectTensors} gave them
 * @throws {LoadError} if a norm gain or bias cannot be read
 * @throws {NumericError} if one is not finite
 */
export async function assembleWeights(
  tensors: readonly StoredTensor[],
  layout: ModelLayout,
): Promise<UnreadWeights> {
  const { format, family, config } = layout;
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const stored = (name: string): UnreadTensor => {
    const { type, shape, source, offset, byteLength } = byName.get(name)!;
    const columns = shape[shape.length - 1];
    const rows = shape.length === 2 ? shape[0] : 1;
    const read: UnreadTensor['read'] = (from, length, target) => source.read(offset + from, length, target);
    return { name, type: type as WeightType, rows, columns, byteLength, read };
  };
  const gainOffset = family.gainsFromOne && format === 'huggingFace' ? 1 : 0;
  const gain = (values: Float32Array) => (gainOffset ? values.map((value) => value + gainOffset) : values);
  const vector = async (name: string) => dequantizeWeights(await readTensor(stored(name))).data;

  const rolesOfLayer = storedRoles(layout);
  const layers: LayerWeights<UnreadTensor>[] = [];
  for (let i = 0; i < config.numHiddenLayers; i++) {
    const layer: Partial<Record<LayerRole, UnreadTensor | Float32Array>> = {};
    for (const { name, shape, roles } of rolesOfLayer) {
      const whole = layerPrefix(format, i) + name;
      let from = 0;
      for (const { role, rows } of roles) {
        if (shape.length === 1) layer[role] = (await vector(whole)).subarray(from, from + rows);
        else layer[role] = rowsOf(stored(whole), from, rows);
        if ((NORM_ROLES as readonly LayerRole[]).includes(role))
          layer[role] = gain(layer[role] as Float32Array);
        from += rows;
      }
    }
    layers.push(alignRotatedPairs(layer as LayerWeights<UnreadTensor>, config));
  }
  const embedding = stored(MODEL_TENSORS.embedding[format]);
  const weights: UnreadWeights = {
    embedding,
    layers,
    outputNorm: gain(await vector(MODEL_TENSORS.outputNorm[format])),
    output: config.tieWordEmbeddings ? embedding : stored(MODEL_TENSORS.output[format]),
  };
  assertWeightShapes(weights, config);
  return weights;
}

/** Some rows of a matrix. */
function rowsOf(tensor: UnreadTensor, from: number, rows: number): UnreadTensor {
  if (rows === tensor.rows) return tensor;
  const rowBytes = weightBytes(tensor.type, 1, tensor.columns);
  const start = from * rowBytes;
  const read: UnreadTensor['read'] = (at, length, target) => tensor.read(start + at, length, target);
  return { ...tensor, rows, byteLength: rows * rowBytes, read };
}

/**
 * Where RoPE rotates the first channels of a head only: puts the channels of a head into the order that
 * `ModelConfig.rotaryDim` describes. Scores do not change, since queries and keys are permuted alike.
 *
 *     file     a a a b b b . . . .       a rotates with b, the rest stays
 *     here     a a a . . b b b . .       channel i with channel i + headDim/2
 */
function alignRotatedPairs(
  layer: LayerWeights<UnreadTensor>,
  { headDim, rotaryDim = headDim }: ModelConfig,
): LayerWeights<UnreadTensor> {
  if (rotaryDim === headDim) return layer;
  const pairs = rotaryDim / 2;
  const rest = (headDim - rotaryDim) / 2;
  const place = (i: number) => {
    const [half, j] = i < headDim / 2 ? [0, i] : [1, i - headDim / 2];
    return j < pairs ? half * pairs + j : rotaryDim + half * rest + (j - pairs);
  };
  const source = (row: number) => Math.floor(row / headDim) * headDim + place(row % headDim);
  const permuted = async (tensor: UnreadTensor): Promise<Uint8Array> => {
    const { bytes: file } = await readTensor(tensor);
    const rowBytes = weightBytes(tensor.type, 1, tensor.columns);
    const bytes = new Uint8Array(file.length);
    for (let r = 0; r < tensor.rows; r++) {
      bytes.set(file.subarray(source(r) * rowBytes, (source(r) + 1) * rowBytes), r * rowBytes);
    }
    return bytes;
  };
  const rows = (tensor: UnreadTensor): UnreadTensor => {
    let whole: Promise<Uint8Array> | undefined;
    const read: UnreadTensor['read'] = async (offset, length) => {
      whole ??= permuted(tensor);
      return (await whole).subarray(offset, offset + length);
    };
    return { ...tensor, read };
  };
  const values = (vector: Float32Array) => vector.map((_, i) => vector[source(i)]);
  const { bQ, bK, queryNorm, keyNorm } = layer;
  const vectors = Object.entries({ bQ, bK, queryNorm, keyNorm }).flatMap(([role, vector]) =>
    vector ? [[role, values(vector)]] : [],
  );
  return { ...layer, wQ: rows(layer.wQ), wK: rows(layer.wK), ...Object.fromEntries(vectors) };
}
