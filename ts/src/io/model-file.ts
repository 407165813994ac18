/**
 * A loaded model, whatever kind of file it came from.
 *
 * @module
 */

import type { ModelConfig } from '../model/config.js';
import type { FileWeights, UnreadWeights } from '../model/weights.js';
import type { TokenizerSource } from '../text/tokenizer-source.js';

/** A tensor of a model file. */
export interface TensorInfo {
  /** The name in the file. */
  readonly name: string;
  /** For instance `'Q8_0'`, `'BF16'`. */
  readonly type: string;
  /** Outermost first: [rows, columns] of a matrix, [length] of a vector. */
  readonly shape: readonly number[];
  readonly byteLength: number;
}

/** How much of a model has one weight type. */
export interface WeightTypeSummary {
  readonly type: string;
  /** Count of tensors. */
  readonly tensors: number;
  /** Count of weights. */
  readonly elements: number;
  readonly bytes: number;
}

/** A model file without its weights. */
export interface ModelHeader {
  /** The name in the file if it has one, otherwise that of the file or folder. */
  readonly name: string;
  readonly format: 'gguf' | 'hugging-face';
  readonly config: ModelConfig;
  /** Source of a {@link Tokenizer}. */
  readonly tokenizer: TokenizerSource;
  /** Jinja template for conversations, if the model has one. */
  readonly chatTemplate?: string;
  /** In the order of the file. */
  readonly tensors: readonly TensorInfo[];
  /** By type, most bytes first. */
  readonly weightTypes: readonly WeightTypeSummary[];
  /** Count of weights; a tied output counts once. */
  readonly parameterCount: number;
  /** Bytes of the files that hold the weights. */
  readonly byteLength: number;
}

/** A model in memory. */
export interface ModelFile extends ModelHeader {
  readonly weights: FileWeights;
  /** 16 hexadecimal digits that tell models apart, see `fingerprint.ts`. */
  readonly fingerprint: string;
}

/** A model whose files are open and whose weights are read while they are placed. */
export interface UnreadModelFile extends Omit<ModelFile, 'weights'> {
  readonly weights: UnreadWeights;
}

/**
 * The tensors of a model, as its header lists them.
 *
 * @param tensors as a reader knows them, with places that the header leaves out
 */
export function summarizeTensors(
  tensors: readonly TensorInfo[],
): Pick<ModelHeader, 'tensors' | 'weightTypes'> {
  const infos = tensors.map(({ name, type, shape, byteLength }) => ({ name, type, shape, byteLength }));
  return { tensors: infos, weightTypes: summarizeTypes(infos) };
}

/** Counts tensors, weights and bytes by type. */
function summarizeTypes(tensors: readonly TensorInfo[]): WeightTypeSummary[] {
  const byType = new Map<string, { tensors: number; elements: number; bytes: number }>();
  for (const { type, shape, byteLength } of tensors) {
    const sum = byType.get(type) ?? { tensors: 0, elements: 0, bytes: 0 };
    sum.tensors++;
    sum.elements += shape.reduce((product, size) => product * size, 1);
    sum.bytes += byteLength;
    byType.set(type, sum);
  }
  return [...byType].map(([type, sum]) => ({ type, ...sum })).sort((a, b) => b.bytes - a.bytes);
}
