/**
 * Inputs changed within the backward error of f32, to see how far a correct kernel's result may be off.
 *
 * A dot product of length n computed in f32 is the exact dot product of numbers that are off by a relative
 * `n u` at most. So the reference, run on weights that are off by that much, shows what a correct kernel
 * may give; that includes codes that flip because a value stands at a tie. Used where an operation is a chain
 * of sums, for which a bound that assumes the worst at every step says nothing.
 *
 * @module
 */

import { type FileWeights, type ReferenceWeights, referenceWeights } from '../../model/weights.js';
import { type Matrix, matrix } from '../../numerics/matrix.js';
import type { WeightTensor } from '../../quant/weight-types.js';
import type { CaseInputs } from '../case/inputs.js';
import { tensorOf } from '../case/tensor.js';
import { F32_ROUNDOFF } from './tolerance.js';

/** Runs of the reference; a row whose result can move moves in one of them with probability 1 - 2^-8. */
const PERTURBED_RUNS = 8;

/**
 * The case with float inputs moved, some times over, the same way each time.
 *
 * @param names tensors to move, where present
 * @param terms length of the sums that a tensor enters, where it is not its last size
 */
export function perturbedInputs(
  inputs: CaseInputs,
  names: readonly string[],
  terms: Readonly<Record<string, number>> = {},
): CaseInputs[] {
  const theta = inputs.case.options.theta;
  return Array.from({ length: PERTURBED_RUNS }, (_, run) => {
    const random = noise(0x9e3779b9 + run);
    const tensors = Object.fromEntries(
      names
        .filter((name) => inputs.has(name))
        .map((name) => {
          const { shape } = inputs.tensor(name);
          const dimensions = shape.map((_, d) => `axis ${d}`);
          const { data } = inputs.floats(name, dimensions);
          const size = (terms[name] ?? shape.at(-1) ?? 1) * F32_ROUNDOFF;
          return [
            name,
            tensorOf(
              Float32Array.from(data, (value) => value * (1 + size * random())),
              shape,
            ),
          ];
        }),
    );
    // The angle of RoPE in f32 is off as if theta were: see ropeBound.
    const options =
      typeof theta === 'number'
        ? { theta: theta * (1 + (Math.log(theta) + 4) * F32_ROUNDOFF * random()) }
        : undefined;
    return inputs.with({ tensors, options });
  });
}

/**
 * Weights of a model, moved within their backward error: a matrix by the length of its rows, a gain by the one
 * product it enters.
 *
 * @param variation from 1; another one moves them another way
 * @returns fresh
 */
export function perturbWeights(weights: ReferenceWeights, variation: number): ReferenceWeights {
  const random = noise(0x85ebca6b + variation);
  const moved = (values: Float32Array, terms: number): Float32Array =>
    Float32Array.from(values, (value) => value * (1 + terms * F32_ROUNDOFF * random()));
  const movedMatrix = (w: Matrix): Matrix => matrix(w.rows, w.columns, moved(w.data, w.columns));
  const embedding = movedMatrix(weights.embedding);
  return {
    embedding,
    layers: weights.layers.map(
      (layer) =>
        Object.fromEntries(
          Object.entries(layer).map(([role, w]) => [
            role,
            w instanceof Float32Array ? moved(w, GAIN_TERMS) : w && movedMatrix(w),
          ]),
        ) as unknown as typeof layer,
    ),
    outputNorm: moved(weights.outputNorm, GAIN_TERMS),
    output: weights.output === weights.embedding ? embedding : movedMatrix(weights.output),
  };
}

/**
 * {@link perturbWeights} for an implementation that reads the weights of a file: the moved ones as f32.
 *
 * @returns fresh
 */
export function perturbFileWeights(weights: FileWeights, variation: number): FileWeights {
  return floatFileWeights(perturbWeights(referenceWeights(weights), variation));
}

/**
 * Weights as a file of F32 tensors would hold them, for an implementation that reads those of a file.
 *
 * @returns fresh; matrices are views
 */
export function floatFileWeights(weights: ReferenceWeights): FileWeights {
  const stored = ({ rows, columns, data }: Matrix): WeightTensor => ({
    name: 'f32',
    type: 'F32',
    rows,
    columns,
    bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
  });
  const embedding = stored(weights.embedding);
  return {
    embedding,
    layers: weights.layers.map(
      (layer) =>
        Object.fromEntries(
          Object.entries(layer).map(([role, w]) => [role, w instanceof Float32Array ? w : w && stored(w)]),
        ) as unknown as FileWeights['layers'][number],
    ),
    outputNorm: weights.outputNorm,
    output: weights.output === weights.embedding ? embedding : stored(weights.output),
  };
}

/** Roundings between a stream and the product with its gain. */
const GAIN_TERMS = 4;

/** Uniform numbers in [-1, 1) from a seed (mulberry32, public domain). */
function noise(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1;
  };
}
