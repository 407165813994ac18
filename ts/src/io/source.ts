/**
 * Random access to the bytes of a file, wherever it is: the one interface that the readers of model files
 * know. Here: memory and `Blob`. `http-source.ts` adds URLs, `node-file.ts` paths (Node only).
 *
 * @module
 */

import { FormatError, LoadError } from '../errors.js';
import { describeValue, messageOf } from '../printable.js';

/** A file of known size that can be read from any place. */
export interface ByteSource {
  /** Path, URL or other name, for messages. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /** Changes with the contents, if a server says so: its ETag or the date of the last change. */
  readonly version?: string;
  /**
   * Reads `length` bytes from `offset`.
   *
   * @param offset bytes from the start of the file
   * @param target where the bytes may be put, at least `length` of them; by default each read takes new memory
   * @returns exactly `length` bytes, not to be written to: a source in memory gives a view
   * @throws {LoadError} if they cannot be read, or `[offset, offset + length)` is not inside the file
   */
  read(offset: number, length: number, target?: Uint8Array): Promise<Uint8Array>;
  /** Whether every read is a request to a server, so that many small ones are slow. */
  readonly isRemote?: boolean;
  /** Frees the file handle, if there is one. */
  close(): Promise<void>;
}

/** Options of every kind of source. */
export interface SourceOptions {
  /** Stops reading; the read then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Called with the count of bytes each time some arrive from disk or network. */
  readonly onBytes?: (count: number) => void;
  /** Instead of the global `fetch`. */
  readonly fetch?: typeof fetch;
  /** Sent with every request. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** Files of one model by name, for models that are more than one file. */
export interface FileFolder {
  /** Path, URL or other name, for messages. */
  readonly name: string;
  /** Opens a file, or gives `undefined` if there is none of that name. */
  open(file: string): Promise<ByteSource | undefined>;
  /** Names of all files, or `undefined` where they cannot be listed (a plain web server). */
  list(): Promise<readonly string[] | undefined>;
}

/**
 * Wraps bytes in memory; reads give views.
 *
 * @param bytes kept, not copied
 */
export function memorySource(bytes: Uint8Array, name: string): ByteSource {
  // Node's Buffer is a Uint8Array whose slice() does not copy; nobody here should have to think of that.
  const plain = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return {
    name,
    size: bytes.length,
    async read(offset, length) {
      assertInside(name, bytes.length, offset, length);
      return plain.subarray(offset, offset + length);
    },
    async close() {},
  };
}

/** Wraps a `Blob`, for instance a `File` that a user picked. */
export function blobSource(blob: Blob, name: string, options: SourceOptions = {}): ByteSource {
  return {
    name,
    size: blob.size,
    async read(offset, length, into) {
      assertInside(name, blob.size, offset, length);
      const target = into?.subarray(0, length) ?? allocate(name, length);
      const filled = await fillFromStream(
        target,
        0,
        blob.slice(offset, offset + length).stream(),
        options,
      ).catch((cause) => {
        options.signal?.throwIfAborted();
        throw new LoadError(name, `cannot be read: ${messageOf(cause)}`, { cause });
      });
      if (filled !== length)
        throw new LoadError(name, `${length} bytes expected at ${offset}, got ${filled}`);
      return target;
    },
    async close() {},
  };
}

/**
 * The files that a user picked, as a folder. Names are compared without their directories.
 *
 * @param files for instance of an `<input type="file" webkitdirectory>`
 */
export function filesFolder(files: readonly File[], name: string, options: SourceOptions = {}): FileFolder {
  return {
    name,
    async open(file) {
      const found = files.find((each) => each.name === file);
      return found && blobSource(found, `${name}/${file}`, options);
    },
    async list() {
      return files.map((file) => file.name);
    },
  };
}

/** The largest file that is read as text, bytes; tokenizers of 256k tokens are near 35 MB. */
export const MAX_TEXT_BYTES = 2 ** 28;

/**
 * Reads a whole small file as text.
 *
 * @throws {FormatError} if it is larger than {@link MAX_TEXT_BYTES}
 * @throws {LoadError} if it cannot be read
 */
export async function readText(source: ByteSource): Promise<string> {
  if (source.size > MAX_TEXT_BYTES) {
    const reason = `${source.size} bytes are more than the ${MAX_TEXT_BYTES} that are read as text`;
    throw new FormatError(source.name, 'file', reason);
  }
  return new TextDecoder().decode(await source.read(0, source.size));
}

/**
 * Fills `target` from `start` with what a stream gives.
 *
 * @param target overwritten
 * @returns the end of what was filled; the stream is cancelled once `target` is full
 */
export async function fillFromStream(
  target: Uint8Array,
  start: number,
  stream: ReadableStream<Uint8Array>,
  options: SourceOptions,
): Promise<number> {
  const reader = stream.getReader();
  let at = start;
  try {
    while (at < target.length) {
      options.signal?.throwIfAborted();
      const { done, value } = await reader.read();
      if (done) break;
      const part = value.subarray(0, target.length - at);
      target.set(part, at);
      at += part.length;
      options.onBytes?.(part.length);
    }
  } finally {
    // Also after an error: the connection must not stay open for bytes that nobody reads.
    await reader.cancel().catch(() => undefined);
  }
  return at;
}

/**
 * Requires the name of a file in a folder: no path, no address, no part of one. Names come from indexes and
 * listings that anybody may have written.
 *
 * @param folder for messages
 * @throws {FormatError} if it is anything else
 */
export function assertPlainName(name: string, folder: string): void {
  if (isPlainName(name)) return;
  throw new FormatError(folder, 'file name', `must be a plain name, got ${describeValue(name)}`);
}

/** Whether a name is that of a file in the same folder: letters, digits, and `.`, `_`, `-`, `+`, space inside. */
export function isPlainName(name: unknown): name is string {
  return (
    typeof name === 'string' && name.length <= 255 && /^[\p{L}\p{N}_][\p{L}\p{M}\p{N}._+ -]*$/u.test(name)
  );
}

/** @throws {LoadError} if the range is not inside the file */
export function assertInside(name: string, size: number, offset: number, length: number): void {
  if (!(offset >= 0 && length >= 0 && offset + length <= size)) {
    throw new LoadError(
      name,
      `bytes ${offset} to ${offset + length} are not inside the ${size} bytes of the file`,
    );
  }
}

/** @throws {LoadError} if the memory cannot be allocated */
export function allocate(name: string, length: number): Uint8Array {
  try {
    return new Uint8Array(length);
  } catch (cause) {
    throw new LoadError(name, `there is no memory for ${length} bytes`, { cause });
  }
}
