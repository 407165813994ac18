/**
 * Reads the little-endian values of a GGUF header one after the other, and trusts none: every length is held
 * against the size of the file before memory is asked for.
 *
 * @module
 */

import { FormatError } from '../errors.js';

/** An array of metadata: typed where the elements are numbers. */
export type GgufArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array
  | readonly string[]
  | readonly boolean[];

/** A metadata value. 64-bit integers are numbers where they are safe, and `bigint` otherwise. */
export type GgufValue = number | bigint | string | boolean | GgufArray;

/** Longest header that is read, in bytes. The largest real ones (256k tokens with merges) are near 20 MB. */
export const MAX_HEADER_BYTES = 2 ** 28;

/** Longest key or name of a tensor, in bytes: the limit of the format for keys. */
const MAX_NAME_BYTES = 2 ** 16 - 1;

/** Longest string, in bytes: room for any chat template or precompiled normalizer. */
const MAX_STRING_BYTES = 2 ** 24;

/** Thrown by {@link HeaderReader}: the header is longer than the bytes at hand, which is no error. */
export const BEYOND_PREFIX = Symbol('beyond the prefix');

/** Reads little-endian values one after the other, and knows where it is. */
export class HeaderReader {
  position = 0;
  private readonly bytes: Uint8Array;
  private readonly view: DataView;

  constructor(
    prefix: Uint8Array,
    readonly fileSize: number,
    readonly path: string,
  ) {
    // Not the prefix itself: slice() of a Node Buffer would not copy.
    this.bytes = new Uint8Array(prefix.buffer, prefix.byteOffset, prefix.byteLength);
    this.view = new DataView(prefix.buffer, prefix.byteOffset, prefix.byteLength);
  }

  /** Moves on by `length` bytes and gives the place before, or throws if they are not there. */
  private take(length: number, what: string): number {
    const at = this.position;
    if (at + length > this.fileSize) {
      const reason = `${what} needs ${length} bytes, the file ends at ${this.fileSize}: it is cut short or damaged`;
      throw new FormatError(this.path, `byte ${at}`, reason);
    }
    if (at + length > MAX_HEADER_BYTES) {
      throw new FormatError(
        this.path,
        `byte ${at}`,
        `${what}: the header is longer than ${MAX_HEADER_BYTES} bytes`,
      );
    }
    if (at + length > this.bytes.length) throw BEYOND_PREFIX;
    this.position = at + length;
    return at;
  }

  u32(what: string): number {
    return this.view.getUint32(this.take(4, what), true);
  }

  u64(what: string): bigint {
    return this.view.getBigUint64(this.take(8, what), true);
  }

  /** A count of things of at least `minBytes` each, which must have room in the rest of the file. */
  count(what: string, minBytes: number): number {
    const at = this.position;
    const value = this.u64(what);
    const room = Math.floor((this.fileSize - this.position) / minBytes);
    if (value > BigInt(room)) {
      const reason = `${what} is ${value}, but the file of ${this.fileSize} bytes has room for ${room} at most`;
      throw new FormatError(this.path, `byte ${at}`, reason);
    }
    return Number(value);
  }

  /** A string that must be valid UTF-8 and not empty. */
  name(what: string): string {
    const at = this.position;
    const bytes = this.stringBytes(what, MAX_NAME_BYTES);
    try {
      const text = STRICT_UTF8.decode(bytes);
      if (text !== '') return text;
    } catch (cause) {
      throw new FormatError(this.path, `byte ${at}`, `${what} is not valid UTF-8`, { cause });
    }
    throw new FormatError(this.path, `byte ${at}`, `${what} is empty`);
  }

  /** The value of a metadata entry. */
  value(type: number, key: string): GgufValue {
    switch (type) {
      case 7:
        return this.bytes[this.take(1, key)] !== 0;
      case 8:
        return LENIENT_UTF8.decode(this.stringBytes(key));
      case 9:
        return this.array(key);
      default: {
        const at = this.take(this.scalar(type, key).BYTES_PER_ELEMENT, key);
        return readScalar(this.view, at, type);
      }
    }
  }

  private array(key: string): GgufArray {
    const type = this.u32(`element type of "${key}"`);
    const minBytes = type === 7 ? 1 : type === 8 ? 8 : this.scalar(type, key).BYTES_PER_ELEMENT;
    const length = this.count(`length of "${key}"`, minBytes);
    if (type === 8) {
      const strings: string[] = [];
      for (let i = 0; i < length; i++) strings.push(LENIENT_UTF8.decode(this.stringBytes(key)));
      return strings;
    }
    const at = this.take(length * minBytes, key);
    const bytes = this.bytes.slice(at, at + length * minBytes);
    if (type === 7) return Array.from(bytes, (byte) => byte !== 0);
    return new (this.scalar(type, key))(bytes.buffer as ArrayBuffer);
  }

  private stringBytes(what: string, limit = MAX_STRING_BYTES): Uint8Array {
    const length = this.count(`length of ${what}`, 1);
    if (length > limit) {
      throw new FormatError(this.path, `byte ${this.position}`, `${what} is longer than ${limit} bytes`);
    }
    const at = this.take(length, what);
    return this.bytes.subarray(at, at + length);
  }

  private scalar(type: number, key: string): (typeof SCALARS)[number] {
    const scalar = SCALARS[type];
    if (scalar) return scalar;
    const reason = type === 9 ? 'arrays of arrays are not supported' : `unknown metadata type ${type}`;
    throw new FormatError(this.path, key, reason);
  }
}

const STRICT_UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
// Values are shown to people or are tokens; a bad byte in a description must not make a model unusable.
const LENIENT_UTF8 = new TextDecoder('utf-8', { ignoreBOM: true });

/** Element types by GGUF's number of the type. */
const SCALARS = {
  0: Uint8Array,
  1: Int8Array,
  2: Uint16Array,
  3: Int16Array,
  4: Uint32Array,
  5: Int32Array,
  6: Float32Array,
  10: BigUint64Array,
  11: BigInt64Array,
  12: Float64Array,
} as Record<
  number,
  {
    readonly BYTES_PER_ELEMENT: number;
    new (buffer: ArrayBuffer): Exclude<GgufArray, readonly string[] | readonly boolean[]>;
  }
>;

function readScalar(view: DataView, at: number, type: number): number | bigint {
  switch (type) {
    case 0:
      return view.getUint8(at);
    case 1:
      return view.getInt8(at);
    case 2:
      return view.getUint16(at, true);
    case 3:
      return view.getInt16(at, true);
    case 4:
      return view.getUint32(at, true);
    case 5:
      return view.getInt32(at, true);
    case 6:
      return view.getFloat32(at, true);
    case 10:
      return safeNumber(view.getBigUint64(at, true));
    case 11:
      return safeNumber(view.getBigInt64(at, true));
    default:
      return view.getFloat64(at, true);
  }
}

function safeNumber(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
