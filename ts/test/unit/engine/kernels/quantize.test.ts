/** Quantizer, packing, f16 and rotation in WebAssembly: bytes and codes exactly those of quant/ and numerics/. */

import fc from 'fast-check';
import { expect, it } from 'vitest';
import { quantizeScratchBytes, RANGE_CODES } from '../../../../src/engine/kernels.js';
import { decodeFloat16, encodeFloat16, fromFloat16Bits } from '../../../../src/numerics/float16.js';
import { hadamardInto } from '../../../../src/numerics/hadamard.js';
import { matrix } from '../../../../src/numerics/matrix.js';
import {
  dequantizeMatrix,
  GROUPINGS,
  type QuantizedMatrix,
  quantizeMatrix,
} from '../../../../src/quant/grouped.js';
import { packCodes, packedBytes } from '../../../../src/quant/pack.js';
import { BITS, type RangeRule } from '../../../../src/quant/uniform.js';
import { fill, filling, gaussian, randomBytes } from './arbitraries.js';
import { type Bench, expectSameBits, forEachBuild } from './builds.js';

const format = fc.record({
  bits: fc.constantFrom(...BITS),
  grouping: fc.constantFrom(...GROUPINGS),
  groupSize: fc.constantFrom(128, 64, 32, 20, 7, 256, 1),
  range: fc.constantFrom<RangeRule>('minmax', 'mse'),
});

const shape = fc.record({
  rows: fc.oneof(fc.integer({ min: 1, max: 12 }), fc.constantFrom(128, 130)),
  columns: fc.oneof(fc.integer({ min: 1, max: 70 }), fc.constantFrom(191, 192, 128)),
});

function store(
  bench: Bench,
  source: Float32Array,
  rows: number,
  columns: number,
  stored: QuantizedMatrix,
  range: RangeRule,
) {
  const { bits, groupSize, grouping } = stored;
  const at = {
    packed: bench.reserve(stored.packed.length),
    scales: bench.reserve(stored.scales.byteLength),
    mins: bench.reserve(stored.mins.byteLength),
    scratch: bench.reserve(quantizeScratchBytes(groupSize)),
  };
  const shape = { rows, columns, bits, groupSize };
  const failed = bench.call(grouping === 'perToken' ? 'quantizeRows' : 'quantizeColumns', {
    ...at,
    ...shape,
    source: bench.put(source),
    range: RANGE_CODES[range],
  });
  return { ...at, ...shape, failed };
}

forEachBuild((open) => {
  it('quantizes and dequantizes to the reference bits, and stays inside its memory', () => {
    fc.assert(
      fc.property(format, shape, filling, (options, { rows, columns }, content) => {
        const bench = open();
        const source = fill(rows * columns, content);
        // "wide" content can have a range that f16 cannot hold at 1 bit; the next test is about that
        if (options.bits === 1) for (let i = 0; i < source.length; i++) source[i] /= 2;
        const stored = quantizeMatrix(matrix(rows, columns, source), options);
        const at = store(bench, source, rows, columns, stored, options.range);
        expect(at.failed).toBe(-1);
        expectSameBits(bench.readHalves(at.scales, stored.scales.length), stored.scales);
        expectSameBits(bench.readHalves(at.mins, stored.mins.length), stored.mins);
        expectSameBits(bench.readBytes(at.packed, stored.packed.length), stored.packed);
        expect(bench.guard(at.packed, stored.packed.length)).toBe(true);
        expect(bench.guard(at.scratch, quantizeScratchBytes(options.groupSize))).toBe(true);

        const perToken = options.grouping === 'perToken';
        const { failed: _, ...codes } = at;
        const values = dequantizeMatrix(stored).data;
        const target = bench.reserve(rows * columns * 4);
        bench.call(perToken ? 'dequantizeRows' : 'dequantizeColumns', { ...codes, target });
        expectSameBits(bench.readFloats(target, rows * columns), values);
        expect(bench.guard(target, rows * columns * 4)).toBe(true);

        const start = gaussian(rows * columns, 5);
        const sum = bench.put(start);
        bench.call(perToken ? 'dequantizeAddRows' : 'dequantizeAddColumns', { ...codes, target: sum });
        expectSameBits(
          bench.readFloats(sum, rows * columns),
          start.map((value, i) => value + values[i]),
        );
        expect(bench.guard(at.scratch, quantizeScratchBytes(options.groupSize))).toBe(true);
      }),
      { numRuns: 150 },
    );
  });

  it('names the first group that cannot be stored', () => {
    fc.assert(
      fc.property(
        format,
        fc.constantFrom(Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 3e38, -70000),
        fc.nat(),
        (options, bad, where) => {
          const bench = open();
          const [rows, columns] = [5, 41];
          const source = gaussian(rows * columns, 3);
          const clean = quantizeMatrix(matrix(rows, columns, source.slice()), options);
          const element = where % source.length;
          source[element] = bad;
          let thrown = false;
          try {
            quantizeMatrix(matrix(rows, columns, source), options);
          } catch {
            thrown = true;
          }
          const { groupSize } = options;
          const [row, column] = [Math.floor(element / columns), element % columns];
          const group =
            options.grouping === 'perToken'
              ? row * Math.ceil(columns / groupSize) + Math.floor(column / groupSize)
              : Math.floor(row / groupSize) * columns + column;
          const { failed } = store(bench, source, rows, columns, clean, options.range);
          // 3e38 in a group of its own is refused for its minimum; with company for its range
          expect(failed).toBe(thrown ? group : -1);
        },
      ),
    );
  });

  it('packs and unpacks any codes', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...BITS),
        fc.oneof(fc.integer({ min: 1, max: 300 }), fc.constantFrom(64, 128, 256)),
        fc.nat(),
        (bits, count, seed) => {
          const bench = open();
          // a group that has the first and the last code is its own codes: scale 1, minimum 0
          const codes = randomBytes(count + 2, seed).map((byte) => byte & (2 ** bits - 1));
          codes.set([0, 2 ** bits - 1]);
          const values = Float32Array.from(codes);
          const options = { bits, grouping: 'perToken', groupSize: codes.length, range: 'minmax' } as const;
          const stored = quantizeMatrix(matrix(1, codes.length, values), options);
          const packed = new Uint8Array(packedBytes(codes.length, bits));
          packCodes(codes, bits, packed);
          const { failed, ...at } = store(bench, values, 1, codes.length, stored, 'minmax');
          expect(failed).toBe(-1);
          expectSameBits(bench.readBytes(at.packed, packed.length), packed);
          expect(bench.guard(at.packed, packed.length)).toBe(true);
          const target = bench.reserve(values.byteLength);
          bench.call('dequantizeRows', { ...at, target });
          expectSameBits(bench.readFloats(target, values.length), values);
          expect(bench.guard(target, values.byteLength)).toBe(true);
        },
      ),
      { numRuns: 200 },
    );
  });

  it('rotates to the reference bits', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(1, 2, 3, 4, 6, 8, 12, 64, 96, 192, 256, 576, 1024),
        fc.integer({ min: 1, max: 4 }),
        filling,
        (columns, rows, content) => {
          const bench = open();
          const x = fill(rows * columns, content);
          const at = bench.put(x);
          bench.kernels.hadamardRows(at, rows, columns);
          for (let r = 0; r < rows; r++) hadamardInto(x.subarray(r * columns, (r + 1) * columns));
          expectSameBits(bench.readFloats(at, rows * columns), x);
        },
      ),
    );
  });

  it('decodes all f16', () => {
    const bench = open();
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const at = bench.put(bits);
    const out = bench.reserve(65536 * 4);
    bench.kernels.decodeFloat16(at, out, 65536);
    expectSameBits(bench.readFloats(out, 65536), decodeFloat16(bits));
  });

  it('encodes f16 at and between all representable values', () => {
    const bench = open();
    const values: number[] = [];
    for (let i = 0; i < 0x7c00; i++) {
      const [a, b] = [fromFloat16Bits(i), i === 0x7bff ? 65536 : fromFloat16Bits(i + 1)];
      const middle = (a + b) / 2;
      for (const value of [a, middle, middle * (1 - 2 ** -23), middle * (1 + 2 ** -23)])
        values.push(value, -value);
    }
    values.push(
      1e-45,
      -1e-45,
      3e38,
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
      Number.NaN,
      65519.996,
    );
    const source = Float32Array.from(values);
    const at = bench.put(source);
    const out = bench.reserve(source.length * 2);
    const bad = bench.kernels.encodeFloat16(at, out, source.length);
    expectSameBits(bench.readHalves(out, source.length), encodeFloat16(source));
    expect(bad).toBe(source.findIndex((value) => !(Math.abs(value) < 65520)));
    for (const count of [0, 1, 7, 8, 9]) expect(bench.kernels.encodeFloat16(at, out, count)).toBe(-1);
  });
});
