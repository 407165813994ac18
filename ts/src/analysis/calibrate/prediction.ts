/**
 * What the layers below say about a layer: a linear prediction, learned by ridge regression (XQuant-CL with a learned
 * matrix in place of "the same as the layer below").
 *
 *     p = mu + (x - nu) B            x: carriers of the layer below, or of the two below side by side
 *     B = (Sxx + r I)^-1 Sxc         r = 1e-4 of the mean of the diagonal of Sxx
 *     C = Scc - Sxc^T B - B^T Sxc + B^T Sxx B         covariance of what is left, c - p
 *
 * It must be fitted on carriers as they are *reconstructed*, since that is what a reader has: a prediction
 * that trusts the exact layer below trusts its quantization errors, too.
 *
 * @module
 */

import {
  addScaled,
  type Dense,
  dense,
  diagonal,
  multiply,
  solvePositive,
  trace,
  transposeDense,
} from '../../numerics/dense.js';
import { symmetrize } from './statistics.js';

/** Ridge, as a fraction of the mean variance of what is predicted from. */
const RIDGE = 1e-4;

/** Covariances of the layers below (x) and the layer itself (c). */
export interface PredictionMoments {
  /** [inputs, inputs] */
  readonly inputs: Dense;
  /** [inputs, n] */
  readonly cross: Dense;
  /** [n, n] */
  readonly own: Dense;
}

/** A prediction and what it leaves. */
export interface Prediction {
  /** B. [inputs, n] */
  readonly weights: Dense;
  /** C. [n, n] */
  readonly residual: Dense;
}

/**
 * Fits a prediction.
 *
 * @returns fresh
 */
export function fitPrediction({ inputs, cross, own }: PredictionMoments): Prediction {
  const ridge = (RIDGE * trace(inputs)) / inputs.rows;
  const regularized = addScaled(inputs, diagonal(new Float64Array(inputs.rows).fill(1)), ridge);
  const weights = solvePositive(regularized, cross);
  // With (Sxx + r I) B = Sxc, C is Scc - Sxc^T B - r B^T B: the large product with Sxx is not needed.
  const explained = multiply(transposeDense(cross), weights);
  const shrunk = multiply(transposeDense(weights), weights);
  return { weights, residual: symmetrize(addScaled(addScaled(own, explained, -1), shrunk, -ridge)) };
}

/**
 * A prediction in the coordinates of the layers, where reading needs no change of basis in between:
 *
 *     y_i = sum over q of  y_(i-q) M_q  + t + z^          M_q = D_(i-q) B_q E        t = (mu - nu B) E
 *
 * @param weights B, [inputs, n]; none for a layer that is not predicted
 * @param below D of each layer below that x is made of, in its order
 * @param encode E of the layer
 * @param means mu [n], and nu [inputs]
 * @returns fresh
 */
export function predictionInCoordinates(
  weights: Dense | undefined,
  below: readonly Dense[],
  encode: Dense,
  means: { readonly own: Float64Array; readonly inputs: Float64Array },
): { matrices: Dense[]; offset: Float64Array } {
  const start = dense(1, means.own.length, means.own.slice());
  if (!weights) return { matrices: [], offset: multiply(start, encode).data };
  const expected = addScaled(start, multiply(dense(1, weights.rows, means.inputs), weights), -1);
  const n = weights.columns;
  const matrices = below.map((decode, q) => {
    const part = dense(n, n, weights.data.subarray(q * n * n, (q + 1) * n * n));
    return multiply(multiply(decode, part), encode);
  });
  return { matrices, offset: multiply(expected, encode).data };
}
