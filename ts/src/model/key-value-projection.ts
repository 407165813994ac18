/**
 * The projection of a layer to keys and values, from the weights of the model.
 *
 * @module
 */

import type { KeyValueProjection } from '../cache/projection.js';
import type { Matrix } from '../numerics/matrix.js';
import { derivedSizes, type ModelConfig } from './config.js';
import { withScoreGains } from './qk-norm.js';
import type { LayerWeights } from './weights.js';

/**
 * The projection of a layer to keys and values.
 *
 * @param weights of the layer, of which only vectors are read
 * @param matrixOf Wk or Wv, [kvDim, hiddenSize]; asked whenever somebody reads it
 */
export function keyValueProjection(
  config: ModelConfig,
  layer: number,
  weights: LayerWeights<unknown>,
  matrixOf: (role: 'wK' | 'wV') => Matrix,
): KeyValueProjection {
  const { bK, bV, attentionNorm, keyNorm } = withScoreGains(weights, config);
  const { hiddenSize, rmsNormEps: epsilon } = config;
  return {
    layer,
    hiddenSize,
    kvDim: derivedSizes(config).kvDim,
    get wK() {
      return matrixOf('wK');
    },
    get wV() {
      return matrixOf('wV');
    },
    bK,
    bV,
    normGain: attentionNorm ?? new Float32Array(hiddenSize).fill(1),
    normEpsilon: attentionNorm && epsilon,
    keyNorm: keyNorm && { gain: keyNorm, epsilon },
  };
}
