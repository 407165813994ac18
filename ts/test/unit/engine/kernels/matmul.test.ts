/** Products with the weights of a file, against `linear` of `dequantizeWeights`; embedding rows bit for bit. */

import fc from 'fast-check';
import { expect, it } from 'vitest';
import {
  ACTIVATION_TILE,
  matmulScratchBytes,
  panelBytes,
  tileBytes,
  weightKernels,
} from '../../../../src/engine/kernels.js';
import { encodeFloat16, fromFloat16Bits } from '../../../../src/numerics/float16.js';
import {
  dequantizeWeights,
  PRODUCT_TYPES,
  type ProductType,
  WEIGHT_BLOCKS,
  type WeightTensor,
  type WeightType,
  weightBytes,
} from '../../../../src/quant/weight-types.js';
import { fill, filling, gaussian, randomBytes } from './arbitraries.js';
import { type Bench, expectSameBits, expectWithin, forEachBuild } from './builds.js';

/** Random weights: any codes, scales and minima of a size that weights have. */
function randomWeights<T extends WeightType>(
  type: T,
  rows: number,
  columns: number,
  seed: number,
): WeightTensor & { type: T } {
  const bytes = randomBytes(weightBytes(type, rows, columns), seed);
  const block = WEIGHT_BLOCKS[type];
  const put = (values: Float32Array, places: (i: number) => number): void => {
    const halves = encodeFloat16(values);
    for (let i = 0; i < halves.length; i++) {
      bytes[places(i)] = halves[i] & 255;
      bytes[places(i) + 1] = halves[i] >> 8;
    }
  };
  if (type === 'F32') {
    const values = gaussian(rows * columns, seed, 0.1);
    bytes.set(new Uint8Array(values.buffer));
  } else if (type === 'F16' || type === 'BF16') {
    const values = gaussian(rows * columns, seed, 0.1);
    if (type === 'F16') put(values, (i) => 2 * i);
    else {
      const words = new Uint32Array(values.buffer);
      words.forEach((word, i) => {
        bytes[2 * i] = (word >> 16) & 255;
        bytes[2 * i + 1] = word >>> 24;
      });
    }
  } else {
    const blocks = bytes.length / block.bytes;
    const scales = gaussian(blocks, seed + 1, 0.01);
    const [scale, min] = block.floats.at;
    put(scales, (i) => i * block.bytes + scale);
    if (min !== undefined) put(gaussian(blocks, seed + 2, 0.01), (i) => i * block.bytes + min);
  }
  return { name: type, type, rows, columns, bytes };
}

/** An upper bound of what the format adds to scale * code: |min| of the block that holds an element. */
function offsetOf({ type, bytes, columns }: WeightTensor, row: number, column: number): number {
  const block = WEIGHT_BLOCKS[type];
  const at = ((row * columns + column) / block.elements) | 0;
  const half = (place: number): number =>
    Math.abs(fromFloat16Bits(bytes[at * block.bytes + place] | (bytes[at * block.bytes + place + 1] << 8)));
  if (type === 'Q4_0') return 8 * half(0);
  if (type === 'Q4_1' || type === 'Q5_1') return half(2);
  if (type === 'Q2_K') return 15 * half(82);
  if (type === 'Q4_K' || type === 'Q5_K') return 63 * half(2);
  return 0;
}

interface Placed {
  weights: number;
  x: number;
  scratch: number;
}

function place(
  bench: Bench,
  tensor: WeightTensor & { type: ProductType },
  x: Float32Array,
  tokens: number,
): Placed {
  const { type, rows, columns } = tensor;
  const { repack, takesTile } = weightKernels(bench.kernels, type);
  const size = panelBytes(type, rows, columns);
  const weights = bench.reserve(size);
  repack(bench.put(tensor.bytes), rows, columns, weights);
  expect(bench.guard(weights, size)).toBe(true);
  const source = bench.put(x);
  const scratch = bench.reserve(matmulScratchBytes(columns));
  if (!takesTile) return { weights, x: source, scratch };
  const { block, limit } = ACTIVATION_TILE;
  const tile = bench.reserve(tileBytes(tokens, columns, block));
  bench.kernels.quantizeTile(source, tokens, columns, block, limit, tile);
  expect(bench.guard(tile, tileBytes(tokens, columns, block))).toBe(true);
  return { weights, x: tile, scratch };
}

forEachBuild((open) => {
  for (const type of PRODUCT_TYPES) {
    it(`multiplies by ${type} weights, whatever the tokens and rows computed together`, () => {
      const { elements } = WEIGHT_BLOCKS[type];
      const columnChoices =
        elements === 256 ? [256, 512] : elements === 32 ? [32, 64, 96, 192, 576] : [1, 30, 64, 191];
      let worst = 0;
      fc.assert(
        fc.property(
          fc.constantFrom(...columnChoices),
          fc.integer({ min: 1, max: 27 }),
          fc.integer({ min: 1, max: 10 }),
          filling,
          (columns, rows, tokens, content) => {
            const bench = open();
            const { matmul, takesTile } = weightKernels(bench.kernels, type);
            const tensor = randomWeights(type, rows, columns, content.seed);
            const x = fill(tokens * columns, content);
            const { weights, x: operand, scratch } = place(bench, tensor, x, tokens);
            const stride = rows + 3;
            const out = bench.reserve(tokens * stride * 4);
            matmul(weights, operand, tokens, columns, rows, out, stride, scratch);
            const result = bench.readFloats(out, tokens * stride);
            expect(bench.guard(scratch, matmulScratchBytes(columns))).toBe(true);
            const untouched = new Float32Array(Uint8Array.from({ length: 4 }, () => 0xa5).buffer)[0];

            const w = dequantizeWeights(tensor).data;
            for (let t = 0; t < tokens; t++) {
              const row = result.subarray(t * stride, t * stride + rows);
              const expected = new Float64Array(rows);
              const bound = new Float64Array(rows);
              for (let j = 0; j < rows; j++) {
                // f32 sums of `columns` products, or of `columns / 32` blocks with two terms each, on top of the
                // roundings inside one term: integer to float, the scales and their product, the product with them
                const roundings = takesTile ? (2 * columns) / 32 + 8 : columns + 1;
                for (let start = 0; start < columns; start += 32) {
                  const end = Math.min(start + 32, columns);
                  let largest = 0;
                  for (let k = start; k < end; k++) largest = Math.max(largest, Math.abs(x[t * columns + k]));
                  // half a step of the activations' integers (a few ulp more for the step itself)
                  const step = takesTile
                    ? (largest / ACTIVATION_TILE.limit) * 0.5 * (1 + 2 ** -8) + 2 ** -100
                    : 0;
                  for (let k = start; k < end; k++) {
                    const weight = w[j * columns + k];
                    const value = x[t * columns + k];
                    expected[j] += weight * value;
                    const magnitude = Math.abs(weight) + 2 * offsetOf(tensor, j, k);
                    bound[j] +=
                      step * magnitude + roundings * 2 ** -24 * (Math.abs(value) + step) * magnitude;
                  }
                }
                bound[j] += columns * 2 ** -149; // below the normal numbers
              }
              worst = Math.max(
                worst,
                expectWithin(row, expected, (j) => bound[j]),
              );
              expect([...result.subarray(t * stride + rows, (t + 1) * stride)]).toEqual(
                Array.from({ length: stride - rows }, () => untouched),
              );
            }

            // one token at a time, rows in two parts: the same bits
            const split = Math.min(rows, 8 * Math.floor(rows / 16));
            for (let t = 0; t < tokens; t++) {
              const single = place(bench, tensor, x.subarray(t * columns, (t + 1) * columns), 1);
              const line = bench.reserve(rows * 4);
              const rest = single.weights + panelBytes(type, split, columns);
              matmul(single.weights, single.x, 1, columns, split, line, rows, single.scratch);
              matmul(rest, single.x, 1, columns, rows - split, line + 4 * split, rows, single.scratch);
              expectSameBits(bench.readFloats(line, rows), result.slice(t * stride, t * stride + rows));
            }
          },
        ),
        { numRuns: 25 },
      );
      console.log(`${type}: largest error ${worst.toFixed(3)} of its bound`);
    });

    it(`reads no byte behind ${type} weights`, () => {
      for (const [rows, wanted] of [
        [1, 256],
        [16, 256],
        [24, 512],
        [40, 1024],
        [33, 768],
        [32, 250],
      ]) {
        const bench = open();
        const columns = WEIGHT_BLOCKS[type].elements === 1 ? wanted : 256 * Math.ceil(wanted / 256);
        const tensor = randomWeights(type, rows, columns, 4);
        const placed = place(bench, tensor, gaussian(columns, 5), 1);
        const out = bench.reserve(2 * rows * 4);
        const size = panelBytes(type, rows, columns);
        const last = bench.reserveAtEnd(size);
        bench.bytes(last, size).set(bench.readBytes(placed.weights, size));
        const { matmul } = weightKernels(bench.kernels, type);
        matmul(placed.weights, placed.x, 1, columns, rows, out, rows, placed.scratch);
        matmul(last, placed.x, 1, columns, rows, out + rows * 4, rows, placed.scratch);
        expectSameBits(bench.readFloats(out + rows * 4, rows), bench.readFloats(out, rows));
      }
    });

    it(`reads embedding rows of ${type} weights bit for bit`, () => {
      const bench = open();
      const columns = 512;
      const tensor = randomWeights(type, 21, columns, 9);
      const { weights } = place(bench, tensor, new Float32Array(columns), 1);
      const expected = dequantizeWeights(tensor).data;
      const out = bench.reserve(columns * 4);
      for (let r = 0; r < tensor.rows; r++) {
        weightKernels(bench.kernels, type).embed(weights, tensor.rows, columns, r, out);
        const row = bench.readFloats(out, columns);
        // -0 and 0 are one number: the reference multiplies in another order
        expectSameBits(
          row.map((value) => value + 0),
          expected.slice(r * columns, (r + 1) * columns).map((value) => value + 0),
        );
      }
      expect(bench.guard(out, columns * 4)).toBe(true);
    });
  }

  it('repacks IQ4_XS as Q6_K bit for bit', () => {
    const bench = open();
    const [rows, columns] = [13, 512];
    const tensor = randomWeights('IQ4_XS', rows, columns, 3);
    const size = panelBytes('Q6_K', rows, columns);
    const weights = bench.reserve(size);
    bench.kernels.repackIQ4_XS(bench.put(tensor.bytes), rows, columns, weights);
    expect(bench.guard(weights, size)).toBe(true);
    const expected = dequantizeWeights(tensor).data;
    const out = bench.reserve(columns * 4);
    for (let r = 0; r < rows; r++) {
      bench.kernels.embedQ6_K(weights, rows, columns, r, out);
      expectSameBits(
        bench.readFloats(out, columns).map((value) => value + 0),
        expected.slice(r * columns, (r + 1) * columns).map((value) => value + 0),
      );
    }
  });
});
