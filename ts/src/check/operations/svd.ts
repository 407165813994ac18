/**
 * The thin factors of a matrix.
 *
 * @module
 */

import { thinSvd } from '../../numerics/svd.js';
import { svdBounds } from '../compare/tolerance.js';
import type { ExpectedTensors, Operation } from '../operation.js';

/** The operation `svd`. */
export const svd: Operation = {
  name: 'svd',
  summary: 'the thin factors W = U S V^T, the largest entry of each column of U positive',
  specification: 'docs/numerics.md "SVD factors"',
  options: [],
  tensors: [
    { name: 'w', role: 'input', dtype: 'F32', shape: '[hiddenSize, outDim]' },
    { name: 'u', role: 'output', dtype: 'F32', shape: '[hiddenSize, rank]', comparison: 'bound' },
    { name: 's', role: 'output', dtype: 'F32', shape: '[rank]', comparison: 'bound' },
    { name: 'vt', role: 'output', dtype: 'F32', shape: '[rank, outDim]', comparison: 'bound' },
  ],
  run(inputs): ExpectedTensors {
    const w = inputs.matrix('w', 'row', 'column');
    const { u, s, vT } = thinSvd(w);
    const bounds = svdBounds(s, Math.max(w.rows, w.columns));
    return {
      u: {
        dtype: 'F32',
        values: u.data,
        shape: [u.rows, u.columns],
        dimensions: ['row', 'rank'],
        bound: (index) => bounds.vectors[index % u.columns],
      },
      s: { dtype: 'F32', values: s, shape: [s.length], dimensions: ['rank'], bound: () => bounds.value },
      vt: {
        dtype: 'F32',
        values: vT.data,
        shape: [vT.rows, vT.columns],
        dimensions: ['rank', 'column'],
        bound: (index) => bounds.vectors[Math.floor(index / vT.columns)],
      },
    };
  },
};
