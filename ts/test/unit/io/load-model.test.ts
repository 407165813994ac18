import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { ConfigError, FormatError, LoadError } from '../../../src/errors.js';
import { parseHubReference } from '../../../src/io/hub.js';
import { loadModelFile, type ModelSource, readModelHeader } from '../../../src/io/load-model.js';
import type { ModelFile } from '../../../src/io/model-file.js';
import type { LoadProgress } from '../../../src/io/progress.js';
import { type FileServer, serveFiles, serveHub } from '../../helpers/file-server.js';
import { tinyModelGguf } from '../../helpers/gguf-writer.js';
import { asFiles, tinyFolder } from '../../helpers/hugging-face-folder.js';

const gguf = tinyModelGguf({ type: 'F16' });
// Large enough that the first megabyte, in which the header is looked for, is not all of it.
const large = tinyModelGguf({ hiddenSize: 256, ffn: 512, vocab: 2000 });
const folder = tinyFolder({ shards: 2 });
let expected: ModelFile;
const root = mkdtempSync(join(tmpdir(), 'xquant-load-'));

beforeAll(async () => {
  expected = await loadModelFile(gguf);
});
afterAll(() => rmSync(root, { recursive: true }));

/** Loads and requires the model to be the expected one and progress to be one rising number that ends full. */
async function loadAndCheck(source: ModelSource, options: Parameters<typeof loadModelFile>[1] = {}) {
  const seen: LoadProgress[] = [];
  const model = await loadModelFile(source, { ...options, onProgress: (progress) => seen.push(progress) });
  expect(model.fingerprint).toBe(expected.fingerprint);
  const loaded = seen.map((each) => each.loadedBytes);
  expect(loaded).toEqual(loaded.toSorted((a, b) => a - b));
  expect(seen.at(-1)).toEqual({ loadedBytes: model.byteLength, totalBytes: model.byteLength });
  return { model, seen };
}

describe('loadModelFile', () => {
  it('takes bytes, buffers, blobs, paths and file URLs', async () => {
    const path = join(root, 'tiny.gguf');
    writeFileSync(path, gguf);
    await loadAndCheck(gguf);
    // A Buffer, which is a Uint8Array that behaves differently, at an odd place of its memory.
    await loadAndCheck(Buffer.concat([Buffer.of(0), gguf]).subarray(1));
    await loadAndCheck(gguf.slice().buffer as ArrayBuffer);
    await loadAndCheck(new Blob([gguf as Uint8Array<ArrayBuffer>]));
    await loadAndCheck(path);
    await loadAndCheck(pathToFileURL(path));
    await loadAndCheck(root); // the only model of the folder
  });

  it('takes the files of a picked folder', async () => {
    const picked = await loadModelFile(asFiles(folder), { name: 'picked' });
    expect(picked.format).toBe('hugging-face');
    await loadAndCheck(asFiles(new Map([['m.gguf', gguf]])));
  });

  it('names a blob in messages', async () => {
    const file = new File([new Uint8Array(100)], 'broken.gguf');
    await expect(loadModelFile(file)).rejects.toThrow(/^broken\.gguf: /);
  });

  it.each([undefined, null, 7, '', [7], {}])('refuses %j as a source', async (source) => {
    await expect(loadModelFile(source as never)).rejects.toThrow(ConfigError);
  });

  it('stops before it begins if the signal says so', async () => {
    const reason = new Error('no more');
    await expect(loadModelFile(gguf, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    await expect(loadModelFile(root, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });

  it('stops reading a file in the middle', async () => {
    const path = join(root, 'large.bin');
    writeFileSync(path, large);
    const controller = new AbortController();
    const load = loadModelFile(path, { signal: controller.signal, onProgress: () => controller.abort() });
    await expect(load).rejects.toThrow(/abort/i);
  });

  it('does not take paths where there is no disk', async () => {
    vi.stubGlobal('process', { ...process, versions: {} });
    try {
      await expect(loadModelFile('books-mha')).rejects.toThrow(/need Node/);
    } finally {
      vi.unstubAllGlobals();
    }
  });
});

describe('a URL', () => {
  let server: FileServer;
  beforeAll(async () => {
    const files: [string, Uint8Array][] = [
      ['/tiny.gguf', gguf],
      ['/large.gguf', large],
      ['/empty.gguf', new Uint8Array(0)],
      ['/text.gguf', new TextEncoder().encode('<html>not found</html>')],
    ];
    server = await serveFiles(
      new Map([...files, ...[...folder].map(([name, bytes]): [string, Uint8Array] => [`/f/${name}`, bytes])]),
    );
  });
  afterAll(() => server.close());
  afterEach(() => {
    Object.assign(server.behaviour, { ranges: true, unavailable: 0, breaks: 0, contentLength: true });
    server.requests.length = 0;
  });
  const url = (path: string) => server.url + path;

  it('is read with ranges', async () => {
    await loadAndCheck(url('/tiny.gguf'));
    await loadAndCheck(new URL(url('/tiny.gguf')));
  });

  it('is read whole from a server without ranges, once, with the total known in advance', async () => {
    server.behaviour.ranges = false;
    const { seen } = await loadAndCheck(url('/tiny.gguf'));
    expect(server.requests).toHaveLength(1);
    expect(seen[0].totalBytes).toBe(gguf.length);
    server.behaviour.contentLength = false;
    await loadAndCheck(url('/tiny.gguf'));
  });

  it('gives its header without its weights', async () => {
    const header = await readModelHeader(url('/large.gguf'));
    expect(header.byteLength).toBe(large.length);
    const sent = server.requests.reduce((sum, request) => sum + request.bytes, 0);
    expect(sent).toBeLessThan(large.length / 2);
  });

  it('may be a folder', async () => {
    const model = await loadModelFile(url('/f/'));
    expect(model.format).toBe('hugging-face');
    expect(model.name).toBe('f');
    const total = [...folder]
      .filter(([name]) => name.endsWith('.safetensors'))
      .reduce((sum, [, { length }]) => sum + length, 0);
    expect(model.byteLength).toBe(total);
  });

  it('is asked again when the server is busy, and resumed when the connection breaks', async () => {
    server.behaviour.unavailable = 2;
    await loadAndCheck(url('/tiny.gguf'));
    server.behaviour.breaks = 2;
    await loadAndCheck(url('/tiny.gguf'));
  });

  it('that fails says where and why', async () => {
    await expect(loadModelFile(url('/none.gguf'))).rejects.toThrow(`${url('/none.gguf')}: HTTP status 404`);
    server.behaviour.unavailable = 3;
    await expect(loadModelFile(url('/tiny.gguf'))).rejects.toThrow(/HTTP status 503/);
    server.behaviour.breaks = 99;
    await expect(loadModelFile(url('/tiny.gguf'))).rejects.toThrow(/the connection broke at byte/);
    server.behaviour.breaks = 0;
    await expect(loadModelFile(url('/empty.gguf'))).rejects.toThrow(FormatError);
    await expect(loadModelFile(url('/text.gguf'))).rejects.toThrow(/does not begin with "GGUF"/);
    await expect(loadModelFile('http://127.0.0.1:1/x.gguf')).rejects.toThrow(LoadError);
    await expect(loadModelFile('http://127.0.0.1:1/x.gguf')).rejects.toThrow(/127\.0\.0\.1:1\/x\.gguf: /);
  });

  it('can be cancelled in the middle', async () => {
    for (const ranges of [true, false]) {
      server.behaviour.ranges = ranges;
      const controller = new AbortController();
      const reason = new Error('enough');
      const onProgress = ({ loadedBytes }: LoadProgress) => {
        if (loadedBytes > 0) controller.abort(reason);
      };
      await expect(loadModelFile(url('/large.gguf'), { signal: controller.signal, onProgress })).rejects.toBe(
        reason,
      );
    }
  });

  it('goes through the fetch it is given, with headers', async () => {
    const calls: Headers[] = [];
    const send: typeof fetch = (input, init) => {
      calls.push(new Headers(init?.headers));
      return fetch(input, init);
    };
    await loadAndCheck(url('/tiny.gguf'), { fetch: send, headers: { 'X-Key': 'k' } });
    expect(calls.length).toBeGreaterThan(1);
    expect(calls.every((headers) => headers.get('x-key') === 'k')).toBe(true);
  });

  it('is read whole where the size of the file is hidden from us', async () => {
    const send: typeof fetch = async (input, init) => {
      const response = await fetch(input, init);
      const headers = new Headers(response.headers);
      headers.delete('content-range');
      return new Response(response.body, { status: response.status, headers });
    };
    await loadAndCheck(url('/tiny.gguf'), { fetch: send });
  });

  it('that changes on the way is noticed', async () => {
    let count = 0;
    const send: typeof fetch = async (input, init) => {
      const response = await fetch(input, init);
      if (++count === 1) return response;
      const headers = new Headers(response.headers);
      headers.set('content-range', headers.get('content-range')!.replace(/\d+$/, '123456789'));
      return new Response(response.body, { status: response.status, headers });
    };
    await expect(loadModelFile(url('/tiny.gguf'), { fetch: send })).rejects.toThrow(/the file changed/);
  });
});

describe('hf:', () => {
  let hub: FileServer;
  beforeAll(async () => {
    hub = await serveHub({
      'me/one@main': new Map([
        ['README.md', new Uint8Array(3)],
        ['tiny-f16.gguf', gguf],
        ['config.json', new Uint8Array(2)],
      ]),
      'me/many@main': new Map([
        ['a-Q4_0.gguf', gguf],
        ['sub/b Q8_0.gguf', gguf],
      ]),
      'me/folder@main': folder,
      'me/folder@v1.0': new Map([['tiny.gguf', gguf]]),
      'me/nothing@main': new Map([['README.md', new Uint8Array(3)]]),
    });
  });
  afterAll(() => hub.close());
  afterEach(() => {
    hub.behaviour.token = undefined;
    hub.behaviour.unavailable = 0;
    vi.unstubAllEnvs();
  });

  it('owner/repo finds the one GGUF file, although a config is beside it', async () => {
    const { model } = await loadAndCheck('hf:me/one', { hubUrl: hub.url });
    expect(model.name).toBe('tiny llama');
  });

  it('owner/repo/file and @revision', async () => {
    await loadAndCheck('hf:me/many/a-Q4_0.gguf', { hubUrl: hub.url });
    await loadAndCheck('hf:me/many/sub/b Q8_0.gguf', { hubUrl: hub.url });
    await loadAndCheck('hf:me/folder@v1.0', { hubUrl: hub.url });
    await loadAndCheck('hf:me/folder/tiny.gguf@v1.0', { hubUrl: hub.url });
  });

  it('owner/repo may be a folder with safetensors', async () => {
    const model = await loadModelFile('hf:me/folder', { hubUrl: hub.url });
    expect(model.format).toBe('hugging-face');
    expect(model.name).toBe('folder');
  });

  it('with several GGUF files lists them', async () => {
    const load = loadModelFile('hf:me/many', { hubUrl: hub.url });
    await expect(load).rejects.toThrow(
      'has several models, name one (hf:me/many/a-Q4_0.gguf): a-Q4_0.gguf, sub/b Q8_0.gguf',
    );
  });

  it('that is not there says so', async () => {
    await expect(loadModelFile('hf:me/none', { hubUrl: hub.url })).rejects.toThrow(
      /^hf:me\/none: HTTP status 404/,
    );
    await expect(loadModelFile('hf:me/one/x.gguf', { hubUrl: hub.url })).rejects.toThrow(
      /no such file; there are tiny-f16\.gguf/,
    );
    await expect(loadModelFile('hf:me/nothing', { hubUrl: hub.url })).rejects.toThrow(
      /neither config\.json nor/,
    );
    await expect(loadModelFile('hf:me/one@v2', { hubUrl: hub.url })).rejects.toThrow(
      /hf:me\/one@v2: HTTP status 404/,
    );
  });

  it('takes address and token from the environment or the options', async () => {
    hub.behaviour.token = 'hf_secret';
    await expect(loadModelFile('hf:me/one', { hubUrl: hub.url })).rejects.toThrow(/status 401.*access token/);
    await loadAndCheck('hf:me/one', { hubUrl: hub.url, accessToken: 'hf_secret' });
    vi.stubEnv('HF_ENDPOINT', `${hub.url}/`);
    vi.stubEnv('HF_TOKEN', 'hf_secret');
    await loadAndCheck('hf:me/one');
  });

  it('keeps the token from other servers', async () => {
    const other = await serveFiles(new Map([['/tiny.gguf', gguf]]));
    const sent: (string | null)[] = [];
    const send: typeof fetch = async (input, init) => {
      if (String(input).startsWith(other.url)) sent.push(new Headers(init?.headers).get('authorization'));
      if (!String(input).includes('/resolve/')) return fetch(input, init);
      // The hub answers for a file by sending us to its file host.
      const response = await fetch(`${other.url}/tiny.gguf`, { headers: { Range: 'bytes=0-0' } });
      const headers = new Headers({
        ...Object.fromEntries(response.headers),
        etag: '"x"',
        'x-cache': 'Hit from cloudfront',
      });
      const moved = new Response(response.body, { status: response.status, headers });
      Object.defineProperty(moved, 'url', { value: `${other.url}/tiny.gguf` });
      return moved;
    };
    await loadAndCheck('hf:me/one', { hubUrl: hub.url, accessToken: 'hf_secret', fetch: send });
    await other.close();
    expect(sent.length).toBeGreaterThan(0);
    expect(sent.every((header) => header === null)).toBe(true);
  });

  it('can be cancelled', async () => {
    const reason = new Error('enough');
    const controller = new AbortController();
    const send: typeof fetch = (input, init) => {
      controller.abort(reason);
      return fetch(input, init);
    };
    const load = loadModelFile('hf:me/one', { hubUrl: hub.url, signal: controller.signal, fetch: send });
    await expect(load).rejects.toBe(reason);
  });

  it.each(['hf:me', 'hf:', 'hf:me/one two', 'hf:me/one@', 'hf:/x/y', 'hf:../..'])(
    '%s is refused',
    (reference) => {
      expect(() => parseHubReference(reference)).toThrow(ConfigError);
    },
  );
});
