/**
 * The header of a GGUF file (versions 2 and 3, little-endian): metadata and the list of tensors.
 *
 *     'GGUF' | version u32 | tensors u64 | entries u64
 *     entries x [ key string | type u32 | value ]           string = length u64, UTF-8 bytes
 *     tensors x [ name string | dimensions u32 | size u64 each, innermost first | type u32 | offset u64 ]
 *     padding to `general.alignment` | data; offsets count from here
 *
 * Our own reader rather than a library: `@huggingface/gguf` takes a URL or a path only (no `Blob`, no buffer),
 * and its buffer is zero-filled in steps of 2 MB, so that a truncated header parses "successfully" as empty
 * names and missing keys. Here every count and length is checked against the size of the file *before*
 * anything is allocated for it.
 *
 * @module
 */

import { FormatError, UnsupportedModelError } from '../errors.js';
import { isWeightType, WEIGHT_BLOCKS, WEIGHT_TYPES } from '../quant/weight-types.js';
import { BEYOND_PREFIX, type GgufValue, HeaderReader, MAX_HEADER_BYTES } from './gguf-reader.js';
import type { ByteSource } from './source.js';

export type { GgufArray, GgufValue } from './gguf-reader.js';

/** One tensor of a GGUF file. */
export interface GgufTensorInfo {
  readonly name: string;
  /** Sizes, outermost first: [rows, columns] of a matrix, [length] of a vector. */
  readonly shape: readonly number[];
  /** ggml's name of the type, for instance `'Q8_0'`. */
  readonly type: string;
  /** Bytes from the start of the file. */
  readonly offset: number;
  /** Bytes; absent for a type that this package does not read. */
  readonly byteLength?: number;
}

/** The header of a GGUF file. */
export interface GgufHeader {
  readonly version: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: readonly GgufTensorInfo[];
  /** Start of the tensor data, bytes from the start of the file. */
  readonly dataOffset: number;
}

const MAGIC = 0x46554747; // 'GGUF' read as a little-endian u32
const DEFAULT_ALIGNMENT = 32;
const MAX_DIMENSIONS = 4;

const FIRST_PREFIX_BYTES = 2 ** 20;

// Smallest encodings: what a hostile count is held against.
const MIN_ENTRY_BYTES = 8 + 4 + 1;
const MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8;

/** Tensor types of ggml that are not read, by number: their names are for messages. */
const OTHER_TYPES: Readonly<Record<number, string>> = {
  9: 'Q8_1',
  15: 'Q8_K',
  16: 'IQ2_XXS',
  17: 'IQ2_XS',
  18: 'IQ3_XXS',
  19: 'IQ1_S',
  21: 'IQ3_S',
  22: 'IQ2_S',
  24: 'I8',
  25: 'I16',
  26: 'I32',
  27: 'I64',
  28: 'F64',
  29: 'IQ1_M',
  34: 'TQ1_0',
  35: 'TQ2_0',
  40: 'NVFP4',
  41: 'Q1_0',
};

/** Names of tensor types by ggml's number. */
const TYPE_NAMES = new Map<number, string>([
  ...WEIGHT_TYPES.map((type) => [WEIGHT_BLOCKS[type].ggml, type] as const),
  ...Object.entries(OTHER_TYPES).map(([number, name]) => [Number(number), name] as const),
]);

/**
 * Reads the header of a GGUF file, and no more of the file than a few megabytes around it.
 *
 * @throws {FormatError} if the file is not GGUF, is cut short, or contradicts itself; names the place
 * @throws {UnsupportedModelError} for version 1 and big-endian files
 * @throws {LoadError} if it cannot be read
 */
export async function readGgufHeader(source: ByteSource): Promise<GgufHeader> {
  let wanted = Math.min(source.size, FIRST_PREFIX_BYTES);
  let prefix = await source.read(0, wanted);
  for (;;) {
    const header = parseGgufHeader(prefix, source.size, source.name);
    if (header) return header;
    wanted = Math.min(source.size, prefix.length * 4, MAX_HEADER_BYTES);
    const longer = new Uint8Array(wanted);
    longer.set(prefix);
    longer.set(await source.read(prefix.length, wanted - prefix.length), prefix.length);
    prefix = longer;
  }
}

/**
 * Parses the header from the first bytes of a file.
 *
 * @param prefix the first bytes, or all of them; read
 * @param fileSize bytes of the whole file
 * @returns `undefined` if the header extends beyond the prefix
 * @throws {FormatError | UnsupportedModelError} as {@link readGgufHeader}
 */
export function parseGgufHeader(prefix: Uint8Array, fileSize: number, path: string): GgufHeader | undefined {
  try {
    return parse(new HeaderReader(prefix, fileSize, path));
  } catch (error) {
    if (error === BEYOND_PREFIX) return undefined;
    throw error;
  }
}

function parse(reader: HeaderReader): GgufHeader {
  const { path, fileSize } = reader;
  const magic = reader.u32('magic number');
  if (magic !== MAGIC)
    throw new FormatError(path, 'byte 0', 'not a GGUF file: it does not begin with "GGUF"');
  const version = reader.u32('version');
  if (version >= 0x10000 && (version & 0xffff) === 0) {
    throw new UnsupportedModelError(path, 'a big-endian GGUF file', 'little-endian');
  }
  if (version !== 2 && version !== 3) {
    throw new UnsupportedModelError(path, `GGUF version ${version}`, 'versions 2 and 3');
  }
  const tensorCount = reader.count('tensor count', MIN_TENSOR_BYTES);
  const entryCount = reader.count('metadata count', MIN_ENTRY_BYTES);

  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < entryCount; i++) {
    const key = reader.name(`metadata key ${i}`);
    if (metadata.has(key)) throw new FormatError(path, key, 'the metadata key occurs twice');
    metadata.set(key, reader.value(reader.u32(`type of "${key}"`), key));
  }

  const raw: RawTensor[] = [];
  for (let i = 0; i < tensorCount; i++) raw.push(readTensorInfo(reader, i));

  const alignment = metadata.get('general.alignment') ?? DEFAULT_ALIGNMENT;
  if (
    typeof alignment !== 'number' ||
    !(alignment >= 1 && alignment <= 2 ** 20) ||
    !isPowerOfTwo(alignment)
  ) {
    throw new FormatError(path, 'general.alignment', `must be a power of two up to 2^20, got ${alignment}`);
  }
  const dataOffset = Math.ceil(reader.position / alignment) * alignment;
  const tensors = raw.map((tensor) => placeTensor(tensor, dataOffset, alignment, fileSize, path));
  assertDistinct(tensors, path);
  return { version, metadata, tensors, dataOffset };
}

interface RawTensor {
  name: string;
  shape: number[];
  type: string;
  relativeOffset: number;
}

function readTensorInfo(reader: HeaderReader, index: number): RawTensor {
  const { path } = reader;
  const name = reader.name(`name of tensor ${index}`);
  const dimensions = reader.u32(`dimensions of "${name}"`);
  if (dimensions < 1 || dimensions > MAX_DIMENSIONS) {
    throw new FormatError(path, name, `has ${dimensions} dimensions, 1 to ${MAX_DIMENSIONS} are possible`);
  }
  const shape: number[] = [];
  for (let d = 0; d < dimensions; d++) {
    const size = reader.u64(`size of "${name}"`);
    if (size < 1n) throw new FormatError(path, name, 'has a dimension of size 0');
    if (size > BigInt(Number.MAX_SAFE_INTEGER))
      throw new FormatError(path, name, `claims a dimension of ${size}`);
    shape.unshift(Number(size));
  }
  const typeNumber = reader.u32(`type of "${name}"`);
  const type = TYPE_NAMES.get(typeNumber) ?? `ggml type ${typeNumber}`;
  const relativeOffset = reader.u64(`offset of "${name}"`);
  if (relativeOffset > BigInt(reader.fileSize)) {
    throw new FormatError(
      path,
      name,
      `lies at ${relativeOffset}, beyond the end of the file (${reader.fileSize} bytes): it is cut short or damaged`,
    );
  }
  return { name, shape, type, relativeOffset: Number(relativeOffset) };
}

function placeTensor(
  tensor: RawTensor,
  dataOffset: number,
  alignment: number,
  fileSize: number,
  path: string,
): GgufTensorInfo {
  const { name, shape, type, relativeOffset } = tensor;
  if (relativeOffset % alignment !== 0) {
    throw new FormatError(
      path,
      name,
      `offset ${relativeOffset} is not a multiple of the alignment ${alignment}`,
    );
  }
  const offset = dataOffset + relativeOffset;
  if (!isWeightType(type)) return { name, shape, type, offset };

  const block = WEIGHT_BLOCKS[type];
  const columns = shape[shape.length - 1];
  if (columns % block.elements !== 0) {
    throw new FormatError(path, name, `rows of ${columns} are not whole ${type} blocks of ${block.elements}`);
  }
  // Shapes may multiply to more than 2^53; the comparison below is still right, since f64 only rounds.
  const byteLength = shape.reduce((product, size) => product * size, 1) * (block.bytes / block.elements);
  if (offset + byteLength > fileSize) {
    const reason = `[${shape.join(', ')}] of ${type} at byte ${offset} needs ${byteLength} bytes, the file ends at ${fileSize}: it is cut short`;
    throw new FormatError(path, name, reason);
  }
  return { name, shape, type, offset, byteLength };
}

function assertDistinct(tensors: readonly GgufTensorInfo[], path: string): void {
  const names = new Set<string>();
  for (const { name } of tensors) {
    if (names.has(name)) throw new FormatError(path, name, 'the tensor occurs twice');
    names.add(name);
  }
  const placed = tensors.filter((tensor) => tensor.byteLength !== undefined);
  placed.sort((a, b) => a.offset - b.offset);
  for (let i = 1; i < placed.length; i++) {
    const before = placed[i - 1];
    if (placed[i].offset < before.offset + before.byteLength!) {
      throw new FormatError(path, placed[i].name, `overlaps "${before.name}" at byte ${placed[i].offset}`);
    }
  }
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(value) && (value & (value - 1)) === 0;
}
