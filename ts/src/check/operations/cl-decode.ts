/**
 * XQuant-CL, read: the sum after every layer.
 *
 * @module
 */

import type { Operation } from '../operation.js';
import { CROSS_LAYER_OPTIONS, decodeLayers, expectedAccumulator } from './cross-layer.js';

/** The operation `cl-decode`. */
export const crossLayerDecode: Operation = {
  name: 'cl-decode',
  summary: 'the sum of base and differences after every layer',
  specification: 'docs/numerics.md "The accumulator"',
  options: CROSS_LAYER_OPTIONS,
  tensors: [
    { name: 'packed_<layer>', role: 'input', dtype: 'U8', shape: '[bytes]' },
    { name: 'scales_<layer>', role: 'input', dtype: 'F16', shape: '[tokens, groups] or [blocks, channels]' },
    { name: 'mins_<layer>', role: 'input', dtype: 'F16', shape: 'as scales' },
    {
      name: 'down',
      role: 'input',
      dtype: 'F32',
      shape: '[layers, rank, hiddenSize]',
      when: 'form latent; layer 0 is not used',
    },
    {
      name: 'accumulator',
      role: 'output',
      dtype: 'F32',
      shape: '[layers, tokens, hiddenSize]',
      comparison: 'bound',
    },
  ],
  run(inputs) {
    const { sums, bounds } = decodeLayers(inputs);
    return { accumulator: expectedAccumulator(sums, bounds) };
  },
};
