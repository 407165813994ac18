/**
 * One decode step of attention over stored tokens.
 *
 * @module
 */

import { ConfigError } from '../../errors.js';
import { causalAttention } from '../../model/attention.js';
import { applyRope } from '../../model/rope.js';
import { linearTiled } from '../../numerics/linear-tiled.js';
import { type Matrix, matrix } from '../../numerics/matrix.js';
import type { CaseInputs } from '../case/inputs.js';
import { perturbedInputs } from '../compare/perturb.js';
import { rowNorms, spreadBound } from '../compare/tolerance.js';
import type { Operation } from '../operation.js';
import { ropeOptions } from './rope.js';
import { LATENT_OPTIONS, STORED_INPUTS, type StoredSources, storedSources } from './stored-sources.js';

/** The operation `attend`. */
export const attend: Operation = {
  name: 'attend',
  summary: 'one decode step of attention over stored tokens, RoPE included',
  specification: 'docs/numerics.md "Attention"',
  options: [
    ...LATENT_OPTIONS,
    { name: 'heads', values: 'query heads' },
    { name: 'kvHeads', values: 'key and value heads' },
    { name: 'headDim', values: 'channels of a head' },
    { name: 'layout', values: 'half | interleaved' },
    { name: 'theta', values: 'base of the frequencies' },
    { name: 'position', values: 'position of the query; stored tokens stand at 0, 1, ...' },
  ],
  tensors: [
    { name: 'query', role: 'input', dtype: 'F32', shape: '[heads, headDim], before RoPE' },
    ...STORED_INPUTS,
    { name: 'output', role: 'output', dtype: 'F32', shape: '[heads, headDim]', comparison: 'bound' },
  ],
  run(inputs) {
    const sources = storedSources(inputs);
    const baseline = attendOnce(inputs, sources);
    // A weight matrix is summed over its columns, with terms that may be larger than the values they make
    // up; the average over tokens adds a sum of that length.
    const keySum = sources.keyWeights.columns * termRatio(sources.keyRows, sources.keyTerms);
    const valueSum =
      sources.valueWeights.columns * termRatio(sources.valueRows, sources.valueTerms) + sources.keyRows.rows;
    const terms = { w_k: keySum, up_k: keySum, w_v: valueSum, up_v: valueSum };
    const perturbed = perturbedInputs(inputs, ['query', 'w_k', 'w_v', 'up_k', 'up_v'], terms).map(
      (other) => attendOnce(other).data,
    );
    const { columns: headDim } = inputs.matrix('query', 'head', 'channel');
    return {
      output: {
        dtype: 'F32',
        values: baseline.data,
        shape: [baseline.data.length / headDim, headDim],
        dimensions: ['head', 'channel'],
        bound: spreadBound(baseline.data, perturbed, headDim),
      },
    };
  },
  runOnce: (inputs) => ({ output: attendOnce(inputs).data }),
};

/** Attention of one query over all stored tokens. @returns [1, heads * headDim] */
export function attendOnce(inputs: CaseInputs, sources: StoredSources = storedSources(inputs)): Matrix {
  const { layout, headDim, frequencies } = ropeOptions(inputs);
  const heads = inputs.count('heads');
  const kvHeads = inputs.count('kvHeads', heads);
  const given = inputs.matrixOf('query', heads, headDim);
  const { keyRows, valueRows, keyWeights, valueWeights } = sources;
  if (keyWeights.rows !== kvHeads * headDim) {
    throw new ConfigError(
      'kvHeads * headDim',
      kvHeads * headDim,
      `the rows of the key matrix, ${keyWeights.rows}`,
    );
  }
  const query = matrix(1, heads * headDim, given.data);
  const keys = linearTiled(keyRows, keyWeights);
  return causalAttention(
    applyRope(query, inputs.number('position'), frequencies, layout),
    applyRope(keys, 0, frequencies, layout),
    linearTiled(valueRows, valueWeights),
    headDim,
  );
}

/** How much longer the rows of terms are than the rows of values, at most. */
function termRatio(rows: Matrix, terms: Matrix): number {
  const lengths = rowNorms(rows);
  return rowNorms(terms).reduce(
    (largest, length, t) => Math.max(largest, lengths[t] > 0 ? length / lengths[t] : 1),
    1,
  );
}
