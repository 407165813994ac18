/** Norms, gates, RoPE and searches, against model/. */

import fc from 'fast-check';
import { expect, it } from 'vitest';
import { ROPE_CODES } from '../../../../src/engine/kernels.js';
import { geluTanh, silu } from '../../../../src/model/mlp.js';
import { applyRope, ropeFrequencies } from '../../../../src/model/rope.js';
import { matrix } from '../../../../src/numerics/matrix.js';
import { applyGain, normalizeRows } from '../../../../src/numerics/rms-norm.js';
import { fill, filling, gaussian } from './arbitraries.js';
import { expectSameBits, expectWithin, forEachBuild } from './builds.js';

const EPSILON = 2 ** -24;
const ULP = 2 ** -23;

const count = fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(576, 1536));

forEachBuild((open) => {
  it('normalizes rows, before and after the gain', () => {
    fc.assert(
      fc.property(count, fc.integer({ min: 1, max: 3 }), filling, (columns, rows, content) => {
        const bench = open();
        const x = fill(rows * columns, content);
        const gain = gaussian(columns, content.seed + 1);
        const at = bench.put(x);
        const normalized = bench.reserve(x.byteLength);
        const out = bench.reserve(x.byteLength);
        bench.kernels.rmsNorm(at, rows, columns, bench.put(gain), 1e-5, normalized, out);
        const expected = normalizeRows(matrix(rows, columns, x), 1e-5);
        const result = bench.readFloats(normalized, x.length);
        // the sums of squares are in f64 and differ in their last bits, so that a rounding may fall the other way
        expectWithin(result, expected.data, (i) => Math.abs(expected.data[i]) * ULP + 2 ** -149);
        const gained = applyGain(matrix(rows, columns, result), gain);
        expectSameBits(bench.readFloats(out, x.length), gained.data);
        expect(bench.guard(out, x.byteLength)).toBe(true);
        bench.kernels.rmsNorm(at, rows, columns, bench.put(gain), 1e-5, 0, at);
        expectSameBits(bench.readFloats(at, x.length), gained.data);
      }),
    );
  });

  it('rotates pairs of channels', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(4, 8, 12, 64, 128),
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 5 }),
        fc.nat(100_000),
        fc.constantFrom('half', 'interleaved' as const),
        filling,
        (headDim, heads, tokens, first, layout, content) => {
          const bench = open();
          const x = fill(tokens * heads * headDim, content);
          const frequencies = ropeFrequencies({ headDim, ropeTheta: 10000 });
          const at = bench.put(x);
          const { cos, sin } = bench.putRopeTables(frequencies, first, tokens);
          bench.kernels.rope(at, tokens, heads, headDim, cos, sin, ROPE_CODES[layout]);
          const expected = applyRope(matrix(tokens, heads * headDim, x), first, frequencies, layout).data;
          const half = headDim / 2;
          const bound = (i: number): number => {
            const c = i % headDim;
            const partner = i - c + (layout === 'half' ? (c + half) % headDim : c ^ 1);
            // tables, products and sum rounded to f32, and the reference's own rounding
            return 4 * EPSILON * (Math.abs(x[i]) + Math.abs(x[partner])) + 2 ** -148;
          };
          expectWithin(bench.readFloats(at, x.length), expected, bound);
        },
      ),
    );
  });

  it('gates', () => {
    fc.assert(
      fc.property(count, filling, (n, content) => {
        const bench = open();
        const gate = fill(n, content);
        const up = gaussian(n, content.seed + 1);
        const out = bench.put(gate);
        bench.kernels.siluGate(out, bench.put(up), out, n);
        // exp 2 ulp, a sum, a division and two products
        const bound = (i: number): number =>
          Math.abs(silu(gate[i]) * up[i]) * 5 * ULP + Math.abs(gate[i] * up[i]) * 2 ** -125 + 2 ** -140;
        expectWithin(
          bench.readFloats(out, n),
          Float64Array.from(gate, (g, i) => silu(g) * up[i]),
          bound,
        );
        expect(bench.guard(out, 4 * n)).toBe(true);
      }),
    );
  });

  it('gates with GELU in its tanh form', () => {
    fc.assert(
      fc.property(count, filling, (n, content) => {
        const bench = open();
        const gate = fill(n, content);
        const up = gaussian(n, content.seed + 1);
        const out = bench.put(gate);
        bench.kernels.geluGate(out, bench.put(up), out, n);
        // as with SiLU, and 5 roundings of the argument of exp, which stand before its slope
        const bound = (i: number): number => {
          const g = gate[i];
          const argument = Math.min(88, Math.abs(1.6 * (g + 0.044715 * g ** 3)));
          const relative = (5 + 5 * argument) * ULP;
          return Math.abs(geluTanh(g) * up[i]) * relative + Math.abs(g * up[i]) * 2 ** -51 + 2 ** -140;
        };
        expectWithin(
          bench.readFloats(out, n),
          Float64Array.from(gate, (g, i) => geluTanh(g) * up[i]),
          bound,
        );
        expect(bench.guard(out, 4 * n)).toBe(true);
      }),
    );
  });

  it('scales', () => {
    fc.assert(
      fc.property(count, filling, (n, content) => {
        const bench = open();
        const x = fill(n, content);
        const at = bench.put(x);
        bench.kernels.scaleBy(at, 0.22, n);
        const factor = Math.fround(0.22);
        expectSameBits(
          bench.readFloats(at, n),
          x.map((value) => value * factor),
        );
        expect(bench.guard(at, 4 * n)).toBe(true);
      }),
    );
  });

  it('adds, and finds the largest and the first number that is none', () => {
    fc.assert(
      fc.property(count, filling, fc.nat(), (n, content, where) => {
        const bench = open();
        const a = fill(2 * n, content);
        const b = gaussian(2 * n, content.seed + 1);
        const at = bench.put(a);
        bench.kernels.addInto(at, bench.put(b), 2 * n);
        expectSameBits(
          bench.readFloats(at, 2 * n),
          a.map((value, i) => value + b[i]),
        );
        const second = bench.put(a);
        bench.kernels.addBias(second, bench.put(b.slice(0, n)), 2, n);
        expectSameBits(
          bench.readFloats(second, 2 * n),
          a.map((value, i) => value + b[i % n]),
        );
        const third = bench.put(a);
        expect(bench.kernels.findNonFinite(third, 2 * n)).toBe(-1);
        a[where % a.length] = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY][where % 3];
        expect(bench.kernels.findNonFinite(bench.put(a), 2 * n)).toBe(where % a.length);
      }),
    );
  });
});
