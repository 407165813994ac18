/** Products on codes against `linear(dequantizeMatrix(...))`, and the cross-layer path bit for bit. */

import fc from 'fast-check';
import { expect, it } from 'vitest';
import {
  INTEGER_LIMITS,
  packedWeightsBytes,
  quantizeScratchBytes,
  RANGE_CODES,
  tileBytes,
} from '../../../../src/engine/kernels.js';
import { fromFloat16Bits } from '../../../../src/numerics/float16.js';
import { add, matrix, subtract } from '../../../../src/numerics/matrix.js';
import {
  dequantizeMatrix,
  GROUPINGS,
  type QuantizedMatrix,
  quantizeMatrix,
  unpackMatrix,
} from '../../../../src/quant/grouped.js';
import { BITS, type Bits, RANGE_RULES } from '../../../../src/quant/uniform.js';
import { fill, filling, gaussian } from './arbitraries.js';
import { type Bench, expectSameBits, expectWithin, forEachBuild } from './builds.js';

const EPSILON = 2 ** -24;

const shape = fc.record({
  tokens: fc.oneof(fc.integer({ min: 1, max: 11 }), fc.constant(128)),
  columns: fc.constantFrom(8, 64, 96, 127, 191, 192, 256, 576),
  rows: fc.integer({ min: 1, max: 20 }),
});

/** Maximum magnitude of a block of a row, as the kernels cut it. */
function blockMaximum(data: Float32Array, row: number, columns: number, start: number, end: number): number {
  let largest = 0;
  for (let k = start; k < end; k++) largest = Math.max(largest, Math.abs(data[row * columns + k]));
  return largest;
}

function putStored(bench: Bench, stored: QuantizedMatrix) {
  return {
    packed: bench.put(stored.packed),
    scales: bench.put(stored.scales),
    mins: bench.put(stored.mins),
    scratch: bench.reserve(quantizeScratchBytes(stored.groupSize)),
  };
}

forEachBuild((open) => {
  for (const width of ['16-bit', '8-bit'] as const) {
    it(`multiplies codes by ${width} key weights`, () => {
      let worst = 0;
      fc.assert(
        fc.property(
          fc.constantFrom(...BITS.filter((bits) => width === '16-bit' || bits <= 4)),
          fc.constantFrom(...GROUPINGS),
          fc.constantFrom(64, 128, 256),
          fc.constantFrom(32, 64, 128),
          shape,
          filling,
          (bits, grouping, wantedGroup, wantedBlock, { tokens, columns, rows }, content) => {
            const bench = open();
            const { kernels } = bench;
            const perChannel = grouping === 'perChannel';
            // per channel, a tile is at most one group of tokens
            const groupSize = perChannel ? Math.max(128, wantedGroup) : wantedGroup;
            const block = Math.min(wantedBlock, groupSize);
            const limit = width === '16-bit' ? INTEGER_LIMITS.codes : INTEGER_LIMITS.int8;
            const x = fill(tokens * columns, {
              ...content,
              kind: content.kind === 'wide' ? 'gaussian' : content.kind,
            });
            for (let i = 0; i < x.length; i++) x[i] /= 2;
            const stored = quantizeMatrix(matrix(tokens, columns, x), {
              bits,
              grouping,
              groupSize,
              range: 'minmax',
            });
            const w = gaussian(rows * columns, content.seed + 1, 0.05);
            const at = putStored(bench, stored);

            const weights = bench.reserve(packedWeightsBytes(rows, columns, block));
            const source = bench.put(w);
            const [s, m] = perChannel ? [at.scales, at.mins] : [0, 0];
            if (width === '16-bit') kernels.packWeights(source, rows, columns, block, limit, s, m, weights);
            else kernels.packWeightsInt8(source, rows, columns, block, s, m, weights);
            expect(bench.guard(weights, packedWeightsBytes(rows, columns, block))).toBe(true);
            const tile = bench.reserve(tileBytes(tokens, columns, block));
            bench.call(width === '16-bit' ? 'unpackTile' : 'unpackTileInt8', {
              ...at,
              rows: tokens,
              columns,
              bits,
              groupSize,
              perChannel: perChannel ? 1 : 0,
              block,
              tile,
            });
            expect(bench.guard(tile, tileBytes(tokens, columns, block))).toBe(true);
            expect(bench.guard(at.scratch, quantizeScratchBytes(groupSize))).toBe(true);

            const multiply = width === '16-bit' ? kernels.matmulTile : kernels.matmulTileInt8;
            const stride = rows + 1;
            const start = gaussian(tokens * stride, 3);
            const out = bench.put(start);
            const split = Math.min(rows, 8);
            multiply(weights, tile, tokens, columns, block, split, out, stride);
            // Panels of bytes, in relaxed builds, are half as large: those are multiplied all at once.
            if (width === '8-bit') multiply(weights, tile, tokens, columns, block, rows, out, stride);
            else {
              const rest = weights + packedWeightsBytes(split, columns, block);
              multiply(rest, tile, tokens, columns, block, rows - split, out + 4 * split, stride);
            }
            const result = bench.readFloats(out, tokens * stride);

            const codes = unpackMatrix(stored);
            const values = dequantizeMatrix(stored).data;
            const expected = new Float64Array(tokens * stride);
            const bound = new Float64Array(tokens * stride);
            const groupOf = (t: number, k: number): number =>
              perChannel ? k : t * Math.ceil(columns / groupSize) + Math.floor(k / groupSize);
            // per block: int to float, product of two scales, product, sum; offset: sum of weights, product, sum
            const roundings = 2 * Math.ceil(columns / block) + 10 + (perChannel ? columns : 0);
            for (let t = 0; t < tokens; t++) {
              for (let j = 0; j < rows; j++) {
                const i = t * stride + j;
                for (let from = 0; from < columns; from += block) {
                  const to = Math.min(from + block, columns);
                  let step = blockMaximum(w, j, columns, from, to);
                  if (perChannel) {
                    // the weights were multiplied by their channels' scales before they were cut
                    step = 0;
                    for (let k = from; k < to; k++) {
                      step = Math.max(step, Math.abs(w[j * columns + k]) * fromFloat16Bits(stored.scales[k]));
                    }
                  }
                  step = (step / limit) * 0.5 * (1 + 2 ** -8) + 2 ** -100;
                  for (let k = from; k < to; k++) {
                    const value = values[t * columns + k];
                    const minimum = fromFloat16Bits(stored.mins[groupOf(t, k)]);
                    const weight = w[j * columns + k];
                    expected[i] += value * weight;
                    const spread = Math.abs(value - minimum);
                    const cut = perChannel ? codes[t * columns + k] : spread + Math.abs(minimum);
                    const magnitude = (spread + Math.abs(minimum)) * Math.abs(weight) + cut * step;
                    // the f32 value itself was rounded once by the reference
                    bound[i] += cut * step + (roundings + 1) * EPSILON * magnitude;
                  }
                }
                bound[i] += columns * 2 ** -149;
              }
              expected[t * stride + rows] = start[t * stride + rows];
            }
            worst = Math.max(
              worst,
              expectWithin(result, expected, (i) => bound[i]),
            );
          },
        ),
        { numRuns: 60 },
      );
      console.log(`${width}: largest error ${worst.toFixed(3)} of its bound`);
    });
  }

  it('multiplies an f32 tile by key weights of 13 bits', () => {
    let worst = 0;
    fc.assert(
      fc.property(shape, filling, ({ tokens, columns, rows }, content) => {
        const bench = open();
        const { kernels } = bench;
        const [block, limit] = [32, INTEGER_LIMITS.float];
        const x = fill(tokens * columns, content);
        const w = gaussian(rows * columns, content.seed + 1, 0.05);
        const weights = bench.reserve(packedWeightsBytes(rows, columns, block));
        kernels.packWeights(bench.put(w), rows, columns, block, limit, 0, 0, weights);
        const tile = bench.reserve(tileBytes(tokens, columns, block));
        kernels.quantizeTile(bench.put(x), tokens, columns, block, limit, tile);
        const out = bench.reserve(tokens * rows * 4);
        kernels.matmulTileFloat(weights, tile, tokens, columns, block, rows, out, rows);
        const expected = new Float64Array(tokens * rows);
        const bound = new Float64Array(tokens * rows);
        for (let i = 0; i < expected.length; i++) {
          const [t, j] = [Math.floor(i / rows), i % rows];
          for (let from = 0; from < columns; from += block) {
            const to = Math.min(from + block, columns);
            const step = (data: Float32Array, row: number): number =>
              (blockMaximum(data, row, columns, from, to) / limit) * 0.5 * (1 + 2 ** -8) + 2 ** -100;
            const [a, b] = [step(x, t), step(w, j)];
            for (let k = from; k < to; k++) {
              const [p, q] = [Math.abs(x[t * columns + k]), Math.abs(w[j * columns + k])];
              expected[i] += x[t * columns + k] * w[j * columns + k];
              bound[i] +=
                p * b + q * a + a * b + (2 * Math.ceil(columns / block) + 8) * EPSILON * (p + a) * (q + b);
            }
          }
          bound[i] += columns * 2 ** -149;
        }
        worst = Math.max(
          worst,
          expectWithin(bench.readFloats(out, expected.length), expected, (i) => bound[i]),
        );
        // on top of what is there: the same products to the bit
        const once = bench.readFloats(out, expected.length);
        kernels.matmulTileFloatAdd(weights, tile, tokens, columns, block, rows, out, rows);
        expectSameBits(
          bench.readFloats(out, expected.length),
          once.map((value) => 2 * value),
        );
      }),
      { numRuns: 40 },
    );
    console.log(`f32 tile: largest error ${worst.toFixed(3)} of its bound`);
  });

  const crossLayer = fc.record({
    rows: fc.integer({ min: 1, max: 9 }),
    columns: fc.constantFrom(32, 96, 192, 576, 45),
    bits: fc.constantFrom<Bits>(...BITS),
    groupSize: fc.constantFrom(128, 64, 20),
    grouping: fc.constantFrom(...GROUPINGS),
    range: fc.constantFrom(...RANGE_RULES),
  });

  it('seals differences and updates the accumulator to the reference bits', () => {
    fc.assert(
      fc.property(crossLayer, filling, (options, content) => {
        const bench = open();
        const { rows, columns, bits, groupSize, grouping, range } = options;
        const limited = content.kind === 'wide' || content.kind === 'edges' ? 'ties' : content.kind;
        const x = matrix(rows, columns, fill(rows * columns, { ...content, kind: limited }));
        const below = matrix(rows, columns, gaussian(rows * columns, content.seed + 7));
        const stored = quantizeMatrix(subtract(x, below), { bits, groupSize, grouping, range });
        const sum = add(below, dequantizeMatrix(stored));
        const accumulator = bench.put(below.data);
        const packed = bench.reserve(stored.packed.length);
        const scales = bench.reserve(stored.scales.byteLength);
        const mins = bench.reserve(stored.mins.byteLength);
        const scratch = bench.reserve(quantizeScratchBytes(groupSize));
        const failed = bench.call('crossLayerEncode', {
          packed,
          scales,
          mins,
          rows,
          columns,
          bits,
          groupSize,
          scratch,
          source: bench.put(x.data),
          range: RANGE_CODES[range],
          accumulator,
          perChannel: grouping === 'perChannel' ? 1 : 0,
        });
        expect(failed).toBe(-1);
        expectSameBits(bench.readBytes(packed, stored.packed.length), stored.packed);
        expectSameBits(bench.readHalves(scales, stored.scales.length), stored.scales);
        expectSameBits(bench.readHalves(mins, stored.mins.length), stored.mins);
        expectSameBits(bench.readFloats(accumulator, rows * columns), sum.data);
      }),
      { numRuns: 100 },
    );
  });
});
