/**
 * Codes to bytes and back. TypeScript, WebAssembly and GPU kernels all produce exactly these bytes.
 *
 * Widths 1, 2, 4 and 8 are little-endian bit streams: code i sits at bits [i * bits, (i + 1) * bits).
 *
 *     bits = 2    byte 0            byte 1                      bits = 4    byte 0      byte 1
 *                 c3 c2 c1 c0       c7 c6 c5 c4   (msb .. lsb)              c1  c0      c3  c2
 *
 * Width 3 is split into planes, so that no code straddles a byte and SIMD code needs no shifts across
 * lanes: first the low two bits of all n codes as a 2-bit stream, then the high bits as a 1-bit stream.
 *
 *     bits = 3    | n/4 bytes: low two bits of c0 c1 c2 c3 ... | n/8 bytes: high bit of c0 c1 ... c7 ... |
 *
 * A group starts on a byte. One whose length does not fill its last byte leaves the upper bits zero.
 *
 * @module
 */

import { ShapeError } from '../errors.js';
import type { Bits } from './uniform.js';

/**
 * Bytes that `count` codes of one group take.
 *
 * @param count codes
 */
export function packedBytes(count: number, bits: Bits): number {
  if (bits === 3) return Math.ceil(count / 4) + Math.ceil(count / 8);
  return Math.ceil((count * bits) / 8);
}

/**
 * Packs the codes of one group.
 *
 * @param codes [n], each below 2^bits, read
 * @param packed [packedBytes(n, bits)], overwritten
 * @throws {ShapeError} if `packed` has another length
 */
export function packCodes(codes: Uint8Array, bits: Bits, packed: Uint8Array): void {
  assertPackedLength('packCodes', packed, codes.length, bits);
  packed.fill(0);
  if (bits === 3) {
    const high = packed.subarray(Math.ceil(codes.length / 4));
    for (let i = 0; i < codes.length; i++) {
      packed[i >> 2] |= (codes[i] & 3) << ((i & 3) * 2);
      high[i >> 3] |= (codes[i] >> 2) << (i & 7);
    }
    return;
  }
  const perByte = 8 / bits;
  for (let i = 0; i < codes.length; i++) {
    packed[Math.floor(i / perByte)] |= codes[i] << ((i % perByte) * bits);
  }
}

/**
 * Unpacks the codes of one group.
 *
 * @param packed [packedBytes(n, bits)], read
 * @param codes [n], overwritten
 * @throws {ShapeError} if `packed` has another length
 */
export function unpackCodes(packed: Uint8Array, bits: Bits, codes: Uint8Array): void {
  assertPackedLength('unpackCodes', packed, codes.length, bits);
  if (bits === 3) {
    const high = packed.subarray(Math.ceil(codes.length / 4));
    for (let i = 0; i < codes.length; i++) {
      const low = (packed[i >> 2] >> ((i & 3) * 2)) & 3;
      codes[i] = low | (((high[i >> 3] >> (i & 7)) & 1) << 2);
    }
    return;
  }
  const perByte = 8 / bits;
  const mask = 2 ** bits - 1;
  for (let i = 0; i < codes.length; i++) {
    codes[i] = (packed[Math.floor(i / perByte)] >> ((i % perByte) * bits)) & mask;
  }
}

function assertPackedLength(op: string, packed: Uint8Array, count: number, bits: Bits): void {
  const expected = packedBytes(count, bits);
  if (packed.length !== expected) throw new ShapeError(op, 'packed', [expected], [packed.length]);
}
