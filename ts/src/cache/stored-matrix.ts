/**
 * A matrix as a cache keeps it, in one of three precisions: quantized codes, f16, or f32 (identity).
 *
 * @module
 */

import { NumericError, ShapeError } from '../errors.js';
import { decodeFloat16, encodeFloat16, FLOAT16_OVERFLOW } from '../numerics/float16.js';
import { type Matrix, matrix } from '../numerics/matrix.js';
import { dequantizeMatrix, type GroupedOptions, quantizedBytes, quantizeMatrix } from '../quant/grouped.js';
import { nuqBytes } from '../quant/nuq.js';
import type { GroupPlace } from '../quant/uniform.js';
import type { CacheBytes } from './contract.js';
import type { Float16Matrix, StoredMatrix } from './state.js';

/** How to store a matrix. */
export type StorageFormat = GroupedOptions | 'f16' | 'f32';

/**
 * Stores a matrix.
 *
 * @param source read
 * @param place named in errors
 * @returns fresh
 * @throws {NumericError} if a value cannot be stored
 */
export function storeMatrix(source: Matrix, format: StorageFormat, place: GroupPlace): StoredMatrix {
  if (format === 'f32') return matrix(source.rows, source.columns, source.data.slice());
  if (format === 'f16') return toFloat16Matrix(source, place);
  return quantizeMatrix(source, format, place);
}

/**
 * The values of a stored matrix. Rows of `kvquant` cannot be read without their levels, and symmetric codes not without
 * their bits; see their caches.
 *
 * @returns [rows, columns], fresh unless it was stored in f32
 * @throws {TypeError} if it is one of these
 */
export function loadMatrix(stored: StoredMatrix): Matrix {
  if ('packed' in stored) return dequantizeMatrix(stored);
  if ('float16' in stored) return matrix(stored.rows, stored.columns, decodeFloat16(stored.float16));
  if ('rowCodes' in stored) throw new TypeError('rows of kvquant can be read only with their levels');
  if ('channelCodes' in stored) throw new TypeError('symmetric codes can be read only with their bits');
  return stored;
}

/** Adds what a stored matrix takes to a byte count. Unquantized values count as outliers. */
export function countStored(stored: StoredMatrix, bytes: CacheBytes): void {
  if ('packed' in stored) {
    const parts = quantizedBytes(stored);
    bytes.codes += parts.codes;
    bytes.scales += parts.scales;
    bytes.mins += parts.mins;
  } else if ('rowCodes' in stored) {
    const parts = nuqBytes(stored);
    bytes.codes += parts.codes;
    bytes.scales += parts.scales;
    bytes.mins += parts.mins;
    bytes.outliers += parts.outliers;
  } else if ('channelCodes' in stored) {
    bytes.codes += stored.channelCodes.byteLength;
    bytes.scales += stored.scales.byteLength;
  } else {
    bytes.outliers += ('float16' in stored ? stored.float16 : stored.data).byteLength;
  }
}

/** A byte count of nothing. */
export function zeroBytes(): CacheBytes {
  return { codes: 0, scales: 0, mins: 0, window: 0, outliers: 0, baseLayers: 0, scratch: 0, plan: 0 };
}

/**
 * Books the sealed bytes of a base layer under `baseLayers`.
 *
 * @returns fresh
 */
export function billAsBase(bytes: CacheBytes): CacheBytes {
  const { codes, scales, mins, outliers } = bytes;
  return {
    ...bytes,
    codes: 0,
    scales: 0,
    mins: 0,
    outliers: 0,
    baseLayers: codes + scales + mins + outliers,
  };
}

/** Adds one count to another. */
export function addBytes(total: CacheBytes, bytes: CacheBytes): void {
  for (const kind of Object.keys(total) as (keyof CacheBytes)[]) total[kind] += bytes[kind];
}

/** All bytes of a count; `scratch` and `plan` included. */
export function totalBytes(bytes: CacheBytes): number {
  return storedBytes(bytes) + bytes.scratch + bytes.plan;
}

/** Bytes of the sequence that stay between forward passes: everything except `scratch` and `plan`. */
export function storedBytes(bytes: CacheBytes): number {
  const { codes, scales, mins, window, outliers, baseLayers } = bytes;
  return codes + scales + mins + window + outliers + baseLayers;
}

/**
 * Requires every value to be finite and to round to a finite f16.
 *
 * @param firstToken position of the first row
 * @throws {NumericError} names layer, tensor, token and channel
 */
export function assertStorable(source: Matrix, place: GroupPlace, firstToken = 0): void {
  const bad = source.data.findIndex((value) => !(Math.abs(value) < FLOAT16_OVERFLOW));
  if (bad < 0) return;
  const value = source.data[bad];
  const at = {
    ...place,
    token: firstToken + Math.floor(bad / source.columns),
    channel: bad % source.columns,
  };
  const reason = Number.isFinite(value) ? 'the value does not fit in f16' : 'not a finite number';
  throw new NumericError('append', value, at, reason);
}

/**
 * Rounds a matrix to f16.
 *
 * @throws {NumericError} if a value is not finite in f16
 */
function toFloat16Matrix(source: Matrix, place: GroupPlace): Float16Matrix {
  assertStorable(source, place);
  return { rows: source.rows, columns: source.columns, float16: encodeFloat16(source.data) };
}

/**
 * @throws {ShapeError} if a stored matrix has another shape
 */
export function assertStoredShape(stored: StoredMatrix, rows: number, columns: number, name: string): void {
  if (stored.rows !== rows || stored.columns !== columns) {
    throw new ShapeError('restore', name, [rows, columns], [stored.rows, stored.columns]);
  }
}
