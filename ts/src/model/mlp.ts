/**
 * The feed-forward half of a layer: a gated linear unit with SiLU (SwiGLU, arXiv 2002.05202).
 *
 * @module
 */

import { linear, type Matrix, matrix } from '../numerics/matrix.js';
import type { LayerWeights } from './weights.js';

/**
 * `wDown (silu(wGate x) * wUp x)`.
 *
 * @param x [tokens, hiddenSize], after the norm
 * @returns fresh, [tokens, hiddenSize]
 */
export function mlp(x: Matrix, weights: LayerWeights<Matrix>): Matrix {
  const gate = linear(x, weights.wGate);
  const up = linear(x, weights.wUp);
  const hidden = matrix(gate.rows, gate.columns);
  for (let i = 0; i < hidden.data.length; i++) hidden.data[i] = silu(gate.data[i]) * up.data[i];
  return linear(hidden, weights.wDown);
}

/** `value * sigmoid(value)` */
export function silu(value: number): number {
  return value / (1 + Math.exp(-value));
}
