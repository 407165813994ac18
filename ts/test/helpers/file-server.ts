/**
 * A web server on localhost for tests: files by path, with or without ranges, and failures on order. It also
 * stands in for the Hugging Face hub.
 *
 * @module
 */

import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** How the server behaves; may be changed between requests. */
export interface ServerBehaviour {
  /** Whether it answers ranges. */
  ranges: boolean;
  /** Answer this many requests with status 503 first. */
  unavailable: number;
  /** Break this many long answers off in the middle. */
  breaks: number;
  /** Whether it says how long an answer is when it has no ranges. */
  contentLength: boolean;
  /** Whether it tags files with their SHA-256, as the hub does with large ones. */
  hashes: boolean;
  /** Required as `Authorization`, if set. */
  token?: string;
}

/** A running server. */
export interface FileServer {
  readonly url: string;
  readonly behaviour: ServerBehaviour;
  /** Requests so far: method and path, range, and bytes sent. */
  readonly requests: { line: string; range?: string; bytes: number }[];
  close(): Promise<void>;
}

/** Repositories of a stand-in hub: by `owner/repo@revision`, files by path. */
export type HubContent = Readonly<Record<string, ReadonlyMap<string, Uint8Array>>>;

/** Starts a server for files by path (with `/` in front). */
export function serveFiles(files: ReadonlyMap<string, Uint8Array>): Promise<FileServer> {
  return start((path) => files.get(path));
}

/** Starts a stand-in for the hub: the two addresses that reading a model needs. */
export function serveHub(content: HubContent): Promise<FileServer> {
  return start((path, response) => {
    const tree = /^\/api\/models\/([^/]+\/[^/]+)\/tree\/([^/]+)$/.exec(path);
    if (tree) {
      const repository = content[`${tree[1]}@${decodeURIComponent(tree[2])}`];
      if (!repository) return undefined;
      const entries = [...repository].map(([name, bytes]) => ({
        type: 'file',
        path: name,
        size: bytes.length,
        oid: 'x',
      }));
      response.setHeader('Content-Type', 'application/json');
      return new TextEncoder().encode(JSON.stringify(entries));
    }
    const file = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path);
    if (!file) return undefined;
    const bytes = content[`${file[1]}@${decodeURIComponent(file[2])}`]?.get(decodeURIComponent(file[3]));
    if (!bytes) response.setHeader('X-Error-Code', 'EntryNotFound');
    response.setHeader('ETag', '"x"');
    return bytes;
  });
}

async function start(
  find: (path: string, response: ServerResponse) => Uint8Array | undefined,
): Promise<FileServer> {
  const behaviour: ServerBehaviour = {
    ranges: true,
    unavailable: 0,
    breaks: 0,
    contentLength: true,
    hashes: false,
  };
  const requests: FileServer['requests'] = [];
  const server: Server = createServer((request, response) => {
    const entry = { line: `${request.method} ${request.url}`, range: request.headers.range, bytes: 0 };
    requests.push(entry);
    answer(request, response, find, behaviour, entry);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    behaviour,
    requests,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}

function answer(
  request: IncomingMessage,
  response: ServerResponse,
  find: (path: string, response: ServerResponse) => Uint8Array | undefined,
  behaviour: ServerBehaviour,
  entry: { bytes: number },
): void {
  const bytes = find(new URL(request.url!, 'http://x').pathname, response);
  const range = behaviour.ranges ? /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') : null;
  const from = Number(range?.[1] ?? 0);
  const failure = failureOf(request, bytes, from, behaviour);
  if (failure || !bytes) {
    response.statusCode = failure ?? 404;
    response.end();
    return;
  }
  if (behaviour.hashes) response.setHeader('ETag', `"${createHash('sha256').update(bytes).digest('hex')}"`);
  const body = range ? bytes.subarray(from, Number(range[2]) + 1) : bytes;
  if (range) {
    response.statusCode = 206;
    response.setHeader('Content-Range', `bytes ${from}-${from + body.length - 1}/${bytes.length}`);
  }
  if (behaviour.contentLength) response.setHeader('Content-Length', body.length);
  if (behaviour.breaks > 0 && body.length > 1000) {
    behaviour.breaks--;
    entry.bytes = body.length >> 1;
    response.write(body.subarray(0, entry.bytes), () => response.destroy());
    return;
  }
  entry.bytes = body.length;
  response.end(body);
}

function failureOf(
  request: IncomingMessage,
  bytes: Uint8Array | undefined,
  from: number,
  behaviour: ServerBehaviour,
): number | undefined {
  if (behaviour.unavailable > 0) {
    behaviour.unavailable--;
    return 503;
  }
  if (behaviour.token && request.headers.authorization !== `Bearer ${behaviour.token}`) return 401;
  if (!bytes) return 404;
  // Only a range can begin behind the end.
  return from >= bytes.length && request.headers.range && behaviour.ranges ? 416 : undefined;
}
