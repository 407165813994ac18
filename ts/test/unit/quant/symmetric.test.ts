import { readFileSync } from 'node:fs';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { ConfigError, NumericError, ShapeError } from '../../../src/errors.js';
import { fromFloat16Bits, toFloat16Bits } from '../../../src/numerics/float16.js';
import { type Matrix, matrix, rowRange } from '../../../src/numerics/matrix.js';
import { packCodes, packedBytes, unpackCodes } from '../../../src/quant/pack.js';
import {
  CHANNEL_BITS,
  type ChannelBits,
  dequantizeSymmetric,
  dequantizeSymmetricGroup,
  encodeSymmetricGroup,
  quantizeSymmetric,
  quantizeSymmetricGroup,
  type SymmetricFormat,
  symmetricSizes,
} from '../../../src/quant/symmetric.js';
import { type Bits, maxCode } from '../../../src/quant/uniform.js';
import { anyBits, gaussianMatrix, groupValues, matrices } from '../../helpers/arbitraries.js';

interface WorkedCase {
  id: string;
  tells: string;
  bits: Bits;
  x: number[];
  s16: string;
  codes: number[];
  zhat_f32: string[];
}

/** Cases S1 to S10 of docs/numerics.md, computed with numpy in float32. */
const CASES: WorkedCase[] = JSON.parse(
  readFileSync(new URL('../../fixtures/symmetric-cases.json', import.meta.url), 'utf8'),
);

const hex = (value: number, digits: number) => `0x${value.toString(16).padStart(digits, '0')}`;
const float32Bits = (values: Float32Array) =>
  Array.from(new Uint32Array(values.buffer), (bits) => hex(bits, 8));

function roundTrip(values: Float32Array, bits: Bits) {
  const codes = new Uint8Array(values.length);
  const scale = quantizeSymmetricGroup(values, bits, codes);
  const decoded = new Float32Array(values.length);
  dequantizeSymmetricGroup(codes, scale, bits, decoded);
  return { codes, scale, decoded };
}

describe('quantizeSymmetricGroup, worked cases', () => {
  it.each(CASES)('$id has exactly these bits: $tells', ({ bits, x, s16, codes, zhat_f32 }) => {
    const result = roundTrip(Float32Array.from(x), bits);
    expect(hex(result.scale, 4)).toBe(s16);
    expect([...result.codes]).toEqual(codes);
    expect(float32Bits(result.decoded)).toEqual(zhat_f32);
  });
});

describe('quantizeSymmetricGroup, laws', () => {
  test.prop([groupValues(), anyBits])('a value is in the cell of its code', (values, bits) => {
    const { codes, scale, decoded } = roundTrip(values, bits);
    const step = fromFloat16Bits(scale);
    expect(Math.max(...codes)).toBeLessThanOrEqual(maxCode(bits));
    if (step === 0) {
      expect(decoded.every((value) => Object.is(value, 0))).toBe(true);
      return;
    }
    const reach = 2 ** (bits - 1) * step;
    values.forEach((value, i) => {
      // Half a cell inside the levels, the distance to the last level outside; the quotient is rounded once.
      const outside = Math.max(0, Math.abs(value) - reach);
      const rounding = 2 ** -23 * Math.abs(value);
      expect(Math.abs(value - decoded[i])).toBeLessThanOrEqual(step / 2 + outside + rounding);
    });
  });

  test.prop([groupValues(), anyBits])(
    'decoded values have the same codes again under the same scale',
    (values, bits) => {
      const { codes, scale, decoded } = roundTrip(values, bits);
      const again = new Uint8Array(values.length);
      encodeSymmetricGroup(decoded, scale, bits, again);
      expect(again).toEqual(codes);
    },
  );

  test.prop([groupValues(), anyBits])(
    'no step that was tried is better than the stored one',
    (values, bits) => {
      const error = (decoded: Float32Array) =>
        values.reduce((sum, value, i) => sum + (value - decoded[i]) ** 2, 0);
      const chosen = error(roundTrip(values, bits).decoded);
      const steps = { 1: 1.596, 2: 0.9957, 3: 0.586, 4: 0.3352, 8: 0.0308 };
      const rms = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
      const codes = new Uint8Array(values.length);
      const decoded = new Float32Array(values.length);
      for (const factor of [0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.35, 1.5]) {
        // In f64: it may round to a neighbour of the f16 scale that was tried, which moves each level by 2^-10 of its
        // size (or by the distance of two subnormals), and the sums in f32 add their own rounding.
        const step = factor * steps[bits] * rms;
        const slack = (step * 2 ** -10 + 2 ** -24) * 2 ** bits * Math.sqrt(values.length);
        encodeSymmetricGroup(values, toFloat16Bits(step), bits, codes);
        dequantizeSymmetricGroup(codes, toFloat16Bits(step), bits, decoded);
        expect(Math.sqrt(chosen)).toBeLessThanOrEqual(Math.sqrt(error(decoded)) * (1 + 2 ** -16) + slack);
      }
    },
  );

  test.prop([fc.nat(), fc.constantFrom<1 | 2 | 3 | 4>(1, 2, 3, 4)])(
    'normal values lose as much as the best uniform quantizer of a normal variable',
    (seed, bits) => {
      // Max, "Quantizing for minimum distortion", 1960, table II.
      const expected = { 1: 0.3634, 2: 0.1188, 3: 0.03744, 4: 0.01154 }[bits];
      const { data: values } = gaussianMatrix(4096, 1, seed);
      const { decoded } = roundTrip(values, bits);
      const error = values.reduce((sum, value, i) => sum + (value - decoded[i]) ** 2, 0) / values.length;
      expect(error / expected).toBeGreaterThan(0.8);
      expect(error / expected).toBeLessThan(1.2);
    },
  );

  it.each([Number.NaN, Number.POSITIVE_INFINITY])('%s is refused by place', (value) => {
    const place = { layer: 3, tensor: 'delta', channel: 7 };
    expect(() => quantizeSymmetricGroup(Float32Array.of(1, value), 2, new Uint8Array(2), place)).toThrow(
      NumericError,
    );
  });

  it('a scale that does not fit in f16 is refused', () => {
    const large = Float32Array.of(60000, -60000);
    expect(() => quantizeSymmetricGroup(large, 1, new Uint8Array(2))).toThrow(/does not fit in f16/);
    expect(() => quantizeSymmetricGroup(large, 8, new Uint8Array(2))).not.toThrow();
  });
});

const anyMatrix = matrices(fc.integer({ min: 1, max: 140 }), fc.constantFrom(1, 7, 32));
const anyFormat = (columns: number): fc.Arbitrary<SymmetricFormat> =>
  fc.record({
    groupSize: fc.constantFrom(32, 124, 128),
    channelBits: fc.array(fc.constantFrom(...CHANNEL_BITS), { minLength: columns, maxLength: columns }),
  });
const anyCase = anyMatrix.chain((source) => fc.tuple(fc.constant(source), anyFormat(source.columns)));

describe('quantizeSymmetric', () => {
  test.prop([anyCase])(
    'each group of each channel is what quantizeSymmetricGroup makes of it',
    ([source, format]) => {
      const stored = quantizeSymmetric(source, format);
      const decoded = dequantizeSymmetric(stored, format.channelBits);
      let [group, byte] = [0, 0];
      for (let from = 0; from < source.rows; from += format.groupSize) {
        const to = Math.min(from + format.groupSize, source.rows);
        format.channelBits.forEach((bits, channel) => {
          const read = column(decoded, channel, from, to);
          if (bits === 0) {
            expect(read.every((value) => Object.is(value, 0))).toBe(true);
            return;
          }
          const alone = roundTrip(column(source, channel, from, to), bits);
          const bytes = new Uint8Array(packedBytes(to - from, bits));
          packCodes(alone.codes, bits, bytes);
          expect(stored.scales[group++]).toBe(alone.scale);
          expect(stored.channelCodes.subarray(byte, byte + bytes.length)).toEqual(bytes);
          expect(read).toEqual(alone.decoded);
          byte += bytes.length;
        });
      }
      expect([group, byte]).toEqual([stored.scales.length, stored.channelCodes.length]);
      expect(symmetricSizes(source.rows, format)).toEqual({ groups: group, codeBytes: byte });
    },
  );

  test.prop([anyCase])('a later block does not change an earlier one', ([source, format]) => {
    const first = Math.min(format.groupSize, source.rows);
    const whole = quantizeSymmetric(source, format);
    const alone = quantizeSymmetric(rowRange(source, 0, first), format);
    expect(whole.channelCodes.subarray(0, alone.channelCodes.length)).toEqual(alone.channelCodes);
    expect(whole.scales.subarray(0, alone.scales.length)).toEqual(alone.scales);
  });

  it('128 tokens of a channel take 16 bytes a bit and 2 for the scale', () => {
    const channelBits: ChannelBits[] = [8, 4, 0, 3, 2, 1, 0];
    const stored = quantizeSymmetric(gaussianMatrix(128, 7, 1), { groupSize: 128, channelBits });
    expect(stored.channelCodes.length).toBe(16 * (8 + 4 + 3 + 2 + 1));
    expect(stored.scales.length).toBe(5);
    // The first code of the first channel lies in the first byte.
    const codes = new Uint8Array(128);
    unpackCodes(stored.channelCodes.subarray(0, 128), 8, codes);
    expect(codes).toEqual(stored.channelCodes.subarray(0, 128));
  });

  it('refuses widths, sizes and values that cannot be', () => {
    const source = gaussianMatrix(4, 2, 1);
    const bad = [1, 5] as unknown as ChannelBits[];
    expect(() => quantizeSymmetric(source, { groupSize: 128, channelBits: bad })).toThrow(ConfigError);
    expect(() => quantizeSymmetric(source, { groupSize: 128, channelBits: [1] })).toThrow(ShapeError);
    expect(() => quantizeSymmetric(source, { groupSize: 0, channelBits: [1, 1] })).toThrow(RangeError);
    const stored = quantizeSymmetric(source, { groupSize: 128, channelBits: [1, 2] });
    expect(() => dequantizeSymmetric(stored, [2, 8])).toThrow(/scales, channelCodes/);
    const broken = matrix(2, 2, Float32Array.of(0, 1, 2, Number.NaN));
    // A channel without bits is checked, too.
    expect(() => quantizeSymmetric(broken, { groupSize: 128, channelBits: [1, 0] })).toThrow(
      /NaN at token 1, channel 1/,
    );
  });
});

function column({ columns, data }: Matrix, channel: number, from: number, to: number): Float32Array {
  return Float32Array.from({ length: to - from }, (_, i) => data[(from + i) * columns + channel]);
}
