/**
 * Files of models that stay in the browser, so that a second visit does not download again.
 *
 * {@link StoredFetch} stands between the readers of model files and the network. What comes from the network is
 * written to the storage range by range as it passes; what is there already is not asked for again, so a download
 * that broke off goes on where it stopped, and a complete model loads without a network.
 *
 * {@link OpfsStorage} keeps files in the origin-private file system. Another {@link ModelStorage} can take its
 * place.
 *
 * @module
 */

import { LoadError, XQuantError } from '../errors.js';
import { unsignedUrl } from '../io/http-request.js';
import { messageOf } from '../printable.js';

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

/** What is known of a stored file. */
export interface StoredInfo {
  /** Where it came from, without a signature. */
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
  /** What is known of all files. */
  list(): Promise<StoredInfo[]>;
  /** Deletes a file, or all. */
  delete(key?: string): Promise<void>;
  /** Bytes that can still be stored, as far as known. */
  available(): Promise<number | undefined>;
}

/** A `fetch` that keeps what it fetches. */
export class StoredFetch {
  /** Takes the place of the global `fetch`. */
  readonly fetch: typeof fetch;
  /** Why nothing can be stored any more, if so. */
  failure: StorageError | undefined;
  readonly #storage: ModelStorage;
  readonly #send: typeof fetch;
  readonly #files = new Map<string, Promise<StoredFile>>();

  /** @param send asks the network */
  constructor(storage: ModelStorage, send: typeof fetch = globalThis.fetch.bind(globalThis)) {
    this.#storage = storage;
    this.#send = send;
    this.fetch = (input, init) => this.#fetch(input, init);
  }

  /** Lets go of all files. */
  async close(): Promise<void> {
    const files = await Promise.allSettled(this.#files.values());
    this.#files.clear();
    for (const file of files) if (file.status === 'fulfilled') file.value.close();
  }

  async #fetch(input: RequestInfo | URL, init?: RequestInit): Promise<Response> {
    if (this.failure) throw this.failure;
    const url = input instanceof Request ? input.url : String(input);
    const headers = new Headers(init?.headers ?? (input instanceof Request ? input.headers : undefined));
    const asked = parseRange(headers.get('range'));
    const method = init?.method ?? (input instanceof Request ? input.method : 'GET');
    // Without a range it is a listing, which may change from day to day.
    if (method !== 'GET' || !asked) return this.#send(input, init);

    const key = unsignedUrl(url);
    const file = await this.#open(key);
    const known = file.info;
    if (known && covers(known, asked)) return answer(file, known, asked, url);
    const response = await this.#send(input, init);
    return this.#keep(file, key, response);
  }

  /** Lets an answer pass and writes it down. */
  async #keep(file: StoredFile, key: string, response: Response): Promise<Response> {
    const range = contentRange(response);
    if (!response.body || !range) return response;
    const etag = response.headers.get('etag') ?? undefined;
    const known = file.info;
    if (!known || known.size !== range.size || known.etag !== etag) {
      await this.#assertRoom(key, range.size);
      file.setInfo({ key, size: range.size, etag, ranges: [], headers: plainHeaders(response.headers) });
    }
    let at = range.start;
    const store = (bytes: Uint8Array) => {
      try {
        file.write(at, bytes);
      } catch (cause) {
        this.failure = quotaError(key, range.size, undefined, cause);
        throw this.failure;
      }
      at += bytes.length;
    };
    const note = () => {
      const info = file.info;
      if (info && at > range.start) file.setInfo({ ...info, ranges: merged(info.ranges, range.start, at) });
    };
    const reader = response.body.getReader();
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        try {
          const { done, value } = await reader.read();
          if (done) {
            note();
            controller.close();
            return;
          }
          store(value);
          controller.enqueue(value);
        } catch (error) {
          note(); // what has arrived need not arrive again
          controller.error(error);
        }
      },
      async cancel(reason) {
        note();
        await reader.cancel(reason);
      },
    });
    return dressed(new Response(body, response), response.url);
  }

  async #assertRoom(key: string, size: number): Promise<void> {
    const available = await this.#storage.available();
    if (available === undefined || available >= size) return;
    this.failure = quotaError(key, size, available);
    throw this.failure;
  }

  #open(key: string): Promise<StoredFile> {
    let file = this.#files.get(key);
    if (!file) {
      file = this.#storage.open(key);
      this.#files.set(key, file);
    }
    return file;
  }
}

/** Where files lie in the origin-private file system. */
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

/** What Chromium's files give when there is no room. */
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

interface ByteRange {
  readonly start: number;
  /** Exclusive; absent: to the end of the file. */
  readonly end?: number;
}

/** `bytes=5-9` or `bytes=5-`. */
function parseRange(header: string | null): ByteRange | undefined {
  const match = /^bytes=(\d+)-(\d*)$/.exec(header ?? '');
  if (!match) return undefined;
  return { start: Number(match[1]), ...(match[2] ? { end: Number(match[2]) + 1 } : {}) };
}

/** Which bytes of which file an answer brings; none if it is no file or its size is not known. */
function contentRange(response: Response): { start: number; size: number } | undefined {
  if (response.headers.has('content-encoding')) return undefined;
  if (response.status === 206) {
    const match = /^bytes (\d+)-\d+\/(\d+)$/.exec(response.headers.get('content-range') ?? '');
    return match ? { start: Number(match[1]), size: Number(match[2]) } : undefined;
  }
  const length = response.headers.get('content-length');
  return response.status === 200 && length !== null ? { start: 0, size: Number(length) } : undefined;
}

function covers({ size, ranges }: StoredInfo, { start, end = size }: ByteRange): boolean {
  return ranges.some(([from, to]) => from <= start && Math.min(end, size) <= to);
}

/** Adds `[start, end)` to ranges that are ascending and apart. */
function merged(ranges: StoredInfo['ranges'], start: number, end: number): StoredInfo['ranges'] {
  const result: [number, number][] = [];
  for (const [from, to] of [...ranges, [start, end] as const].sort(([a], [b]) => a - b)) {
    const last = result.at(-1);
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else result.push([from, to]);
  }
  return result;
}

/** An answer to a request for a range, from the storage. */
function answer(file: StoredFile, info: StoredInfo, asked: ByteRange, url: string): Response {
  const { size, headers } = info;
  const { start } = asked;
  const end = Math.min(asked.end ?? size, size);
  let at = start;
  // In pieces, so that progress is told and a signal is heard, as from a network.
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      const length = Math.min(STORED_PIECE_BYTES, end - at);
      if (length > 0) controller.enqueue(file.read(at, length));
      at += length;
      if (at >= end) controller.close();
    },
  });
  const status = 206;
  const response = new Response(body, {
    status,
    headers: {
      ...headers,
      'content-range': `bytes ${start}-${end - 1}/${size}`,
      'content-length': String(end - start),
    },
  });
  return dressed(response, url);
}

const STORED_PIECE_BYTES = 2 ** 20;

/** A made response has no URL; readers of redirects want one. */
function dressed(response: Response, url: string): Response {
  Object.defineProperty(response, 'url', { value: url });
  return response;
}

function plainHeaders(headers: Headers): Record<string, string> {
  const own = new Set([
    'content-length',
    'content-range',
    'content-encoding',
    'transfer-encoding',
    'set-cookie',
  ]);
  return Object.fromEntries([...headers].filter(([name]) => !own.has(name)));
}

function quotaError(key: string, size: number, available?: number, cause?: unknown): StorageError {
  const granted = available === undefined ? '' : `, of which the browser grants ${megabytes(available)} more`;
  const reason =
    `there is no room to keep its ${megabytes(size)}${granted}: delete models that are no longer needed, free ` +
    'disk space, or load with storage "none"';
  const why = cause === undefined || isQuota(cause) ? reason : `cannot be kept: ${messageOf(cause)}`;
  return new StorageError(key, why, size, available, { cause });
}

function isQuota(cause: unknown): boolean {
  return cause instanceof Error && cause.name === 'QuotaExceededError';
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
