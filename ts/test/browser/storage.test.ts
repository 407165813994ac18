import { describe, expect, it, vi } from 'vitest';
import { fromPortable, toPortable } from '../../src/browser/errors.js';
import { loadHere } from '../../src/browser/load-here.js';
import { StorageError } from '../../src/browser/storage.js';
import { StoredFetch } from '../../src/browser/stored-fetch.js';
import { FormatError, MemoryError, ShapeError, XQuantError } from '../../src/errors.js';
import { unsignedUrl } from '../../src/io/http-request.js';
import { loadModelFile } from '../../src/io/load-model.js';
import { serveFiles, serveHub } from '../helpers/file-server.js';
import { tinyModelGguf } from '../helpers/gguf-writer.js';
import { tinyFolder } from '../helpers/hugging-face-folder.js';
import { MemoryStorage } from './memory-storage.js';

const model = tinyModelGguf();
const files = new Map([['/model.gguf', model]]);

/** Loads a model through a storage on the plain backend. */
function load(url: string, storage: MemoryStorage, options: Parameters<typeof loadHere>[1] = {}) {
  return loadHere(url, { backend: 'reference', storage, ...options });
}

describe('a stored model', () => {
  it('is downloaded once, and loads without a network', async () => {
    const server = await serveFiles(files);
    const storage = new MemoryStorage();
    const url = `${server.url}/model.gguf`;
    const first = await load(url, storage);
    const sent = server.requests.reduce((sum, { bytes }) => sum + bytes, 0);
    expect(sent).toBeGreaterThanOrEqual(model.length * 0.9);

    const requests = server.requests.length;
    const second = await load(url, storage);
    expect(server.requests).toHaveLength(requests);
    await server.close();
    const third = await load(url, storage);
    expect(second.file.fingerprint).toBe(first.file.fingerprint);
    expect(third.file.fingerprint).toBe(first.file.fingerprint);
    expect(storage.opened).toBe(0);
    expect(await storage.list()).toMatchObject([{ key: url, size: model.length }]);
  });

  it('tells how far it is, from the network and from the storage', async () => {
    const server = await serveFiles(files);
    const storage = new MemoryStorage();
    for (let visit = 0; visit < 2; visit++) {
      let last = { loadedBytes: 0, totalBytes: 1 as number | undefined };
      await load(`${server.url}/model.gguf`, storage, {
        onProgress: (each) => (last = { totalBytes: 0, ...each }),
      });
      expect(last.loadedBytes).toBe(last.totalBytes);
      expect(last.loadedBytes).toBeGreaterThan(1000);
    }
    await server.close();
  });

  it('from a server without ranges is kept, too', async () => {
    const server = await serveFiles(files);
    server.behaviour.ranges = false;
    const storage = new MemoryStorage();
    const first = await load(`${server.url}/model.gguf`, storage);
    await server.close();
    const second = await load(`${server.url}/model.gguf`, storage);
    expect(second.file.fingerprint).toBe(first.file.fingerprint);
  });

  it('goes on where a load was stopped', async () => {
    const server = await serveFiles(files);
    const storage = new MemoryStorage();
    const controller = new AbortController();
    const url = `${server.url}/model.gguf`;
    let stopped = 0;
    const stop = load(url, storage, {
      signal: controller.signal,
      onProgress: ({ loadedBytes }) => {
        if (loadedBytes > model.length / 3) {
          stopped = loadedBytes;
          controller.abort(new Error('enough'));
        }
      },
    });
    await expect(stop).rejects.toThrow('enough');
    expect(stopped).toBeGreaterThan(0);
    expect(storage.opened).toBe(0);
    const { file } = await load(url, storage);
    expect(file.fingerprint).toBe((await loadModelFile(model)).fingerprint);
    await server.close();
  });

  it('is a Hugging Face folder or a repository of the hub as well', async () => {
    const folder = tinyFolder();
    const server = await serveFiles(new Map([...folder].map(([name, bytes]) => [`/m/${name}`, bytes])));
    const storage = new MemoryStorage();
    const first = await load(`${server.url}/m/`, storage);
    const before = server.requests.reduce((sum, { bytes }) => sum + bytes, 0);
    const second = await load(`${server.url}/m/`, storage);
    expect(second.file.fingerprint).toBe(first.file.fingerprint);
    // Files that may be absent are asked for again; of those that are there, nothing is sent twice.
    const after = server.requests.reduce((sum, { bytes }) => sum + bytes, 0);
    expect(after - before).toBeLessThan(2000);
    await server.close();

    const hub = await serveHub({ 'a/b@main': new Map([['model.gguf', model]]) });
    const kept = new MemoryStorage();
    await load('hf:a/b', kept, { hubUrl: hub.url });
    const sent = hub.requests.reduce((sum, { bytes }) => sum + bytes, 0);
    await load('hf:a/b', kept, { hubUrl: hub.url });
    expect(hub.requests.reduce((sum, { bytes }) => sum + bytes, 0) - sent).toBeLessThan(2000);
    await hub.close();
  });

  it('that changed on the server is downloaded anew', async () => {
    const changing = new Map([['/model.gguf', model]]);
    const server = await serveFiles(changing);
    const storage = new MemoryStorage();
    const url = `${server.url}/model.gguf`;
    const stored = new StoredFetch(storage);
    await (await stored.fetch(url, { headers: { Range: 'bytes=0-99' } })).arrayBuffer();
    await stored.close();
    const longer = new Uint8Array(model.length + 10);
    longer.set(model);
    changing.set('/model.gguf', longer);
    const again = new StoredFetch(storage);
    const tail = await (await again.fetch(url, { headers: { Range: 'bytes=100-199' } })).arrayBuffer();
    expect(new Uint8Array(tail)).toEqual(longer.slice(100, 200));
    await again.close();
    // Nothing of the older file is left.
    expect((await storage.list())[0]).toMatchObject({ size: longer.length, ranges: [[100, 200]] });
    await server.close();
  });
});

describe('SVD factors', () => {
  const url = 'http://localhost/tiny.gguf';
  const bytes = tinyModelGguf({ layers: 2, scale: 0.3 });
  const serve = (async () => new Response(bytes.slice())) as typeof fetch;

  async function computedBy(storage: MemoryStorage): Promise<number> {
    let computed = 0;
    const options = { backend: 'reference', storage, fetch: serve, onFactor: () => computed++ } as const;
    const { model } = await loadHere(url, options);
    model.createCache('xquant:4');
    return computed;
  }

  it('are computed at the first visit, and again only if what is kept is damaged', async () => {
    const storage = new MemoryStorage();
    expect(await computedBy(storage)).toBe(4);
    const kept = () => [...storage.files].find(([key]) => key.startsWith('xquant-factors:'))?.[1];
    await expect.poll(() => kept()?.info?.size).toBeGreaterThan(1000);
    expect(storage.opened).toBe(0);
    expect(await computedBy(storage)).toBe(0);

    const file = kept();
    if (!file) throw new Error('nothing was kept');
    file.bytes = file.bytes.slice(0, 500);
    expect(await computedBy(storage)).toBe(4);
    await expect.poll(() => kept()?.bytes.length).toBeGreaterThan(1000);
    expect(await computedBy(storage)).toBe(0);
  });

  it('that cannot be kept are a warning', async () => {
    const warn = vi.spyOn(console, 'warn').mockImplementation(() => undefined);
    const storage = new MemoryStorage();
    const open = storage.open.bind(storage);
    storage.open = async (key) => {
      if (key.startsWith('xquant-factors:')) throw new DOMException('full', 'QuotaExceededError');
      return open(key);
    };
    expect(await computedBy(storage)).toBe(4);
    await expect.poll(() => warn.mock.calls.flat().join()).toMatch(/SVD factors are not kept: full/);
    warn.mockRestore();
  });
});

describe('a quota', () => {
  it('that is known to be too small is named before anything is downloaded', async () => {
    const server = await serveFiles(files);
    const error = await load(`${server.url}/model.gguf`, new MemoryStorage(1e9, 5000)).catch((each) => each);
    expect(error).toBeInstanceOf(StorageError);
    expect(error).toMatchObject({ code: 'STORAGE', requestedBytes: model.length, availableBytes: 5000 });
    expect(error.message).toMatch(
      /no room to keep its .* MB, of which the browser grants 0\.0 MB more: delete/,
    );
    expect(server.requests.length).toBeLessThan(3);
    await server.close();
  });

  it('that runs out on the way is named, and not called a broken connection', async () => {
    const server = await serveFiles(files);
    const storage = new MemoryStorage(Math.floor(model.length / 2));
    const error = await load(`${server.url}/model.gguf`, storage).catch((each) => each);
    expect(error).toBeInstanceOf(StorageError);
    expect(error.message).toMatch(/no room to keep/);
    expect(storage.opened).toBe(0);
    await server.close();
  });
});

describe('the key of a URL', () => {
  it.each([
    ['http://a/b.gguf#x', 'http://a/b.gguf'],
    ['http://a/b.gguf?v=2', 'http://a/b.gguf?v=2'],
    ['https://cdn/c?X-Amz-Signature=1&X-Amz-Date=2', 'https://cdn/c'],
    ['https://cdn/c?Policy=1&Signature=2&Key-Pair-Id=3', 'https://cdn/c'],
  ])('%s', (url, key) => {
    expect(unsignedUrl(url)).toBe(key);
  });
});

describe('errors across a worker', () => {
  it.each([
    new FormatError('file', 'magic', 'is wrong'),
    new ShapeError('op', 'x', [1, '*'], [2]),
    new MemoryError('weights', 10, 5),
    new StorageError('url', 'full', 3, 2),
    new TypeError('plain'),
    new RangeError('plain'),
  ])('keep class, message and fields: $name', (error) => {
    const copy = fromPortable(structuredClone(toPortable(error)));
    expect(copy).toBeInstanceOf(error.constructor);
    expect(copy instanceof XQuantError).toBe(error instanceof XQuantError);
    expect(copy.message).toBe(error.message);
    expect({ ...copy }).toEqual({ ...error });
    expect(copy.name).toBe(error.name);
  });

  it('that nobody knows stay errors', () => {
    const strange = Object.assign(new Error('odd'), { name: 'OddError', code: 7, call: () => 1 });
    expect(fromPortable(toPortable(strange))).toMatchObject({ name: 'OddError', message: 'odd', code: 7 });
    expect(fromPortable(toPortable('text')).message).toBe('text');
  });
});
