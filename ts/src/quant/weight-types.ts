/**
 * How model files store weights: one row a type, with everything that is known of it.
 *
 * The block formats are those of ggml, drawn in weight-formats.ts. These are *weight* formats, read and never
 * written here; what a cache stores is in `uniform.ts` and `pack.ts`.
 *
 * @module
 */

import { ShapeError } from '../errors.js';
import { alignedCopy } from '../numerics/bytes.js';
import { decodeBfloat16, decodeFloat16 } from '../numerics/float16.js';
import { type Matrix, matrix } from '../numerics/matrix.js';
import {
  type BlockDecoder,
  type BlockRewrite,
  decodeIQ4_NL,
  decodeIQ4_XS,
  decodeMXFP4,
  decodeQ2_K,
  decodeQ3_K,
  decodeQ4_0,
  decodeQ4_1,
  decodeQ4_K,
  decodeQ5_0,
  decodeQ5_1,
  decodeQ5_K,
  decodeQ6_K,
  decodeQ8_0,
  rewriteIQ4_NL,
  rewriteMXFP4,
  rewriteQ3_K,
  rewriteQ5_0,
} from './weight-formats.js';

/** A type that the engine has products for. */
export type ProductType =
  | ('F32' | 'F16' | 'BF16' | 'Q8_0' | 'Q4_0' | 'Q4_1')
  | ('Q5_1' | 'Q2_K' | 'Q4_K' | 'Q5_K' | 'Q6_K');

/** Name of a weight type that this package reads. */
export type WeightType = ProductType | 'Q5_0' | 'Q3_K' | 'IQ4_NL' | 'IQ4_XS' | 'MXFP4';

/** A weight type: its id, its block, its decoder, its kernels. */
export interface WeightTypeRow {
  /** ggml's number of the type. */
  readonly ggml: number;
  /** Weights of a block. */
  readonly elements: number;
  /** Bytes of a block. */
  readonly bytes: number;
  /** The floats of a block: the only numbers in it that can be NaN or infinite. */
  readonly floats: { readonly kind: FloatKind; readonly at: readonly number[] };
  /** Decodes one block, or for plain floats a whole run of them. */
  readonly decode: BlockDecoder | ((bytes: Uint8Array) => Float32Array);
  /** The type as which the engine multiplies it: itself, or one that holds the same weights without loss. */
  readonly product: ProductType;
  /** Writes a block as one of `product`; absent where the engine reads the blocks of the file. */
  readonly rewrite?: BlockRewrite;
}

/** Kinds of floats inside blocks; `e8m0` is a bare exponent. */
export type FloatKind = 'f32' | 'f16' | 'bf16' | 'e8m0';

const f16 = (...at: number[]): WeightTypeRow['floats'] => ({ kind: 'f16', at });

const decodeFloats = (bytes: Uint8Array) => new Float32Array(alignedCopy(bytes));
const decodeHalves = (bytes: Uint8Array) => decodeFloat16(new Uint16Array(alignedCopy(bytes)));
const decodeBrains = (bytes: Uint8Array) => decodeBfloat16(new Uint16Array(alignedCopy(bytes)));

/** Each weight type that this package reads. */
export const WEIGHT_BLOCKS: Readonly<Record<WeightType, WeightTypeRow>> = {
  F32: {
    ggml: 0,
    elements: 1,
    bytes: 4,
    floats: { kind: 'f32', at: [0] },
    decode: decodeFloats,
    product: 'F32',
  },
  F16: { ggml: 1, elements: 1, bytes: 2, floats: f16(0), decode: decodeHalves, product: 'F16' },
  BF16: {
    ggml: 30,
    elements: 1,
    bytes: 2,
    floats: { kind: 'bf16', at: [0] },
    decode: decodeBrains,
    product: 'BF16',
  },
  Q8_0: { ggml: 8, elements: 32, bytes: 34, floats: f16(0), decode: decodeQ8_0, product: 'Q8_0' },
  Q4_0: { ggml: 2, elements: 32, bytes: 18, floats: f16(0), decode: decodeQ4_0, product: 'Q4_0' },
  Q4_1: { ggml: 3, elements: 32, bytes: 20, floats: f16(0, 2), decode: decodeQ4_1, product: 'Q4_1' },
  Q5_0: {
    ggml: 6,
    elements: 32,
    bytes: 22,
    floats: f16(0),
    decode: decodeQ5_0,
    product: 'Q8_0',
    rewrite: rewriteQ5_0,
  },
  Q5_1: { ggml: 7, elements: 32, bytes: 24, floats: f16(0, 2), decode: decodeQ5_1, product: 'Q5_1' },
  Q2_K: { ggml: 10, elements: 256, bytes: 84, floats: f16(80, 82), decode: decodeQ2_K, product: 'Q2_K' },
  Q3_K: {
    ggml: 11,
    elements: 256,
    bytes: 110,
    floats: f16(108),
    decode: decodeQ3_K,
    product: 'Q6_K',
    rewrite: rewriteQ3_K,
  },
  Q4_K: { ggml: 12, elements: 256, bytes: 144, floats: f16(0, 2), decode: decodeQ4_K, product: 'Q4_K' },
  Q5_K: { ggml: 13, elements: 256, bytes: 176, floats: f16(0, 2), decode: decodeQ5_K, product: 'Q5_K' },
  Q6_K: { ggml: 14, elements: 256, bytes: 210, floats: f16(208), decode: decodeQ6_K, product: 'Q6_K' },
  IQ4_NL: {
    ggml: 20,
    elements: 32,
    bytes: 18,
    floats: f16(0),
    decode: decodeIQ4_NL,
    product: 'Q8_0',
    rewrite: rewriteIQ4_NL,
  },
  IQ4_XS: { ggml: 23, elements: 256, bytes: 136, floats: f16(0), decode: decodeIQ4_XS, product: 'Q6_K' },
  MXFP4: {
    ggml: 39,
    elements: 32,
    bytes: 17,
    floats: { kind: 'e8m0', at: [0] },
    decode: decodeMXFP4,
    product: 'BF16',
    rewrite: rewriteMXFP4,
  },
};

/** Names of the weight types that this package reads. */
export const WEIGHT_TYPES = Object.keys(WEIGHT_BLOCKS) as readonly WeightType[];

/** The types that the engine has products for. */
export const PRODUCT_TYPES = WEIGHT_TYPES.filter(
  (type) => WEIGHT_BLOCKS[type].product === type,
) as readonly ProductType[];

/** Whether a name is that of a weight type that this package reads. */
export function isWeightType(name: string): name is WeightType {
  return Object.hasOwn(WEIGHT_BLOCKS, name);
}

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
 * Dequantizes a weight matrix to f32, to ggml's bits.
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
  const block = WEIGHT_BLOCKS[type];
  if (block.elements === 1) {
    return matrix(rows, columns, (block.decode as (bytes: Uint8Array) => Float32Array)(bytes));
  }
  const result = matrix(rows, columns);
  for (let at = 0, out = 0; at < bytes.length; at += block.bytes, out += block.elements) {
    (block.decode as BlockDecoder)(bytes, at, result.data, out);
  }
  return result;
}

/**
 * Whole blocks of a type as blocks of its `product`, if they have to be rewritten for it.
 *
 * @returns fresh, or the same bytes
 */
export function rewriteBlocks(type: WeightType, bytes: Uint8Array): Uint8Array {
  const block = WEIGHT_BLOCKS[type];
  if (!block.rewrite) return bytes;
  const step = weightBytes(block.product, 1, block.elements);
  const rewritten = new Uint8Array((bytes.length / block.bytes) * step);
  for (let at = 0, to = 0; at < bytes.length; at += block.bytes, to += step) {
    block.rewrite(bytes, at, rewritten, to);
  }
  return rewritten;
}

/**
 * The first block of a weight matrix that holds a NaN or an infinity, as the index of its first weight.
 *
 * @returns -1 if all weights are finite
 */
export function findNonFiniteBlock({ type, bytes }: Pick<WeightTensor, 'type' | 'bytes'>): number {
  const block = WEIGHT_BLOCKS[type];
  const { kind, at: places } = block.floats;
  for (let at = 0; at < bytes.length; at += block.bytes) {
    for (const place of places) {
      if (!isFiniteFloat(kind, bytes, at + place)) return (at / block.bytes) * block.elements;
    }
  }
  return -1;
}

/** Whether a float of a block is neither NaN nor infinite: not all bits of its exponent are ones. */
function isFiniteFloat(kind: FloatKind, bytes: Uint8Array, at: number): boolean {
  switch (kind) {
    case 'f32':
      return ((bytes[at + 2] | (bytes[at + 3] << 8)) & 0x7f80) !== 0x7f80;
    case 'bf16':
      return ((bytes[at] | (bytes[at + 1] << 8)) & 0x7f80) !== 0x7f80;
    case 'f16':
      return (bytes[at + 1] & 0x7c) !== 0x7c;
    case 'e8m0':
      return bytes[at] <= 252; // 12 * 2^(253 - 128) is beyond f32
  }
}
