/**
 * How model files store weights, and what those bytes mean: the block formats of GGUF and plain floats.
 *
 * The block formats are those of ggml. A block is a run of 32 or 256 weights along a row; it holds small
 * integer codes and the f16 numbers that turn them into weights. These are *weight* formats, read and never
 * written here; what a cache stores is in `uniform.ts` and `pack.ts`.
 *
 * @module
 */

import { ShapeError } from '../errors.js';
import { alignedCopy } from '../numerics/bytes.js';
import { decodeBfloat16, decodeFloat16, fromFloat16Bits } from '../numerics/float16.js';
import { type Matrix, matrix } from '../numerics/matrix.js';

/** Weight types that this package reads. */
export const WEIGHT_TYPES = ['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1', 'Q4_K', 'Q5_K', 'Q6_K'] as const;

/** One of {@link WEIGHT_TYPES}. */
export type WeightType = (typeof WEIGHT_TYPES)[number];

/** A weight matrix as the bytes of its file. */
export interface WeightTensor {
  /** The name in the file. */
  readonly name: string;
  readonly type: WeightType;
  /** Output channels; 1 for a vector. */
  readonly rows: number;
  /** Input channels. */
  readonly columns: number;
  /** Row-major, rows of whole blocks. */
  readonly bytes: Uint8Array;
}

/** Elements and bytes of one block. */
export const WEIGHT_BLOCKS: Readonly<Record<WeightType, { elements: number; bytes: number }>> = {
  F32: { elements: 1, bytes: 4 },
  F16: { elements: 1, bytes: 2 },
  BF16: { elements: 1, bytes: 2 },
  Q8_0: { elements: 32, bytes: 34 },
  Q4_0: { elements: 32, bytes: 18 },
  Q4_1: { elements: 32, bytes: 20 },
  Q4_K: { elements: 256, bytes: 144 },
  Q5_K: { elements: 256, bytes: 176 },
  Q6_K: { elements: 256, bytes: 210 },
};

/**
 * Bytes of a weight matrix.
 *
 * @throws {ShapeError} if `columns` is not a whole number of blocks
 */
export function weightBytes(type: WeightType, rows: number, columns: number): number {
  const block = WEIGHT_BLOCKS[type];
  if (columns % block.elements !== 0) {
    throw new ShapeError('weightBytes', type, ['*', `a multiple of ${block.elements}`], [rows, columns]);
  }
  return rows * (columns / block.elements) * block.bytes;
}

/**
 * Dequantizes a weight matrix to f32.
 *
 * Every value is computed without error in f64 and rounded to f32 once, which gives ggml's bits: its f32
 * products of a scale and a code are exact, too.
 *
 * @returns fresh, [rows, columns]
 * @throws {ShapeError} if the bytes do not fit the shape
 */
export function dequantizeWeights(tensor: WeightTensor): Matrix {
  const { name, type, rows, columns, bytes } = tensor;
  const expected = weightBytes(type, rows, columns);
  if (bytes.length !== expected) {
    throw new ShapeError('dequantizeWeights', name, [`${expected} bytes`], [bytes.length]);
  }
  if (type === 'F32') return matrix(rows, columns, new Float32Array(alignedCopy(bytes)));
  if (type === 'F16') return matrix(rows, columns, decodeFloat16(new Uint16Array(alignedCopy(bytes))));
  if (type === 'BF16') return matrix(rows, columns, decodeBfloat16(new Uint16Array(alignedCopy(bytes))));

  const result = matrix(rows, columns);
  const block = WEIGHT_BLOCKS[type];
  const decodeBlock = BLOCK_DECODERS[type];
  for (let at = 0, out = 0; at < bytes.length; at += block.bytes, out += block.elements) {
    decodeBlock(bytes, at, result.data, out);
  }
  return result;
}

/** Decodes the block that starts at `bytes[at]` into `out[to ...]`. */
type BlockDecoder = (bytes: Uint8Array, at: number, out: Float32Array, to: number) => void;

const BLOCK_DECODERS: Record<Exclude<WeightType, 'F32' | 'F16' | 'BF16'>, BlockDecoder> = {
  Q8_0: decodeQ8_0,
  Q4_0: decodeQ4_0,
  Q4_1: decodeQ4_1,
  Q4_K: decodeQ4_K,
  Q5_K: decodeQ5_K,
  Q6_K: decodeQ6_K,
};

/**
 *     byte  0 1        2 ... 33
 *          [scale f16][32 codes, int8]              weight = scale * code
 */
function decodeQ8_0(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
  const scale = float16At(bytes, at);
  for (let i = 0; i < 32; i++) out[to + i] = scale * signed8(bytes[at + 2 + i]);
}

/**
 *     byte  0 1        2 ... 17
 *          [scale f16][16 bytes]                    weight = scale * (code - 8)
 *
 * Byte j holds code j in its low half and code j + 16 in its high half.
 */
function decodeQ4_0(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
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
function decodeQ4_1(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
  const scale = float16At(bytes, at);
  const min = float16At(bytes, at + 2);
  for (let j = 0; j < 16; j++) {
    const pair = bytes[at + 4 + j];
    out[to + j] = scale * (pair & 15) + min;
    out[to + j + 16] = scale * (pair >> 4) + min;
  }
}

/**
 *     byte  0 1        2 3      4 ... 15          16 ... 143
 *          [scale f16][min f16][8 x (6 + 6 bits)][128 bytes]
 *
 *     weight = scale * scales[s] * code - min * mins[s],   s = index / 32
 *
 * 256 weights in eight sub-blocks of 32. Sub-blocks 2j and 2j + 1 share 32 bytes: low halves, high halves.
 */
function decodeQ4_K(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
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
function decodeQ5_K(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
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
function decodeQ6_K(bytes: Uint8Array, at: number, out: Float32Array, to: number): void {
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
