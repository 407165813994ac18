import { linearTiled } from '../../numerics/linear-tiled.js';
import type { Matrix } from '../../numerics/matrix.js';
import type { Expected } from '../compare/compare.js';
import { expectedRows } from '../compare/expected.js';
import { DEVIATIONS, storedProductVariance } from '../compare/rounding-noise.js';
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
  run(inputs, { compute = 'f32' }) {
    const sources = storedSources(inputs);
    const { keyRows, valueRows, keyTerms, valueTerms, keyMinima, valueMinima } = sources;
    const { keyWeights, valueWeights } = sources;
    const product = (rows: Matrix, terms: Matrix, minima: Matrix, weights: Matrix): Expected => {
      const worst = productBound(terms, weights);
      if (compute === 'f32') return expectedRows(linearTiled(rows, weights), worst);
      const variances = storedProductVariance(rows, minima, weights, compute);
      const bound = (index: number) => worst(index) + DEVIATIONS * Math.sqrt(variances[index]);
      return expectedRows(linearTiled(rows, weights), bound);
    };
    return {
      keys: product(keyRows, keyTerms, keyMinima, keyWeights),
      values: product(valueRows, valueTerms, valueMinima, valueWeights),
    };
  },
};
