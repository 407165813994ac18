import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { rankOf, roundTo, type Tensor, tensorOf, toBfloat16Bits } from '../../../src/check/case/tensor.js';
import { compareTensor, type Expected, placeOf } from '../../../src/check/compare/compare.js';
import { encodeFloat16 } from '../../../src/numerics/float16.js';

function floats(values: number[], bound?: number): Expected {
  return {
    dtype: 'F32',
    values: Float32Array.from(values),
    shape: [1, values.length],
    dimensions: ['token', 'channel'],
    bound: bound === undefined ? undefined : () => bound,
  };
}

function dump(values: number[], dtype: 'F32' | 'F16' | 'BF16' = 'F32'): Tensor {
  if (dtype === 'F32') return tensorOf(Float32Array.from(values), [1, values.length]);
  const bits = dtype === 'F16' ? encodeFloat16(values) : Uint16Array.from(values, toBfloat16Bits);
  return tensorOf(bits, [1, values.length], dtype);
}

describe('a comparison within bounds', () => {
  it('holds every element to its own bound', () => {
    const expected = { ...floats([1, 1, 1, 1]), bound: (i: number) => (i === 2 ? 0.5 : 0.01) };
    const report = compareTensor('y', expected, dump([1, 1.005, 1.4, 1.02]));
    expect(report).toMatchObject({ verdict: 'fail', differing: 3, failing: 1, elements: 4 });
    expect(report.mismatches).toHaveLength(1);
    expect(report.mismatches[0]).toMatchObject({
      place: { token: 0, channel: 3 },
      expected: 1,
      allowed: 0.01,
    });
    expect(report.largestAbsolute?.place).toEqual({ token: 0, channel: 2 });
    expect(report.largestOfAllowed?.place).toEqual({ token: 0, channel: 3 });
  });

  it('does not average: one wrong element among a million fails', () => {
    const values = new Array(100_000).fill(1);
    const found = values.slice();
    found[77_777] = 1.1;
    expect(compareTensor('y', floats(values, 1e-3), dump(found)).verdict).toBe('fail');
  });

  it.each([
    [
      [Number.NaN, 1],
      [1, 1],
    ],
    [
      [1, 1],
      [Number.NaN, 1],
    ],
    [
      [Number.POSITIVE_INFINITY, 1],
      [Number.NEGATIVE_INFINITY, 1],
    ],
    [
      [3e38, 1],
      [Number.POSITIVE_INFINITY, 1],
    ],
  ])('never skips what is not finite: %j, %j', (expected, found) => {
    const report = compareTensor('y', floats(expected, 1e30), dump(found));
    expect(report).toMatchObject({ verdict: 'fail', nonFinite: 1 });
  });

  it('accepts NaN and infinities in the same places', () => {
    const values = [Number.NaN, Number.POSITIVE_INFINITY, 2];
    expect(compareTensor('y', floats(values, 1e-3), dump(values)).verdict).toBe('pass');
  });

  it('says that a bound larger than the values proves nothing', () => {
    expect(compareTensor('y', floats([1, 2], 10), dump([1, 2])).verdict).toBe('inconclusive');
  });

  it('takes a tolerance of the user instead', () => {
    const tolerance = { absolute: 0.1, relative: 0.01 };
    expect(compareTensor('y', floats([100, 0]), dump([101, 0.0999]), tolerance).verdict).toBe('pass');
    expect(compareTensor('y', floats([100, 0]), dump([101.2, 0]), tolerance).verdict).toBe('fail');
    const stored = { ...floats([100, 0]), stored: true };
    expect(compareTensor('y', stored, dump([101, 0]), tolerance).verdict).toBe('fail');
  });
});

describe('dumps in narrower types', () => {
  it.each(['F16', 'BF16'] as const)('an exact result in %s is the result rounded once', (dtype) => {
    fc.assert(
      fc.property(fc.array(fc.float({ min: -1000, max: 1000, noNaN: true }), { minLength: 1 }), (values) => {
        expect(compareTensor('y', floats(values), dump(values, dtype)).failing).toBe(0);
        const [first] = values;
        const up = roundTo(dtype, first * 1.02 + 0.01);
        if (up !== roundTo(dtype, first)) {
          expect(compareTensor('y', floats(values), dump([up, ...values.slice(1)], dtype)).failing).toBe(1);
        }
      }),
    );
  });

  it('adds half a unit of the type to a bound and no more', () => {
    const oneUlp = 2 ** -10;
    expect(compareTensor('y', floats([1.0004], 1e-6), dump([1], 'F16')).verdict).toBe('pass');
    expect(compareTensor('y', floats([1.0004], 1e-6), dump([1 + oneUlp], 'F16')).verdict).toBe('fail');
  });

  it('reads f16 parameters that were dumped as their bits', () => {
    const expected: Expected = { ...floats([0.5, -2]), dtype: 'F16', stored: true };
    const bits = tensorOf(encodeFloat16([0.5, -2]), [1, 2]);
    expect(compareTensor('scales', expected, bits).verdict).toBe('pass');
  });
});

describe('what is stored', () => {
  it('has bits, so that -0 is not +0', () => {
    const expected: Expected = { ...floats([0, 1]), dtype: 'F16', stored: true };
    expect(compareTensor('mins', expected, dump([-0, 1], 'F16'))).toMatchObject({
      verdict: 'fail',
      failing: 1,
    });
  });

  it('in a result that is computed, signs of zeros are told and not counted', () => {
    const report = compareTensor('y', floats([0, 1]), dump([-0, 1]));
    expect(report).toMatchObject({ verdict: 'pass', differing: 0 });
    expect(report.notes.join()).toMatch(/1 zeros differ in sign/);
  });

  it('may be words: packed bytes as int32', () => {
    const bytes = Uint8Array.of(1, 2, 3, 250);
    const expected: Expected = { dtype: 'U8', values: bytes, shape: [4], dimensions: ['byte'], stored: true };
    const words = tensorOf(new Int32Array(bytes.slice().buffer), [1]);
    expect(compareTensor('packed', expected, words).verdict).toBe('pass');
  });

  it('of another size fails and says so', () => {
    const report = compareTensor('y', floats([1, 2]), dump([1, 2, 3]));
    expect(report.verdict).toBe('fail');
    expect(report.notes[0]).toMatch(/must be \[1, 2\], got \[1, 3\]/);
  });
});

describe('a report', () => {
  it('lists the first ten, counts all, and sorts distances', () => {
    const values = Array.from({ length: 50 }, (_, i) => i + 1);
    const report = compareTensor('y', floats(values, 0), dump(values.map((value) => value * 1.5)));
    expect(report.mismatches.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(report.mismatches[0]).toMatchObject({ expectedBits: '0x3f800000', foundBits: '0x3fc00000' });
    expect(report.failing).toBe(50);
    expect(report.ulpHistogram?.reduce((sum, { count }) => sum + count, 0)).toBe(50);
  });

  it.each([
    [[0, 0, 0], 'zero'],
    [[7, 7, 7], 'constant'],
  ] as const)('calls an output dead: %j', (found, dead) => {
    expect(compareTensor('y', floats([1, 2, 3], 0.1), dump([...found])).dead).toBe(dead);
  });

  it('does not call an output dead that should be constant', () => {
    expect(compareTensor('y', floats([0, 0, 0], 0.1), dump([0, 0, 0])).dead).toBeUndefined();
  });
});

describe('distances in units in the last place', () => {
  it.each([
    ['F32', 1, 1 + 2 ** -23, 1],
    ['F32', -(2 ** -149), 2 ** -149, 2],
    ['F32', -0, 0, 0],
    ['F16', 1, 1 + 2 ** -9, 2],
    ['BF16', 1, 1 + 2 ** -7, 1],
  ] as const)('%s: from %d to %d', (dtype, a, b, ulps) => {
    expect(Math.abs(rankOf(dtype, a) - rankOf(dtype, b))).toBe(ulps);
  });
});

describe('places', () => {
  it('name the coordinates of an element', () => {
    expect(placeOf(17, [2, 3, 4], ['layer', 'token', 'channel'])).toEqual({ layer: 1, token: 1, channel: 1 });
  });
});
