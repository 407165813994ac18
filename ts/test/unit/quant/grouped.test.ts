import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { ConfigError, NumericError } from '../../../src/errors.js';
import { fromFloat16Bits } from '../../../src/numerics/float16.js';
import { matrix, transpose } from '../../../src/numerics/matrix.js';
import {
  dequantizeMatrix,
  forEachGroup,
  groupedSizes,
  quantizedBytes,
  quantizeMatrix,
  unpackMatrix,
} from '../../../src/quant/grouped.js';
import { quantizeGroup } from '../../../src/quant/uniform.js';
import { groupedOptions, matrices } from '../../helpers/arbitraries.js';

const anyMatrix = matrices(fc.integer({ min: 1, max: 140 }), fc.constantFrom(32, 64, 96, 192));

describe('quantizeMatrix', () => {
  test.prop([anyMatrix, groupedOptions])('every element belongs to exactly one group', (source, options) => {
    const seen = new Uint8Array(source.data.length);
    forEachGroup(source.rows, source.columns, options, ({ start, stride, count }) => {
      for (let i = 0; i < count; i++) seen[start + i * stride]++;
    });
    expect(seen.every((times) => times === 1)).toBe(true);
  });

  test.prop([anyMatrix, groupedOptions])('groups fill the sizes that are announced', (source, options) => {
    const sizes = { groups: 0, packedBytes: 0 };
    forEachGroup(source.rows, source.columns, options, ({ byteLength }) => {
      sizes.groups++;
      sizes.packedBytes += byteLength;
    });
    expect(groupedSizes(source.rows, source.columns, options)).toEqual(sizes);
  });

  test.prop([anyMatrix, groupedOptions])(
    'each group is what quantizeGroup makes of it',
    (source, options) => {
      const stored = quantizeMatrix(source, options);
      const allCodes = unpackMatrix(stored);
      forEachGroup(source.rows, source.columns, options, ({ index, start, stride, count }) => {
        const at = Array.from({ length: count }, (_, i) => start + i * stride);
        const codes = new Uint8Array(count);
        const values = Float32Array.from(at, (i) => source.data[i]);
        const { scale, min } = quantizeGroup(values, options.bits, options.range, codes);
        expect([stored.scales[index], stored.mins[index]]).toEqual([scale, min]);
        expect(at.map((i) => allCodes[i])).toEqual([...codes]);
      });
    },
  );

  test.prop([anyMatrix, groupedOptions])('per channel is per token of the transpose', (source, options) => {
    const perChannel = quantizeMatrix(source, { ...options, grouping: 'perChannel' });
    const perToken = quantizeMatrix(transpose(source), { ...options, grouping: 'perToken' });
    expect(dequantizeMatrix(perChannel).data).toEqual(transpose(dequantizeMatrix(perToken)).data);
  });

  test.prop([anyMatrix, groupedOptions])('the bytes are those of the formula', (source, options) => {
    const stored = quantizeMatrix(source, options);
    const { groups } = groupedSizes(source.rows, source.columns, options);
    const { codes, scales, mins } = quantizedBytes(stored);
    expect(scales).toBe(2 * groups);
    expect(mins).toBe(2 * groups);
    // Whole groups take bits / 8 bytes a code; a ragged one may waste part of a byte per plane.
    const exact = (source.data.length * options.bits) / 8;
    expect(codes).toBeGreaterThanOrEqual(exact);
    if (options.grouping === 'perToken') expect(codes).toBe(exact);
  });

  test.prop([anyMatrix, groupedOptions])(
    'rows of a token quantize alone as they do together',
    (source, options) => {
      fc.pre(options.grouping === 'perToken');
      const whole = dequantizeMatrix(quantizeMatrix(source, options));
      const last = matrix(1, source.columns, source.data.subarray((source.rows - 1) * source.columns));
      const alone = dequantizeMatrix(quantizeMatrix(last, options));
      expect(whole.data.subarray((source.rows - 1) * source.columns)).toEqual(alone.data);
    },
  );

  test.prop([anyMatrix, groupedOptions])(
    'the largest possible error shrinks with bits',
    (source, options) => {
      // Half a level: scale(8) <= scale(4) <= scale(2) for min..max, up to the f16 rounding of each.
      const scales = ([2, 4, 8] as const).map((bits) =>
        Math.max(
          ...Array.from(
            quantizeMatrix(source, { ...options, bits, range: 'minmax' }).scales,
            fromFloat16Bits,
          ),
        ),
      );
      expect(scales[1]).toBeLessThanOrEqual(scales[0]);
      expect(scales[2]).toBeLessThanOrEqual(scales[1]);
    },
  );
});

describe('axis orientation (worked example)', () => {
  const rows = matrix(4, 2, Float32Array.of(0, 10, 1, 40, 2, 20, 4, 30));
  const common = { bits: 2, range: 'minmax' } as const;

  it('keys per channel', () => {
    const stored = quantizeMatrix(rows, { ...common, groupSize: 4, grouping: 'perChannel' });
    expect(Array.from(stored.scales, fromFloat16Bits)).toEqual([1.3330078125, 10]);
    expect(Array.from(stored.mins, fromFloat16Bits)).toEqual([0, 10]);
    expect([...unpackMatrix(stored)]).toEqual([0, 0, 1, 3, 2, 1, 3, 2]);
    expect([...dequantizeMatrix(stored).data]).toEqual([
      0, 10, 1.3330078125, 40, 2.666015625, 20, 3.9990234375, 30,
    ]);
  });

  it('values per token', () => {
    const stored = quantizeMatrix(rows, { ...common, groupSize: 2, grouping: 'perToken' });
    expect(Array.from(stored.scales, fromFloat16Bits)).toEqual([3.333984375, 13, 6, 8.6640625]);
    expect(Array.from(stored.mins, fromFloat16Bits)).toEqual([0, 1, 2, 4]);
    expect([...dequantizeMatrix(stored).data]).toEqual([0, 10.001953125, 1, 40, 2, 20, 4, 29.9921875]);
  });
});

describe('quantizeMatrix, bad input', () => {
  const source = matrix(3, 64);
  const options = { bits: 4, groupSize: 32, grouping: 'perToken', range: 'minmax' } as const;

  it('names token and channel of a NaN', () => {
    const broken = matrix(3, 64);
    broken.data[2 * 64 + 40] = Number.NaN;
    for (const grouping of ['perToken', 'perChannel'] as const) {
      const call = () => quantizeMatrix(broken, { ...options, grouping }, { layer: 5, tensor: 'x' });
      expect(call).toThrow(NumericError);
      expect(call).toThrow(/layer 5, tensor x, token 2, channel 40/);
    }
  });

  it('refuses options outside their set', () => {
    expect(() => quantizeMatrix(source, { ...options, bits: 5 as 4 })).toThrow(ConfigError);
    expect(() => quantizeMatrix(source, { ...options, groupSize: 0 })).toThrow(RangeError);
    expect(() => quantizeMatrix(source, { ...options, grouping: 'axis' as 'perToken' })).toThrow(ConfigError);
    expect(() => quantizeMatrix(source, { ...options, range: 'max' as 'mse' })).toThrow(ConfigError);
  });
});
