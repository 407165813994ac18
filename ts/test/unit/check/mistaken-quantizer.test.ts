import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type PackingOrder,
  packMistakenly,
  quantizeMistakenly,
  unpackMistakenly,
} from '../../../src/check/mistakes/mistaken-quantizer.js';
import { matrix } from '../../../src/numerics/matrix.js';
import { dequantizeMatrix, quantizeMatrix, unpackMatrix } from '../../../src/quant/grouped.js';
import { packCodes, packedBytes } from '../../../src/quant/pack.js';
import { anyBits, groupedOptions, groupValues } from '../../helpers/arbitraries.js';

describe('the mistaken quantizer without a mistake', () => {
  it('is the quantizer', () => {
    fc.assert(
      fc.property(groupValues(), groupValues(), groupedOptions, (a, b, options) => {
        // Two lines of values that break quantizers, as rows or as columns.
        const columns = Math.min(a.length, b.length);
        const rows = matrix(2, columns, Float32Array.of(...a.slice(0, columns), ...b.slice(0, columns)));
        for (const source of [rows, matrix(columns, 2, rows.data)]) {
          const right = quantizeMatrix(source, options);
          const { packed, scales, mins, codes, values } = quantizeMistakenly(source, options);
          expect(packed).toEqual(right.packed);
          expect(scales).toEqual(right.scales);
          expect(mins).toEqual(right.mins);
          expect(codes).toEqual(unpackMatrix(right));
          expect(values.data).toEqual(dequantizeMatrix(right).data);
        }
      }),
    );
  });

  it('packs as specified', () => {
    fc.assert(
      fc.property(anyBits, fc.uint8Array({ minLength: 1, maxLength: 70 }), (bits, raw) => {
        const codes = raw.map((code) => code & (2 ** bits - 1));
        const packed = new Uint8Array(packedBytes(codes.length, bits));
        packCodes(codes, bits, packed);
        expect(packMistakenly(codes, bits)).toEqual(packed);
      }),
    );
  });
});

describe('reading in a wrong order', () => {
  const orders: PackingOrder[] = [
    'specified',
    'mostSignificantFirst',
    'halves',
    'highPlaneFirst',
    'threeBitStream',
    'threeBitPlanes',
  ];

  it.each(orders)('%s undoes writing in that order', (order) => {
    fc.assert(
      fc.property(anyBits, fc.uint8Array({ minLength: 32, maxLength: 32 }), (bits, raw) => {
        const codes = raw.map((code) => code & (2 ** bits - 1));
        expect(unpackMistakenly(packMistakenly(codes, bits, order), bits, 32, order)).toEqual(codes);
      }),
      { numRuns: 20 },
    );
  });
});
