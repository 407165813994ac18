import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import {
  decodeBfloat16,
  decodeFloat16,
  encodeFloat16,
  fromFloat16Bits,
  roundToFloat16,
  toFloat16Bits,
} from '../../../src/numerics/float16.js';

const ALL_BITS = Array.from({ length: 0x10000 }, (_, bits) => bits);
const isNaN16 = (bits: number) => (bits & 0x7fff) > 0x7c00;

describe('f16', () => {
  it('every value survives decoding and encoding', () => {
    for (const bits of ALL_BITS) {
      if (isNaN16(bits)) expect(fromFloat16Bits(bits)).toBeNaN();
      else if (bits !== 0x8000) expect(toFloat16Bits(fromFloat16Bits(bits))).toBe(bits);
    }
    expect(toFloat16Bits(-0)).toBe(0x8000);
  });

  it('values grow with their bits', () => {
    for (let bits = 1; bits <= 0x7c00; bits++) {
      expect(fromFloat16Bits(bits)).toBeGreaterThan(fromFloat16Bits(bits - 1));
    }
  });

  it('the middle between two neighbours goes to the even one', () => {
    for (let bits = 0; bits < 0x7bff; bits++) {
      const middle = (fromFloat16Bits(bits) + fromFloat16Bits(bits + 1)) / 2; // exact in f32
      expect(toFloat16Bits(middle)).toBe(bits % 2 === 0 ? bits : bits + 1);
    }
  });

  test.prop([fc.float({ min: -65504, max: 65504, noNaN: true })])('rounds to the nearest', (value) => {
    const bits = toFloat16Bits(value);
    const error = Math.abs(fromFloat16Bits(bits) - value);
    for (const neighbour of [bits - 1, bits + 1]) {
      if ((neighbour & 0x7fff) > 0x7bff || neighbour < 0) continue;
      expect(error).toBeLessThanOrEqual(Math.abs(fromFloat16Bits(neighbour) - value));
    }
  });

  it('knows its edges', () => {
    expect(toFloat16Bits(65504)).toBe(0x7bff);
    expect(toFloat16Bits(Math.fround(65519.99))).toBe(0x7bff);
    expect(toFloat16Bits(65520)).toBe(0x7c00);
    expect(toFloat16Bits(Number.NEGATIVE_INFINITY)).toBe(0xfc00);
    expect(toFloat16Bits(Number.NaN)).toBe(0x7e00);
    expect(toFloat16Bits(2 ** -24)).toBe(1);
    expect(toFloat16Bits(2 ** -25)).toBe(0); // a tie between 0 and the smallest subnormal
    expect(toFloat16Bits(Math.fround(2 ** -25 * 1.0001))).toBe(1);
    expect(toFloat16Bits(1023.75 * 2 ** -24)).toBe(0x0400); // carries into the first normal number
  });

  test.prop([fc.array(fc.float({ noNaN: true }), { maxLength: 50 })])(
    'arrays convert element by element',
    (values) => {
      const bits = encodeFloat16(values);
      expect([...bits]).toEqual(values.map(toFloat16Bits));
      expect([...decodeFloat16(bits)]).toEqual(values.map(roundToFloat16));
    },
  );
});

test.prop([fc.integer({ min: 0, max: 0xffff })])('bfloat16 is the upper half of an f32', (bits) => {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint16(0, bits);
  expect(decodeBfloat16(Uint16Array.of(bits))[0]).toBe(view.getFloat32(0));
});
