/**
 * The browser bundle in a real browser: without a bundler, with and without cross-origin isolation.
 *
 * @module
 */

import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type * as XQuant from '../../src/browser/index.js';
import { tinyModelGguf } from '../helpers/gguf-writer.js';
import { describeInChromium, longestTask, openPage, startChromium, type WatchedPage } from './chromium.js';
import { NodeModel, root } from './node-result.js';
import { type StaticServer, serveFolders } from './static-server.js';

const PROMPT = 'The ship had been three weeks at sea when';
const TOKENS = 24;
const CACHES = ['kv', 'kivi:2?group=32&window=32', 'xquant:4?window=32', 'xquant-cl:2?window=32'];
const MODEL_BYTES = readFileSync(`${root}golden/models/books-mha.gguf`).length;

/** What a test page has in its global scope. */
interface TestPage {
  xquant: typeof XQuant;
  loaded: XQuant.LoadedModel;
  /** The error of an action, in parts. */
  caught(run: () => unknown): Promise<{ name: string; message: string; error: unknown }>;
}
declare const window: TestPage;

const PAGE = `<!doctype html><html lang="en"><title>test</title><link rel="icon" href="data:,">
<script type="module">
  import * as xquant from '/dist/browser/xquant.js';
  window.caught = async (run) => {
    try { await run(); } catch (error) { return { name: error.name, message: error.message, error }; }
    throw new Error('nothing was thrown');
  };
  window.xquant = xquant;
</script></html>`;

/** A worker that loads a model itself. */
const WORKER = `import { generate, loadModel } from '/dist/browser/xquant.js';
onmessage = async ({ data: { url, prompt, options } }) => {
  const { model, tokenizer } = await loadModel(url, { kernel: 'simd' });
  const { ids } = await generate(model, tokenizer, prompt, options).finish();
  postMessage({ ids, remote: model.constructor.name === 'RemoteModel' });
};`;

/** The hub's list of the files of a repository. */
const LISTING = JSON.stringify([{ type: 'file', path: 'books-mha.gguf', size: MODEL_BYTES, oid: 'x' }]);

describeInChromium('the browser bundle', () => {
  let browser: Browser;
  const expected = new Map<string, readonly number[]>();
  let snapshot: Uint8Array;

  beforeAll(async () => {
    await using node = await NodeModel.load('books-mha');
    for (const cache of CACHES) {
      expected.set(cache, await node.generate(PROMPT, { cache, maxTokens: TOKENS }));
    }
    snapshot = await node.snapshot(PROMPT, { cache: 'xquant-cl:2?window=32', maxTokens: TOKENS / 2 });
    browser = await startChromium();
  });
  afterAll(() => browser?.close());

  describe.each([
    ['cross-origin isolated', true],
    ['not isolated', false],
  ])('%s', (_, isolated) => {
    let server: StaticServer;
    let watched: WatchedPage;

    beforeAll(async () => {
      server = await serveFolders(
        {
          '/owner/books/resolve/main/': `${root}golden/models/`,
          '/dist/': `${root}dist/`,
          '/models/': `${root}golden/models/`,
        },
        { isolated },
      );
      server.pages.set('/test', PAGE);
      server.pages.set('/worker.js', WORKER);
      server.pages.set('/api/models/owner/books/tree/main', LISTING);
      watched = await openPage(browser);
      await open();
    });
    afterAll(async () => {
      await watched?.context.close();
      await server?.close();
    });

    async function open(): Promise<void> {
      await watched.page.goto(`${server.url}/test`);
      await watched.page.waitForFunction(() => window.xquant !== undefined);
    }

    it('ends the worker of a model whose tokenizer cannot be built', async () => {
      const { page } = watched;
      const broken = tinyModelGguf({
        edit: ({ metadata }) => {
          metadata['tokenizer.ggml.model'] = 'none';
        },
      });
      const workers = page.workers().length;
      for (let i = 0; i < 3; i++) {
        const { message } = await page.evaluate(
          (bytes) => window.caught(() => window.xquant.loadModel(Uint8Array.from(bytes))),
          [...broken],
        );
        expect(message).toMatch(/has no tokenizer/);
      }
      await expect.poll(() => page.workers().length, { timeout: 20_000 }).toBe(workers);
    });

    it('loads without blocking the page, and tells how far it is', async () => {
      const { page } = watched;
      const { milliseconds, result } = await longestTask(browser, page, () =>
        page.evaluate(async () => {
          const progress: { loadedBytes: number; totalBytes?: number }[] = [];
          window.loaded = await window.xquant.loadModel('models/books-mha.gguf', {
            kernel: 'simd',
            onProgress: (each) => void progress.push(each),
          });
          const { model } = window.loaded;
          return { progress, backend: model.backend, threads: (model as XQuant.RemoteModel).threads };
        }),
      );
      expect(milliseconds).toBeLessThan(50);
      expect(result.backend).toBe('wasm');
      const cores = await page.evaluate(() => navigator.hardwareConcurrency);
      expect(cores).toBe(availableParallelism());
      if (isolated && cores > 1) expect(result.threads).toBeGreaterThan(1);
      else expect(result.threads).toBe(1);
      expect(result.progress.length).toBeGreaterThan(3);
      const last = result.progress.at(-1);
      expect(last?.totalBytes).toBe(MODEL_BYTES);
      expect(last?.loadedBytes).toBe(MODEL_BYTES);
    });

    it.each(CACHES)('generates what Node generates, token by token: %s', async (cache) => {
      const { milliseconds, result } = await longestTask(browser, watched.page, () =>
        watched.page.evaluate(
          async ({ cache, prompt, maxTokens }) => {
            const { model, tokenizer } = window.loaded;
            const generation = window.xquant.generate(model, tokenizer, prompt, { cache, maxTokens });
            const ids: number[] = [];
            for await (const { id } of generation) ids.push(id);
            return { ids, stored: window.xquant.storedBytes(generation.sequence.cache.bytes()) };
          },
          { cache, prompt: PROMPT, maxTokens: TOKENS },
        ),
      );
      expect(result.ids).toEqual(expected.get(cache));
      expect(result.stored).toBeGreaterThan(0);
      expect(milliseconds).toBeLessThan(50);
    });

    it('goes on from a snapshot that Node wrote, and writes the same one', async () => {
      const { ids, again } = await watched.page.evaluate(
        async ({ base64, maxTokens }) => {
          const { generate, CachedSequence } = window.xquant;
          const { tokenizer } = window.loaded;
          const model = window.loaded.model as XQuant.RemoteModel;
          const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
          const restored = await model.restoreSnapshot(bytes);
          const sequence = new CachedSequence(restored.cache, restored.tokens);
          const saved = await model.saveSnapshot(sequence, restored.pending, restored.generated);
          const prompt = [...restored.tokens, ...restored.pending];
          const { ids } = await generate(model, tokenizer, prompt, { cache: sequence, maxTokens }).finish();
          return { ids, again: btoa(Array.from(saved, (byte) => String.fromCharCode(byte)).join('')) };
        },
        { base64: Buffer.from(snapshot).toString('base64'), maxTokens: TOKENS / 2 },
      );
      expect(again === Buffer.from(snapshot).toString('base64')).toBe(true);
      expect(ids).toEqual(expected.get('xquant-cl:2?window=32')?.slice(TOKENS / 2));
    });

    it('stops when it is told to, and can be used afterwards', async () => {
      const outcome = await watched.page.evaluate(async () => {
        const { generate } = window.xquant;
        const { model, tokenizer } = window.loaded;
        const controller = new AbortController();
        const generation = generate(model, tokenizer, 'word '.repeat(600), { signal: controller.signal });
        setTimeout(() => controller.abort(new Error('enough')), 30);
        const { message } = await window.caught(() => generation.finish());
        const { ids } = await generate(model, tokenizer, 'Once', { maxTokens: 2 }).finish();
        return { message, ids: ids.length };
      });
      expect(outcome).toEqual({ message: 'enough', ids: 2 });
    });

    it('keeps classes and fields of errors', async () => {
      const outcome = await watched.page.evaluate(async () => {
        const { caught } = window;
        const { CacheStateError, FormatError, ConfigError, loadModel } = window.xquant;
        const model = window.loaded.model as XQuant.RemoteModel;
        const damaged = (await caught(() => model.restoreSnapshot(new Uint8Array(100), 'mine'))).error;
        const config = (await caught(() => model.createCache('xquant:5'))).error;
        const missing = await caught(() => loadModel('models/none.gguf'));
        const head = await (
          await fetch('models/books-mha.gguf', { headers: { Range: 'bytes=0-999' } })
        ).blob();
        const broken = await caught(() => loadModel(head));
        const noWasm = await caught(() => loadModel('models/books-mha.gguf', { wasm: 'models/' }));
        const cache = model.createCache('kv?window=4');
        await model.forward([1, 2, 3, 4, 5, 6], cache);
        const trim = (await caught(() => cache.trim(3))).error;
        cache.trim(4);
        const after = await model.forward([5, 6], cache);
        return {
          damaged: damaged instanceof FormatError && [damaged.path, damaged.place, damaged.code],
          config: config instanceof ConfigError,
          missing: [missing.name, missing.message],
          broken: broken.name,
          noWasm: [noWasm.name, noWasm.message],
          trim: trim instanceof CacheStateError,
          after: [after.rows, cache.length],
        };
      });
      expect(outcome).toMatchObject({
        damaged: ['mine', 'magic', 'FORMAT'],
        config: true,
        broken: 'FormatError',
        trim: true,
        after: [1, 6],
      });
      expect(outcome.missing[0]).toBe('LoadError');
      expect(outcome.missing[1]).toMatch(/404/);
      expect(outcome.noWasm[0]).toBe('KernelError');
      expect(outcome.noWasm[1]).toMatch(/models\/[\w-]+\.wasm.*404/);
      // What is not there is a failed request, which the browser itself reports.
      expect(watched.complaints.filter((each) => !/404/.test(each))).toEqual([]);
      watched.complaints.length = 0;
    });

    it('loads again with the network cut', async () => {
      await open();
      // The kernels are part of the application, not of the model: they are read before the cut.
      const wasm = readFileSync(`${root}dist/wasm/simd.wasm`).toString('base64');
      const before = server.requests.length;
      server.down = true;
      try {
        const outcome = await watched.page.evaluate(async (kernels) => {
          const url = `data:application/wasm;base64,${kernels}`;
          const wasm = { simd: url, relaxed: url, 'simd-threads': url, 'relaxed-threads': url };
          const { model, tokenizer } = await window.xquant.loadModel('models/books-mha.gguf', {
            kernel: 'simd',
            threads: 1,
            wasm,
          });
          const { ids } = await window.xquant.generate(model, tokenizer, 'Once', { maxTokens: 3 }).finish();
          await model.dispose();
          return ids.length;
        }, wasm);
        expect(outcome).toBe(3);
        expect(server.requests.length).toBe(before);
      } finally {
        server.down = false;
      }
      expect(watched.complaints).toEqual([]);
    });

    it('lists and deletes what is stored', async () => {
      const { before, after } = await watched.page.evaluate(async () => {
        const storage = new window.xquant.OpfsStorage();
        const before = await storage.list();
        await storage.delete(before[0].key);
        return { before, after: await storage.list() };
      });
      expect(before).toHaveLength(1);
      expect(before[0]).toMatchObject({
        key: `${server.url}/models/books-mha.gguf`,
        size: MODEL_BYTES,
        ranges: [[0, MODEL_BYTES]],
      });
      expect(after).toEqual([]);
    });

    it('loads from the hub and from a File, and stops a load when it is told to', async () => {
      const outcome = await watched.page.evaluate(async (hubUrl) => {
        const { loadModel, OpfsStorage } = window.xquant;
        const controller = new AbortController();
        const stopped = await window.caught(() =>
          loadModel('hf:owner/books/books-mha.gguf', {
            hubUrl,
            signal: controller.signal,
            onProgress: ({ loadedBytes }) => loadedBytes > 1e6 && controller.abort(new Error('enough')),
          }),
        );
        const fromHub = await loadModel('hf:owner/books', { hubUrl, kernel: 'simd' });
        const bytes = await (await fetch('models/books-mha.gguf')).blob();
        let steps = 0;
        const fromFile = await loadModel(new File([bytes], 'mine.gguf'), {
          kernel: 'simd',
          onProgress: () => void steps++,
        });
        const names = [fromHub, fromFile].map(({ file }) => file.fingerprint);
        for (const { model } of [fromHub, fromFile]) await model.dispose();
        const stored = (await new OpfsStorage().list()).map(({ key }) => key);
        await new OpfsStorage().delete();
        return { stopped: stopped.message, names, steps, stored };
      }, server.url);
      expect(outcome.stopped).toBe('enough');
      expect(outcome.names[0]).toBe(outcome.names[1]);
      expect(outcome.steps).toBeGreaterThan(1);
      expect(outcome.stored).toEqual([`${server.url}/owner/books/resolve/main/books-mha.gguf`]);
    });

    it('says so when there is no room to keep a model', async () => {
      const { page, context } = watched;
      const devtools = await context.newCDPSession(page);
      const quota = (quotaSize?: number) =>
        devtools.send('Storage.overrideQuotaForOrigin', { origin: server.url, quotaSize });
      await quota(5_000_000);
      const outcome = await page.evaluate(async () => {
        const { loadModel, StorageError } = window.xquant;
        const { error, message } = await window.caught(() => loadModel('models/books-mha.gguf'));
        const { model } = await loadModel('models/books-mha.gguf', { storage: 'none' });
        await model.dispose();
        return { known: error instanceof StorageError && error.requestedBytes, message };
      });
      await quota();
      expect(outcome.known).toBe(MODEL_BYTES);
      expect(outcome.message).toMatch(
        /books-mha\.gguf: there is no room to keep its 17\.3 MB.*: delete models/,
      );
      expect(watched.complaints).toEqual([]);
    });

    it('runs where workers must come from files', async () => {
      const { page } = watched;
      const policy = '<meta http-equiv="Content-Security-Policy" content="worker-src \'self\'">';
      server.pages.set('/strict', PAGE.replace('<script', `${policy}<script`));
      await page.goto(`${server.url}/strict`);
      await page.waitForFunction(() => window.xquant !== undefined);
      const outcome = await page.evaluate(async () => {
        const { generate, loadModel } = window.xquant;
        const refused = await window.caught(() => loadModel('models/books-mha.gguf'));
        const { model, tokenizer } = await loadModel('models/books-mha.gguf', {
          createWorker: () => new Worker('/dist/browser/xquant-worker.js', { type: 'module' }),
          threads: 1,
        });
        const { ids } = await generate(model, tokenizer, 'Once', { maxTokens: 2 }).finish();
        await model.dispose();
        return { refused: refused.message, ids: ids.length };
      });
      expect(outcome.ids).toBe(2);
      expect(outcome.refused).toMatch(/createWorker/);
      // What its policy refuses, the browser itself reports.
      expect(watched.complaints.filter((each) => !/Content Security Policy/.test(each))).toEqual([]);
      watched.complaints.length = 0;
    });

    it('loads in a worker of the application', async () => {
      const outcome = await watched.page.evaluate(
        (message) =>
          new Promise((resolve, reject) => {
            const worker = new Worker('/worker.js', { type: 'module' });
            worker.onmessage = ({ data }) => resolve(data);
            worker.onerror = (event) => reject(new Error(event.message));
            worker.postMessage({ ...message, url: new URL('/models/books-mha.gguf', document.baseURI).href });
          }),
        { prompt: PROMPT, options: { cache: 'kv', maxTokens: TOKENS } },
      );
      expect(outcome).toEqual({ ids: expected.get('kv'), remote: false });
      expect(watched.complaints).toEqual([]);
    });
  });
});
