/**
 * Quantizing: a matrix to packed codes, scales and minima.
 *
 * @module
 */

import { rotateRows } from '../../numerics/hadamard.js';
import type { Matrix } from '../../numerics/matrix.js';
import { dequantizeMatrix, type GroupedOptions, quantizeMatrix } from '../../quant/grouped.js';
import type { CaseInputs } from '../case/inputs.js';
import { expectedRows, expectedStored } from '../compare/expected.js';
import { GROUPED_OPTIONS, type Operation } from '../operation.js';

/** The values that `quantize` cuts into groups: x, rotated if the options say so. */
export function quantizeSource(inputs: CaseInputs): { source: Matrix; format: GroupedOptions } {
  return { source: rotateRows(inputs.matrix('x'), inputs.rotation()), format: inputs.grouped() };
}

/** The operation `quantize`. */
export const quantize: Operation = {
  name: 'quantize',
  summary: 'a matrix to packed codes, scales and minima, per token or per channel',
  specification: 'docs/numerics.md "The quantizer"',
  options: [...GROUPED_OPTIONS, { name: 'grouping', values: 'perToken | perChannel', optional: true }],
  tensors: [
    { name: 'x', role: 'input', dtype: 'F32', shape: '[tokens, channels]' },
    { name: 'packed', role: 'output', dtype: 'U8', shape: '[bytes]', comparison: 'exact' },
    {
      name: 'scales',
      role: 'output',
      dtype: 'F16',
      shape: '[tokens, groups] or [blocks, channels]',
      comparison: 'exact',
    },
    { name: 'mins', role: 'output', dtype: 'F16', shape: 'as scales', comparison: 'exact' },
    { name: 'codes', role: 'output', dtype: 'U8', shape: '[tokens, channels]', comparison: 'exact' },
    { name: 'x_hat', role: 'output', dtype: 'F32', shape: '[tokens, channels]', comparison: 'exact' },
  ],
  run(inputs) {
    const { source, format } = quantizeSource(inputs);
    const quantized = quantizeMatrix(source, format, { tensor: 'x' });
    return { ...expectedStored(quantized, source), x_hat: expectedRows(dequantizeMatrix(quantized)) };
  },
};
