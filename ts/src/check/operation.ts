/**
 * What an operation of a cross-check is: its tensors, its options, and the reference that computes it.
 *
 * @module
 */

import type { LanguageModel } from '../model/language-model.js';
import type { CaseInputs } from './case/inputs.js';
import type { Expected } from './compare/compare.js';
import type { ComputeType } from './compare/rounding-noise.js';

/** One tensor of an operation, as `xquant check --list` prints it. */
export interface TensorDoc {
  readonly name: string;
  readonly role: 'input' | 'output';
  /** Element type of the golden files; a dump may use others. */
  readonly dtype: string;
  /** Named sizes: `[tokens, channels]`. */
  readonly shape: string;
  /** How an output is compared. */
  readonly comparison?: 'exact' | 'bound';
  /** When the tensor is there, if not always. */
  readonly when?: string;
}

/** One option of an operation. */
export interface OptionDoc {
  readonly name: string;
  readonly values: string;
  readonly optional?: boolean;
}

/** What operations need besides the dump. */
export interface CheckContext {
  /**
   * One of the embedded models by name. The caller owns and caches it.
   *
   * @param variation 0: as it is; from 1: with weights moved within their backward error, see `perturbWeights`
   * @throws {LoadError} if it cannot be had
   */
  loadModel(name: string, variation: number): Promise<LanguageModel>;
  /**
   * The first tokens of the held-out text of the embedded models, for cases that name windows of it.
   *
   * @throws {LoadError} if the text cannot be had
   */
  heldoutTokens(count: number): Promise<Int32Array>;
  /** What the kernel multiplies in, `f32` unless said otherwise: bounds of products and of attention follow from it. */
  readonly compute?: ComputeType;
}

/** Expected outputs by tensor name. */
export type ExpectedTensors = Readonly<Record<string, Expected>>;

/** An operation that can be checked. */
export interface Operation {
  readonly name: string;
  /** One line. */
  readonly summary: string;
  /** Where the specification defines it. */
  readonly specification: string;
  readonly options: readonly OptionDoc[];
  readonly tensors: readonly TensorDoc[];
  /**
   * Computes the outputs with the reference.
   *
   * @throws {FormatError | ShapeError | ConfigError | NumericError} if the case cannot be computed
   */
  run(inputs: CaseInputs, context: CheckContext): ExpectedTensors | Promise<ExpectedTensors>;
  /** The values alone, where finding the bounds takes many runs. */
  runOnce?(
    inputs: CaseInputs,
  ): Readonly<Record<string, Float32Array>> | Promise<Readonly<Record<string, Float32Array>>>;
}

/** Options of every operation that stores groups. */
export const GROUPED_OPTIONS: readonly OptionDoc[] = [
  { name: 'bits', values: '1 | 2 | 3 | 4 | 8' },
  { name: 'groupSize', values: 'elements per scale (128)', optional: true },
  { name: 'range', values: 'minmax | mse', optional: true },
  { name: 'rotation', values: 'none | hadamard', optional: true },
];
