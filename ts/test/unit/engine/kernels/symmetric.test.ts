/** The quantizer of the calibrated caches in WebAssembly: bytes and values exactly those of quant/symmetric.ts. */

import fc from 'fast-check';
import { expect, it } from 'vitest';
import { quantizeScratchBytes } from '../../../../src/engine/kernels.js';
import { matrix } from '../../../../src/numerics/matrix.js';
import {
  CHANNEL_BITS,
  dequantizeSymmetric,
  quantizeSymmetric,
  type SymmetricFormat,
  symmetricRuns,
  symmetricSizes,
} from '../../../../src/quant/symmetric.js';
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
        for (const run of symmetricRuns(tokens, symmetric)) {
          bench.kernels.dequantizeAddSymmetric(
            at.codes + run.byteOffset,
            at.scales + 2 * run.index,
            run.count,
            columns,
            run.channels,
            run.bits,
            sum + (run.token * columns + run.channel) * 4,
            at.scratch,
          );
        }
        expectSameBits(
          bench.readFloats(sum, tokens * columns),
          start.map((value, i) => value + values[i]),
        );
        expect(bench.guard(sum, tokens * columns * 4)).toBe(true);
      }),
      { numRuns: 200 },
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
