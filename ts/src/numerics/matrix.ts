/**
 * A dense row-major f32 matrix and the few products the model needs.
 *
 * Every dot product is summed in f64, in the order of the inner index, and rounded to f32 once, when it
 * is stored. That makes this the thing others are compared with: its own error is half an f32 ulp.
 *
 * @module
 */

import { ShapeError } from '../errors.js';

/** Row-major: element (row, column) is `data[row * columns + column]`. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  /** [rows, columns] */
  readonly data: Float32Array;
}

/**
 * Wraps data as a matrix, or makes one of zeros.
 *
 * @param data [rows, columns], kept, not copied
 * @throws {ShapeError} if the length is not rows * columns
 */
export function matrix(
  rows: number,
  columns: number,
  data: Float32Array = new Float32Array(rows * columns),
): Matrix {
  if (data.length !== rows * columns) throw new ShapeError('matrix', 'data', [rows, columns], [data.length]);
  return { rows, columns, data };
}

/**
 * Rows `[from, to)` as a view on the same memory.
 *
 * @throws {RangeError} if the range is not inside the matrix
 */
export function rowRange(source: Matrix, from: number, to: number): Matrix {
  if (!(0 <= from && from <= to && to <= source.rows)) {
    throw new RangeError(`rows [${from}, ${to}) are not inside a matrix of ${source.rows} rows`);
  }
  const { columns, data } = source;
  return matrix(to - from, columns, data.subarray(from * columns, to * columns));
}

/**
 * Row `index` as a view on the same memory.
 *
 * @returns [columns]
 */
export function row(source: Matrix, index: number): Float32Array {
  return source.data.subarray(index * source.columns, (index + 1) * source.columns);
}

/**
 * Puts matrices of equal width below one another.
 *
 * @returns fresh, [sum of rows, columns]
 * @throws {ShapeError} if a part has another width
 */
export function concatRows(parts: readonly Matrix[], columns: number): Matrix {
  const result = matrix(
    parts.reduce((rows, part) => rows + part.rows, 0),
    columns,
  );
  let at = 0;
  for (const part of parts) {
    if (part.columns !== columns) {
      throw new ShapeError('concatRows', 'parts', ['*', columns], [part.rows, part.columns]);
    }
    result.data.set(part.data, at);
    at += part.data.length;
  }
  return result;
}

/**
 * @param source [rows, columns]
 * @returns fresh, [columns, rows]
 */
export function transpose(source: Matrix): Matrix {
  const { rows, columns, data } = source;
  const result = matrix(columns, rows);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) result.data[c * rows + r] = data[r * columns + c];
  }
  return result;
}

/**
 * `x W^T`: applies a linear layer whose weights are stored the way model files store them,
 * one row per output channel. The definition; linear-tiled.ts computes the same bits faster.
 *
 * @param x [tokens, inChannels]
 * @param w [outChannels, inChannels]
 * @param bias [outChannels], added after the product
 * @returns fresh, [tokens, outChannels]
 * @throws {ShapeError} if the inner sizes differ
 */
export function linear(x: Matrix, w: Matrix, bias?: Float32Array): Matrix {
  assertLinear(x, w, bias);
  const result = matrix(x.rows, w.rows);
  for (let t = 0; t < x.rows; t++) {
    for (let j = 0; j < w.rows; j++) result.data[t * w.rows + j] = dot(row(x, t), row(w, j));
  }
  if (bias) addBias(result, bias);
  return result;
}

/**
 * Requires the sizes of a linear layer to fit.
 *
 * @throws {ShapeError} if the inner sizes differ, or those of the bias
 */
export function assertLinear(x: Matrix, w: Matrix, bias?: Float32Array): void {
  if (x.columns !== w.columns) throw new ShapeError('linear', 'x', ['*', w.columns], [x.rows, x.columns]);
  if (bias && bias.length !== w.rows) throw new ShapeError('linear', 'bias', [w.rows], [bias.length]);
}

/** Adds a bias to every row, in place, each sum rounded to f32. */
export function addBias({ data, columns }: Matrix, bias: Float32Array): void {
  for (let i = 0; i < data.length; i++) data[i] += bias[i % columns];
}

/**
 * `a + b`, each sum rounded to f32.
 *
 * @param a [rows, columns], @param b [rows, columns]
 * @returns fresh
 */
export function add(a: Matrix, b: Matrix): Matrix {
  assertSameShape('add', a, b);
  const result = matrix(a.rows, a.columns);
  for (let i = 0; i < result.data.length; i++) result.data[i] = a.data[i] + b.data[i];
  return result;
}

/**
 * `a * factor`.
 *
 * @param factor absent: 1
 * @returns fresh, or `a` itself if the factor is 1
 */
export function scale(a: Matrix, factor = 1): Matrix {
  return factor === 1
    ? a
    : matrix(
        a.rows,
        a.columns,
        a.data.map((value) => value * factor),
      );
}

/**
 * `a - b`, each difference rounded to f32.
 *
 * @param a [rows, columns], @param b [rows, columns]
 * @returns fresh
 */
export function subtract(a: Matrix, b: Matrix): Matrix {
  assertSameShape('subtract', a, b);
  const result = matrix(a.rows, a.columns);
  for (let i = 0; i < result.data.length; i++) result.data[i] = a.data[i] - b.data[i];
  return result;
}

/**
 * Dot product in f64, in index order.
 *
 * @param a [length], @param b [length]
 */
export function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let k = 0; k < a.length; k++) sum += a[k] * b[k];
  return sum;
}

function assertSameShape(op: string, a: Matrix, b: Matrix): void {
  if (a.rows !== b.rows || a.columns !== b.columns) {
    throw new ShapeError(op, 'b', [a.rows, a.columns], [b.rows, b.columns]);
  }
}
