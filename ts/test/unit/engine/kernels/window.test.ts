/** Moving, comparing and scaling rows, against their definitions. */

import fc from 'fast-check';
import { expect, it } from 'vitest';
import { fill, filling } from './arbitraries.js';
import { expectSameBits, forEachBuild } from './builds.js';

const size = fc.integer({ min: 1, max: 20 });

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
          bench.kernels.placeKeys(bench.put(source), channels, tokens, target, stride, left);
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
        bench.kernels.copyRows(at, from, target, to, rows, columns);
        const expected = before.slice();
        for (let r = 0; r < rows; r++) expected.set(source.subarray(r * from, r * from + columns), r * to);
        expectSameBits(bench.readFloats(target, before.length), expected);
        expect(bench.guard(target, before.byteLength)).toBe(true);

        const bytes = source.byteLength - (content.seed % 4);
        const copy = bench.reserve(bytes);
        bench.kernels.copyBytes(at, copy, bytes);
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
        bench.kernels.subtractInto(difference, bench.put(b), a.length);
        expectSameBits(
          bench.readFloats(difference, a.length),
          a.map((value, i) => value - b[i]),
        );
        expect(bench.guard(difference, a.byteLength)).toBe(true);
        const gain = b.subarray(0, columns);
        const scaled = bench.put(a);
        bench.kernels.multiplyRows(scaled, bench.put(gain), rows, columns);
        expectSameBits(
          bench.readFloats(scaled, a.length),
          a.map((value, i) => value * gain[i % columns]),
        );
        expect(bench.guard(scaled, a.byteLength)).toBe(true);
      }),
    );
  });
});
