/**
 * The Hadamard rotation.
 *
 * @module
 */

import { ConfigError } from '../../errors.js';
import { hadamardBlock, rotateRows } from '../../numerics/hadamard.js';
import { expectedRows } from '../compare/expected.js';
import type { Operation } from '../operation.js';

/** The operation `rotate`. */
export const rotate: Operation = {
  name: 'rotate',
  summary: 'the normalized Walsh-Hadamard transform of every row',
  specification: 'docs/numerics.md "The rotation"',
  options: [{ name: 'block', values: 'channels that are rotated together', optional: true }],
  tensors: [
    { name: 'x', role: 'input', dtype: 'F32', shape: '[tokens, channels]' },
    { name: 'rotated', role: 'output', dtype: 'F32', shape: '[tokens, channels]', comparison: 'exact' },
  ],
  run(inputs) {
    const x = inputs.matrix('x');
    const block = hadamardBlock(x.columns);
    const given = inputs.number('block', block);
    if (given !== block)
      throw new ConfigError('block', given, `${block}, the largest power of two in ${x.columns}`);
    return { rotated: expectedRows(rotateRows(x, 'hadamard')) };
  },
};
