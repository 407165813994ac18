/**
 * The outer layer of a snapshot: a header, and sections with a CRC-32 each. What the sections hold is the business
 * of snapshot.ts; `docs/format.md` draws every byte.
 *
 *     header     32 bytes: magic, version, count of sections, bytes of the file, CRC-32
 *     section    tag, index, length; the bytes; CRC-32 over both
 *
 * Everything is little-endian. No length in a file is believed before it was compared with the bytes that are there.
 *
 * @module
 */

import type { Float16Matrix } from '../cache/state.js';
import { FormatError } from '../errors.js';
import type { Matrix } from '../numerics/matrix.js';
import { crc32 } from './crc32.js';

/** Version of the format that is written, and the only one that is read. */
export const SNAPSHOT_VERSION = 1;

/** Like that of PNG: a transfer as text, or with the eighth bit cut, changes it. */
const MAGIC = Uint8Array.of(0x89, 0x58, 0x51, 0x53, 0x0d, 0x0a, 0x1a, 0x0a); // \x89 X Q S \r \n \x1a \n

const HEADER_BYTES = 32;
/** Tag, index, length. */
const SECTION_HEADER_BYTES = 16;
const CRC_BYTES = 4;

/** Numbers that a section is made of. */
export type Part = Uint8Array | Uint16Array | Uint32Array | Float32Array;

/** Sections, one after another, after a header. */
export class SectionWriter {
  readonly #sections: { tag: string; index: number; parts: readonly Part[]; length: number }[] = [];

  /** @param parts kept until {@link finish} */
  add(tag: string, index: number, parts: readonly Part[]): void {
    const length = parts.reduce((sum, part) => sum + part.byteLength, 0);
    this.#sections.push({ tag, index, parts, length });
  }

  /** @returns the bytes of the file, fresh */
  finish(): Uint8Array {
    const overhead = SECTION_HEADER_BYTES + CRC_BYTES;
    const size = this.#sections.reduce((sum, { length }) => sum + length + overhead, HEADER_BYTES);
    const file = new Uint8Array(size);
    const view = new DataView(file.buffer);
    file.set(MAGIC);
    view.setUint32(8, SNAPSHOT_VERSION, true);
    view.setUint32(12, this.#sections.length, true);
    view.setBigUint64(16, BigInt(size), true);
    view.setUint32(28, crc32(file.subarray(0, 28)), true);
    let at = HEADER_BYTES;
    for (const { tag, index, parts, length } of this.#sections) {
      const start = at;
      new TextEncoder().encodeInto(tag, file.subarray(at));
      view.setUint32(at + 4, index, true);
      view.setBigUint64(at + 8, BigInt(length), true);
      at += SECTION_HEADER_BYTES;
      for (const part of parts) {
        file.set(toLittleEndian(part), at);
        at += part.byteLength;
      }
      view.setUint32(at, crc32(file.subarray(start, at)), true);
      at += CRC_BYTES;
    }
    return file;
  }
}

/** One section of a file. */
export interface Section {
  /** For messages: `section "LAYR 3"`. */
  readonly name: string;
  /** A view on the file. */
  readonly body: Uint8Array;
}

/**
 * The sections of a file: META, TOKS, then LAYR 0, 1, ... All CRCs are checked.
 *
 * @param path for messages
 * @throws {FormatError} if it is no snapshot, of another version, cut or damaged; names the place
 */
export function readSections(bytes: Uint8Array, path: string): Section[] {
  const { size, count } = readHeader(bytes, path);
  if (size !== bytes.length) {
    throw new FormatError(path, 'size', `the file has ${bytes.length} bytes and should have ${size}`);
  }
  const sections: Section[] = [];
  let at = HEADER_BYTES;
  while (at < bytes.length) {
    const { section, end } = readSection(bytes, at, sections.length, path);
    sections.push(section);
    at = end;
  }
  if (sections.length !== count || count < 2) {
    throw new FormatError(path, 'sections', `${count} announced, ${sections.length} found`);
  }
  return sections;
}

/**
 * META and TOKS from the beginning of a file; their CRCs are checked.
 *
 * @param bytes may end after them
 * @param path for messages
 * @throws {FormatError} if it is no snapshot, of another version, cut or damaged; names the place
 */
export function readFirstSections(bytes: Uint8Array, path: string): [Section, Section] {
  const { count } = readHeader(bytes, path);
  if (count < 2) throw new FormatError(path, 'sections', `${count} announced, at least 2 expected`);
  const meta = readSection(bytes, HEADER_BYTES, 0, path);
  const tokens = readSection(bytes, meta.end, 1, path);
  return [meta.section, tokens.section];
}

function readHeader(bytes: Uint8Array, path: string): { size: number; count: number } {
  if (bytes.length < HEADER_BYTES) {
    throw new FormatError(path, 'header', `is cut: ${bytes.length} bytes of ${HEADER_BYTES}`);
  }
  if (!MAGIC.every((byte, i) => bytes[i] === byte)) {
    throw new FormatError(path, 'magic', 'is not that of an xquant snapshot');
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = view.getUint32(8, true);
  if (version !== SNAPSHOT_VERSION) {
    throw new FormatError(path, 'version', `is ${version}; this package reads version ${SNAPSHOT_VERSION}`);
  }
  if (view.getUint32(28, true) !== crc32(bytes.subarray(0, 28))) {
    throw new FormatError(path, 'header', 'is damaged: its CRC-32 is wrong');
  }
  return { size: Number(view.getBigUint64(16, true)), count: view.getUint32(12, true) };
}

/**
 * @param at where the section begins
 * @param position in the file, from 0
 * @returns with the place after it
 */
function readSection(
  bytes: Uint8Array,
  at: number,
  position: number,
  path: string,
): { section: Section; end: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [tag, number] = position < 2 ? [['META', 'TOKS'][position], 0] : ['LAYR', position - 2];
  const name = `section "${tag} ${number}"`;
  const left = bytes.length - at - SECTION_HEADER_BYTES - CRC_BYTES;
  if (left < 0) throw new FormatError(path, name, 'is cut');
  const length = Number(view.getBigUint64(at + 8, true));
  if (length > left) {
    throw new FormatError(path, name, `claims ${length} bytes, of which ${left} are there`);
  }
  const end = at + SECTION_HEADER_BYTES + length;
  if (view.getUint32(end, true) !== crc32(bytes.subarray(at, end))) {
    throw new FormatError(path, name, 'is damaged: its CRC-32 is wrong');
  }
  const found = String.fromCharCode(...bytes.subarray(at, at + 4));
  if (found !== tag || view.getUint32(at + 4, true) !== number) {
    throw new FormatError(path, name, `expected, found "${found} ${view.getUint32(at + 4, true)}"`);
  }
  return { section: { name, body: bytes.subarray(at + SECTION_HEADER_BYTES, end) }, end: end + CRC_BYTES };
}

/**
 * Takes one array after the other from a section. What is longer than the rest of the section, or not finite, is
 * refused with a {@link FormatError}; all arrays are fresh.
 */
export class PartReader {
  readonly #section: Section;
  readonly #path: string;
  #at = 0;

  constructor(section: Section, path: string) {
    this.#section = section;
    this.#path = path;
  }

  /** @returns a copy of the next bytes in a buffer of their own */
  bytes(length: number): Uint8Array {
    const { body, name } = this.#section;
    const left = body.length - this.#at;
    if (length > left) {
      throw new FormatError(this.#path, name, `is too short: ${length} bytes needed, ${left} left`);
    }
    const part = new Uint8Array(length);
    part.set(body.subarray(this.#at, this.#at + length));
    this.#at += length;
    return part;
  }

  uint16(count: number): Uint16Array {
    return new Uint16Array(toLittleEndian(new Uint16Array(this.bytes(2 * count).buffer)).buffer);
  }

  uint32(count: number): Uint32Array {
    return new Uint32Array(toLittleEndian(new Uint32Array(this.bytes(4 * count).buffer)).buffer);
  }

  /** f16 bits of finite numbers. */
  finiteFloat16(count: number, place: string): Uint16Array {
    const values = this.uint16(count);
    const bad = values.findIndex((bits) => (bits & 0x7c00) === 0x7c00);
    if (bad >= 0) this.refuse(place, `number ${bad} is not finite`);
    return values;
  }

  /** Finite f16 numbers, [rows, columns]. */
  float16Matrix(rows: number, columns: number, place: string): Float16Matrix {
    return { rows, columns, float16: this.finiteFloat16(rows * columns, place) };
  }

  /** Finite f32 numbers, [rows, columns]. */
  float32Matrix(rows: number, columns: number, place: string): Matrix {
    const bytes = toLittleEndian(new Float32Array(this.bytes(4 * rows * columns).buffer));
    const data = new Float32Array(bytes.buffer);
    const bad = data.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) this.refuse(place, `number ${bad} is not finite`);
    return { rows, columns, data };
  }

  /** Requires that everything was taken. */
  end(): void {
    const left = this.#section.body.length - this.#at;
    if (left > 0) throw new FormatError(this.#path, this.#section.name, `has ${left} bytes too many`);
  }

  /** @throws {FormatError} always */
  refuse(place: string, reason: string): never {
    throw new FormatError(this.#path, this.#section.name, `${place}: ${reason}`);
  }
}

/**
 * The bytes of an array in little-endian order; of an array read from a file, the way back is the same.
 *
 * @returns a view on the array where the machine is little-endian, as nearly all are
 */
export function toLittleEndian(part: Part): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(part.buffer as ArrayBuffer, part.byteOffset, part.byteLength);
  const size = part.BYTES_PER_ELEMENT;
  if (size === 1 || new Uint8Array(Uint16Array.of(1).buffer)[0] === 1) return bytes;
  const swapped = bytes.slice();
  for (let at = 0; at < swapped.length; at += size) swapped.subarray(at, at + size).reverse();
  return swapped;
}
