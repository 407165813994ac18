import { linearTiled } from '../../numerics/linear-tiled.js';
import { expectedRows } from '../compare/expected.js';
import { productBound } from '../compare/tolerance.js';
import type { Operation } from '../operation.js';
import { LATENT_OPTIONS, STORED_INPUTS, storedSources } from './stored-sources.js';

/** The operation `rematerialize`. */
export const rematerialize: Operation = {
  name: 'rematerialize',
  summary: 'keys (before RoPE) and values from stored codes',
  specification: 'docs/numerics.md "Products"',
  options: LATENT_OPTIONS,
  tensors: [
    ...STORED_INPUTS,
    { name: 'keys', role: 'output', dtype: 'F32', shape: '[tokens, kvDim]', comparison: 'bound' },
    { name: 'values', role: 'output', dtype: 'F32', shape: '[tokens, kvDim]', comparison: 'bound' },
  ],
  run(inputs) {
    const { keyRows, valueRows, keyTerms, valueTerms, keyWeights, valueWeights } = storedSources(inputs);
    return {
      keys: expectedRows(linearTiled(keyRows, keyWeights), productBound(keyTerms, keyWeights)),
      values: expectedRows(linearTiled(valueRows, valueWeights), productBound(valueTerms, valueWeights)),
    };
  },
};
