/**
 * A file behind a URL. Ranges are asked for when the server gives them, so that a header can be read without
 * the weights; a server without ranges sends the whole file once, into memory.
 *
 * @module
 */

import { FormatError, LoadError } from '../errors.js';
import { messageOf } from '../printable.js';
import {
  allocate,
  assertInside,
  type ByteSource,
  type FileFolder,
  fillFromStream,
  memorySource,
  type SourceOptions,
} from './source.js';

const ATTEMPTS = 3;
const FIRST_PAUSE_MS = 200;

/** Statuses after which the same request may succeed. */
const RETRY_STATUSES = new Set([408, 425, 429, 500, 502, 503, 504]);

/** What {@link httpSource} takes besides the options of every source. */
export interface HttpSourceOptions extends SourceOptions {
  /** Called with the size of the file before its bytes come, if the server says it. */
  readonly onSize?: (size: number) => void;
}

/**
 * Opens a URL. A connection that breaks is resumed twice where it broke.
 *
 * @throws {LoadError} with the HTTP status if there is no such file
 */
export async function httpSource(url: string, options: HttpSourceOptions = {}): Promise<ByteSource> {
  const source = await tryHttpSource(url, options);
  if (!source) throw new LoadError(url, 'HTTP status 404 (Not Found)');
  return source;
}

/** As {@link httpSource}, but gives `undefined` on status 404. */
export async function tryHttpSource(
  url: string,
  options: HttpSourceOptions = {},
): Promise<ByteSource | undefined> {
  // One byte is asked for, not a HEAD request: signed URLs of file hosts are often valid for GET only.
  const response = await request(url, options, { Range: 'bytes=0-0' });
  if (response.status === 404) {
    await response.body?.cancel();
    return undefined;
  }
  if (response.status === 416) {
    await response.body?.cancel();
    return memorySource(new Uint8Array(0), url); // an empty file has no byte 0
  }
  if (!response.ok) throw await statusError(url, response);

  const total = totalOfRange(response);
  if (response.status === 206 && total !== undefined) {
    await response.body?.cancel();
    options.onSize?.(total);
    return rangedSource(url, total, options);
  }
  if (response.status === 206) {
    // A server of another origin may hide the size of the file from a web page; the whole file still comes.
    await response.body?.cancel();
    const whole = await request(url, options, {});
    if (!whole.ok) throw await statusError(url, whole);
    return memorySource(await readBody(url, whole, options), url);
  }
  return memorySource(await readBody(url, response, options), url);
}

/** The files below a URL that ends in `/`; they cannot be listed. */
export function httpFolder(url: string, options: HttpSourceOptions = {}): FileFolder {
  return {
    name: url,
    open: (file) => tryHttpSource(new URL(file, url).href, options),
    list: async () => undefined,
  };
}

function rangedSource(url: string, size: number, options: HttpSourceOptions): ByteSource {
  return {
    name: url,
    size,
    async read(offset, length) {
      assertInside(url, size, offset, length);
      const target = allocate(url, length);
      let filled = 0;
      let failures = 0;
      while (filled < length) {
        const range = `bytes=${offset + filled}-${offset + length - 1}`;
        const response = await request(url, options, { Range: range });
        if (response.status !== 206) throw await statusError(url, response);
        const total = totalOfRange(response);
        if (total !== size) {
          await response.body?.cancel();
          throw new FormatError(
            url,
            'size',
            `was ${size} bytes and is ${total} now: the file changed on the way`,
          );
        }
        const before = filled;
        try {
          if (response.body) filled = await fillFromStream(target, filled, response.body, options);
        } catch (cause) {
          options.signal?.throwIfAborted();
          if (++failures >= ATTEMPTS) {
            throw new LoadError(url, `the connection broke at byte ${offset + filled}: ${messageOf(cause)}`, {
              cause,
            });
          }
          continue;
        }
        if (filled === before && ++failures >= ATTEMPTS) {
          throw new LoadError(url, `the server sent nothing for ${range}`);
        }
      }
      return target;
    },
    async close() {},
  };
}

async function readBody(url: string, response: Response, options: HttpSourceOptions): Promise<Uint8Array> {
  // With a content encoding the length is that of the compressed bytes.
  const encoded = response.headers.has('content-encoding');
  const announced = encoded ? Number.NaN : Number(response.headers.get('content-length') ?? Number.NaN);
  if (Number.isSafeInteger(announced)) options.onSize?.(announced);
  if (!response.body) return new Uint8Array(await response.arrayBuffer());

  const parts: Uint8Array[] = [];
  let size = 0;
  const reader = response.body.getReader();
  try {
    for (;;) {
      options.signal?.throwIfAborted();
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      size += value.length;
      options.onBytes?.(value.length);
    }
  } catch (cause) {
    options.signal?.throwIfAborted();
    throw new LoadError(url, `the connection broke at byte ${size}: ${messageOf(cause)}`, { cause });
  } finally {
    await reader.cancel().catch(() => undefined);
  }
  if (Number.isSafeInteger(announced) && size !== announced) {
    throw new LoadError(url, `${announced} bytes announced, ${size} received`);
  }
  const whole = allocate(url, size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

async function request(
  url: string,
  options: HttpSourceOptions,
  headers: Record<string, string>,
): Promise<Response> {
  const send = options.fetch ?? fetch;
  for (let attempt = 1; ; attempt++) {
    options.signal?.throwIfAborted();
    const last = attempt === ATTEMPTS;
    try {
      const response = await send(url, {
        headers: { ...options.headers, ...headers },
        signal: options.signal,
      });
      if (last || !RETRY_STATUSES.has(response.status)) return response;
      await response.body?.cancel();
    } catch (cause) {
      options.signal?.throwIfAborted();
      if (last) throw new LoadError(url, messageOf(cause), { cause });
    }
    await new Promise((resolve) => setTimeout(resolve, FIRST_PAUSE_MS * 2 ** (attempt - 1)));
  }
}

async function statusError(url: string, response: Response): Promise<LoadError> {
  await response.body?.cancel();
  const text = response.statusText ? ` (${response.statusText})` : '';
  return new LoadError(url, `HTTP status ${response.status}${text}`);
}

/** The number behind the slash of `Content-Range: bytes 0-0/12345`. */
function totalOfRange(response: Response): number | undefined {
  const match = /\/\s*(\d+)\s*$/.exec(response.headers.get('content-range') ?? '');
  const total = match ? Number(match[1]) : Number.NaN;
  return Number.isSafeInteger(total) ? total : undefined;
}
