/**
 * Models on the Hugging Face hub: `hf:owner/repo[/file][@revision]`.
 *
 * `@huggingface/hub` lists the files and resolves where a file lies; the bytes come through `http-source.ts`,
 * like those of any other URL, so that they are counted, can be cancelled and are resumed.
 *
 * @module
 */

import { ConfigError, LoadError } from '../errors.js';
import { type HttpSourceOptions, httpSource } from './http-source.js';
import { type FileFolder, messageOf } from './source.js';

/** Where on the hub a model lies. */
export interface HubReference {
  /** `owner/repo`. */
  readonly repo: string;
  /** Path of a file in the repository; absent: find out what is there. */
  readonly file?: string;
  /** Branch, tag or commit. */
  readonly revision: string;
}

/** What reading from the hub takes besides the options of every source. */
export interface HubOptions extends HttpSourceOptions {
  /** Instead of https://huggingface.co. */
  readonly hubUrl?: string;
  /** For private and gated models; begins with `hf_`. */
  readonly accessToken?: string;
}

const SCHEME = 'hf:';

/** Whether a source names something on the hub. */
export function isHubReference(source: string): boolean {
  return source.startsWith(SCHEME);
}

/**
 * Parses `hf:owner/repo[/file][@revision]`.
 *
 * @throws {ConfigError} if it is anything else
 */
export function parseHubReference(source: string): HubReference {
  const match = /^hf:(?:\/\/)?([\w.-]+\/[\w.-]+)(?:\/([^@]+))?(?:@([^@\s]+))?$/.exec(source);
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
  const { hubUrl, accessToken, fetch } = options;
  const common = { repo, revision, hubUrl, accessToken, fetch: withSignal(fetch, options.signal) };
  let listing: Promise<readonly string[]> | undefined;
  const list = () => {
    listing ??= listFiles(common, name, options.signal);
    return listing;
  };
  return {
    name,
    list,
    async open(file) {
      if (!(await list()).includes(file)) return undefined;
      const { fileDownloadInfo } = await loadHub();
      const path = file.split('/').map(encodeURIComponent).join('/');
      const info = await attempt(
        () => fileDownloadInfo({ ...common, path }),
        `${name}/${file}`,
        options.signal,
      );
      if (!info) return undefined;
      const headers = accessToken
        ? { ...options.headers, Authorization: `Bearer ${accessToken}` }
        : options.headers;
      return httpSource(info.url, { ...options, headers });
    },
  };
}

async function listFiles(
  common: { repo: string; revision: string; hubUrl?: string; accessToken?: string; fetch?: typeof fetch },
  name: string,
  signal: AbortSignal | undefined,
): Promise<string[]> {
  const hub = await loadHub();
  return attempt(
    async () => {
      const files: string[] = [];
      for await (const entry of hub.listFiles({ ...common, recursive: true })) {
        if (entry.type === 'file') files.push(entry.path);
      }
      return files.sort();
    },
    name,
    signal,
  );
}

// Only who asks for the hub loads its library.
const loadHub = () => import('@huggingface/hub');

async function attempt<T>(
  action: () => Promise<T>,
  name: string,
  signal: AbortSignal | undefined,
): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    signal?.throwIfAborted();
    const status = (cause as { statusCode?: number }).statusCode;
    const hint =
      status === 401 || status === 403 ? ' (is an access token needed, or the licence to be accepted?)' : '';
    const text = status === undefined ? messageOf(cause) : `HTTP status ${status}: ${messageOf(cause)}`;
    throw new LoadError(name, `${text}${hint}`, { cause });
  }
}

/** The library takes no signal, but it takes a `fetch`. */
function withSignal(send: typeof fetch | undefined, signal: AbortSignal | undefined): typeof fetch {
  return (input, init) => (send ?? fetch)(input, { ...init, signal: signal ?? init?.signal });
}
