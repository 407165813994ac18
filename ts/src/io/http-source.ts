/**
 * A file at a URL. Ranges are asked for when the server gives them, so that a header can be read without
 * the weights; a server without ranges sends the whole file once, into memory.
 *
 * A server is not trusted: it must send the bytes that were asked for, of the file that was asked for first, in a
 * bounded number of answers of bounded size.
 *
 * @module
 */

import { FormatError, LoadError } from '../errors.js';
import { inNode } from '../platform.js';
import { messageOf } from '../printable.js';
import { ATTEMPTS, failure, request, shownUrl } from './http-request.js';
import {
  allocate,
  assertInside,
  assertPlainName,
  type ByteSource,
  type FileFolder,
  fillFromStream,
  MAX_TEXT_BYTES,
  memorySource,
  type SourceOptions,
} from './source.js';

/** Answers to one read, besides one for each of {@link ANSWER_BYTES}. */
const MIN_ANSWERS = 16;

/** A server that sends less at a time than this on average is given up. */
const ANSWER_BYTES = 2 ** 20;

/** The largest file that comes whole, into memory, decompressed; linear memory holds no larger model either. */
const MAX_WHOLE_BYTES = 2 ** 32;

/** Options of {@link httpSource}, besides those of every source. */
export interface HttpSourceOptions extends SourceOptions {
  /** Called with the size of the file before its bytes come, if the server says it. */
  readonly onSize?: (size: number) => void;
  /** The largest file that is taken where it comes whole, bytes. Default 4 GiB. */
  readonly maxBytes?: number;
}

/**
 * Opens a URL. A connection that breaks is resumed twice where it broke.
 *
 * @throws {LoadError} with the HTTP status if there is no such file
 */
export async function httpSource(url: string, options: HttpSourceOptions = {}): Promise<ByteSource> {
  const source = await tryHttpSource(url, options);
  if (!source) throw new LoadError(shownUrl(url), 'HTTP status 404 (Not Found)', { status: 404 });
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
  const name = shownUrl(url);
  if (response.status === 416) {
    await response.body?.cancel();
    return memorySource(new Uint8Array(0), name); // an empty file has no byte 0
  }
  if (!response.ok) throw await statusError(url, response);

  const total = rangeOf(response)?.total;
  if (response.status === 206 && total !== undefined) {
    await response.body?.cancel();
    options.onSize?.(total);
    return rangedSource(url, total, versionOf(response), options);
  }
  if (response.status === 206) {
    // A server of another origin may hide the size of the file from a web page; the whole file still comes.
    await response.body?.cancel();
    const whole = await request(url, options, {});
    if (!whole.ok) throw await statusError(url, whole);
    return { ...memorySource(await readBody(url, whole, options), name), version: tag(versionOf(whole)) };
  }
  return { ...memorySource(await readBody(url, response, options), name), version: tag(versionOf(response)) };
}

/** The files below a URL that ends in `/`; they cannot be listed. */
export function httpFolder(url: string, options: HttpSourceOptions = {}): FileFolder {
  return {
    name: shownUrl(url),
    async open(file) {
      assertPlainName(file, shownUrl(url));
      const maxBytes = /\.(json|jinja)$/.test(file) ? MAX_TEXT_BYTES : options.maxBytes;
      return tryHttpSource(new URL(encodeURIComponent(file), url).href, { ...options, maxBytes });
    },
    list: async () => undefined,
  };
}

function rangedSource(url: string, size: number, version: Version, options: HttpSourceOptions): ByteSource {
  const name = shownUrl(url);
  // Across origins a page needs leave to send it, which few servers give; there the answers are compared only.
  const condition = inNode() || sameOrigin(url) ? version.condition : undefined;
  return {
    name,
    size,
    version: tag(version),
    isRemote: true,
    async read(offset, length, into) {
      assertInside(name, size, offset, length);
      const target = into?.subarray(0, length) ?? allocate(name, length);
      let answersLeft = MIN_ANSWERS + Math.ceil(length / ANSWER_BYTES);
      let filled = 0;
      let failures = 0;
      while (filled < length) {
        if (answersLeft-- === 0) {
          throw new LoadError(name, `the server sends ${length} bytes in too many pieces`);
        }
        const [from, to] = [offset + filled, offset + length - 1];
        const headers = { Range: `bytes=${from}-${to}`, ...(condition ? { 'If-Range': condition } : {}) };
        const response = await request(url, options, headers);
        const range = await assertAnswer(url, response, { size, version, from, to });
        const before = filled;
        // Not more than the range says: what comes after it belongs nowhere.
        const part = target.subarray(0, filled + range.end + 1 - from);
        try {
          if (response.body) filled = await fillFromStream(part, filled, response.body, options);
        } catch (cause) {
          options.signal?.throwIfAborted();
          if (++failures >= ATTEMPTS) {
            const reason = `the connection broke at byte ${offset + filled}: ${messageOf(cause)}`;
            throw failure(url, reason, cause, options);
          }
          continue;
        }
        if (filled === before && ++failures >= ATTEMPTS) {
          throw new LoadError(name, `the server sent nothing for bytes ${from} to ${to}`);
        }
      }
      return target;
    },
    async close() {},
  };
}

/** Requires an answer that has the bytes asked for, of the file as it was at first. */
async function assertAnswer(
  url: string,
  response: Response,
  asked: { size: number; version: Version; from: number; to: number },
): Promise<{ end: number }> {
  const { size, version, from, to } = asked;
  const range = rangeOf(response);
  let problem: FormatError | LoadError | undefined;
  if (response.status === 200) {
    // What an answer to If-Range is when the file is another one.
    problem = new FormatError(shownUrl(url), 'content', CHANGED);
  } else if (response.status !== 206) {
    throw await statusError(url, response);
  } else if (range?.total !== size) {
    const reason = `was ${size} bytes and is ${range?.total} now: ${CHANGED}`;
    problem = new FormatError(shownUrl(url), 'size', reason);
  } else if (differ(version, versionOf(response))) {
    problem = new FormatError(shownUrl(url), 'content', CHANGED);
  } else if (range.start !== from || range.end < from || range.end > to) {
    const reason = `bytes ${from} to ${to} were asked for, the server sent ${range.start} to ${range.end}`;
    problem = new FormatError(shownUrl(url), 'Content-Range', reason);
  }
  if (problem || !range) {
    await response.body?.cancel();
    throw problem;
  }
  return range;
}

const CHANGED = 'the file changed on the way';

/** The version of a file, as far as the server tells. */
interface Version {
  readonly etag: string | undefined;
  readonly modified: string | undefined;
  /** For `If-Range`, which takes no weak ETag. */
  readonly condition: string | undefined;
}

/** One text that tells versions apart. */
function tag({ etag, modified }: Version): string | undefined {
  return etag ?? modified;
}

function versionOf({ headers }: Response): Version {
  const etag = headers.get('etag') ?? undefined;
  const modified = headers.get('last-modified') ?? undefined;
  return { etag, modified, condition: etag && !etag.startsWith('W/') ? etag : modified };
}

/** Whether both say something, and not the same. */
function differ(first: Version, now: Version): boolean {
  const other = (a: string | undefined, b: string | undefined) =>
    a !== undefined && b !== undefined && a !== b;
  return other(first.etag, now.etag) || (first.etag === undefined && other(first.modified, now.modified));
}

function sameOrigin(url: string): boolean {
  return new URL(url).origin === globalThis.location?.origin;
}

async function readBody(url: string, response: Response, options: HttpSourceOptions): Promise<Uint8Array> {
  const name = shownUrl(url);
  const { maxBytes = MAX_WHOLE_BYTES } = options;
  // With a content encoding the length is that of the compressed bytes.
  const encoded = response.headers.has('content-encoding');
  const announced = encoded ? Number.NaN : Number(response.headers.get('content-length') ?? Number.NaN);
  const limit = Number.isSafeInteger(announced) ? Math.min(announced, maxBytes) : maxBytes;
  if (announced > maxBytes) {
    await response.body?.cancel();
    throw new LoadError(name, `${announced} bytes are more than ${maxBytes}`);
  }
  if (Number.isSafeInteger(announced)) options.onSize?.(announced);
  if (!response.body) return new Uint8Array(0);

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
      if (size > limit) throw new LoadError(name, `sends more than ${limit} bytes`);
      options.onBytes?.(value.length);
    }
  } catch (cause) {
    options.signal?.throwIfAborted();
    if (cause instanceof LoadError) throw cause;
    throw failure(url, `the connection broke at byte ${size}: ${messageOf(cause)}`, cause, options);
  } finally {
    await reader.cancel().catch(() => undefined);
  }
  if (Number.isSafeInteger(announced) && size !== announced) {
    throw new LoadError(name, `${announced} bytes announced, ${size} received`);
  }
  const whole = allocate(name, size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

async function statusError(url: string, response: Response): Promise<LoadError> {
  await response.body?.cancel();
  const text = response.statusText ? ` (${response.statusText})` : '';
  const { status } = response;
  return new LoadError(shownUrl(url), `HTTP status ${status}${text}`, { status });
}

/** `Content-Range: bytes 0-99/12345`; the end is that of the last byte. */
function rangeOf(response: Response): { start: number; end: number; total: number } | undefined {
  const match = /^bytes\s+(\d{1,15})-(\d{1,15})\/(\d{1,15})$/.exec(
    response.headers.get('content-range')?.trim() ?? '',
  );
  if (!match) return undefined;
  const [start, end, total] = match.slice(1).map(Number);
  return { start, end, total };
}
