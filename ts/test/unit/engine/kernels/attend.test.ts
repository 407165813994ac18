/** Attention over blocks with a running softmax, against the same sums in f64 (model/attention.ts). */

import fc from 'fast-check';
import { expect, it } from 'vitest';
import { attendHalfScratchBytes, attendScratchBytes, ROPE_CODES } from '../../../../src/engine/kernels.js';
import { applyRope, ropeFrequencies } from '../../../../src/model/rope.js';
import { matrix } from '../../../../src/numerics/matrix.js';
import { gaussian } from './arbitraries.js';
import { expectSameBits, expectWithin, forEachBuild } from './builds.js';

const EPSILON = 2 ** -24;

const shape = fc.record({
  kvHeads: fc.integer({ min: 1, max: 3 }),
  grouped: fc.integer({ min: 1, max: 4 }),
  headDim: fc.constantFrom(8, 16, 32, 64),
  seed: fc.integer({ min: 1, max: 2 ** 30 }),
});

forEachBuild((open) => {
  it('finishes keys: RoPE, transpose', () => {
    let worst = 0;
    fc.assert(
      fc.property(
        shape,
        fc.integer({ min: 1, max: 21 }),
        fc.constantFrom('half', 'interleaved' as const),
        fc.nat(3000),
        ({ kvHeads, headDim, seed }, tokens, layout, first) => {
          const bench = open();
          const kvDim = kvHeads * headDim;
          const keys = gaussian(tokens * kvDim, seed, 3);
          const padded = Math.ceil(tokens / 8) * 8;
          const { cos, sin } = bench.putRopeTables(
            ropeFrequencies({ headDim, ropeTheta: 10000 }),
            first,
            tokens,
          );
          const target = bench.reserve(kvDim * padded * 4);
          bench.kernels.finishKeys(
            bench.put(keys),
            tokens,
            kvHeads,
            headDim,
            cos,
            sin,
            ROPE_CODES[layout],
            target,
          );
          expect(bench.guard(target, kvDim * padded * 4)).toBe(true);
          const rows = matrix(tokens, kvDim, keys);
          const before = rows.data;
          const expected = applyRope(
            rows,
            first,
            ropeFrequencies({ headDim, ropeTheta: 10000 }),
            layout,
          ).data;
          const turned = new Float64Array(kvDim * padded);
          const bound = new Float64Array(kvDim * padded);
          for (let t = 0; t < tokens; t++) {
            for (let c = 0; c < kvDim; c++) {
              const head = c - (c % headDim);
              const i = c % headDim;
              const half = headDim / 2;
              const partner = head + (layout === 'half' ? (i + half) % headDim : i ^ 1);
              // tables rounded to f32, two products and a sum rounded
              const size = Math.abs(before[t * kvDim + c]) + Math.abs(before[t * kvDim + partner]);
              turned[c * padded + t] = expected[t * kvDim + c];
              bound[c * padded + t] = 8 * EPSILON * size;
            }
          }
          worst = Math.max(
            worst,
            expectWithin(bench.readFloats(target, kvDim * padded), turned, (i) => bound[i]),
          );
        },
      ),
    );
    console.log(`keys: largest error ${worst.toFixed(3)} of its bound`);
  });

  it('attends to blocks of keys, causally, within a window, with values or with latents', () => {
    let worst = 0;
    fc.assert(
      fc.property(
        shape,
        fc.integer({ min: 1, max: 7 }),
        fc.array(fc.constantFrom(1, 3, 8, 17, 64, 128), { minLength: 1, maxLength: 3 }),
        fc.constantFrom<'values' | 'latents'>('values', 'latents'),
        fc.nat(40),
        fc.constantFrom(0.3, 3),
        fc.option(fc.nat(40)),
        ({ kvHeads, grouped, headDim, seed }, queries, blocks, kind, behind, deviation, narrow) => {
          const bench = open();
          const { kernels } = bench;
          const heads = kvHeads * grouped;
          const kvDim = kvHeads * headDim;
          const length = blocks.reduce((sum, tokens) => sum + tokens, 0);
          const width = kind === 'values' ? headDim : 4 * (1 + (seed % 12));
          const stride = kind === 'values' ? kvDim : width;
          const headStride = kind === 'values' ? headDim : 0;
          // every query sees at least one key
          const window = narrow === null ? 0 : narrow + queries;
          // the last query sees everything, or the first keys only
          const firstQuery = Math.max(0, length - queries - behind);
          const scale = Math.fround(1 / Math.sqrt(headDim));
          const q = gaussian(queries * heads * headDim, seed, deviation);
          const keys = gaussian(length * kvDim, seed + 1);
          const values = gaussian(length * stride, seed + 2);

          const state = (): { maxima: number; sums: number; acc: number } => {
            const at = {
              maxima: bench.reserve(queries * heads * 4),
              sums: bench.reserve(queries * heads * 4),
              acc: bench.reserve(queries * heads * width * 4),
            };
            kernels.attendBegin(at.maxima, at.sums, at.acc, queries * heads, width);
            return at;
          };
          const source = bench.put(q);
          const scratch = bench.reserve(attendScratchBytes(128));
          const attend = (at: ReturnType<typeof state>, block: number, from: number, to: number): void => {
            const first = blocks.slice(0, block).reduce((sum, tokens) => sum + tokens, 0);
            const tokens = blocks[block];
            const padded = Math.ceil(tokens / 8) * 8;
            const keysT = new Float32Array(kvDim * padded);
            for (let t = 0; t < tokens; t++) {
              for (let c = 0; c < kvDim; c++) keysT[c * padded + t] = keys[(first + t) * kvDim + c];
            }
            const half = Math.floor(kvHeads / 2);
            for (const [headStart, headEnd] of [
              [0, half],
              [half, kvHeads],
            ]) {
              bench.call('attendBlock', {
                q: source,
                heads,
                kvHeads,
                headDim,
                keys: bench.put(keysT),
                tokens,
                values: bench.put(values.slice(first * stride, (first + tokens) * stride)),
                valueStride: stride,
                valueHeadStride: headStride,
                width,
                scale,
                firstQuery,
                firstKey: first,
                maxima: at.maxima,
                sums: at.sums,
                acc: at.acc,
                headStart,
                headEnd,
                queryStart: from,
                queryEnd: to,
                window,
                scratch,
              });
            }
          };
          const all = state();
          for (let block = 0; block < blocks.length; block++) attend(all, block, 0, queries);
          // one query at a time gives the same bits
          const single = state();
          for (let i = 0; i < queries; i++) {
            for (let block = 0; block < blocks.length; block++) attend(single, block, i, i + 1);
          }
          const count = queries * heads;
          expectSameBits(
            bench.readFloats(single.acc, count * width),
            bench.readFloats(all.acc, count * width),
          );
          expectSameBits(bench.readFloats(single.sums, count), bench.readFloats(all.sums, count));
          // blocks apart, merged
          const parts = state();
          attend(parts, 0, 0, queries);
          for (let block = 1; block < blocks.length; block++) {
            const part = state();
            attend(part, block, 0, queries);
            kernels.attendMerge(
              parts.maxima,
              parts.sums,
              parts.acc,
              part.maxima,
              part.sums,
              part.acc,
              count,
              width,
            );
          }
          expect(bench.guard(scratch, attendScratchBytes(128))).toBe(true);
          kernels.attendFinish(all.sums, all.acc, count, width);
          kernels.attendFinish(parts.sums, parts.acc, count, width);

          const expected = new Float64Array(count * width);
          const bound = new Float64Array(count * width);
          for (let row = 0; row < count; row++) {
            const [i, head] = [Math.floor(row / heads), row % heads];
            const kvHead = Math.floor(head / grouped);
            const end = Math.min(length, firstQuery + i + 1);
            const start = window === 0 ? 0 : Math.max(0, firstQuery + i + 1 - window);
            const visible = end - start;
            const scores = new Float64Array(visible);
            let error = 0;
            for (let t = 0; t < visible; t++) {
              let magnitude = 0;
              for (let d = 0; d < headDim; d++) {
                const product = q[row * headDim + d] * keys[(start + t) * kvDim + kvHead * headDim + d];
                scores[t] += product * scale;
                magnitude += Math.abs(product) * scale;
              }
              // a sum of headDim rounded products, the scale, the subtraction of the maximum (twice: both differ)
              error = Math.max(error, (headDim + 2) * EPSILON * magnitude);
            }
            const top = scores.reduce((a, b) => Math.max(a, b));
            const spread = top - scores.reduce((a, b) => Math.min(a, b));
            const weights = scores.map((score) => Math.exp(score - top));
            const sum = weights.reduce((a, b) => a + b);
            // a weight: error of its score, of the difference to the maximum, of exp (2 ulp) and of the factors of
            // later maxima (exp and a product each); numerator and denominator have it, and two sums of `visible` terms
            const weight = 2 * error + 2 * spread * EPSILON + (4 + 6 * blocks.length) * 2 * EPSILON;
            const relative = 2 * weight + 2 * (visible + 4) * EPSILON;
            for (let c = 0; c < width; c++) {
              let magnitude = 0;
              for (let t = 0; t < visible; t++) {
                const value = values[(start + t) * stride + kvHead * headStride + c];
                expected[row * width + c] += (weights[t] / sum) * value;
                magnitude += (weights[t] / sum) * Math.abs(value);
              }
              bound[row * width + c] = relative * magnitude + 2 ** -100;
            }
          }
          for (const { acc } of [all, parts]) {
            const result = bench.readFloats(acc, count * width);
            worst = Math.max(
              worst,
              expectWithin(result, expected, (i) => bound[i]),
            );
          }
        },
      ),
      { numRuns: 60 },
    );
    console.log(`attention: largest error ${worst.toFixed(3)} of its bound`);
  });

  it('computes exp within 2 ulp', () => {
    const bench = open();
    const [tokens, headDim, steps] = [128, 8, 2048];
    // The values are the identity, so the weighted sum of channel t is the weight of token t. The first token has the
    // maximum, 0; only the first channel of keys and query is not 0, so the scores are that channel.
    const identity = new Float32Array(tokens * tokens);
    for (let t = 0; t < tokens; t++) identity[t * tokens + t] = 1;
    const [values, q] = [bench.put(identity), bench.put(Float32Array.of(1, 0, 0, 0, 0, 0, 0, 0))];
    const keysT = new Float32Array(headDim * tokens);
    const keys = bench.put(keysT);
    const [maxima, sums] = [bench.reserve(4), bench.reserve(4)];
    const acc = bench.reserve(tokens * 4);
    const scratch = bench.reserve(attendScratchBytes(tokens));
    let worst = 0;
    for (let step = 0; step < steps; step++) {
      for (let t = 1; t < tokens; t++) keysT[t] = -((step + t / tokens) / steps) * 86.5;
      bench.bytes(keys, keysT.byteLength).set(new Uint8Array(keysT.buffer));
      bench.kernels.attendBegin(maxima, sums, acc, 1, tokens);
      bench.call('attendBlock', {
        q,
        heads: 1,
        kvHeads: 1,
        headDim,
        keys,
        tokens,
        values,
        valueStride: tokens,
        valueHeadStride: 0,
        width: tokens,
        scale: 1,
        firstQuery: tokens,
        firstKey: 0,
        maxima,
        sums,
        acc,
        headStart: 0,
        headEnd: 1,
        queryStart: 0,
        queryEnd: 1,
        window: 0,
        scratch,
      });
      const expected = Float64Array.from(keysT.subarray(0, tokens), Math.exp);
      const error = expectWithin(bench.readFloats(acc, tokens), expected, (t) => expected[t] * 4 * EPSILON);
      worst = Math.max(worst, error);
    }
    console.log(`exp: largest error ${worst.toFixed(3)} of its bound`);
  });

  it('attends to f16 keys and values with the bits of decoding, finishing and attending', () => {
    fc.assert(
      fc.property(
        shape,
        fc.integer({ min: 1, max: 3 }),
        fc.oneof(fc.integer({ min: 1, max: 21 }), fc.constant(128)),
        fc.constantFrom('half', 'interleaved' as const),
        fc.constantFrom(1e-6, 0.5, 300),
        fc.nat(3000),
        fc.nat(24),
        fc.nat(40),
        (
          { kvHeads, grouped, headDim, seed },
          queries,
          tokens,
          layout,
          deviation,
          firstKey,
          behind,
          window,
        ) => {
          const bench = open();
          const { kernels } = bench;
          const heads = kvHeads * grouped;
          const kvDim = kvHeads * headDim;
          const count = tokens * kvDim;
          const padded = Math.ceil(tokens / 8) * 8;
          const firstQuery = firstKey + Math.max(0, tokens - behind);
          const q = bench.put(gaussian(queries * heads * headDim, seed));
          const { cos, sin } = bench.putRopeTables(
            ropeFrequencies({ headDim, ropeTheta: 10000 }),
            firstKey,
            tokens,
          );
          const [keys, values] = [1, 2].map((step) => {
            const half = bench.reserve(count * 2);
            expect(
              kernels.encodeFloat16(bench.put(gaussian(count, seed + step, deviation)), half, count),
            ).toBe(-1);
            const floats = bench.reserve(count * 4);
            kernels.decodeFloat16(half, floats, count);
            return { half, floats };
          });
          const state = () => {
            const at = {
              maxima: bench.put(new Float32Array(queries * heads).fill(-1)),
              sums: bench.put(new Float32Array(queries * heads).fill(0.5)),
              acc: bench.put(gaussian(queries * heads * headDim, seed + 3)),
            };
            return at;
          };
          const scale = Math.fround(1 / Math.sqrt(headDim));
          const code = ROPE_CODES[layout];
          const bytes = attendHalfScratchBytes(tokens, headDim);
          const scratch = bench.reserve(bytes);
          const one = state();
          const common = {
            q,
            heads,
            kvHeads,
            headDim,
            tokens,
            valueStride: kvDim,
            valueHeadStride: headDim,
            width: headDim,
            scale,
            firstQuery,
            firstKey,
            headStart: 0,
            headEnd: kvHeads,
            queryStart: 0,
            queryEnd: queries,
            window,
          };
          bench.call('attendHalfBlock', {
            ...common,
            ...one,
            keys: keys.half,
            values: values.half,
            scratch,
            cos,
            sin,
            layout: code,
          });
          expect(bench.guard(scratch, bytes)).toBe(true);
          const keysT = bench.reserve(padded * kvDim * 4);
          kernels.finishKeys(keys.floats, tokens, kvHeads, headDim, cos, sin, code, keysT);
          const other = state();
          bench.call('attendBlock', {
            ...common,
            ...other,
            keys: keysT,
            values: values.floats,
            scratch: bench.reserve(attendScratchBytes(tokens)),
          });
          for (const [name, size] of [
            ['maxima', 1],
            ['sums', 1],
            ['acc', headDim],
          ] as const) {
            const total = queries * heads * size;
            expectSameBits(bench.readFloats(one[name], total), bench.readFloats(other[name], total));
          }
        },
      ),
    );
  });
});
