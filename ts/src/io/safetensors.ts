/**
 * Safetensors: named tensors in one file, simple enough to read from any language.
 *
 *     header length u64 | header, JSON | data
 *     header: { "name": { "dtype": "F16", "shape": [2, 3], "data_offsets": [begin, end] }, ...,
 *               "__metadata__": { string: string } }
 *
 * Offsets count from the end of the header, and the tensors tile the data without gap or overlap. The reader
 * holds a file to that; the tensors it gives are views, decoded on request.
 *
 * @module xquant/safetensors
 */

import { FormatError, ShapeError, UnsupportedModelError } from '../errors.js';
import { alignedCopy } from '../numerics/bytes.js';
import { decodeBfloat16, decodeFloat16 } from '../numerics/float16.js';
import { describeValue, messageOf } from '../printable.js';
import { parseJsonObject } from './json.js';
import { isObject } from './json-reader.js';
import type { ByteSource } from './source.js';

/** Bytes of one element, by type. */
export const SAFETENSORS_DTYPES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  U32: 4,
  I16: 2,
  U16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const;

/** Types of the format that are not read. */
const OTHER_DTYPES = [
  ...['U64', 'C64', 'F8_E4M3', 'F8_E5M2', 'F8_E8M0', 'F8_E4M3FNUZ', 'F8_E5M2FNUZ'],
  ...['F6_E2M3', 'F6_E3M2', 'F4'],
] as const;

/** Element type of a tensor in a safetensors file. */
export type SafetensorsDtype = keyof typeof SAFETENSORS_DTYPES;

/** A tensor: row-major, little-endian. */
export interface SafeTensor {
  readonly dtype: SafetensorsDtype;
  /** Outermost first; empty for a scalar. */
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** A tensor's entry in the header. */
export interface SafetensorsEntry {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** Bytes from the start of the file. */
  readonly offset: number;
  readonly byteLength: number;
}

/** The header of a safetensors file. */
export interface SafetensorsHeader {
  /** `__metadata__`; empty if there is none. */
  readonly metadata: Readonly<Record<string, string>>;
  /** In the order of their data. */
  readonly tensors: readonly SafetensorsEntry[];
  /** Start of the data, bytes from the start of the file. */
  readonly dataOffset: number;
}

/** A whole safetensors file. */
export interface SafetensorsFile {
  readonly metadata: Readonly<Record<string, string>>;
  /** Views on the bytes of the file. */
  readonly tensors: ReadonlyMap<string, SafeTensor>;
}

const METADATA_KEY = '__metadata__';
const LENGTH_BYTES = 8;

// The limit of the format's own library.
const MAX_HEADER_BYTES = 100_000_000;

/**
 * Reads a file in memory.
 *
 * @param bytes kept: the tensors are views on it
 * @param name for messages
 * @throws {TypeError} if `bytes` is not a `Uint8Array`
 * @throws {FormatError} if the file contradicts itself; names the tensor
 */
export function readSafetensors(bytes: Uint8Array, name: string): SafetensorsFile {
  if (!(bytes instanceof Uint8Array)) {
    throw new TypeError(`"bytes" must be a Uint8Array, got ${describeValue(bytes)}`);
  }
  const headerBytes = headerLength(bytes.subarray(0, LENGTH_BYTES), bytes.length, name);
  const header = parseSafetensorsHeader(
    bytes.subarray(LENGTH_BYTES, LENGTH_BYTES + headerBytes),
    bytes.length,
    name,
  );
  const tensors = new Map<string, SafeTensor>();
  for (const { name: key, dtype, shape, offset, byteLength } of header.tensors) {
    tensors.set(key, { dtype, shape, bytes: bytes.subarray(offset, offset + byteLength) });
  }
  return { metadata: header.metadata, tensors };
}

/** A file of known size that is read at once, without waiting: on disk, in a page's storage, or in memory. */
export interface SyncFile {
  /** Path or other name, for messages. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /**
   * @returns `length` bytes from `offset`
   * @throws {LoadError} if they cannot be read
   */
  read(offset: number, length: number): Uint8Array;
}

/**
 * Opens a file of which little may be needed: the header is read now, the bytes of a tensor when they are asked for.
 *
 * @throws {FormatError} as {@link readSafetensors}
 * @throws {LoadError} if it cannot be read, also by a tensor later
 */
export function openSafetensors(file: SyncFile): SafetensorsFile {
  const { name, size } = file;
  const headerBytes = headerLength(file.read(0, Math.min(LENGTH_BYTES, size)), size, name);
  const header = parseSafetensorsHeader(file.read(LENGTH_BYTES, headerBytes), size, name);
  const tensors = new Map<string, SafeTensor>();
  for (const { name: key, dtype, shape, offset, byteLength } of header.tensors) {
    const bytes = () => file.read(offset, byteLength);
    tensors.set(key, {
      dtype,
      shape,
      get bytes() {
        return bytes();
      },
    });
  }
  return { metadata: header.metadata, tensors };
}

/**
 * Reads the header of a file and nothing else.
 *
 * @throws {FormatError} as {@link readSafetensors}
 * @throws {LoadError} if it cannot be read
 */
export async function readSafetensorsHeader(source: ByteSource): Promise<SafetensorsHeader> {
  const start = await source.read(0, Math.min(LENGTH_BYTES, source.size));
  const headerBytes = headerLength(start, source.size, source.name);
  return parseSafetensorsHeader(await source.read(LENGTH_BYTES, headerBytes), source.size, source.name);
}

/**
 * Parses the JSON of a header and checks it against the size of the file.
 *
 * @param json the header without the length in front of it
 * @param fileSize bytes of the whole file
 * @param name for messages
 * @throws {FormatError} as {@link readSafetensors}
 */
export function parseSafetensorsHeader(json: Uint8Array, fileSize: number, name: string): SafetensorsHeader {
  const dataOffset = LENGTH_BYTES + json.length;
  const dataBytes = fileSize - dataOffset;
  const entries = parseJson(json, name);
  let metadata: Record<string, string> = {};
  const tensors: SafetensorsEntry[] = [];
  for (const [key, value] of entries) {
    if (key === METADATA_KEY) metadata = checkMetadata(value, name);
    else tensors.push(checkEntry(key, value, dataOffset, dataBytes, name));
  }

  // Tensors of no elements share their offset with their neighbour, so the end decides among equal starts.
  tensors.sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength);
  let end = dataOffset;
  for (const tensor of tensors) {
    if (tensor.offset !== end) {
      const problem = tensor.offset < end ? 'overlaps the tensor before it' : 'leaves a gap before it';
      throw new FormatError(name, tensor.name, `${problem}: begins at ${tensor.offset}, expected ${end}`);
    }
    end += tensor.byteLength;
  }
  if (end !== fileSize) {
    throw new FormatError(name, 'data', `${fileSize - end} bytes at the end belong to no tensor`);
  }
  return { metadata, tensors, dataOffset };
}

/**
 * Writes tensors to a file. Wider types come first and the data begins at a multiple of 8, so that every
 * tensor can be viewed in place; within a type they are in the order of their names, so that equal content
 * gives equal bytes.
 *
 * @returns fresh, the bytes of the file
 * @throws {ShapeError} if bytes do not fit the shape
 * @throws {RangeError} if a tensor has the reserved name `__metadata__`
 */
export function writeSafetensors(
  tensors: ReadonlyMap<string, SafeTensor> | Readonly<Record<string, SafeTensor>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const named: [string, SafeTensor][] =
    tensors instanceof Map ? [...tensors] : Object.entries(tensors as Record<string, SafeTensor>);
  named.sort(
    ([nameA, a], [nameB, b]) =>
      SAFETENSORS_DTYPES[b.dtype] - SAFETENSORS_DTYPES[a.dtype] || (nameA < nameB ? -1 : 1),
  );
  const header: [string, unknown][] = [];
  if (Object.keys(metadata).length > 0) header.push([METADATA_KEY, metadata]);
  let end = 0;
  for (const [name, { dtype, shape, bytes }] of named) {
    if (name === METADATA_KEY) throw new RangeError(`a tensor must not be called "${METADATA_KEY}"`);
    const expected = elements(shape) * SAFETENSORS_DTYPES[dtype];
    if (bytes.length !== expected) {
      throw new ShapeError('writeSafetensors', name, [`${expected} bytes`], [bytes.length]);
    }
    header.push([name, { dtype, shape, data_offsets: [end, end + bytes.length] }]);
    end += bytes.length;
  }

  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(header)));
  const headerBytes = Math.ceil(json.length / 8) * 8;
  const file = new Uint8Array(LENGTH_BYTES + headerBytes + end);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes), true);
  file.fill(0x20, LENGTH_BYTES, LENGTH_BYTES + headerBytes); // padding is spaces
  file.set(json, LENGTH_BYTES);
  let at = LENGTH_BYTES + headerBytes;
  for (const [, { bytes }] of named) {
    file.set(bytes, at);
    at += bytes.length;
  }
  return file;
}

/** Typed arrays that {@link toSafeTensor} takes, and the type they become. */
export type SafetensorsArray =
  | Float64Array
  | Float32Array
  | BigInt64Array
  | Int32Array
  | Uint32Array
  | Int16Array
  | Uint16Array
  | Int8Array
  | Uint8Array;

const ARRAY_DTYPES: Readonly<Record<string, SafetensorsDtype>> = {
  Float64Array: 'F64',
  Float32Array: 'F32',
  BigInt64Array: 'I64',
  Int32Array: 'I32',
  Uint32Array: 'U32',
  Int16Array: 'I16',
  Uint16Array: 'U16',
  Int8Array: 'I8',
  Uint8Array: 'U8',
};

/**
 * Wraps a typed array as a tensor.
 *
 * @param data viewed, not copied
 * @param shape [data.length] if not given
 * @param dtype says what the bits are where the array does not: `'F16'` or `'BF16'` for a `Uint16Array`,
 *   `'BOOL'` for a `Uint8Array`
 * @throws {ShapeError} if the shape does not fit the data, or the type not the element size
 */
export function toSafeTensor(
  data: SafetensorsArray,
  shape: readonly number[] = [data.length],
  dtype: SafetensorsDtype = ARRAY_DTYPES[data.constructor.name],
): SafeTensor {
  if (elements(shape) !== data.length || SAFETENSORS_DTYPES[dtype] !== data.BYTES_PER_ELEMENT) {
    throw new ShapeError('toSafeTensor', dtype, shape, [data.length]);
  }
  return { dtype, shape, bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
}

/**
 * Decodes a tensor of any type to f32. Wider numbers are rounded; `BOOL` becomes 0 or 1.
 *
 * @returns fresh, row-major
 */
export function toFloat32(tensor: SafeTensor): Float32Array {
  const buffer = alignedCopy(tensor.bytes);
  switch (tensor.dtype) {
    case 'F32':
      return new Float32Array(buffer);
    case 'F16':
      return decodeFloat16(new Uint16Array(buffer));
    case 'BF16':
      return decodeBfloat16(new Uint16Array(buffer));
    case 'F64':
      return Float32Array.from(new Float64Array(buffer));
    case 'I64':
      return Float32Array.from(new BigInt64Array(buffer), Number);
    case 'I32':
      return Float32Array.from(new Int32Array(buffer));
    case 'U32':
      return Float32Array.from(new Uint32Array(buffer));
    case 'I16':
      return Float32Array.from(new Int16Array(buffer));
    case 'U16':
      return Float32Array.from(new Uint16Array(buffer));
    case 'I8':
      return Float32Array.from(new Int8Array(buffer));
    case 'U8':
      return Float32Array.from(new Uint8Array(buffer));
    case 'BOOL':
      return Float32Array.from(new Uint8Array(buffer), (byte) => (byte ? 1 : 0));
  }
}

function headerLength(start: Uint8Array, fileSize: number, name: string): number {
  if (start.length < LENGTH_BYTES) {
    throw new FormatError(
      name,
      'byte 0',
      `a file of ${fileSize} bytes is too short for a safetensors header`,
    );
  }
  const view = new DataView(start.buffer, start.byteOffset, LENGTH_BYTES);
  const length = view.getBigUint64(0, true);
  const room = fileSize - LENGTH_BYTES;
  if (length > BigInt(room)) {
    throw new FormatError(name, 'byte 0', `claims a header of ${length} bytes in a file of ${fileSize}`);
  }
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw new FormatError(name, 'byte 0', `claims a header of ${length} bytes, over ${MAX_HEADER_BYTES}`);
  }
  return Number(length);
}

function parseJson(json: Uint8Array, name: string): [string, unknown][] {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(json);
  } catch (cause) {
    throw new FormatError(name, 'header', `is not JSON: ${messageOf(cause)}`, { cause });
  }
  const parsed = parseJsonObject(text, name, 'header');
  const twice = repeatedKey(text);
  if (twice !== undefined) throw new FormatError(name, twice, 'the name occurs twice in the header');
  return Object.entries(parsed);
}

/** A key that the outermost object of valid JSON has twice; `JSON.parse` keeps the last one silently. */
function repeatedKey(json: string): string | undefined {
  const seen = new Set<string>();
  let depth = 0;
  for (const [token, colon] of json.matchAll(/"[^"\\]*(?:\\.[^"\\]*)*"\s*(:?)|[{}[\]]/g)) {
    if (token === '{' || token === '[') depth++;
    else if (token === '}' || token === ']') depth--;
    else if (depth === 1 && colon) {
      const key: string = JSON.parse(token.slice(0, token.lastIndexOf('"') + 1));
      if (seen.has(key)) return key;
      seen.add(key);
    }
  }
  return undefined;
}

function checkMetadata(value: unknown, name: string): Record<string, string> {
  if (!isObject(value) || Object.values(value).some((each) => typeof each !== 'string')) {
    throw new FormatError(name, METADATA_KEY, 'must map strings to strings');
  }
  return value as Record<string, string>;
}

function checkEntry(
  key: string,
  value: unknown,
  dataOffset: number,
  dataBytes: number,
  name: string,
): SafetensorsEntry {
  if (!isObject(value)) throw new FormatError(name, key, 'must be an object with dtype, shape, data_offsets');
  const { dtype, shape, data_offsets: offsets } = value;
  if ((OTHER_DTYPES as readonly unknown[]).includes(dtype)) {
    const known = Object.keys(SAFETENSORS_DTYPES).join(', ');
    throw new UnsupportedModelError(name, `type ${dtype} of tensor "${key}"`, known);
  }
  if (typeof dtype !== 'string' || !Object.hasOwn(SAFETENSORS_DTYPES, dtype)) {
    const known = Object.keys(SAFETENSORS_DTYPES).join(', ');
    throw new FormatError(name, key, `dtype must be one of ${known}, got ${describeValue(dtype)}`);
  }
  if (!isArrayOfSizes(shape)) {
    throw new FormatError(name, key, `shape must be a list of sizes, got ${describeValue(shape)}`);
  }
  if (!isArrayOfSizes(offsets) || offsets.length !== 2) {
    throw new FormatError(name, key, `data_offsets must be two offsets, got ${describeValue(offsets)}`);
  }
  const [begin, end] = offsets;
  if (begin > end || end > dataBytes) {
    throw new FormatError(
      name,
      key,
      `bytes ${begin} to ${end} are not inside the ${dataBytes} bytes of data`,
    );
  }
  const count = elements(shape);
  const byteLength = count * SAFETENSORS_DTYPES[dtype as SafetensorsDtype];
  if (!Number.isSafeInteger(count) || byteLength !== end - begin) {
    const claimed = `[${shape.join(', ')}] of ${dtype} is ${byteLength} bytes`;
    throw new FormatError(name, key, `${claimed}, but its offsets hold ${end - begin}`);
  }
  return { name: key, dtype: dtype as SafetensorsDtype, shape, offset: dataOffset + begin, byteLength };
}

function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

function isArrayOfSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}
