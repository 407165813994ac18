/**
 * Models on the Hugging Face hub: `hf:owner/repo[/file][@revision]`.
 *
 * `@huggingface/hub` lists the files and resolves the address of a file; the bytes come through `http-source.ts`,
 * like those of any other URL, so that they are counted, can be cancelled and are resumed. The library sends the
 * user's token wherever an answer of the hub points to; the `fetch` that it gets here sends it to the hub only.
 *
 * @module
 */

import { ConfigError, FormatError, LoadError, XQuantError } from '../errors.js';
import { describeValue, messageOf } from '../printable.js';
import { redacted, shownUrl } from './http-request.js';
import { type HttpSourceOptions, httpSource } from './http-source.js';
import type { FileFolder } from './source.js';

/** The address of a model on the hub. */
export interface HubReference {
  /** `owner/repo`. */
  readonly repo: string;
  /** Path of a file in the repository; absent: look at the list of files. */
  readonly file?: string;
  /** Branch, tag or commit. */
  readonly revision: string;
}

/** Options of the hub, besides those of every source. */
export interface HubOptions extends HttpSourceOptions {
  /** Instead of https://huggingface.co. */
  readonly hubUrl?: string;
  /** For private and gated models; begins with `hf_`. */
  readonly accessToken?: string;
}

/** Requests that a listing may take; a page has up to a thousand files. */
const MAX_LISTING_PAGES = 100;

const SCHEME = 'hf:';
const HUB_URL = 'https://huggingface.co';

/** Whether a source names something on the hub. */
export function isHubReference(source: string): boolean {
  return source.startsWith(SCHEME);
}

/** Whether a source is a URL or names something on the hub. */
export function isRemote(source: string): boolean {
  return isHubReference(source) || /^https?:\/\//i.test(source);
}

/**
 * Parses `hf:owner/repo[/file][@revision]`.
 *
 * @throws {ConfigError} if it is anything else
 */
export function parseHubReference(source: string): HubReference {
  const match = /^hf:(?:\/\/)?(\w[\w.-]*\/\w[\w.-]*)(?:\/([^@]+))?(?:@([^@\s]+))?$/.exec(source);
  if (!match) throw new ConfigError('model', source, 'hf:owner/repo[/file][@revision]');
  const [, repo, file, revision = 'main'] = match;
  return { repo, revision, ...(file ? { file } : {}) };
}

/**
 * A repository as a folder.
 *
 * @throws {LoadError} on use, with the HTTP status, if the repository is not there or not open to the caller
 */
export function hubFolder(reference: HubReference, options: HubOptions): FileFolder {
  const { repo, revision } = reference;
  const name = `${SCHEME}${repo}${revision === 'main' ? '' : `@${revision}`}`;
  const { hubUrl = HUB_URL, accessToken } = options;
  const common = { repo, revision, hubUrl, accessToken, fetch: hubFetch(options) };
  let listing: Promise<readonly string[]> | undefined;
  const list = () => {
    listing ??= listFiles({ ...common, fetch: hubFetch(options, MAX_LISTING_PAGES) }, name, options);
    return listing;
  };
  return {
    name,
    list,
    async open(file) {
      if (!(await list()).includes(file)) return undefined;
      const { fileDownloadInfo } = await loadHub();
      const path = file.split('/').map(encodeURIComponent).join('/');
      const info = await attempt(() => fileDownloadInfo({ ...common, path }), `${name}/${file}`, options);
      if (!info) return undefined;
      // The token is for the hub, not for the file host that it may send us to.
      const atHub = new URL(info.url).origin === new URL(hubUrl).origin;
      const headers = accessToken && atHub ? { Authorization: `Bearer ${accessToken}` } : undefined;
      // The hub's tag of a large file is its SHA-256; that of the file host may be anything.
      return { ...(await httpSource(info.url, { ...options, headers })), version: info.etag };
    },
  };
}

async function listFiles(
  common: { repo: string; revision: string; hubUrl?: string; accessToken?: string; fetch?: typeof fetch },
  name: string,
  options: HubOptions,
): Promise<string[]> {
  const hub = await loadHub();
  return attempt(
    async () => {
      const files: string[] = [];
      for await (const entry of hub.listFiles({ ...common, recursive: true })) {
        if (entry?.type === 'file') files.push(checkPath(entry.path, name));
      }
      return files.sort();
    },
    name,
    options,
  );
}

/** A path inside the repository; one with `..` would lead out of it, to another one of the hub. */
function checkPath(path: unknown, name: string): string {
  const parts = typeof path === 'string' ? path.split('/') : [''];
  if (!parts.some((part) => part === '' || part === '.' || part === '..' || part.includes('\\'))) {
    return path as string;
  }
  throw new FormatError(name, 'listing', `must have paths inside the repository, got ${describeValue(path)}`);
}

// Only who asks for the hub loads its library.
const loadHub = () => import('@huggingface/hub');

/** An answer of the hub that is not "here it is". */
class HubStatusError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

async function attempt<T>(action: () => Promise<T>, name: string, options: HubOptions): Promise<T> {
  const { signal, accessToken = '' } = options;
  try {
    return await action();
  } catch (cause) {
    signal?.throwIfAborted();
    if (cause instanceof XQuantError) throw cause;
    const said = redacted(messageOf(cause), [accessToken]);
    const secret = said !== messageOf(cause);
    if (!(cause instanceof HubStatusError)) throw new LoadError(name, said, secret ? undefined : { cause });
    const denied = cause.status === 401 || cause.status === 403;
    const hint = denied ? ' (is an access token needed, or a licence to be accepted?)' : '';
    const { status } = cause;
    throw new LoadError(name, `HTTP status ${status}${said}${hint}`, secret ? { status } : { cause, status });
  }
}

/**
 * The `fetch` that the library gets. It brings the signal, which the library does not take; it asks nobody but the
 * hub, whatever an answer says (`Link: <...>; rel="next"`), and only so often; and it reports failures itself: the
 * library loses the status when an error announced as JSON is not JSON.
 */
function hubFetch(options: HubOptions, requests = Number.POSITIVE_INFINITY): typeof fetch {
  const { signal, hubUrl = HUB_URL } = options;
  let left = requests;
  return async (input, init) => {
    const url = input instanceof Request ? input.url : String(input);
    if (new URL(url).origin !== new URL(hubUrl).origin) {
      throw new LoadError(shownUrl(hubUrl), `sends us to another host, ${shownUrl(url)}`);
    }
    if (left-- === 0) throw new LoadError(shownUrl(hubUrl), `lists more than ${requests} pages of files`);
    const response = await (options.fetch ?? fetch)(input, { ...init, signal: signal ?? init?.signal });
    const noSuchFile = response.headers.get('x-error-code') === 'EntryNotFound'; // the library's own case
    if (response.ok || noSuchFile) return response;
    const said = response.headers.get('x-error-message') ?? errorIn(await response.text());
    throw new HubStatusError(response.status, said ? `: ${said}` : '');
  };
}

/** `{ "error": "Repository not found" }`. */
function errorIn(body: string): string | undefined {
  try {
    const { error } = JSON.parse(body) as { error?: unknown };
    return typeof error === 'string' ? error : undefined;
  } catch {
    return undefined; // a page for people: the status has to do
  }
}
