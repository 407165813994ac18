/** Moving, comparing and scaling rows, and the plain products of the benchmark, against their definitions. */

import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { Kernels } from '../../../../src/engine/kernels.js';
import type { WindowKernels } from '../../../../src/engine/team.js';
import { fill, filling } from './arbitraries.js';
import { type Bench, expectSameBits, forEachBuild } from './builds.js';

const size = fc.integer({ min: 1, max: 20 });
const kernelsOf = (bench: Bench) => bench.kernels as Kernels & WindowKernels;

forEachBuild((open) => {
  it('places keys of some tokens between others', () => {
    fc.assert(
      fc.property(
        size,
        fc.integer({ min: 1, max: 40 }),
        size,
        size,
        filling,
        (channels, tokens, left, right, content) => {
          const bench = open();
          const padded = Math.ceil(tokens / 8) * 8;
          const stride = left + tokens + right;
          const source = fill(channels * padded, content);
          const before = fill(channels * stride, { kind: 'gaussian', seed: content.seed + 1 });
          const target = bench.put(before);
          kernelsOf(bench).placeKeys(bench.put(source), channels, tokens, target, stride, left);
          const expected = before.slice();
          for (let c = 0; c < channels; c++) {
            for (let t = 0; t < tokens; t++) expected[c * stride + left + t] = source[c * padded + t];
          }
          expectSameBits(bench.readFloats(target, before.length), expected);
          expect(bench.guard(target, before.byteLength)).toBe(true);
        },
      ),
    );
  });

  it('copies bytes, and rows out of wider rows into wider rows', () => {
    fc.assert(
      fc.property(size, size, size, size, filling, (rows, columns, more, others, content) => {
        const bench = open();
        const [from, to] = [columns + more, columns + others];
        const source = fill(rows * from, content);
        const before = fill(rows * to, { kind: 'gaussian', seed: content.seed + 1 });
        const [at, target] = [bench.put(source), bench.put(before)];
        kernelsOf(bench).copyRows(at, from, target, to, rows, columns);
        const expected = before.slice();
        for (let r = 0; r < rows; r++) expected.set(source.subarray(r * from, r * from + columns), r * to);
        expectSameBits(bench.readFloats(target, before.length), expected);
        expect(bench.guard(target, before.byteLength)).toBe(true);

        const bytes = source.byteLength - (content.seed % 4);
        const copy = bench.reserve(bytes);
        kernelsOf(bench).copyBytes(at, copy, bytes);
        expectSameBits(bench.readBytes(copy, bytes), bench.readBytes(at, bytes));
        expect(bench.guard(copy, bytes)).toBe(true);
      }),
    );
  });

  it('subtracts, and multiplies rows by a gain, each result rounded once', () => {
    fc.assert(
      fc.property(size, fc.integer({ min: 1, max: 70 }), filling, (rows, columns, content) => {
        const bench = open();
        const a = fill(rows * columns, content);
        const b = fill(rows * columns, { kind: 'outliers', seed: content.seed + 1 });
        const difference = bench.put(a);
        kernelsOf(bench).subtractInto(difference, bench.put(b), a.length);
        expectSameBits(
          bench.readFloats(difference, a.length),
          a.map((value, i) => value - b[i]),
        );
        expect(bench.guard(difference, a.byteLength)).toBe(true);
        const gain = b.subarray(0, columns);
        const scaled = bench.put(a);
        kernelsOf(bench).multiplyRows(scaled, bench.put(gain), rows, columns);
        expectSameBits(
          bench.readFloats(scaled, a.length),
          a.map((value, i) => value * gain[i % columns]),
        );
        expect(bench.guard(scaled, a.byteLength)).toBe(true);
      }),
    );
  });

  it('multiplies plain tiles of integers exactly', () => {
    const shape = fc.record({
      tokens: fc.integer({ min: 1, max: 5 }).map((n) => 4 * n),
      rows: fc.integer({ min: 1, max: 4 }).map((n) => 8 * n),
      columns: fc.integer({ min: 1, max: 6 }).map((n) => 16 * n),
      seed: fc.integer({ min: 1, max: 2 ** 31 }),
    });
    fc.assert(
      fc.property(shape, fc.constantFrom(16, 8), ({ tokens, rows, columns, seed }, bits) => {
        const bench = open();
        // A plain build has no products of bytes: its 8-bit tile is the 16-bit one.
        const wide = bits === 16 || !bench.build.startsWith('relaxed');
        const noise = fill(rows * columns + tokens * columns, { kind: 'gaussian', seed });
        const integer = (i: number, limit: number) =>
          Math.round(Math.max(-1, Math.min(1, noise[i] / 3)) * limit);
        const weight = (j: number, k: number) => integer(j * columns + k, wide ? 2000 : 127);
        const code = (t: number, k: number) =>
          Math.abs(integer(rows * columns + t * columns + k, wide ? 2000 : 127));
        // Panels of eight outputs; in a panel, the next 2 (or 4) inputs of each output stand together.
        const run = wide ? 2 : 4;
        const panels = new (wide ? Int16Array : Int8Array)(rows * columns);
        const x = new (wide ? Int16Array : Int8Array)(tokens * columns);
        for (let j = 0; j < rows; j++) {
          for (let k = 0; k < columns; k++) {
            const panel = (j >> 3) * 8 * columns;
            panels[panel + (Math.floor(k / run) * 8 + (j & 7)) * run + (k % run)] = weight(j, k);
          }
        }
        for (let t = 0; t < tokens; t++) for (let k = 0; k < columns; k++) x[t * columns + k] = code(t, k);
        const bytesOf = (data: Int8Array | Int16Array) => new Uint8Array(data.buffer);
        const out = bench.reserve(tokens * rows * 4);
        const kernel = bits === 16 ? 'plainTileInt16' : 'plainTileInt8';
        bench.kernels[kernel](bench.put(bytesOf(panels)), bench.put(bytesOf(x)), tokens, rows, columns, out);
        const expected = Int32Array.from({ length: tokens * rows }, (_, i) => {
          const [t, j] = [Math.floor(i / rows), i % rows];
          let sum = 0;
          for (let k = 0; k < columns; k++) sum += weight(j, k) * code(t, k);
          return sum;
        });
        expectSameBits(bench.readInts(out, expected.length), expected);
        expect(bench.guard(out, tokens * rows * 4)).toBe(true);
      }),
    );
  });
});
