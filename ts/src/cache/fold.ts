/**
 * Folding what was done to X into the weights that read it, so that reading costs nothing.
 *
 * A cache that stores the normalized stream instead of X = normalized * gain reads with
 * `diag(gain) W`; one that stores rotated vectors x H reads with `H^T W`, because x H H^T W = x W.
 *
 * @module
 */

import { type Rotation, rotateRows } from '../numerics/hadamard.js';
import { linearTiled } from '../numerics/linear-tiled.js';
import { type Matrix, matrix } from '../numerics/matrix.js';
import { normalizeHeads, normalizeRows } from '../numerics/rms-norm.js';
import type { KeysAndValues } from './contract.js';
import type { KeyValueProjection } from './projection.js';

/** Wk and Wv in the space in which a cache stores X. */
export interface FoldedProjection {
  /** [kvDim, hiddenSize] */
  readonly wK: Matrix;
  /** [kvDim, hiddenSize] */
  readonly wV: Matrix;
}

/**
 * Multiplies every input channel of a weight matrix by the gain of the norm before it.
 *
 * @param w [outChannels, inChannels]
 * @param gain [inChannels]
 * @returns fresh
 */
export function foldGain(w: Matrix, gain: Float32Array): Matrix {
  const result = matrix(w.rows, w.columns);
  for (let i = 0; i < w.data.length; i++) result.data[i] = w.data[i] * gain[i % w.columns];
  return result;
}

/**
 * Wk and Wv for rows stored without the gain, rotated, or both.
 *
 * @param withGain whether the stored rows lack the gain
 */
export function foldProjection(
  projection: KeyValueProjection,
  withGain: boolean,
  rotation: Rotation,
): FoldedProjection {
  const fold = (w: Matrix): Matrix => rotateRows(withGain ? foldGain(w, projection.normGain) : w, rotation);
  return { wK: fold(projection.wK), wV: fold(projection.wV) };
}

/**
 * K = X Wk, V = X Wv, biases and QK-norm included.
 *
 * @param keyRows what keys are made of, [tokens, inChannels]
 * @param valueRows what values are made of, [tokens, inChannels]
 * @param weights [kvDim, inChannels] each, folded to the space of the rows
 * @param projection for biases and the norm of keys
 * @returns fresh, [tokens, kvDim] each
 */
export function project(
  keyRows: Matrix,
  valueRows: Matrix,
  weights: FoldedProjection,
  projection: KeyValueProjection,
): KeysAndValues {
  return {
    keys: finishKeys(linearTiled(keyRows, weights.wK, projection.bK), projection),
    values: linearTiled(valueRows, weights.wV, projection.bV),
  };
}

/**
 * The steps between the key projection and RoPE: QK-norm, if the model has it.
 *
 * @param keys [tokens, kvDim], bias included
 * @returns fresh, or `keys` itself without a norm
 */
export function finishKeys(keys: Matrix, { keyNorm }: KeyValueProjection): Matrix {
  return keyNorm ? normalizeHeads(keys, keyNorm.gain, keyNorm.epsilon) : keys;
}

/**
 * The layer's input norm without its gain.
 *
 * @param stream [tokens, hiddenSize]
 * @returns fresh, or `stream` itself without a norm
 */
export function normalizeInput(stream: Matrix, { normEpsilon }: KeyValueProjection): Matrix {
  return normEpsilon === undefined ? stream : normalizeRows(stream, normEpsilon);
}
