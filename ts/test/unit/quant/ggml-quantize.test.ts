import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { encodeQ4_0, encodeQ8_0, GGML_BLOCK } from '../../../src/quant/ggml-quantize.js';
import { decodeQ4_0, decodeQ8_0 } from '../../../src/quant/weight-formats.js';

const TYPES = {
  q4_0: { encode: encodeQ4_0, decode: decodeQ4_0, bytes: 18 },
  q8_0: { encode: encodeQ8_0, decode: decodeQ8_0, bytes: 34 },
};
type TypeName = keyof typeof TYPES;

/** Numbers whose steps are normal in f16. */
const block = fc
  .array(fc.float({ min: -1000, max: 1000, noNaN: true }), { minLength: GGML_BLOCK, maxLength: GGML_BLOCK })
  .filter((values) => Math.max(...values.map(Math.abs)) > 0.1)
  .map((values) => Float32Array.from(values));

function roundTrip(type: TypeName, values: Float32Array): Float32Array {
  const { encode, decode, bytes } = TYPES[type];
  const [packed, out] = [new Uint8Array(bytes), new Float32Array(GGML_BLOCK)];
  encode(values, 0, packed, 0);
  decode(packed, 0, out, 0);
  return out;
}

describe('blocks of ggml, read by the reader of GGUF files', () => {
  test.prop([block])('q8_0 is off by half a step at most, less the rounding of the step', (values) => {
    const largest = Math.max(...values.map(Math.abs));
    const step = largest / 127;
    const back = roundTrip('q8_0', values);
    values.forEach((value, i) => {
      expect(Math.abs(value - back[i])).toBeLessThanOrEqual(step / 2 + largest * 2 ** -10);
    });
  });

  test.prop([block])('q4_0 is off by half a step at most, where it has steps', (values) => {
    const extreme = values.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a));
    const step = Math.abs(extreme) / 8;
    const back = roundTrip('q4_0', values);
    values.forEach((value, i) => {
      // On the other side of zero there are 7 steps, so that the last half step of it is cut off.
      const isCut = -Math.sign(extreme) * value > 7.5 * step;
      const bound = isCut ? step : step / 2;
      expect(Math.abs(value - back[i])).toBeLessThanOrEqual(bound + Math.abs(extreme) * 2 ** -10);
    });
  });

  test.prop([block, fc.constantFrom<TypeName>('q4_0', 'q8_0'), fc.integer({ min: -6, max: 6 })])(
    'a power of two times the numbers is the same codes',
    (values, type, exponent) => {
      const scaled = values.map((value) => value * 2 ** exponent);
      const [once, again] = [values, scaled].map((each) => {
        const packed = new Uint8Array(TYPES[type].bytes);
        TYPES[type].encode(each, 0, packed, 0);
        return packed.subarray(2);
      });
      expect(again).toEqual(once);
    },
  );

  it('keeps zeros', () => {
    for (const type of ['q4_0', 'q8_0'] as const) {
      expect(roundTrip(type, new Float32Array(GGML_BLOCK)).every((value) => value === 0)).toBe(true);
    }
  });

  it('q8_0 rounds halves away from zero; q4_0 gives the extreme its sign', () => {
    const values = new Float32Array(GGML_BLOCK);
    values.set([127, 2.5, -2.5, 0.5, -0.5]);
    expect([...roundTrip('q8_0', values).subarray(0, 5)]).toEqual([127, 3, -3, 1, -1]);
    values.fill(0).set([-8, 7, 8, 7.5, 1.4]);
    expect([...roundTrip('q4_0', values).subarray(0, 5)]).toEqual([-8, 7, 7, 7, 1]);
    values.fill(0).set([8, -7, -8, 1.6]);
    expect([...roundTrip('q4_0', values).subarray(0, 4)]).toEqual([8, -7, -7, 2]);
  });
});
