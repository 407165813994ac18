/**
 * Mistakes in what turns vectors: the Hadamard rotation and RoPE.
 *
 * @module
 */

import { applyRope, ropeFrequencies } from '../../model/rope.js';
import { hadamardBlock, rotateRows } from '../../numerics/hadamard.js';
import { linearTiled } from '../../numerics/linear-tiled.js';
import { type Matrix, matrix } from '../../numerics/matrix.js';
import type { CaseInputs } from '../case/inputs.js';
import { tensorOf } from '../case/tensor.js';
import type { Expected } from '../compare/compare.js';
import type { CheckContext, ExpectedTensors } from '../operation.js';
import { attendOnce } from '../operations/attend.js';
import { ropeOptions } from '../operations/rope.js';
import { storedSources } from '../operations/stored-sources.js';
import { type Attempt, exactly, type KnownMistake, rerun, within } from './mistake.js';

/** Mistakes in the Hadamard rotation. */
export const ROTATION_MISTAKES: readonly KnownMistake[] = [
  {
    id: 'hadamard-unnormalized',
    title: 'the Hadamard transform is not normalized',
    specification: 'docs/numerics.md "The rotation": one multiplication by 1/sqrt(n)',
    operations: ['rotate', 'quantize', 'cl-encode'],
    *attempts(inputs, context, right) {
      const columns = inputs.tensor('x').shape.at(-1) ?? 1;
      const root = Math.sqrt(hadamardBlock(columns));
      if (inputs.case.operation !== 'rotate' && inputs.rotation() === 'none') return;
      for (const [factor, detail] of [
        [root, 'no factor'],
        [1 / root, '1/n instead of 1/sqrt(n)'],
      ] as const) {
        yield { detail, outputs: () => rotatedBy(inputs, context, right, (x) => hadamardTimes(x, factor)) };
      }
    },
  },
  {
    id: 'rotation-missing',
    title: 'the rotation is missing, or made where none is asked for',
    specification: 'docs/numerics.md "The rotation"',
    operations: ['rotate', 'quantize', 'cl-encode'],
    *attempts(inputs, context, right) {
      const asked = inputs.case.operation === 'rotate' || inputs.rotation() === 'hadamard';
      yield {
        detail: asked ? 'not rotated' : 'rotated',
        outputs: () => rotatedBy(inputs, context, right, (x) => (asked ? x : rotateRows(x, 'hadamard'))),
      };
    },
  },
];

/** The unnormalized transform times a factor over its size; exact where the sizes are powers of four. */
function hadamardTimes(x: Matrix, factor: number): Matrix {
  const size = hadamardBlock(x.columns);
  const result = matrix(x.rows, x.columns, x.data.slice());
  for (let start = 0; start < result.data.length; start += size) {
    const block = result.data.subarray(start, start + size);
    for (let stride = 1; stride < size; stride *= 2) {
      for (let i = 0; i < size; i++) {
        if (i & stride) continue;
        const [a, b] = [block[i], block[i + stride]];
        block[i] = a + b;
        block[i + stride] = a - b;
      }
    }
  }
  const normalize = Math.fround(factor / Math.sqrt(size));
  for (let i = 0; i < result.data.length; i++) result.data[i] *= normalize;
  return result;
}

function rotatedBy(
  inputs: CaseInputs,
  context: CheckContext,
  right: ExpectedTensors,
  rotate: (x: Matrix) => Matrix,
): ExpectedTensors | Promise<ExpectedTensors> {
  if (inputs.case.operation === 'rotate') {
    return { rotated: exactly(rotate(inputs.matrix('x')).data, 'F32', 'element', false) };
  }
  const { shape } = inputs.tensor('x');
  const columns = shape.at(-1) ?? 1;
  const { data } = inputs.floats(
    'x',
    shape.map((_, d) => `axis ${d}`),
  );
  const rotated = rotate(matrix(data.length / columns, columns, data));
  return rerun(
    inputs.with({ options: { rotation: 'none' }, tensors: { x: tensorOf(rotated.data, shape) } }),
    context,
    right,
  );
}

/** Shapes of RoPE to try where the options do not say them: those of most models. */
function* ropeGuesses(
  inputs: CaseInputs,
  width: number,
): Iterable<{ layout: 'half' | 'interleaved'; headDim: number; theta: number }> {
  const { options } = inputs.case;
  const headDims = typeof options.headDim === 'number' ? [options.headDim] : [64, 128, 32, 96, 80, 256];
  const thetas = typeof options.theta === 'number' ? [options.theta] : [10_000, 500_000, 1_000_000];
  for (const headDim of headDims) {
    if (width % headDim !== 0) continue;
    for (const theta of thetas) {
      yield { layout: 'half', headDim, theta };
      yield { layout: 'interleaved', headDim, theta };
    }
  }
}

function rotateExpected(
  expected: Expected,
  width: number,
  { layout, headDim, theta }: { layout: 'half' | 'interleaved'; headDim: number; theta: number },
): Expected {
  const rows = matrix(expected.values.length / width, width, Float32Array.from(expected.values));
  const frequencies = ropeFrequencies({ headDim, ropeTheta: theta });
  const rotated = applyRope(rows, 0, frequencies, layout);
  const { bound } = expected;
  // Two errors come together in a rotated pair; the angle itself adds its own (tolerance.ts, ropeBound).
  return {
    ...expected,
    values: rotated.data,
    bound: (index) => {
      const start = index - (index % headDim);
      let largest = 0;
      let allowed = 0;
      for (let i = start; i < start + headDim; i++) {
        largest = Math.max(largest, Math.abs(rows.data[i]));
        allowed = Math.max(allowed, bound?.(i) ?? 0);
      }
      return 2 * allowed + 2 * largest * (Math.floor(index / width) * 14 + 4) * 2 ** -24;
    },
  };
}

/** Mistakes in RoPE. */
export const ROPE_MISTAKES: readonly KnownMistake[] = [
  {
    id: 'rope-layout',
    title: 'RoPE turns other pairs of channels',
    specification: 'docs/numerics.md "RoPE": half is (i, i + headDim/2), interleaved is (2i, 2i + 1)',
    operations: ['rope', 'attend', 'layer'],
    *attempts(inputs, context, right) {
      const layout = inputs.case.options.layout === 'half' ? 'interleaved' : 'half';
      yield {
        detail: `${layout} instead of ${String(inputs.case.options.layout)}`,
        outputs: () => rerun(inputs.with({ options: { layout } }), context, right),
      };
    },
  },
  {
    id: 'rope-position',
    title: 'positions are off by one',
    specification: 'docs/numerics.md "RoPE": absolute positions from 0',
    operations: ['rope', 'attend'],
    *attempts(inputs, context, right) {
      const name = inputs.case.operation === 'rope' ? 'firstPosition' : 'position';
      const position = inputs.number(name, 0);
      for (const wrong of [position + 1, position - 1]) {
        yield {
          detail: `the ${name === 'position' ? 'query' : 'first row'} at ${wrong} instead of ${position}`,
          outputs: () => rerun(inputs.with({ options: { [name]: wrong } }), context, right),
        };
      }
    },
  },
  {
    id: 'rope-direction',
    title: 'RoPE turns the other way',
    specification: 'docs/numerics.md "RoPE": (a cos - b sin, a sin + b cos)',
    operations: ['rope'],
    *attempts(inputs, _context, right) {
      yield {
        outputs: () => {
          const x = inputs.matrix('x');
          const { layout, frequencies } = ropeOptions(inputs);
          const first = inputs.number('firstPosition', 0);
          const rotated = applyRope(
            x,
            first,
            frequencies.map((frequency) => -frequency),
            layout,
          );
          return { rotated: { ...right.rotated, values: rotated.data } };
        },
      };
    },
  },
  {
    id: 'rope-before-caching',
    title: 'keys are rotated before they are cached',
    specification: 'docs/numerics.md "RoPE": keys are always cached and rebuilt before RoPE',
    operations: ['quantize', 'rematerialize', 'attend'],
    *attempts(inputs, context, right) {
      if (inputs.case.operation === 'attend') {
        yield { detail: 'stored keys are taken as rotated', outputs: () => attendUnrotated(inputs, right) };
        return;
      }
      if (inputs.case.operation === 'quantize') {
        const x = inputs.matrix('x');
        for (const guess of ropeGuesses(inputs, x.columns)) {
          yield {
            detail: ropeText(guess),
            outputs: () => {
              const frequencies = ropeFrequencies({ headDim: guess.headDim, ropeTheta: guess.theta });
              const rotated = applyRope(x, 0, frequencies, guess.layout);
              return rerun(
                inputs.with({ tensors: { x: tensorOf(rotated.data, inputs.tensor('x').shape) } }),
                context,
                right,
              );
            },
          };
        }
        return;
      }
      yield* rotatedOutputs(inputs, right, 'keys');
    },
  },
  {
    id: 'rope-on-values',
    title: 'RoPE is applied to values',
    specification: 'docs/numerics.md "RoPE": never to values',
    operations: ['rematerialize', 'attend'],
    *attempts(inputs, _context, right) {
      if (inputs.case.operation === 'rematerialize') yield* rotatedOutputs(inputs, right, 'values');
      else yield { outputs: () => attendRotatedValues(inputs, right) };
    },
  },
];

function ropeText({ layout, headDim, theta }: { layout: string; headDim: number; theta: number }): string {
  return `layout ${layout}, headDim ${headDim}, theta ${theta}`;
}

function* rotatedOutputs(
  inputs: CaseInputs,
  expected: ExpectedTensors,
  name: 'keys' | 'values',
): Iterable<Attempt> {
  const width = expected[name].shape[1];
  for (const guess of ropeGuesses(inputs, width)) {
    yield {
      detail: ropeText(guess),
      outputs: () => ({ [name]: rotateExpected(expected[name], width, guess) }),
    };
  }
}

/** Stored keys are used without RoPE: undoing the rotation first makes the reference do that. */
function attendUnrotated(inputs: CaseInputs, { output }: ExpectedTensors): ExpectedTensors {
  const { layout, frequencies } = ropeOptions(inputs);
  const sources = storedSources(inputs);
  const keys = linearTiled(sources.keyRows, sources.keyWeights);
  const undone = applyRope(
    keys,
    0,
    frequencies.map((frequency) => -frequency),
    layout,
  );
  const changed = { ...sources, keyRows: undone, keyWeights: identity(keys.columns) };
  return { output: within(output, attendOnce(inputs, changed).data) };
}

function attendRotatedValues(inputs: CaseInputs, { output }: ExpectedTensors): ExpectedTensors {
  const { layout, frequencies } = ropeOptions(inputs);
  const sources = storedSources(inputs);
  const values = applyRope(linearTiled(sources.valueRows, sources.valueWeights), 0, frequencies, layout);
  const changed = { ...sources, valueRows: values, valueWeights: identity(values.columns) };
  return { output: within(output, attendOnce(inputs, changed).data) };
}

function identity(size: number): Matrix {
  const result = matrix(size, size);
  for (let i = 0; i < size; i++) result.data[i * size + i] = 1;
  return result;
}
