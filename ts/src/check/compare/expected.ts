/**
 * The expected values of stored tensors and of float rows, as operations give them.
 *
 * @module
 */

import { decodeFloat16, fromFloat16Bits } from '../../numerics/float16.js';
import type { Matrix } from '../../numerics/matrix.js';
import { type QuantizedMatrix, unpackMatrix } from '../../quant/grouped.js';
import { groupOf, parameterShape, placeOfByte } from '../case/inputs.js';
import { type CodeView, type Expected, placeOf } from './compare.js';
import { isNearTie } from './tolerance.js';

/**
 * Expected outputs of a quantized matrix.
 *
 * @param source the values that were quantized, to tell near-ties
 * @param noise error that a value of element i may have, 0 for given values
 */
export function expectedStored(
  quantized: QuantizedMatrix,
  source: Matrix,
  noise: (index: number) => number = () => 0,
): { packed: Expected; scales: Expected; mins: Expected; codes: Expected } {
  const { rows, columns, packed, scales, mins } = quantized;
  const locate = (index: number) => ({
    ...placeOf(index, [rows, columns], ['token', 'channel']),
    group: groupOf(index, columns, quantized),
  });
  const view = (unpack: CodeView['unpack']): CodeView => ({
    unpack,
    isNearTie(index) {
      const group = groupOf(index, columns, quantized);
      const scale = fromFloat16Bits(scales[group]);
      if (scale === 0) return false;
      return isNearTie((source.data[index] - fromFloat16Bits(mins[group])) / scale, noise(index) / scale);
    },
    locate,
  });
  const parameters = (bits: Uint16Array): Expected => ({
    dtype: 'F16',
    values: decodeFloat16(bits),
    shape: parameterShape(rows, columns, quantized),
    dimensions: quantized.grouping === 'perToken' ? ['token', 'group'] : ['block', 'channel'],
    stored: true,
  });
  return {
    packed: {
      dtype: 'U8',
      values: packed,
      shape: [packed.length],
      dimensions: ['byte'],
      stored: true,
      locate: (byte) => placeOfByte(byte, rows, columns, quantized),
      codes: view((bytes) => unpackMatrix({ ...quantized, packed: bytes })),
    },
    scales: parameters(scales),
    mins: parameters(mins),
    codes: {
      dtype: 'U8',
      values: unpackMatrix(quantized),
      shape: [rows, columns],
      dimensions: ['token', 'channel'],
      stored: true,
      locate,
      codes: view((codes) => codes),
    },
  };
}

/** A float result of some tokens. */
export function expectedRows(result: Matrix, bound?: (index: number) => number): Expected {
  return {
    dtype: 'F32',
    values: result.data,
    shape: [result.rows, result.columns],
    dimensions: ['token', 'channel'],
    bound,
  };
}

/**
 * A float result of every layer, as one tensor [layers, tokens, channels].
 *
 * @param bounds of the elements of each layer; absent: the tensor must be equal
 */
export function expectedLayerStack(
  layers: readonly Matrix[],
  bounds?: readonly ((index: number) => number)[],
): Expected {
  const [{ rows, columns }] = layers;
  const size = rows * columns;
  const values = new Float32Array(layers.length * size);
  layers.forEach((each, layer) => {
    values.set(each.data, layer * size);
  });
  return {
    dtype: 'F32',
    values,
    shape: [layers.length, rows, columns],
    dimensions: ['layer', 'token', 'channel'],
    bound: bounds && ((index) => bounds[Math.floor(index / size)](index % size)),
  };
}
