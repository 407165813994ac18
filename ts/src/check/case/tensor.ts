/**
 * Tensors of a dump: bytes of some element type, and what they mean as numbers.
 *
 * A kernel author dumps what the kernel has: f32, f16 or bf16 values, codes in bytes or in 64-bit integers,
 * packed codes as bytes or as 32-bit words. All of them are read without loss; the element type is kept,
 * because results are judged by its precision.
 *
 * @module
 */

import { FormatError } from '../../errors.js';
import { SAFETENSORS_DTYPES, type SafeTensor, type SafetensorsDtype } from '../../io/safetensors.js';
import { decodeBfloat16, decodeFloat16, fromFloat16Bits, toFloat16Bits } from '../../numerics/float16.js';

/** Element types of a dump, under the names of safetensors. */
export type Dtype = SafetensorsDtype;

/** One tensor in memory: row-major, little-endian. */
export type Tensor = SafeTensor;

/** Arrays in which the numbers of a tensor are handed on. */
export type Numbers =
  | Float64Array
  | Float32Array
  | Int32Array
  | Uint32Array
  | Int16Array
  | Uint16Array
  | Int8Array
  | Uint8Array;

/** Elements of a shape: the product of its sizes, 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/**
 * Wraps an array as a tensor.
 *
 * @param values [product of shape], its memory is shared
 */
export function tensorOf(values: Numbers, shape: readonly number[], dtype?: Dtype): Tensor {
  return {
    dtype: dtype ?? dtypeOf(values),
    shape,
    bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
  };
}

/**
 * The elements as numbers, exactly.
 *
 * @returns [product of shape]; shares memory with the tensor where the type and the alignment allow it
 * @throws {FormatError} if a 64-bit integer is beyond 2^53
 */
export function numbersOf(tensor: Tensor, name = 'tensor'): Numbers {
  const bytes = aligned(tensor.bytes, SAFETENSORS_DTYPES[tensor.dtype]);
  const { buffer, byteOffset, byteLength } = bytes;
  const count = byteLength / SAFETENSORS_DTYPES[tensor.dtype];
  switch (tensor.dtype) {
    case 'F64':
      return new Float64Array(buffer, byteOffset, count);
    case 'F32':
      return new Float32Array(buffer, byteOffset, count);
    case 'F16':
      return decodeFloat16(new Uint16Array(buffer, byteOffset, count));
    case 'BF16':
      return decodeBfloat16(new Uint16Array(buffer, byteOffset, count));
    case 'I64':
      return narrowed(new BigInt64Array(buffer, byteOffset, count), name);
    case 'I32':
      return new Int32Array(buffer, byteOffset, count);
    case 'U32':
      return new Uint32Array(buffer, byteOffset, count);
    case 'I16':
      return new Int16Array(buffer, byteOffset, count);
    case 'U16':
      return new Uint16Array(buffer, byteOffset, count);
    case 'I8':
      return new Int8Array(buffer, byteOffset, count);
    case 'U8':
    case 'BOOL':
      return new Uint8Array(buffer, byteOffset, count);
  }
}

/** Unit roundoff of the floating types: half the distance from 1 to the next number. */
export const UNIT_ROUNDOFF: Readonly<Partial<Record<Dtype, number>>> = {
  F64: 2 ** -53,
  F32: 2 ** -24,
  F16: 2 ** -11,
  BF16: 2 ** -8,
};

/** Half the distance between the smallest numbers of a floating type: what rounding costs near zero. */
export const HALF_SUBNORMAL_STEP: Readonly<Partial<Record<Dtype, number>>> = {
  F64: 2 ** -1075,
  F32: 2 ** -150,
  F16: 2 ** -25,
  BF16: 2 ** -134,
};

/** Whether elements of this type are floating-point numbers. */
export function isFloating(dtype: Dtype): boolean {
  return UNIT_ROUNDOFF[dtype] !== undefined;
}

/** Rounds a number to a floating type, ties to even; other types are left as they are. */
export function roundTo(dtype: Dtype, value: number): number {
  switch (dtype) {
    case 'F32':
      return Math.fround(value);
    case 'F16':
      return fromFloat16Bits(toFloat16Bits(value));
    case 'BF16':
      return fromBfloat16Bits(toBfloat16Bits(value));
    default:
      return value;
  }
}

const scratch = new DataView(new ArrayBuffer(8));

/** Rounds a number to bfloat16, ties to even. @returns the 16 bits */
export function toBfloat16Bits(value: number): number {
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  if (Number.isNaN(value)) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The number that 16 bfloat16 bits stand for. */
function fromBfloat16Bits(bits: number): number {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}

/** The bits of a number in an element type, as people write them: `0x3f800000`. Integers in decimal. */
export function bitsText(dtype: Dtype, value: number): string {
  switch (dtype) {
    case 'F64':
      scratch.setFloat64(0, value);
      return hex(scratch.getUint32(0), 8) + scratch.getUint32(4).toString(16).padStart(8, '0');
    case 'F32':
      scratch.setFloat32(0, value);
      return hex(scratch.getUint32(0), 8);
    case 'F16':
      return hex(toFloat16Bits(value), 4);
    case 'BF16':
      return hex(toBfloat16Bits(value), 4);
    default:
      return String(value);
  }
}

/**
 * A number's place among all numbers of its type, in order: neighbours differ by 1, and -0 and +0 are the
 * same place. Distances in units in the last place are differences of ranks, also across zero.
 *
 * @param dtype F32, F16 or BF16
 */
export function rankOf(dtype: Dtype, value: number): number {
  if (dtype === 'F16' || dtype === 'BF16') {
    const bits = dtype === 'F16' ? toFloat16Bits(value) : toBfloat16Bits(value);
    return bits & 0x8000 ? -(bits & 0x7fff) : bits;
  }
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  return bits >= 0x80000000 ? -(bits - 0x80000000) : bits;
}

function dtypeOf(values: Numbers): Dtype {
  if (values instanceof Float64Array) return 'F64';
  if (values instanceof Float32Array) return 'F32';
  if (values instanceof Int32Array) return 'I32';
  if (values instanceof Uint32Array) return 'U32';
  if (values instanceof Int16Array) return 'I16';
  if (values instanceof Uint16Array) return 'U16';
  if (values instanceof Int8Array) return 'I8';
  return 'U8';
}

function aligned(bytes: Uint8Array, size: number): Uint8Array {
  return bytes.byteOffset % size === 0 ? bytes : bytes.slice();
}

function narrowed(values: BigInt64Array, name: string): Float64Array {
  const result = new Float64Array(values.length);
  for (let i = 0; i < values.length; i++) {
    result[i] = Number(values[i]);
    if (!Number.isSafeInteger(result[i])) {
      throw new FormatError(name, `element ${i}`, `the integer ${values[i]} is beyond 2^53`);
    }
  }
  return result;
}

function hex(bits: number, digits: number): string {
  return `0x${bits.toString(16).padStart(digits, '0')}`;
}
