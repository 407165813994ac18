/**
 * A web server on localhost for pages under test: folders by path prefix, with ranges, with or without the headers
 * that make a page cross-origin isolated.
 *
 * @module
 */

import { createReadStream, statSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join, normalize } from 'node:path';

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.json': 'application/json',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
  '.woff2': 'font/woff2',
};

/** A running server. */
export interface StaticServer {
  readonly url: string;
  /** Path and bytes of each answer. */
  readonly requests: { path: string; bytes: number }[];
  /** Answers that exist only in memory, by path. */
  readonly pages: Map<string, string>;
  /** While true, every connection is dropped: the network is cut. */
  down: boolean;
  close(): Promise<void>;
}

/** Starts a server. `folders` are longest prefix first: `{ '/lib/': '/somewhere/dist/', '/': '/somewhere/site/' }`. */
export async function serveFolders(
  folders: Readonly<Record<string, string>>,
  { isolated, policy }: { isolated: boolean; policy?: string },
): Promise<StaticServer> {
  const pages = new Map<string, string>();
  const requests: { path: string; bytes: number }[] = [];
  const server = createServer((request, response) => {
    if (handle.down) {
      request.socket.destroy();
      return;
    }
    const path = decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname);
    if (isolated) {
      response.setHeader('Cross-Origin-Opener-Policy', 'same-origin');
      response.setHeader('Cross-Origin-Embedder-Policy', 'require-corp');
    }
    if (policy) response.setHeader('Content-Security-Policy', policy);
    const page = pages.get(path);
    if (page !== undefined) {
      response.writeHead(200, { 'Content-Type': TYPES[extname(path)] ?? TYPES['.html'] }).end(page);
      return;
    }
    const prefix = Object.keys(folders).find((each) => path.startsWith(each));
    let file = prefix && join(folders[prefix], normalize(`/${path.slice(prefix.length)}`));
    if (file?.endsWith('/')) file += 'index.html';
    const size = file && sizeOf(file);
    if (file === undefined || size === undefined) {
      response.writeHead(404, { 'Content-Type': 'text/plain' }).end('not found');
      return;
    }
    const type = TYPES[extname(file as string)] ?? 'application/octet-stream';
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
    const start = range ? Number(range[1]) : 0;
    const end = range?.[2] ? Math.min(Number(range[2]) + 1, size as number) : (size as number);
    requests.push({ path, bytes: end - start });
    response.writeHead(range ? 206 : 200, {
      'Content-Type': type,
      'Content-Length': end - start,
      'Accept-Ranges': 'bytes',
      'Cache-Control': 'no-store',
      ETag: `"${size}"`,
      ...(range ? { 'Content-Range': `bytes ${start}-${end - 1}/${size}` } : {}),
    });
    createReadStream(file as string, { start, end: Math.max(start, end - 1) }).pipe(response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const handle: StaticServer = {
    url: `http://localhost:${port}`,
    requests,
    pages,
    down: false,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  return handle;
}

function sizeOf(file: string): number | undefined {
  try {
    const info = statSync(file);
    return info.isFile() ? info.size : undefined;
  } catch {
    return undefined;
  }
}
