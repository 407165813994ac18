/**
 * Files of models in the origin-private file system of the browser.
 *
 * @module
 */

import { LoadError } from '../errors.js';
import { messageOf } from '../printable.js';
import { type ModelStorage, StorageError, type StoredFile, type StoredInfo } from './storage.js';

/** Folder of the files in the origin-private file system. */
const FOLDER = 'xquant-models';

/**
 * Files in the origin-private file system. A worker can open them; a page can list and delete them.
 */
export class OpfsStorage implements ModelStorage {
  /**
   * @throws {StorageError} if the browser has no such file system here: an old browser, a page without HTTPS, or
   *   a private window
   */
  async open(key: string): Promise<StoredFile> {
    const folder = await openFolder(key);
    const name = await fileName(key);
    const release = await lock(name);
    try {
      const data = await syncHandle(folder, `${name}.bin`);
      try {
        return new OpfsFile(key, data, await syncHandle(folder, `${name}.json`), release);
      } catch (error) {
        data.close();
        throw error;
      }
    } catch (cause) {
      release();
      throw new StorageError(
        key,
        `cannot be opened in the storage of the browser: ${messageOf(cause)}`,
        undefined,
        undefined,
        {
          cause,
        },
      );
    }
  }

  async list(): Promise<StoredInfo[]> {
    const folder = await openFolder('models');
    const found: StoredInfo[] = [];
    for await (const [name, handle] of entries(folder)) {
      if (!name.endsWith('.json') || handle.kind !== 'file') continue;
      const text = await (await (handle as FileSystemFileHandle).getFile()).text();
      const info = parseInfo(text);
      if (info) found.push(info);
    }
    return found;
  }

  async delete(key?: string): Promise<void> {
    const folder = await openFolder(key ?? 'models');
    const wanted = key === undefined ? undefined : await fileName(key);
    const names: string[] = [];
    for await (const [name] of entries(folder)) names.push(name);
    for (const name of names) {
      if (wanted === undefined || name.startsWith(`${wanted}.`)) await folder.removeEntry(name);
    }
  }

  async available(): Promise<number | undefined> {
    const { quota, usage } = (await navigator.storage?.estimate?.()) ?? {};
    return quota === undefined || usage === undefined ? undefined : quota - usage;
  }
}

/** Result of Chromium's `write` when there is no room. */
const NO_SPACE = -8;

/** The part of a synchronous handle that is used; the DOM library of TypeScript knows it in workers only. */
interface SyncHandle {
  read(target: Uint8Array, options: { at: number }): number;
  write(source: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}

class OpfsFile implements StoredFile {
  info: StoredInfo | undefined;
  readonly #data: SyncHandle;
  readonly #json: SyncHandle;
  readonly #release: () => void;

  constructor(key: string, data: SyncHandle, json: SyncHandle, release: () => void) {
    this.#data = data;
    this.#json = json;
    this.#release = release;
    const text = new Uint8Array(json.getSize());
    json.read(text, { at: 0 });
    const info = parseInfo(new TextDecoder().decode(text));
    // Two keys never share a name, but what is on a disk can be anything.
    if (info?.key === key && info.ranges.every(([, end]) => end <= data.getSize())) this.info = info;
  }

  read(offset: number, length: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(length);
    const count = this.#data.read(bytes, { at: offset });
    if (count !== length)
      throw new LoadError(this.info?.key ?? 'storage', 'a stored file is shorter than it was');
    return bytes;
  }

  write(offset: number, bytes: Uint8Array): void {
    let done = 0;
    while (done < bytes.length) {
      const written = this.#data.write(bytes.subarray(done), { at: offset + done });
      // Chromium throws nothing when the quota is used up: it gives -8 ("no space") as an unsigned number.
      if (!(written > 0 && written <= bytes.length - done)) {
        const full = written === 0 || (written | 0) === NO_SPACE;
        throw new DOMException(
          `${written | 0} bytes were written`,
          full ? 'QuotaExceededError' : 'InvalidStateError',
        );
      }
      done += written;
    }
  }

  setInfo(info: StoredInfo | undefined): void {
    if (info === undefined) this.#data.truncate(0);
    else this.#data.flush(); // what is noted as being there must be there after a crash
    const text = new TextEncoder().encode(info ? JSON.stringify(info) : '');
    this.#json.truncate(0);
    this.#json.write(text, { at: 0 });
    this.#json.flush();
    this.info = info;
  }

  close(): void {
    this.#data.close();
    this.#json.close();
    this.#release();
  }
}

async function openFolder(path: string): Promise<FileSystemDirectoryHandle> {
  const reason =
    'this browser keeps no files here (it needs HTTPS or localhost, and no private window): load with storage "none"';
  if (!globalThis.navigator?.storage?.getDirectory) throw new StorageError(path, reason);
  try {
    const root = await navigator.storage.getDirectory();
    return await root.getDirectoryHandle(FOLDER, { create: true });
  } catch (cause) {
    throw new StorageError(path, reason, undefined, undefined, { cause });
  }
}

async function syncHandle(folder: FileSystemDirectoryHandle, name: string): Promise<SyncHandle> {
  const file = (await folder.getFileHandle(name, { create: true })) as FileSystemFileHandle & {
    createSyncAccessHandle?(): Promise<SyncHandle>;
  };
  if (!file.createSyncAccessHandle) throw new Error('only a worker can open it');
  return file.createSyncAccessHandle();
}

function entries(folder: FileSystemDirectoryHandle): AsyncIterable<[string, FileSystemHandle]> {
  return folder as unknown as AsyncIterable<[string, FileSystemHandle]>;
}

/** Waits for a lock across tabs and workers. */
function lock(name: string): Promise<() => void> {
  if (!navigator.locks) return Promise.resolve(() => undefined);
  return new Promise((resolve, reject) => {
    const held = navigator.locks.request(
      `${FOLDER} ${name}`,
      () => new Promise<void>((release) => resolve(release)),
    );
    held.catch(reject);
  });
}

async function fileName(key: string): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(key));
  return Array.from(new Uint8Array(digest, 0, 16), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function parseInfo(text: string): StoredInfo | undefined {
  try {
    const info = JSON.parse(text) as StoredInfo;
    const { key, size, ranges, headers } = info;
    const sound =
      typeof key === 'string' &&
      Number.isSafeInteger(size) &&
      Array.isArray(ranges) &&
      typeof headers === 'object';
    return sound ? info : undefined;
  } catch {
    return undefined; // new, or half written when the browser was closed: as if it were not there
  }
}
