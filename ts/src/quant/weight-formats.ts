/**
 * The block formats of ggml, bit by bit: a block is a run of 32 or 256 weights along a row; it holds small integer
 * codes and the numbers that turn them into weights.
 *
 * Every decoder writes one block from `bytes[at]` into `out[to ...]`. A value is computed without error in f64 and
 * rounded to f32 once, which gives ggml's bits: its f32 products of a scale and a code are exact, too.
 *
 * @module
 */

import { fromFloat16Bits } from '../numerics/float16.js';

/** Decodes the block that starts at `bytes[at]` into `out[to ...]`. */
export type BlockDecoder = (bytes: Uint8Array, at: number, out: Float32Array, to: number) => void;

/** Writes the block that starts at `bytes[at]` as a block of another format, without loss, into `out[to ...]`. */
export type BlockRewrite = (bytes: Uint8Array, at: number, out: Uint8Array, to: number) => void;

/**
 *     byte  0 1        2 ... 33
 *          [scale f16][32 codes, int8]              weight = scale * code
 */
export function decodeQ8_0(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
  const scale = float16At(bytes, at);
  for (let i = 0; i < 32; i++) out[to + i] = scale * signed8(bytes[at + 2 + i]);
}

/**
 *     byte  0 1        2 ... 17
 *          [scale f16][16 bytes]                    weight = scale * (code - 8)
 *
 * Byte j holds code j in its low half and code j + 16 in its high half.
 */
export function decodeQ4_0(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
  const scale = float16At(bytes, at);
  for (let j = 0; j < 16; j++) {
    const pair = bytes[at + 2 + j];
    out[to + j] = scale * ((pair & 15) - 8);
    out[to + j + 16] = scale * ((pair >> 4) - 8);
  }
}

/**
 *     byte  0 1        2 3      4 ... 19
 *          [scale f16][min f16][16 bytes]           weight = scale * code + min
 *
 * Codes as in Q4_0.
 */
export function decodeQ4_1(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
  const scale = float16At(bytes, at);
  const min = float16At(bytes, at + 2);
  for (let j = 0; j < 16; j++) {
    const pair = bytes[at + 4 + j];
    out[to + j] = scale * (pair & 15) + min;
    out[to + j + 16] = scale * (pair >> 4) + min;
  }
}

/**
 *     byte  0 1        2 ... 5           6 ... 21
 *          [scale f16][fifth bits, u32][16 bytes]   weight = scale * (code - 16)
 *
 * Low bits as in Q4_0; bit i of the u32 is the fifth bit of code i.
 */
export function decodeQ5_0(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
  const scale = float16At(bytes, at);
  for (let i = 0; i < 32; i++) out[to + i] = scale * (fiveBitCode(bytes, at + 2, i) - 16);
}

/**
 *     byte  0 1        2 3      4 ... 7           8 ... 23
 *          [scale f16][min f16][fifth bits, u32][16 bytes]    weight = scale * code + min
 *
 * Codes as in Q5_0.
 */
export function decodeQ5_1(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
  const scale = float16At(bytes, at);
  const min = float16At(bytes, at + 2);
  for (let i = 0; i < 32; i++) out[to + i] = scale * fiveBitCode(bytes, at + 4, i) + min;
}

/** Code i (0 to 31) of Q5_0 and Q5_1: four bytes of fifth bits, then 16 bytes of pairs. */
function fiveBitCode(bytes: Uint8Array, at: number, i: number): number {
  const fifth = (bytes[at + (i >> 3)] >> (i & 7)) & 1;
  return nibble(bytes, at + 4, i) | (fifth << 4);
}

/** The 16 levels of IQ4_NL and IQ4_XS: dense near zero, where most weights are. */
const NONLINEAR_LEVELS = Int8Array.of(
  ...[-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113],
);

/**
 *     byte  0 1        2 ... 17
 *          [scale f16][16 bytes]                    weight = scale * NONLINEAR_LEVELS[code]
 *
 * Codes as in Q4_0.
 */
export function decodeIQ4_NL(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
  const scale = float16At(bytes, at);
  for (let i = 0; i < 32; i++) out[to + i] = scale * NONLINEAR_LEVELS[nibble(bytes, at + 2, i)];
}

/**
 *     byte  0 1        2 3              4 ... 7              8 ... 135
 *          [scale f16][8 x upper 2 bits][8 x lower 4 bits][128 bytes]
 *
 *     weight = scale * (scales[s] - 32) * NONLINEAR_LEVELS[code],   s = index / 32
 *
 * Each sub-block of 32 has 16 bytes of codes, as in Q4_0.
 */
export function decodeIQ4_XS(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
  const scale = float16At(bytes, at);
  const upper = bytes[at + 2] | (bytes[at + 3] << 8);
  for (let s = 0; s < 8; s++) {
    const lower = (bytes[at + 4 + (s >> 1)] >> (4 * (s & 1))) & 15;
    const subScale = scale * ((lower | (((upper >> (2 * s)) & 3) << 4)) - 32);
    for (let i = 0; i < 32; i++) {
      out[to + s * 32 + i] = subScale * NONLINEAR_LEVELS[nibble(bytes, at + 8 + s * 16, i)];
    }
  }
}

/** The 16 values of a 4-bit float (E2M1), doubled so that they are integers. */
const FLOAT4_VALUES = Int8Array.of(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);

/**
 *     byte  0                  1 ... 16
 *          [exponent e, E8M0][16 bytes]             weight = 2^(e - 128) * FLOAT4_VALUES[code]
 *
 * Codes as in Q4_0 (OCP Microscaling Formats, version 1.0). ggml reads e = 255, which is no number in the
 * standard, as 2^127; so it is here.
 */
export function decodeMXFP4(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
  const scale = 2 ** (bytes[at] - 128);
  for (let i = 0; i < 32; i++) out[to + i] = scale * FLOAT4_VALUES[nibble(bytes, at + 1, i)];
}

/** Code i (0 to 31) of 16 bytes: byte j holds code j in its low half and code j + 16 in its high half. */
function nibble(bytes: Uint8Array, at: number, i: number): number {
  return (bytes[at + (i & 15)] >> ((i >> 4) << 2)) & 15;
}

/**
 *     byte  0 ... 15                 16 ... 79   80 81       82 83
 *          [16 x (scale, min) 4 + 4][64 bytes][scale f16][min f16]
 *
 *     weight = scale * scales[s] * code - min * mins[s],   s = index / 16
 *
 * Two halves of 128 weights, each four runs of 32 (r = 0..3): weight i of run r has bits 2r and 2r + 1 of byte i
 * of the half's 32.
 */
export function decodeQ2_K(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
  const scale = float16At(bytes, at + 80);
  const min = float16At(bytes, at + 82);
  for (let s = 0; s < 16; s++) {
    const subScale = scale * (bytes[at + s] & 15);
    const subMin = min * (bytes[at + s] >> 4);
    for (let i = s * 16; i < s * 16 + 16; i++)
      out[to + i] = subScale * twoBitCode(bytes, at + 16, i) - subMin;
  }
}

/** Code i (0 to 255) of the 64 bytes of Q2_K and Q3_K. */
function twoBitCode(bytes: Uint8Array, at: number, i: number): number {
  return (bytes[at + (i >> 7) * 32 + (i & 31)] >> (2 * ((i >> 5) & 3))) & 3;
}

/**
 *     byte  0 ... 31    32 ... 95   96 ... 107      108 109
 *          [third bits][64 bytes][16 x 6 bits][scale f16]
 *
 *     weight = scale * (scales[s] - 32) * (code - 4),   s = index / 16
 *
 * Low bits as in Q2_K; bit 4 * half + r of byte i is the third bit.
 */
export function decodeQ3_K(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
  const scale = float16At(bytes, at + 108);
  for (let s = 0; s < 16; s++) {
    const subScale = scale * threeBitScale(bytes, at, s);
    for (let i = s * 16; i < s * 16 + 16; i++) out[to + i] = subScale * threeBitCode(bytes, at, i);
  }
}

/** Code i (0 to 255) of a Q3_K block, from -4 to 3. */
function threeBitCode(bytes: Uint8Array, at: number, i: number): number {
  const third = (bytes[at + (i & 31)] >> (i >> 5)) & 1;
  return (twoBitCode(bytes, at + 32, i) | (third << 2)) - 4;
}

/**
 * Scale s (0 to 15) of a Q3_K block, from -32 to 31. Of its six bits, the lower four are halves of bytes 96 to 103
 * (s and s + 8 in one byte), the upper two are in bytes 104 to 107 (s, s + 4, s + 8 and s + 12 in one byte).
 */
function threeBitScale(bytes: Uint8Array, at: number, s: number): number {
  const lower = (bytes[at + 96 + (s & 7)] >> (4 * (s >> 3))) & 15;
  const upper = (bytes[at + 104 + (s & 3)] >> (2 * (s >> 2))) & 3;
  return (lower | (upper << 4)) - 32;
}

/**
 *     byte  0 1        2 3      4 ... 15          16 ... 143
 *          [scale f16][min f16][8 x (6 + 6 bits)][128 bytes]
 *
 *     weight = scale * scales[s] * code - min * mins[s],   s = index / 32
 *
 * 256 weights in eight sub-blocks of 32. Sub-blocks 2j and 2j + 1 share 32 bytes: low halves, high halves.
 */
export function decodeQ4_K(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
  const scale = float16At(bytes, at);
  const min = float16At(bytes, at + 2);
  for (let s = 0; s < 8; s++) {
    const subScale = scale * sixBitScale(bytes, at + 4, s);
    const subMin = min * sixBitMin(bytes, at + 4, s);
    const codes = at + 16 + (s >> 1) * 32;
    const shift = (s & 1) * 4;
    for (let i = 0; i < 32; i++) {
      out[to + s * 32 + i] = subScale * ((bytes[codes + i] >> shift) & 15) - subMin;
    }
  }
}

/**
 *     byte  0 1        2 3      4 ... 15          16 ... 47   48 ... 175
 *          [scale f16][min f16][8 x (6 + 6 bits)][fifth bits][128 bytes]
 *
 * As Q4_K, with a fifth bit: bit s of byte 16 + i belongs to weight i of sub-block s.
 */
export function decodeQ5_K(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
  const scale = float16At(bytes, at);
  const min = float16At(bytes, at + 2);
  for (let s = 0; s < 8; s++) {
    const subScale = scale * sixBitScale(bytes, at + 4, s);
    const subMin = min * sixBitMin(bytes, at + 4, s);
    const codes = at + 48 + (s >> 1) * 32;
    const shift = (s & 1) * 4;
    for (let i = 0; i < 32; i++) {
      const high = ((bytes[at + 16 + i] >> s) & 1) << 4;
      out[to + s * 32 + i] = subScale * (((bytes[codes + i] >> shift) & 15) | high) - subMin;
    }
  }
}

/**
 *     byte  0 ... 127       128 ... 191       192 ... 207       208 209
 *          [low four bits][upper two bits][16 scales, int8][scale f16]
 *
 *     weight = scale * scales[index / 16] * (code - 32)
 *
 * Two halves of 128 weights, each four runs of 32 (r = 0..3). Weight i of run r has its low bits in byte
 * 32 (r mod 2) + i of the half's 64, low half for r < 2 and high half after; its upper bits are bits 2r and
 * 2r + 1 of byte i of the half's 32.
 */
export function decodeQ6_K(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
  const scale = float16At(bytes, at + 208);
  for (let half = 0; half < 2; half++) {
    const low = at + half * 64;
    const high = at + 128 + half * 32;
    const scales = at + 192 + half * 8;
    for (let r = 0; r < 4; r++) {
      for (let i = 0; i < 32; i++) {
        const lowBits = (bytes[low + (r & 1) * 32 + i] >> (r < 2 ? 0 : 4)) & 15;
        const highBits = ((bytes[high + i] >> (2 * r)) & 3) << 4;
        const subScale = signed8(bytes[scales + 2 * r + (i >> 4)]);
        out[to + half * 128 + r * 32 + i] = scale * subScale * ((lowBits | highBits) - 32);
      }
    }
  }
}

/** Q5_0 as Q8_0: the same scale, codes less 16. */
export function rewriteQ5_0(bytes: Uint8Array, at: number, out: Uint8Array, to: number): void {
  out.set(bytes.subarray(at, at + 2), to);
  for (let i = 0; i < 32; i++) out[to + 2 + i] = fiveBitCode(bytes, at + 2, i) - 16;
}

/** IQ4_NL as Q8_0: the same scale, codes looked up. */
export function rewriteIQ4_NL(bytes: Uint8Array, at: number, out: Uint8Array, to: number): void {
  out.set(bytes.subarray(at, at + 2), to);
  for (let i = 0; i < 32; i++) out[to + 2 + i] = NONLINEAR_LEVELS[nibble(bytes, at + 2, i)];
}

/** Q3_K as Q6_K: the same scale of the block, scales less 32 as bytes, codes of three bits in the place of six. */
export function rewriteQ3_K(bytes: Uint8Array, at: number, out: Uint8Array, to: number): void {
  out.fill(0, to, to + 192);
  for (let i = 0; i < 256; i++) {
    const code = threeBitCode(bytes, at, i) + 32;
    const [half, run, lane] = [i >> 7, (i >> 5) & 3, i & 31];
    out[to + half * 64 + (run & 1) * 32 + lane] |= (code & 15) << (run < 2 ? 0 : 4);
    out[to + 128 + half * 32 + lane] |= (code >> 4) << (2 * run);
  }
  for (let s = 0; s < 16; s++) out[to + 192 + s] = threeBitScale(bytes, at, s);
  out.set(bytes.subarray(at + 108, at + 110), to + 208);
}

/** MXFP4 as BF16: a power of two times an integer of two bits is a bfloat16. */
export function rewriteMXFP4(bytes: Uint8Array, at: number, out: Uint8Array, to: number): void {
  const values = new Float32Array(32);
  decodeMXFP4(bytes, at, values, 0);
  const words = new Uint8Array(values.buffer);
  for (let i = 0; i < 32; i++) out.set(words.subarray(4 * i + 2, 4 * i + 4), to + 2 * i);
}

// Eight scales and eight mins of six bits in 12 bytes:
//
//     byte     bits 7 6              bits 5 ... 0
//     0 ... 3  scale 4 ... 7, upper  scale 0 ... 3
//     4 ... 7  min 4 ... 7, upper    min 0 ... 3
//     8 ... 11 bits 7 ... 4: min 4 ... 7, lower; bits 3 ... 0: scale 4 ... 7, lower
function sixBitScale(bytes: Uint8Array, at: number, s: number): number {
  if (s < 4) return bytes[at + s] & 63;
  return (bytes[at + s + 4] & 15) | ((bytes[at + s - 4] >> 6) << 4);
}

function sixBitMin(bytes: Uint8Array, at: number, s: number): number {
  if (s < 4) return bytes[at + s + 4] & 63;
  return (bytes[at + s + 4] >> 4) | ((bytes[at + s] >> 6) << 4);
}

function float16At(bytes: Uint8Array, at: number): number {
  return fromFloat16Bits(bytes[at] | (bytes[at + 1] << 8));
}

function signed8(byte: number): number {
  return (byte << 24) >> 24;
}
