/**
 * What an error of a key or a value costs.
 *
 * @module
 */

import { keyMetric, valueMetric } from '../../analysis/calibrate/metric.js';
import { ShapeError } from '../../errors.js';
import type { ModelConfig } from '../../model/config.js';
import { type Dense, dense } from '../../numerics/dense.js';
import type { CaseInputs } from '../case/inputs.js';
import { type Expected, placeOf } from '../compare/compare.js';
import { F32_ROUNDOFF } from '../compare/tolerance.js';
import type { Operation } from '../operation.js';
import { ropeOptions } from './rope.js';

/** The operation `metric`. */
export const metric: Operation = {
  name: 'metric',
  summary: 'the quadratic forms that weigh errors of keys and of values, one for each KV head',
  specification: 'docs/algorithm.md "What an error costs"',
  options: [
    { name: 'heads', values: 'query heads' },
    { name: 'kvHeads', values: 'key and value heads' },
    { name: 'headDim', values: 'channels of a head' },
    { name: 'layout', values: 'half | interleaved' },
    { name: 'theta', values: 'base of the frequencies' },
    { name: 'distances', values: 'distances between query and key, in tokens' },
  ],
  tensors: [
    { name: 'queries', role: 'input', dtype: 'F32', shape: '[tokens, heads, headDim], before RoPE' },
    { name: 'w_o', role: 'input', dtype: 'F32', shape: '[hiddenSize, heads * headDim]' },
    {
      name: 'omega_k',
      role: 'output',
      dtype: 'F32',
      shape: '[kvHeads, headDim, headDim]',
      comparison: 'bound',
    },
    {
      name: 'omega_v',
      role: 'output',
      dtype: 'F32',
      shape: '[kvHeads, headDim, headDim]',
      comparison: 'bound',
    },
  ],
  run(inputs) {
    const heads = inputs.count('heads');
    const { headDim } = ropeOptions(inputs);
    const config = metricConfig(inputs);
    const { shape, data } = inputs.floats('queries', ['token', 'head', 'channel']);
    const [tokens] = shape;
    if (shape[1] !== heads || shape[2] !== headDim || tokens < 1) {
      throw new ShapeError('metric', 'queries', ['tokens', heads, headDim], shape);
    }
    const distances = distancesOf(inputs);
    const shared = heads / config.numKeyValueHeads;
    const moments = secondMoments(data, tokens, heads, headDim);
    const wO = inputs.matrix('w_o', 'row', 'column');
    // Sums of this many f32 products in any order, and turned queries whose angles are f32.
    const keyTerms = tokens * distances.length * shared;
    const angle = Math.max(1, ...distances);
    return {
      omega_k: expectedForms(keyMetric(moments, config, 0, undefined, distances), keyTerms + 2 * angle),
      omega_v: expectedForms(valueMetric(wO, config), wO.rows * shared),
    };
  },
};

/** Only sizes and RoPE matter to the metric. */
function metricConfig(inputs: CaseInputs): ModelConfig {
  const { layout, headDim, ropeTheta, ropeFrequencyDivisors } = ropeOptions(inputs);
  const heads = inputs.count('heads');
  const kvHeads = inputs.count('kvHeads');
  if (heads % kvHeads !== 0)
    throw new RangeError(`"heads" must be a multiple of "kvHeads", got ${heads} and ${kvHeads}`);
  const wO = inputs.matrix('w_o', 'row', 'column');
  return {
    architecture: 'llama',
    hiddenSize: wO.rows,
    intermediateSize: 1,
    numHiddenLayers: 1,
    numAttentionHeads: heads,
    numKeyValueHeads: kvHeads,
    headDim,
    vocabSize: 1,
    maxPositionEmbeddings: 1,
    rmsNormEps: 1e-5,
    ropeTheta,
    ropeFrequencyDivisors,
    ropeLayout: layout,
    tieWordEmbeddings: true,
  };
}

function distancesOf(inputs: CaseInputs): number[] {
  const { distances } = inputs.case.options;
  if (
    !Array.isArray(distances) ||
    distances.length === 0 ||
    !distances.every((each) => Number.isSafeInteger(each))
  ) {
    throw new RangeError('"distances" must be a list of integers');
  }
  return distances;
}

/** E[q^T q] of every head. */
function secondMoments(queries: Float32Array, tokens: number, heads: number, headDim: number): Dense[] {
  return Array.from({ length: heads }, (_, head) => {
    const form = dense(headDim, headDim);
    for (let t = 0; t < tokens; t++) {
      const q = queries.subarray((t * heads + head) * headDim, (t * heads + head + 1) * headDim);
      for (let i = 0; i < headDim; i++) {
        for (let j = 0; j < headDim; j++) form.data[i * headDim + j] += (q[i] * q[j]) / tokens;
      }
    }
    return form;
  });
}

/** @param terms of the longest sum; the diagonal bounds every entry of a positive form */
function expectedForms(forms: readonly Dense[], terms: number): Expected {
  const n = forms[0].rows;
  const values = Float32Array.from(forms.flatMap(({ data }) => [...data]));
  const largest = forms.map(({ data }) => data.reduce((a, b) => Math.max(a, Math.abs(b)), 0));
  const shape = [forms.length, n, n];
  return {
    dtype: 'F32',
    values,
    shape,
    dimensions: ['head', 'row', 'column'],
    bound: (index) => terms * F32_ROUNDOFF * largest[Math.floor(index / (n * n))],
    locate: (index) => placeOf(index, shape, ['head', 'row', 'column']),
  };
}
