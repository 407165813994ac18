/**
 * Mistakes in which weights are read, and how.
 *
 * @module
 */

import { type Matrix, matrix, transpose } from '../../numerics/matrix.js';
import { thinSvd } from '../../numerics/svd.js';
import type { CaseInputs } from '../case/inputs.js';
import { tensorOf } from '../case/tensor.js';
import type { ExpectedTensors } from '../operation.js';
import { type KnownMistake, rerun } from './mistake.js';

/** Mistakes in weights, gains and projections. */
export const WEIGHT_MISTAKES: readonly KnownMistake[] = [
  {
    id: 'weights-transposed',
    title: 'a weight matrix is read as its transpose',
    specification: 'docs/numerics.md "Products"',
    operations: ['rematerialize', 'attend'],
    *attempts(inputs, context, right) {
      const names = inputs.has('w_k') ? ['w_k', 'w_v'] : ['up_k', 'up_v'];
      for (const set of [names, names.slice(0, 1), names.slice(1)]) {
        yield { detail: set.join(' and '), outputs: () => rerun(misread(inputs, set), context, right) };
      }
    },
  },
  {
    id: 'keys-and-values-swapped',
    title: 'keys and values are swapped',
    specification: 'docs/numerics.md "Products"',
    operations: ['rematerialize'],
    *attempts(_inputs, _context, right) {
      yield {
        outputs: () => ({ keys: right.values, values: right.keys }),
      };
    },
  },
  {
    id: 'projection-transposed',
    title: 'U is used in place of its transpose',
    specification: 'docs/numerics.md "The accumulator": the latent is X U, its return latent U^T',
    operations: ['cl-encode', 'cl-decode', 'svd'],
    *attempts(inputs, context, right) {
      if (inputs.case.operation === 'svd') {
        for (const names of [['u'], ['vt'], ['u', 'vt']]) {
          yield { detail: names.join(' and '), outputs: () => transposedFactors(inputs, right, names) };
        }
      } else if (inputs.has('down')) {
        yield { outputs: () => rerun(misreadStack(inputs, 'down'), context, right) };
      }
    },
  },
  {
    id: 'gain-missing',
    title: 'the gain of the norm is missing',
    specification: 'docs/numerics.md "Whole layers": X is after the norm, its gain included',
    operations: ['layer'],
    *attempts(inputs, context, right) {
      for (const [name, where] of NORMS) {
        yield {
          detail: where,
          outputs: () =>
            rerun(
              withGain(inputs, name, () => 1),
              context,
              right,
            ),
        };
      }
      yield {
        detail: 'in keys and values only',
        outputs: () =>
          rerun(
            withWeights(inputs, (w, gain) => (gain === 0 ? w : w / gain)),
            context,
            right,
          ),
      };
    },
  },
  {
    id: 'gain-twice',
    title: 'the gain of the norm is applied twice',
    specification: 'docs/numerics.md "Whole layers": folded into the weights or applied to X, not both',
    operations: ['layer'],
    *attempts(inputs, context, right) {
      for (const [name, where] of NORMS) {
        yield {
          detail: where,
          outputs: () =>
            rerun(
              withGain(inputs, name, (gain) => gain * gain),
              context,
              right,
            ),
        };
      }
      yield {
        detail: 'in keys and values only',
        outputs: () =>
          rerun(
            withWeights(inputs, (w, gain) => w * gain),
            context,
            right,
          ),
      };
    },
  },
];

const NORMS = [
  ['attention_norm', 'before attention'],
  ['mlp_norm', 'before the MLP'],
] as const;

function withGain(inputs: CaseInputs, name: string, change: (gain: number) => number): CaseInputs {
  const { data, shape } = inputs.floats(name, ['channel']);
  return inputs.with({ tensors: { [name]: tensorOf(Float32Array.from(data, change), shape) } });
}

function withWeights(inputs: CaseInputs, change: (weight: number, gain: number) => number): CaseInputs {
  const { data: gain } = inputs.floats('attention_norm', ['channel']);
  const tensors = Object.fromEntries(
    ['w_k', 'w_v'].map((name) => {
      const w = inputs.matrix(name);
      const changed = Float32Array.from(w.data, (value, i) => change(value, gain[i % gain.length]));
      return [name, tensorOf(changed, [w.rows, w.columns])];
    }),
  );
  return inputs.with({ tensors });
}

/** A matrix whose memory is read as [columns, rows] and then used as its transpose. */
function misreadMatrix(w: Matrix): Matrix {
  return transpose(matrix(w.columns, w.rows, w.data));
}

function misread(inputs: CaseInputs, names: readonly string[]): CaseInputs {
  const tensors = Object.fromEntries(
    names.map((name) => {
      const w = misreadMatrix(inputs.matrix(name));
      return [name, tensorOf(w.data, [w.rows, w.columns])];
    }),
  );
  return inputs.with({ tensors });
}

function misreadStack(inputs: CaseInputs, name: string): CaseInputs {
  const layers = inputs.stack(name).map(misreadMatrix);
  const data = new Float32Array(layers.reduce((length, layer) => length + layer.data.length, 0));
  layers.forEach((layer, i) => {
    data.set(layer.data, i * layer.data.length);
  });
  return inputs.with({ tensors: { [name]: tensorOf(data, inputs.tensor(name).shape) } });
}

function transposedFactors(
  inputs: CaseInputs,
  right: ExpectedTensors,
  names: readonly string[],
): ExpectedTensors {
  const { u, vT } = thinSvd(inputs.matrix('w', 'row', 'column'));
  const factors: Record<string, Matrix> = { u, vt: vT };
  return Object.fromEntries(
    names.map((name) => {
      const { rows, columns } = factors[name];
      const { bound } = right[name];
      // Element (c, r) of the transpose is element (r, c) of the factor, and so is its bound.
      const moved = (index: number) =>
        bound ? bound((index % rows) * columns + Math.floor(index / rows)) : 0;
      return [name, { ...right[name], values: transpose(factors[name]).data, bound: moved }];
    }),
  );
}
