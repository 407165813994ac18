/** The quantizer of the calibrated caches in WebAssembly: bytes and values exactly those of quant/symmetric.ts. */

import fc from 'fast-check';
import { expect, it } from 'vitest';
import { INTEGER_LIMITS, quantizeScratchBytes, symmetricPanelBytes } from '../../../../src/engine/kernels.js';
import { fromFloat16Bits } from '../../../../src/numerics/float16.js';
import { linear, matrix } from '../../../../src/numerics/matrix.js';
import {
  CHANNEL_BITS,
  dequantizeSymmetric,
  quantizeSymmetric,
  type SymmetricFormat,
  symmetricRuns,
  symmetricSizes,
} from '../../../../src/quant/symmetric.js';
import type { Bits } from '../../../../src/quant/uniform.js';
import { fill, filling, gaussian } from './arbitraries.js';
import { type Bench, expectSameBits, forEachBuild } from './builds.js';

const rows = fc.oneof(fc.integer({ min: 1, max: 12 }), fc.constantFrom(124, 127, 128, 130));

/** Bits of one channel may be followed by the same. */
const format: fc.Arbitrary<SymmetricFormat> = fc.record({
  groupSize: fc.constantFrom(128, 64, 32, 20, 7, 1),
  channelBits: fc
    .array(fc.record({ bits: fc.constantFrom(...CHANNEL_BITS), count: fc.integer({ min: 1, max: 6 }) }), {
      minLength: 1,
      maxLength: 8,
    })
    .map((parts) => parts.flatMap(({ bits, count }) => new Array<typeof bits>(count).fill(bits))),
});

/** Quantizes run by run; tells the first group that could not be stored, or -1. */
function store(bench: Bench, source: Float32Array, tokens: number, symmetric: SymmetricFormat) {
  const { groups, codeBytes } = symmetricSizes(tokens, symmetric);
  const columns = symmetric.channelBits.length;
  const scratchBytes = quantizeScratchBytes(Math.max(symmetric.groupSize, 128));
  const at = {
    source: bench.put(source),
    codes: bench.reserve(codeBytes),
    scales: bench.reserve(2 * groups),
    scratch: bench.reserve(scratchBytes),
  };
  let failed = -1;
  for (const run of symmetricRuns(tokens, symmetric)) {
    const which = bench.kernels.quantizeSymmetric(
      at.source + (run.token * columns + run.channel) * 4,
      run.count,
      columns,
      run.channels,
      run.bits,
      at.codes + run.byteOffset,
      at.scales + 2 * run.index,
      at.scratch,
    );
    if (which >= 0 && failed < 0) failed = run.index + which;
  }
  for (const [pointer, bytes] of [
    [at.codes, codeBytes],
    [at.scales, 2 * groups],
    [at.scratch, scratchBytes],
  ]) {
    expect(bench.guard(pointer, bytes)).toBe(true);
  }
  return { ...at, failed, groups, codeBytes };
}

forEachBuild((open) => {
  it('quantizes and dequantizes to the reference bits, and stays inside its memory', () => {
    fc.assert(
      fc.property(format, rows, filling, (symmetric, tokens, content) => {
        const bench = open();
        const columns = symmetric.channelBits.length;
        const source = fill(tokens * columns, content);
        // At 1 bit the step of "wide" content can be more than f16 holds; the next test is about that.
        for (let i = 0; i < source.length; i++) source[i] /= 4;
        const stored = quantizeSymmetric(matrix(tokens, columns, source), symmetric);
        const at = store(bench, source, tokens, symmetric);
        expect(at.failed).toBe(-1);
        expectSameBits(bench.readHalves(at.scales, at.groups), stored.scales);
        expectSameBits(bench.readBytes(at.codes, at.codeBytes), stored.channelCodes);

        const values = dequantizeSymmetric(stored, symmetric.channelBits).data;
        const start = gaussian(tokens * columns, 5);
        const sum = bench.put(start);
        const offsets = bench.put(start.subarray(0, columns));
        const written = bench.reserve(tokens * columns * 4);
        const before = bench.readFloats(written, tokens * columns);
        for (const { index, token, channel, channels, bits, count, byteOffset } of symmetricRuns(
          tokens,
          symmetric,
        )) {
          const [codes, scales] = [at.codes + byteOffset, at.scales + 2 * index];
          const dequantize = (offset: number, target: number) =>
            bench.kernels.dequantizeSymmetric(
              ...([codes, scales, offset, count, columns, channels, bits] as const),
              target + (token * columns + channel) * 4,
              at.scratch,
            );
          dequantize(0, sum);
          dequantize(offsets + channel * 4, written);
        }
        expectSameBits(
          bench.readFloats(sum, tokens * columns),
          start.map((value, i) => value + values[i]),
        );
        const isStored = (i: number) => symmetric.channelBits[i % columns] > 0;
        expectSameBits(
          bench.readFloats(written, tokens * columns),
          before.map((value, i) => (isStored(i) ? start[i % columns] + values[i] : value)),
        );
        expect(bench.guard(written, tokens * columns * 4)).toBe(true);
        expect(bench.guard(sum, tokens * columns * 4)).toBe(true);
      }),
      { numRuns: 200 },
    );
  });

  it('multiplies codes with weights as their values and an offset would be', () => {
    const bits = fc.constantFrom(...CHANNEL_BITS.slice(1)) as fc.Arbitrary<Bits>;
    const channelBits = fc.oneof(
      fc.array(bits, { minLength: 1, maxLength: 40 }),
      fc.array(bits, { minLength: 250, maxLength: 270 }),
    );
    const outputs = fc.integer({ min: 1, max: 20 });
    fc.assert(
      fc.property(
        channelBits,
        fc.integer({ min: 1, max: 130 }),
        outputs,
        fc.nat(),
        (widths, tokens, rows, seed) => {
          const bench = open();
          const channels = widths.length;
          const symmetric = { groupSize: tokens, channelBits: widths };
          const source = matrix(tokens, channels, gaussian(tokens * channels, seed));
          const at = store(bench, source.data, tokens, symmetric);
          const weights = matrix(rows, channels, gaussian(rows * channels, seed + 1));
          const offsets = gaussian(rows, seed + 2);
          const padded = Math.ceil(channels / 8) * 8;
          const halves = new Float32Array(rows * padded);
          for (let i = 0; i < weights.data.length; i++) {
            halves[Math.floor(i / channels) * padded + (i % channels)] = weights.data[i] / 2;
          }
          const [tile, panel] = [tokens * padded * 2, symmetricPanelBytes(tokens, channels)];
          const tileAt = bench.reserve(tile);
          const panelAt = bench.reserve(panel);
          const stride = rows + 3;
          const out = bench.reserve(tokens * stride * 4);
          const widthsAt = bench.put(Uint8Array.from(widths));
          const weightsAt = bench.put(halves);
          const offsetsAt = bench.put(offsets);
          bench.kernels.multiplySymmetric(
            ...([at.codes, widthsAt, at.scales, tokens, channels, weightsAt, offsetsAt, rows] as const),
            ...([out, stride, tileAt, panelAt, at.scratch] as const),
          );
          expect(bench.guard(tileAt, tile)).toBe(true);
          expect(bench.guard(panelAt, panel)).toBe(true);

          const stored = quantizeSymmetric(source, symmetric);
          const values = dequantizeSymmetric(stored, widths);
          const expected = linear(values, weights, offsets);
          const scale = (channel: number) => fromFloat16Bits(stored.scales[channel]);
          for (let j = 0; j < rows; j++) {
            // Weights are cut to 15 bits of the largest of their block; the integers they meet are up to 255.
            const scaled = widths.map((_, c) => Math.abs(scale(c) * weights.data[j * channels + c]) / 2);
            const bound =
              widths.reduce((sum, width) => sum + 2 ** width, 0) *
              (Math.max(...scaled) / INTEGER_LIMITS.codes);
            for (let t = 0; t < tokens; t++) {
              const sum = expected.data[t * rows + j];
              const actual = bench.readFloats(out + (t * stride + j) * 4, 1)[0];
              expect(Math.abs(actual - sum)).toBeLessThanOrEqual(
                bound + 1e-5 * (1 + Math.abs(sum)) * channels,
              );
            }
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it('names the first group that cannot be stored', () => {
    const bad = fc.constantFrom(
      Number.NaN,
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
      3e38,
      -300000,
    );
    fc.assert(
      fc.property(fc.constantFrom(1, 2, 3, 4, 8), bad, fc.nat(), (bits, value, where) => {
        const [tokens, columns, groupSize] = [20, 9, 8];
        const symmetric = {
          groupSize,
          channelBits: new Array<typeof bits>(columns).fill(bits),
        } as SymmetricFormat;
        const source = gaussian(tokens * columns, 3);
        const element = where % source.length;
        source[element] = value;
        let thrown = false;
        try {
          quantizeSymmetric(matrix(tokens, columns, source), symmetric);
        } catch {
          thrown = true;
        }
        const [token, channel] = [Math.floor(element / columns), element % columns];
        const group = Math.floor(token / groupSize) * columns + channel;
        const { failed } = store(open(), source, tokens, symmetric);
        expect(failed).toBe(thrown ? group : -1);
      }),
    );
  });
});

it('runs hold all groups, in order', () => {
  fc.assert(
    fc.property(format, rows, (symmetric, tokens) => {
      const runs = symmetricRuns(tokens, symmetric);
      const { groups, codeBytes } = symmetricSizes(tokens, symmetric);
      let [index, byteOffset] = [0, 0];
      for (const run of runs) {
        expect([run.index, run.byteOffset]).toEqual([index, byteOffset]);
        const bits = symmetric.channelBits.slice(run.channel, run.channel + run.channels);
        expect(bits.every((each) => each === run.bits)).toBe(true);
        index += run.channels;
        byteOffset += run.channels * run.byteLength;
      }
      expect([index, byteOffset]).toEqual([groups, codeBytes]);
    }),
  );
});
