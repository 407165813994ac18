/**
 * RoPE, and its options for the operations that contain it.
 *
 * @module
 */

import { ShapeError } from '../../errors.js';
import { JsonReader } from '../../io/json-reader.js';
import { ropeScaling } from '../../io/rope-scaling.js';
import { applyRope, ropeFrequencies } from '../../model/rope.js';
import type { CaseInputs } from '../case/inputs.js';
import { expectedRows } from '../compare/expected.js';
import { ropeBound } from '../compare/tolerance.js';
import type { Operation } from '../operation.js';

/** Options of RoPE, as the reference wants them. */
export function ropeOptions(inputs: CaseInputs): {
  layout: 'half' | 'interleaved';
  headDim: number;
  ropeTheta: number;
  ropeFrequencyDivisors: Float32Array | undefined;
  frequencies: Float64Array;
} {
  const layout = inputs.word('layout', ['half', 'interleaved']);
  const headDim = inputs.count('headDim');
  if (headDim % 2 !== 0)
    throw new RangeError(`"headDim" must be even, since RoPE rotates pairs, got ${headDim}`);
  const ropeTheta = inputs.number('theta');
  const { frequencyDivisors: divisors, rope_scaling: scaling } = inputs.case.options;
  const ropeFrequencyDivisors = Array.isArray(divisors)
    ? Float32Array.from(divisors)
    : storedScaling(scaling, headDim, ropeTheta, inputs.case.name);
  const frequencies = ropeFrequencies({ headDim, ropeTheta, ropeFrequencyDivisors });
  return { layout, headDim, ropeTheta, ropeFrequencyDivisors, frequencies };
}

/** Divisors of a `rope_scaling` as config.json has it. */
function storedScaling(
  scaling: unknown,
  headDim: number,
  ropeTheta: number,
  path: string,
): Float32Array | undefined {
  const entry = new JsonReader({ rope_scaling: scaling }, path).object('rope_scaling');
  return ropeScaling(entry, { rotaryDim: headDim, ropeTheta }).ropeFrequencyDivisors;
}

/** The operation `rope`. */
export const rope: Operation = {
  name: 'rope',
  summary: 'rotary position embedding of all heads; row r stands at firstPosition + r',
  specification: 'docs/numerics.md "RoPE"',
  options: [
    { name: 'layout', values: 'half | interleaved' },
    { name: 'headDim', values: 'channels of a head' },
    { name: 'theta', values: 'base of the frequencies' },
    { name: 'firstPosition', values: 'position of row 0 (0)', optional: true },
    { name: 'frequencyDivisors', values: '[headDim / 2] numbers', optional: true },
    { name: 'rope_scaling', values: 'as in the config.json of a model', optional: true },
  ],
  tensors: [
    { name: 'x', role: 'input', dtype: 'F32', shape: '[tokens, heads * headDim]' },
    {
      name: 'rotated',
      role: 'output',
      dtype: 'F32',
      shape: '[tokens, heads * headDim]',
      comparison: 'bound',
    },
  ],
  run(inputs) {
    const x = inputs.matrix('x');
    const { layout, headDim, ropeTheta, frequencies } = ropeOptions(inputs);
    if (x.columns % headDim !== 0)
      throw new ShapeError('rope', 'x', ['tokens', 'heads * headDim'], [x.rows, x.columns]);
    const firstPosition = inputs.number('firstPosition', 0);
    const rotated = applyRope(x, firstPosition, frequencies, layout);
    const bound = (index: number): number => {
      const token = Math.floor(index / x.columns);
      const channel = index % x.columns;
      const within = channel % headDim;
      const pair = layout === 'half' ? within % (headDim / 2) : within >> 1;
      const first = index - within + (layout === 'half' ? pair : 2 * pair);
      const second = first + (layout === 'half' ? headDim / 2 : 1);
      const length = Math.hypot(x.data[first], x.data[second]);
      return ropeBound(length, firstPosition + token, frequencies[pair], (2 * pair) / headDim, ropeTheta);
    };
    return { rotated: expectedRows(rotated, bound) };
  },
};
