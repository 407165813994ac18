import { readFileSync } from 'node:fs';
import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { NumericError } from '../../../src/errors.js';
import { fromFloat16Bits, toFloat16Bits } from '../../../src/numerics/float16.js';
import {
  BITS,
  type Bits,
  dequantizeGroup,
  encodeGroup,
  MSE_RANGE_FACTORS,
  maxCode,
  quantizeGroup,
  RANGE_RULES,
  type RangeRule,
} from '../../../src/quant/uniform.js';
import { anyBits, float32Values, groupValues } from '../../helpers/arbitraries.js';

interface WorkedCase {
  id: string;
  bits: Bits;
  x: number[];
  s16: string;
  m16: string;
  codes: number[];
  xhat_f32: string[];
}

/** Cases E1 to E10, computed with numpy and checked against an independent JavaScript implementation. */
const CASES: WorkedCase[] = JSON.parse(
  readFileSync(new URL('../../fixtures/uniform-cases.json', import.meta.url), 'utf8'),
);

const hex = (value: number, digits: number) => `0x${value.toString(16).padStart(digits, '0')}`;
const float32Bits = (values: Float32Array) =>
  Array.from(new Uint32Array(values.buffer), (bits) => hex(bits, 8));

function roundTrip(values: Float32Array, bits: Bits, range: RangeRule) {
  const codes = new Uint8Array(values.length);
  const parameters = quantizeGroup(values, bits, range, codes);
  const decoded = new Float32Array(values.length);
  dequantizeGroup(codes, parameters, decoded);
  return { codes, parameters, decoded };
}

describe('quantizeGroup, worked cases', () => {
  it.each(CASES)('$id has exactly these bits', ({ bits, x, s16, m16, codes, xhat_f32 }) => {
    const result = roundTrip(Float32Array.from(x), bits, 'minmax');
    expect(hex(result.parameters.scale, 4)).toBe(s16);
    expect(hex(result.parameters.min, 4)).toBe(m16);
    expect([...result.codes]).toEqual(codes);
    expect(float32Bits(result.decoded)).toEqual(xhat_f32);
  });
});

describe('quantizeGroup, laws', () => {
  test.prop([groupValues(), anyBits])(
    'stays within half a level and the rounding of its parameters',
    (values, bits) => {
      const { parameters, decoded } = roundTrip(values, bits, 'minmax');
      const scale = fromFloat16Bits(parameters.scale);
      const min = fromFloat16Bits(parameters.min);
      const low = Math.min(...values);
      const high = Math.max(...values);
      // baselines.md section 2: half a level inside the stored range; outside, the distance to its end.
      const bound =
        scale === 0
          ? Math.max(high - min, min - low)
          : Math.max(scale / 2, min - low, high - (min + maxCode(bits) * scale));
      // The quotient and the product-sum are rounded to f32 once each.
      const rounding = 4 * 2 ** -24 * (Math.abs(min) + (maxCode(bits) + 1) * scale);
      values.forEach((value, i) => {
        expect(Math.abs(value - decoded[i])).toBeLessThanOrEqual(bound + rounding);
      });
    },
  );

  test.prop([groupValues(), anyBits, fc.constantFrom(...RANGE_RULES)])(
    'codes fit their bits',
    (values, bits, range) => {
      const { codes } = roundTrip(values, bits, range);
      expect(Math.max(...codes)).toBeLessThanOrEqual(maxCode(bits));
    },
  );

  test.prop([fc.float({ noNaN: true, min: -65504, max: 65504 }), fc.integer({ min: 1, max: 130 }), anyBits])(
    'a constant group has scale 0, codes 0 and the value rounded to f16',
    (value, count, bits) => {
      const { parameters, codes, decoded } = roundTrip(new Float32Array(count).fill(value), bits, 'mse');
      expect(parameters.scale).toBe(0);
      expect(codes.every((code) => code === 0)).toBe(true);
      const rounded = fromFloat16Bits(toFloat16Bits(value));
      expect(decoded.every((decodedValue) => decodedValue === rounded)).toBe(true);
    },
  );

  test.prop([groupValues(), anyBits, fc.constantFrom(...RANGE_RULES)])(
    'what was decoded has the same codes again under the same parameters',
    (values, bits, range) => {
      const { parameters, codes, decoded } = roundTrip(values, bits, range);
      const again = new Uint8Array(values.length);
      encodeGroup(decoded, parameters, bits, again);
      // A level must be told apart from its neighbours: not so where the offset swallows the scale.
      const scale = fromFloat16Bits(parameters.scale);
      const largest = Math.abs(fromFloat16Bits(parameters.min)) + maxCode(bits) * scale;
      fc.pre(scale === 0 || scale > largest * 2 ** -22);
      expect(again).toEqual(codes);
    },
  );

  test.prop([groupValues(), anyBits])('mse is never worse than minmax', (values, bits) => {
    const error = (decoded: Float32Array) =>
      values.reduce((sum, value, i) => sum + (value - decoded[i]) ** 2, 0);
    const minmax = error(roundTrip(values, bits, 'minmax').decoded);
    const mse = error(roundTrip(values, bits, 'mse').decoded);
    // The choice is made on a sum in f32: n additions of rounded squares.
    expect(mse).toBeLessThanOrEqual(minmax * (1 + (values.length + 4) * 2 ** -23) + Number.MIN_VALUE);
  });

  test.prop([groupValues(), anyBits])(
    'the order of values does not change the parameters of minmax',
    (values, bits) => {
      const reversed = values.slice().reverse();
      expect(roundTrip(reversed, bits, 'minmax').parameters).toEqual(
        roundTrip(values, bits, 'minmax').parameters,
      );
    },
  );

  it('a zero minimum is +0, wherever a -0 stands', () => {
    expect(roundTrip(Float32Array.of(-0, 1, 0), 2, 'minmax').parameters.min).toBe(0x0000);
    expect(roundTrip(Float32Array.of(0, 1, -0), 2, 'minmax').parameters.min).toBe(0x0000);
  });

  it('mse tries 13 factors from 1.00 down to 0.40', () => {
    const expected = ['1', '.95', '.9', '.85', '.8', '.75', '.7', '.65', '.6', '.55', '.5', '.45', '.4'];
    expect([...MSE_RANGE_FACTORS]).toEqual(expected.map((text) => Math.fround(Number(text))));
  });

  it('mse gives up an outlier to serve the rest', () => {
    const values = Float32Array.from({ length: 128 }, (_, i) => (i === 0 ? 1 : Math.sin(i) * 0.4));
    expect(roundTrip(values, 2, 'mse').parameters.scale).toBeLessThan(
      roundTrip(values, 2, 'minmax').parameters.scale,
    );
  });
});

describe('quantizeGroup, bad input', () => {
  it.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])(
    '%s is refused by place',
    (value) => {
      const place = { layer: 3, token: 7, channel: 9, tensor: 'x' };
      const call = () => quantizeGroup(Float32Array.of(0, value, 1), 4, 'minmax', new Uint8Array(3), place);
      expect(call).toThrow(NumericError);
      expect(call).toThrow(/layer 3, token 7, channel 9, tensor x/);
    },
  );

  test.prop([fc.constantFrom(...BITS), float32Values({ min: 65520, max: 3e38 })])(
    'a minimum outside f16 is refused',
    (bits, magnitude) => {
      const values = Float32Array.of(-magnitude, 0);
      expect(() => quantizeGroup(values, bits, 'minmax', new Uint8Array(2))).toThrow(/does not fit in f16/);
    },
  );

  it('a range outside f16 is refused', () => {
    const values = Float32Array.of(-65504, 65504);
    expect(() => quantizeGroup(values, 1, 'minmax', new Uint8Array(2))).toThrow(
      /range .* does not fit in f16/,
    );
    expect(() => quantizeGroup(values, 2, 'minmax', new Uint8Array(2))).not.toThrow();
  });
});
