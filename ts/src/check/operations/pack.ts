/**
 * Packing: codes to bytes.
 *
 * @module
 */

import { ShapeError } from '../../errors.js';
import { packCodes, packedBytes, unpackCodes } from '../../quant/pack.js';
import type { Operation } from '../operation.js';

/** The operation `pack`. */
export const pack: Operation = {
  name: 'pack',
  summary: 'codes of groups to bytes',
  specification: 'docs/numerics.md "Packing"',
  options: [{ name: 'bits', values: '1 | 2 | 3 | 4 | 8' }],
  tensors: [
    { name: 'codes', role: 'input', dtype: 'U8', shape: '[groups, groupSize]' },
    { name: 'packed', role: 'output', dtype: 'U8', shape: '[groups, bytes]', comparison: 'exact' },
  ],
  run(inputs) {
    const bits = inputs.bits();
    const { shape, data } = inputs.integers('codes');
    if (shape.length !== 2) throw new ShapeError('pack', 'codes', ['groups', 'groupSize'], shape);
    const [groups, groupSize] = shape;
    const bytes = packedBytes(groupSize, bits);
    const codes = Uint8Array.from(data);
    const bad = data.findIndex((code) => !(code >= 0 && code < 2 ** bits));
    if (bad >= 0) {
      throw new RangeError(
        `"codes" must be below ${2 ** bits}, got ${data[bad]} at ${place(bad, groupSize)}`,
      );
    }
    const packed = new Uint8Array(groups * bytes);
    for (let g = 0; g < groups; g++) {
      const group = codes.subarray(g * groupSize, (g + 1) * groupSize);
      packCodes(group, bits, packed.subarray(g * bytes, (g + 1) * bytes));
    }
    const unpack = (stored: Uint8Array): Uint8Array => {
      const result = new Uint8Array(groups * groupSize);
      for (let g = 0; g < groups; g++) {
        const group = result.subarray(g * groupSize, (g + 1) * groupSize);
        unpackCodes(stored.subarray(g * bytes, (g + 1) * bytes), bits, group);
      }
      return result;
    };
    return {
      packed: {
        dtype: 'U8',
        values: packed,
        shape: [groups, bytes],
        dimensions: ['group', 'byte'],
        stored: true,
        codes: {
          unpack,
          isNearTie: () => false, // the codes are given
          locate: (index) => ({ group: Math.floor(index / groupSize), element: index % groupSize }),
        },
      },
    };
  },
};

function place(index: number, groupSize: number): string {
  return `group ${Math.floor(index / groupSize)}, element ${index % groupSize}`;
}
