/**
 * The thin factors of a matrix.
 *
 * @module
 */

import { linearTiled } from '../../numerics/linear-tiled.js';
import { type Matrix, matrix, transpose } from '../../numerics/matrix.js';
import { thinSvd } from '../../numerics/svd.js';
import type { CaseInputs } from '../case/inputs.js';
import { numbersOf, type Tensor, tensorOf, UNIT_ROUNDOFF } from '../case/tensor.js';
import type { Expected } from '../compare/compare.js';
import { F32_ROUNDOFF, svdBounds } from '../compare/tolerance.js';
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
      ...factorProducts(inputs, w, s, bounds.value),
    };
  },
};

/**
 * What the dumped factors must be together, however close singular values are: columns of U and rows of V^T orthonormal, and
 * their product W. A backward stable algorithm gives vectors that are orthonormal up to `p u`, p the larger size, and the factors of a
 * matrix that differs by `p u s_1`; a narrower type of the dump rounds each factor once more.
 *
 * @param backward `p u s_1`; singular values below it are zero to f32, and their vectors are left out
 */
function factorProducts(
  inputs: CaseInputs,
  w: Matrix,
  s: Float32Array,
  backward: number,
): Record<string, Expected> {
  const rank = s.length;
  const kept = s.reduce((count, value) => count + (value > backward ? 1 : 0), 0);
  const dumped = (name: string, rows: number, columns: number): Matrix | undefined => {
    const tensor = inputs.case.tensors.get(name);
    const values = tensor && Float32Array.from(numbersOf(tensor, `${inputs.case.name}: ${name}`));
    return values?.length === rows * columns ? matrix(rows, columns, values) : undefined;
  };
  const rounding = Math.max(
    ...['u', 's', 'vt'].map((name) => UNIT_ROUNDOFF[inputs.case.tensors.get(name)?.dtype ?? 'F32'] ?? 0),
  );
  const u = () => dumped('u', w.rows, rank);
  const vt = () => dumped('vt', rank, w.columns);
  const orthonormal = (columns: () => Matrix | undefined): Expected => ({
    dtype: 'F32',
    values: Float32Array.from({ length: kept * kept }, (_, i) => (i % (kept + 1) === 0 ? 1 : 0)),
    shape: [kept, kept],
    dimensions: ['rank', 'other'],
    bound: () => Math.max(w.rows, w.columns) * F32_ROUNDOFF + 2 * rounding,
    computed: () => gram(columns(), kept),
  });
  return {
    'u^T u': orthonormal(u),
    'vt vt^T': orthonormal(() => {
      const rows = vt();
      return rows && transpose(rows);
    }),
    'u s vt': {
      dtype: 'F32',
      values: w.data,
      shape: [w.rows, w.columns],
      dimensions: ['row', 'column'],
      bound: () => backward + 3 * rounding * (s[0] ?? 0),
      computed: () => productOf(u(), dumped('s', 1, rank), vt()),
    },
  };
}

/** Products of the first columns of a matrix with each other. */
function gram(source: Matrix | undefined, kept: number): Tensor | undefined {
  if (!source) return undefined;
  const columns = transpose(source);
  const first = matrix(kept, source.rows, columns.data.slice(0, kept * source.rows));
  return tensorOf(linearTiled(first, first).data, [kept, kept]);
}

function productOf(u: Matrix | undefined, s: Matrix | undefined, vt: Matrix | undefined): Tensor | undefined {
  if (!u || !s || !vt) return undefined;
  const scaled = matrix(
    u.rows,
    u.columns,
    u.data.map((value, i) => value * s.data[i % u.columns]),
  );
  return tensorOf(linearTiled(scaled, transpose(vt)).data, [u.rows, vt.columns]);
}
