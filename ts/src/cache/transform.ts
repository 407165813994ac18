/**
 * A layer transform of a calibration as f32 matrices, ready to multiply rows.
 *
 *     coordinates    z = c E - p
 *     prediction     p = t + sum over p of y_(i-p) M_p        each product is rounded to f32, then they are added
 *     carrier        c^ = y D
 *
 * @module
 */

import { type Dense, dense } from '../numerics/dense.js';
import { decodeFloat16 } from '../numerics/float16.js';
import { inverse } from '../numerics/inverse.js';
import { linearTiled } from '../numerics/linear-tiled.js';
import { add, type Matrix, matrix, transpose } from '../numerics/matrix.js';
import type { LayerTransform } from './calibration.js';
import type { Float16Matrix } from './state.js';

/** The matrices of one layer. */
export class Transform {
  /** D^T, as `linear` takes it. [n, n] */
  readonly decodeTransposed: Matrix;
  /** M_p^T, p = 1 first. [n, n] each */
  readonly predictTransposed: readonly Matrix[];
  /** t. [n] */
  readonly offset: Float32Array;
  readonly #source: LayerTransform;
  #encodeTransposed: Matrix | undefined;

  /** For one use; what is shared comes from {@link Transform.of}. */
  constructor(source: LayerTransform) {
    this.#source = source;
    this.decodeTransposed = transpose(toMatrix(source.decode));
    this.predictTransposed = source.predict.map((each) => transpose(toMatrix(each)));
    this.offset = source.offset;
  }

  /** @returns the same object for the same transform: it is shared by all caches of a model */
  static of(source: LayerTransform): Transform {
    const found = prepared.get(source) ?? new Transform(source);
    prepared.set(source, found);
    return found;
  }

  /**
   * E^T, computed from D when it is first asked for if the calibration does not have it. [n, n]
   *
   * @throws {NumericError} if D has no inverse
   */
  get encodeTransposed(): Matrix {
    const { encode, decode } = this.#source;
    this.#encodeTransposed ??= transpose(encode ? toMatrix(encode) : rounded(inverse(exact(decode))));
    return this.#encodeTransposed;
  }

  /**
   * Rows of the carrier in the coordinates of the layer.
   *
   * @param carrier [tokens, n]
   * @returns fresh
   */
  encode(carrier: Matrix): Matrix {
    return linearTiled(carrier, this.encodeTransposed);
  }

  /**
   * Coordinates back to rows of the carrier.
   *
   * @param coordinates y, [tokens, n]
   * @returns fresh
   */
  decode(coordinates: Matrix): Matrix {
    return linearTiled(coordinates, this.decodeTransposed);
  }

  /**
   * The prediction of this layer from the layers below.
   *
   * @param below y of the layers below, the nearest first; as many as there are matrices. [tokens, n] each
   * @param tokens rows, needed where there is nothing below
   * @returns fresh, [tokens, n]
   */
  predict(below: readonly Matrix[], tokens: number): Matrix {
    const [first, ...others] = this.predictTransposed;
    if (!first) return repeated(this.offset, tokens);
    return others.reduce(
      (sum, each, i) => add(sum, linearTiled(below[i + 1], each)),
      linearTiled(below[0], first, this.offset),
    );
  }
}

const prepared = new WeakMap<LayerTransform, Transform>();

function toMatrix({ rows, columns, float16 }: Float16Matrix): Matrix {
  return matrix(rows, columns, decodeFloat16(float16));
}

function exact({ rows, columns, float16 }: Float16Matrix): Dense {
  return dense(rows, columns, Float64Array.from(decodeFloat16(float16)));
}

function rounded({ rows, columns, data }: Dense): Matrix {
  return matrix(rows, columns, Float32Array.from(data));
}

function repeated(row: Float32Array, count: number): Matrix {
  const result = matrix(count, row.length);
  for (let r = 0; r < count; r++) result.data.set(row, r * row.length);
  return result;
}
