/**
 * The feed-forward half of a layer: a gated linear unit (arXiv 2002.05202) with SiLU (SwiGLU) or GELU (GeGLU).
 *
 * @module
 */

import { linearTiled } from '../numerics/linear-tiled.js';
import { type Matrix, matrix } from '../numerics/matrix.js';
import type { ModelConfig } from './config.js';
import type { LayerWeights } from './weights.js';

/**
 * `wDown (activation(wGate x) * wUp x)`, with biases where a model has them.
 *
 * @param x [tokens, hiddenSize], after the norm
 * @returns fresh, [tokens, hiddenSize]
 */
export function mlp(
  x: Matrix,
  weights: LayerWeights<Matrix>,
  activation: ModelConfig['activation'] = 'silu',
): Matrix {
  const gate = linearTiled(x, weights.wGate, weights.bGate);
  const up = linearTiled(x, weights.wUp, weights.bUp);
  const activate = activation === 'silu' ? silu : geluTanh;
  const hidden = matrix(gate.rows, gate.columns);
  for (let i = 0; i < hidden.data.length; i++) hidden.data[i] = activate(gate.data[i]) * up.data[i];
  return linearTiled(hidden, weights.wDown, weights.bDown);
}

/** `value * sigmoid(value)` */
export function silu(value: number): number {
  return value / (1 + Math.exp(-value));
}

/** GELU in its tanh form: `value / 2 * (1 + tanh(sqrt(2 / pi) * (value + 0.044715 value^3)))` */
export function geluTanh(value: number): number {
  return (value / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (value + 0.044715 * value ** 3)));
}
