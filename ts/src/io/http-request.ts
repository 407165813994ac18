/**
 * One request to a server that may be anybody's: asked again when it is busy, as long after as it says; followed
 * where it sends us, but the user's headers stay at the origin they were meant for; nothing secret in a message.
 *
 * @module
 */

import { LoadError } from '../errors.js';
import { inNode } from '../platform.js';
import { describeValue, messageOf } from '../printable.js';
import type { SourceOptions } from './source.js';

/** How often a request is made before its failure is final. */
export const ATTEMPTS = 3;

const FIRST_PAUSE_MS = 200;

/** The longest pause that a server can ask for with `Retry-After`. */
const LONGEST_PAUSE_MS = 60_000;

const MAX_REDIRECTS = 5;

/** Requests that one load may make, redirects and repetitions included: these, and one for each MiB that came. */
export const MAX_REQUESTS = 5000;

/** Statuses after which the same request may succeed. */
const RETRY_STATUSES = new Set([408, 425, 429, 500, 502, 503, 504]);
const REDIRECT_STATUSES = new Set([301, 302, 303, 307, 308]);

/**
 * Asks for a URL.
 *
 * @param headers besides those of the options, for instance `Range`
 * @returns an answer of any status but a redirect; its `url` is where it came from
 * @throws {LoadError} if there is no answer, or the server wants us to come back after more than a minute
 */
export async function request(
  url: string,
  options: SourceOptions,
  headers: Readonly<Record<string, string>>,
): Promise<Response> {
  for (let attempt = 1; ; attempt++) {
    options.signal?.throwIfAborted();
    const last = attempt === ATTEMPTS;
    let pause = FIRST_PAUSE_MS * 2 ** (attempt - 1);
    try {
      const response = await follow(url, options, headers);
      if (last || !RETRY_STATUSES.has(response.status)) return response;
      await response.body?.cancel();
      pause = Math.max(pause, retryAfter(response) ?? 0);
      if (pause > LONGEST_PAUSE_MS) {
        const reason = `HTTP status ${response.status}: the server asks to come back in ${Math.ceil(pause / 1000)} s`;
        throw new LoadError(shownUrl(url), reason);
      }
    } catch (cause) {
      options.signal?.throwIfAborted();
      if (cause instanceof LoadError) throw cause;
      if (last) throw failure(url, messageOf(cause), cause, options);
    }
    await sleep(pause, options.signal);
  }
}

/**
 * A `fetch` for one load, which counts: a server that answers everything, but never with the bytes that were asked for,
 * must not keep us asking.
 *
 * @param received bytes that the load has got so far
 */
export function boundedFetch(send: typeof fetch, received: () => number): typeof fetch {
  let requests = 0;
  return async (input, init) => {
    if (requests >= MAX_REQUESTS + received() / 2 ** 20) {
      const url = shownUrl(input instanceof Request ? input.url : String(input));
      throw new LoadError(url, `is one request too many: this load has made ${requests}`);
    }
    requests++;
    return send(input, init);
  };
}

/** Sends one request, and more where it is redirected. */
async function follow(
  start: string,
  options: SourceOptions,
  headers: Readonly<Record<string, string>>,
): Promise<Response> {
  const send = options.fetch ?? fetch;
  let url = parseUrl(start);
  let own = options.headers;
  // A page is not told where a redirect leads. `Authorization` the browser drops by itself at another origin.
  const seen = inNode() || Object.keys(own ?? {}).some((name) => name.toLowerCase() !== 'authorization');
  for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
    const response = await send(url.href, {
      headers: { ...own, ...headers },
      signal: options.signal,
      redirect: seen ? 'manual' : 'follow',
    });
    if (response.type === 'opaqueredirect') {
      const reason = 'it redirects, and a page cannot see where to: give the final URL, or no headers';
      throw new LoadError(shownUrl(start), reason);
    }
    const location = response.headers.get('location');
    if (!REDIRECT_STATUSES.has(response.status) || location === null) return response;
    await response.body?.cancel();
    const next = parseUrl(location, url, start);
    if (next.origin !== url.origin) own = undefined;
    url = next;
  }
  throw new LoadError(shownUrl(start), `redirects more than ${MAX_REDIRECTS} times`);
}

/** An absolute `http(s)` URL without user and password, which `fetch` refuses with a message that shows them. */
function parseUrl(location: string, base?: URL, start = location): URL {
  let url: URL;
  try {
    url = new URL(location, base);
  } catch {
    throw new LoadError(shownUrl(start), base ? 'redirects to something that is no URL' : 'is no URL');
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new LoadError(shownUrl(start), `leads to a ${url.protocol} URL, only http and https are read`);
  }
  if (url.username !== '' || url.password !== '') {
    const reason = 'has a user name or password in it: send an Authorization header instead';
    throw new LoadError(shownUrl(start), reason);
  }
  return url;
}

/** `Retry-After: 120` or a date. @returns milliseconds */
function retryAfter(response: Response): number | undefined {
  const value = response.headers.get('retry-after')?.trim();
  if (!value) return undefined;
  if (/^\d{1,9}$/.test(value)) return 1000 * Number(value);
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

function sleep(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener('abort', stop, { once: true });
  });
}

/**
 * A URL for messages: without user, password and the values of its query, which are often signatures or tokens.
 */
export function shownUrl(url: string): string {
  try {
    const shown = new URL(url);
    shown.username = '';
    shown.password = '';
    shown.hash = '';
    const query = shown.search === '' ? '' : '?...';
    shown.search = '';
    return shown.href + query;
  } catch {
    return describeValue(url);
  }
}

/**
 * A URL as the name of a file that is kept: without its signature, which is another one on each visit, and without its
 * fragment.
 */
export function unsignedUrl(location: string): string {
  const url = new URL(location);
  url.hash = '';
  const signed = [...url.searchParams.keys()].some((name) => /^(x-amz-|signature$|policy$|sig$)/i.test(name));
  if (signed) url.search = '';
  return url.href;
}

/**
 * Text without the values of secret headers and their parts, which a runtime or a server may repeat in a message.
 *
 * @param secrets for instance `Bearer hf_...`
 */
export function redacted(text: string, secrets: readonly string[]): string {
  const parts = secrets
    .flatMap((secret) => [secret, ...secret.split(/\s+/)])
    .filter(({ length }) => length >= 6);
  parts.sort((a, b) => b.length - a.length);
  return parts.reduce((result, part) => result.split(part).join('***'), text);
}

/** An error of a request; a cause that shows a secret is left out. */
export function failure(url: string, reason: string, cause: unknown, { headers }: SourceOptions): LoadError {
  const secrets = [...Object.values(headers ?? {}), ...queryOf(url)];
  const shown = redacted(reason.split(url).join(shownUrl(url)), secrets);
  return new LoadError(shownUrl(url), shown, shown === reason ? { cause } : undefined);
}

function queryOf(url: string): string[] {
  try {
    return [...new URL(url).searchParams.values()];
  } catch {
    return [];
  }
}
