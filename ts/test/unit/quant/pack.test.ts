import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../../../src/errors.js';
import { packCodes, packedBytes, unpackCodes } from '../../../src/quant/pack.js';
import { BITS, type Bits, maxCode } from '../../../src/quant/uniform.js';

const codesOf = (bits: Bits) =>
  fc
    .array(fc.integer({ min: 0, max: maxCode(bits) }), { minLength: 1, maxLength: 300 })
    .map((codes) => Uint8Array.from(codes));

function pack(codes: Uint8Array, bits: Bits): Uint8Array {
  const packed = new Uint8Array(packedBytes(codes.length, bits));
  packCodes(codes, bits, packed);
  return packed;
}

/** The layout of docs/format.md once more, written as a stream of single bits. */
function packBitByBit(codes: Uint8Array, bits: Bits): Uint8Array {
  const stream = (values: number[], width: number) => {
    const bytes = new Uint8Array(Math.ceil((values.length * width) / 8));
    values.forEach((value, i) => {
      for (let b = 0; b < width; b++) {
        const at = i * width + b;
        if ((value >> b) & 1) bytes[at >> 3] |= 1 << (at & 7);
      }
    });
    return bytes;
  };
  if (bits !== 3) return stream([...codes], bits);
  const low = stream(
    Array.from(codes, (code) => code & 3),
    2,
  );
  const high = stream(
    Array.from(codes, (code) => code >> 2),
    1,
  );
  return Uint8Array.of(...low, ...high);
}

describe.each(BITS)('%i bits', (bits) => {
  test.prop([codesOf(bits)])('unpacking is the inverse of packing', (codes) => {
    const unpacked = new Uint8Array(codes.length);
    unpackCodes(pack(codes, bits), bits, unpacked);
    expect(unpacked).toEqual(codes);
  });

  test.prop([codesOf(bits)])('the bytes are those of a bit stream', (codes) => {
    expect(pack(codes, bits)).toEqual(packBitByBit(codes, bits));
  });

  it('takes bits / 8 bytes a code when the count is a multiple of 32', () => {
    for (const count of [32, 64, 128, 192, 256]) expect(packedBytes(count, bits)).toBe((count * bits) / 8);
  });

  it('overwrites what was in the bytes before', () => {
    const packed = new Uint8Array(packedBytes(64, bits)).fill(0xff);
    packCodes(new Uint8Array(64), bits, packed);
    expect(packed.every((byte) => byte === 0)).toBe(true);
  });

  it('refuses a buffer of another length', () => {
    expect(() => packCodes(new Uint8Array(32), bits, new Uint8Array(1000))).toThrow(ShapeError);
    expect(() => unpackCodes(new Uint8Array(1000), bits, new Uint8Array(32))).toThrow(ShapeError);
  });
});

it('places the first code in the lowest bits', () => {
  expect([...pack(Uint8Array.of(1, 0, 0, 3), 2)]).toEqual([0b11_00_00_01]);
  expect([...pack(Uint8Array.of(0x1, 0xf), 4)]).toEqual([0xf1]);
  expect([...pack(Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 1), 1)]).toEqual([0b1000_0001]);
  // 3 bits: code 5 = high bit 1, low bits 01; code 2 = high bit 0, low bits 10.
  expect([...pack(Uint8Array.of(5, 2, 0, 0, 0, 0, 0, 4), 3)]).toEqual([0b00_00_10_01, 0, 0b1000_0001]);
});
