/**
 * The transform of one layer, from statistics: prediction, basis, and both in the numbers that a calibration stores.
 *
 * @module
 */

import type { CalibrationBasis, LayerTransform } from '../../cache/calibration.js';
import type { Float16Matrix } from '../../cache/state.js';
import { NumericError } from '../../errors.js';
import { type Dense, dense, multiply, scaleColumns, transposeDense } from '../../numerics/dense.js';
import { decodeFloat16, encodeFloat16 } from '../../numerics/float16.js';
import { type Matrix, matrix } from '../../numerics/matrix.js';
import { layerBasis, type MetricRoot } from './basis.js';
import { fitPrediction, predictionInCoordinates } from './prediction.js';
import type { FitRequest, LayerFit } from './worker.js';

/**
 * Fits a layer.
 *
 * @returns fresh
 * @throws {NumericError} if a number of the transform does not fit in f16
 */
export function fitLayer({ metric, blocks, own, mean, inputs }: FitRequest): LayerFit {
  const prediction = inputs && fitPrediction({ inputs: inputs.covariance, cross: inputs.cross, own });
  const { encode, decode, importance } = layerBasis(metric, prediction?.residual ?? own, blocks);
  const { matrices, offset } = predictionInCoordinates(prediction?.weights, inputs?.decode ?? [], encode, {
    own: mean,
    inputs: inputs?.mean ?? new Float64Array(0),
  });
  const stored = {
    decode: toFloat16Matrix(decode, 'decode'),
    predict: matrices.map((each) => toFloat16Matrix(each, 'predict')),
    offset: Float32Array.from(offset),
    importance: Float32Array.from(importance),
  };
  return { ...stored, encode: encodeOfStored(metric, stored) };
}

/**
 * E of a layer as it is stored: `A^2 D^T L^-1`, since D A^2 D^T = L. A layer that a run before has kept gives the same.
 *
 * @returns fresh, [n, n]
 */
export function encodeOfStored({ root }: MetricRoot, { decode, importance }: LayerTransform): Matrix {
  const n = importance.length;
  const transposed = transposeDense(float16ToDense(decode));
  const scaled = scaleColumns(
    transposed,
    importance.map((value) => 1 / value),
  );
  const encode = multiply(multiply(root, root), scaled);
  return matrix(n, n, Float32Array.from(encode.data));
}

/**
 * A fit as a calibration stores it: with E in a joint basis, because a start that inverts D of every layer takes seconds.
 * Blocks of the other bases are inverted in no time. E is left out, too, where it does not fit in f16.
 *
 * @returns what is in the fit, and a fresh E
 */
export function storedTransform(
  { decode, predict, offset, importance, encode }: LayerFit,
  basis: CalibrationBasis,
): LayerTransform {
  const stored = { decode, predict, offset, importance };
  if (basis !== 'joint') return stored;
  const { rows, columns } = encode;
  const float16 = encodeFloat16(encode.data);
  const fits = float16.every((bits) => (bits & 0x7c00) !== 0x7c00);
  return fits ? { ...stored, encode: { rows, columns, float16 } } : stored;
}

/** f16 numbers in f64, fresh. */
export function float16ToDense({ rows, columns, float16 }: Float16Matrix): Dense {
  return dense(rows, columns, Float64Array.from(decodeFloat16(float16)));
}

function toFloat16Matrix({ rows, columns, data }: Dense, name: string): Float16Matrix {
  const float16 = encodeFloat16(Float32Array.from(data));
  const bad = float16.findIndex((bits) => (bits & 0x7c00) === 0x7c00);
  if (bad >= 0) {
    const place = { tensor: name, channel: bad % columns };
    throw new NumericError('calibrate', data[bad], place, 'does not fit in f16');
  }
  return { rows, columns, float16 };
}
