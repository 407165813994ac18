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
import { attentionBounds } from '../compare/attention-noise.js';
import { F32_ROUNDOFF, F32_TINY } from '../compare/tolerance.js';
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
  run(inputs, { compute = 'f32' }) {
    const sources = storedSources(inputs);
    const parts = attendParts(inputs, sources);
    const { output, headDim } = parts;
    const bounds = attentionBounds({
      ...parts,
      keySource: { rows: sources.keyRows, minima: sources.keyMinima, weights: sources.keyWeights },
      valueSource: { rows: sources.valueRows, minima: sources.valueMinima, weights: sources.valueWeights },
      compute,
    });
    return {
      output: {
        dtype: 'F32',
        values: output.data,
        shape: [output.data.length / headDim, headDim],
        dimensions: ['head', 'channel'],
        bound: (index) => bounds[index] + F32_ROUNDOFF * Math.abs(output.data[index]) + F32_TINY,
      },
    };
  },
  runOnce: (inputs) => ({ output: attendOnce(inputs).data }),
};

/** Attention of one query over all stored tokens. @returns [1, heads * headDim] */
export function attendOnce(inputs: CaseInputs, sources: StoredSources = storedSources(inputs)): Matrix {
  return attendParts(inputs, sources).output;
}

/** Attention of one query with what it is computed of, keys and query after RoPE. */
function attendParts(inputs: CaseInputs, sources: StoredSources) {
  const { layout, headDim, ropeTheta: theta, frequencies } = ropeOptions(inputs);
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
  const position = inputs.number('position');
  const query = applyRope(matrix(1, heads * headDim, given.data), position, frequencies, layout);
  const keys = applyRope(linearTiled(keyRows, keyWeights), 0, frequencies, layout);
  const values = linearTiled(valueRows, valueWeights);
  const output = causalAttention(query, keys, values, headDim);
  return { query, keys, values, output, headDim, position, layout, frequencies, theta };
}
