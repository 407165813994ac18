/**
 * A `fetch` between the readers of model files and the network. What comes from the network is written to the storage
 * range by range as it passes; what is there already is not asked for again, so a download that broke off continues
 * where it stopped, and a complete model loads without a network.
 *
 * @module
 */

import { unsignedUrl } from '../io/http-request.js';
import { messageOf } from '../printable.js';
import { type ModelStorage, StorageError, type StoredFile, type StoredInfo } from './storage.js';

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

/** The bytes that an answer brings; `undefined` if it is no file or its size is not known. */
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
  // In pieces, so that progress is reported and a signal takes effect, as with a network.
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
