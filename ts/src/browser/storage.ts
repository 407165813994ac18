/**
 * Files of models that stay in the browser, so that a second visit does not download again: what a storage is.
 *
 * stored-fetch.ts fills one and reads from it; opfs-storage.ts keeps files in the origin-private file system. Another
 * {@link ModelStorage} can take its place.
 *
 * @module
 */

import { XQuantError } from '../errors.js';

/** The browser does not keep what it was to keep: the quota is used up, or there is no storage at all. */
export class StorageError extends XQuantError {
  constructor(
    /** The URL of the file. */
    readonly path: string,
    reason: string,
    /** Bytes that were to be kept, as far as known. */
    readonly requestedBytes?: number,
    /** Bytes that the browser still grants, as far as known. */
    readonly availableBytes?: number,
    options?: ErrorOptions,
  ) {
    super('STORAGE', `${path}: ${reason}`, options);
  }
}

/** A stored file. */
export interface StoredInfo {
  /** Its URL, without a signature. */
  readonly key: string;
  /** Bytes of the whole file. */
  readonly size: number;
  /** Changes with the contents, if the server gave one. */
  readonly etag?: string;
  /** Parts that are there, `[start, end)`, ascending, apart from each other. */
  readonly ranges: readonly (readonly [start: number, end: number])[];
  /** Headers of the first answer; readers look at some of them. */
  readonly headers: Readonly<Record<string, string>>;
}

/** One open file. Nobody else has it open. */
export interface StoredFile {
  /** Absent for a new file. */
  readonly info: StoredInfo | undefined;
  /** @returns fresh */
  read(offset: number, length: number): Uint8Array<ArrayBuffer>;
  /** @throws {DOMException} named `QuotaExceededError` if there is no room */
  write(offset: number, bytes: Uint8Array): void;
  /** Replaces what is known; with `undefined`, forgets the file. */
  setInfo(info: StoredInfo | undefined): void;
  /** Lets go of the file; it stays where it is. */
  close(): void;
}

/** Keeps files by key. */
export interface ModelStorage {
  /** Opens a file, and makes it if there is none; waits while somebody else has it open. */
  open(key: string): Promise<StoredFile>;
  /** All files. */
  list(): Promise<StoredInfo[]>;
  /** Deletes a file, or all. */
  delete(key?: string): Promise<void>;
  /** Bytes that can still be stored, as far as known. */
  available(): Promise<number | undefined>;
}
