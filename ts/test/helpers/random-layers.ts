/**
 * Layers with random weights and the inputs they would see: neighbouring layers differ by little, as the
 * residual stream of a real model does.
 *
 * @module
 */

import type { LayerInput } from '../../src/cache/contract.js';
import type { CacheModelShape } from '../../src/cache/options.js';
import type { KeyValueProjection } from '../../src/cache/projection.js';
import { add, type Matrix, matrix, rowRange } from '../../src/numerics/matrix.js';
import { applyGain, normalizeRows } from '../../src/numerics/rms-norm.js';
import { gaussianMatrix, seededRandom } from './arbitraries.js';

export const RMS_EPSILON = 1e-5;

/** Small models: as many KV heads as query heads, and fewer. */
export const SHAPES: Readonly<Record<'mha' | 'gqa', CacheModelShape>> = {
  mha: { hiddenSize: 64, numHiddenLayers: 5, numAttentionHeads: 2, numKeyValueHeads: 2, headDim: 32 },
  gqa: { hiddenSize: 128, numHiddenLayers: 5, numAttentionHeads: 4, numKeyValueHeads: 1, headDim: 32 },
};

const scaled = (source: Matrix, factor: number) =>
  matrix(
    source.rows,
    source.columns,
    source.data.map((value) => value * factor),
  );

/** @param extras adds biases and QK-norm, as Qwen models have */
export function randomProjections(
  shape: CacheModelShape,
  seed: number,
  extras = false,
): KeyValueProjection[] {
  const { hiddenSize, numKeyValueHeads, headDim } = shape;
  const kvDim = numKeyValueHeads * headDim;
  return Array.from({ length: shape.numHiddenLayers }, (_, layer) => {
    const random = seededRandom(seed + 31 * layer);
    const weights = (salt: number) =>
      scaled(gaussianMatrix(kvDim, hiddenSize, seed + 100 * layer + salt), 1 / Math.sqrt(hiddenSize));
    const vector = (length: number, center: number) =>
      Float32Array.from({ length }, () => center + 0.5 * (random() - 0.5));
    const keyNorm = vector(headDim, 1);
    return {
      layer,
      hiddenSize,
      kvDim,
      wK: weights(1),
      wV: weights(2),
      ...(extras ? { bK: vector(kvDim, 0), bV: vector(kvDim, 0) } : {}),
      normGain: vector(hiddenSize, 1),
      normEpsilon: RMS_EPSILON,
      ...(extras ? { keyNorm: { gain: keyNorm, epsilon: RMS_EPSILON } } : {}),
    };
  });
}

/** Inputs of all layers for some tokens. */
export function randomInputs(
  projections: readonly KeyValueProjection[],
  tokens: number,
  seed: number,
): LayerInput[] {
  const { hiddenSize } = projections[0];
  let stream = gaussianMatrix(tokens, hiddenSize, seed, 4);
  return projections.map(({ normGain, layer }) => {
    if (layer > 0) stream = add(stream, scaled(gaussianMatrix(tokens, hiddenSize, seed + 7 * layer), 0.2));
    const normalized = normalizeRows(stream, RMS_EPSILON);
    return { stream, normalized, x: applyGain(normalized, normGain) };
  });
}

/** The rows `[from, to)` of the inputs of all layers. */
export function inputRows(inputs: readonly LayerInput[], from: number, to: number): LayerInput[] {
  return inputs.map(({ x, normalized, stream }) => ({
    x: rowRange(x, from, to),
    normalized: rowRange(normalized, from, to),
    stream: rowRange(stream, from, to),
  }));
}
