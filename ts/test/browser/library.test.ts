/**
 * The browser bundle in a real browser: without a bundler, with and without cross-origin isolation.
 *
 * @module
 */

import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type * as XQuant from '../../src/browser/index.js';
import { WasmModel } from '../../src/engine/wasm-model.js';
import { CachedSequence, generate } from '../../src/generate.js';
import { loadModelFile } from '../../src/io/load-model.js';
import { writeSnapshot } from '../../src/io/snapshot.js';
import { Tokenizer } from '../../src/text/tokenizer.js';
import { chromiumPath, explainSkip, openPage, startChromium, type WatchedPage } from './chromium.js';
import { type StaticServer, serveFolders } from './static-server.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const PROMPT = 'The ship had been three weeks at sea when';
const TOKENS = 24;
const CACHES = ['kv', 'kivi:2?group=32&window=32', 'xquant:4?window=32', 'xquant-cl:2?window=32'];

/** What a test page has in its global scope. */
interface TestPage {
  xquant: typeof XQuant;
  loaded: XQuant.LoadedModel;
  gaps: number[];
}
declare const window: TestPage;

const PAGE = `<!doctype html><html lang="en"><title>test</title><link rel="icon" href="data:,">
<script type="module">
  import * as xquant from '/dist/browser/xquant.js';
  window.xquant = xquant;
</script></html>`;

explainSkip('library in a browser');
const ready = chromiumPath !== undefined && existsSync(`${root}dist/browser/xquant.js`);

describe.skipIf(!ready)('the browser bundle', () => {
  let browser: Browser;
  const expected = new Map<string, readonly number[]>();
  let snapshot: Uint8Array;

  beforeAll(async () => {
    browser = await startChromium();
    const file = await loadModelFile(`${root}golden/models/books-mha.gguf`);
    const tokenizer = new Tokenizer(file.tokenizer);
    // Relaxed SIMD may round differently from machine to machine; plain SIMD does not.
    await using model = await WasmModel.load(file.config, file.weights, { threads: 1, kernel: 'simd' });
    for (const cache of CACHES) {
      const generation = generate(model, tokenizer, PROMPT, { cache, maxTokens: TOKENS });
      expected.set(cache, (await generation.finish()).ids);
    }
    const sequence = new CachedSequence(model.createCache('xquant-cl:2?window=32'));
    const half = generate(model, tokenizer, PROMPT, { cache: sequence, maxTokens: TOKENS / 2 });
    const { ids } = await half.finish();
    snapshot = writeSnapshot({
      cache: sequence.cache,
      tokens: sequence.tokens,
      pending: ids.slice(-1),
      fingerprint: file.fingerprint,
    });
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
        { '/dist/': `${root}dist/`, '/models/': `${root}golden/models/` },
        { isolated },
      );
      server.pages.set('/test', PAGE);
      watched = await openPage(browser);
      await watched.page.goto(`${server.url}/test`);
      await watched.page.waitForFunction(() => window.xquant !== undefined);
    });
    afterAll(async () => {
      await watched?.context.close();
      await server?.close();
    });

    it('loads, and tells how far it is', async () => {
      const { page } = watched;
      const report = await page.evaluate(async () => {
        window.gaps = [0];
        const observer = new PerformanceObserver((list) => {
          for (const { duration } of list.getEntries()) window.gaps.push(duration);
        });
        observer.observe({ type: 'longtask' }); // tasks of 50 ms and more
        const progress: { loadedBytes: number; totalBytes?: number }[] = [];
        window.loaded = await window.xquant.loadModel('models/books-mha.gguf', {
          kernel: 'simd',
          onProgress: (each) => void progress.push(each),
        });
        const { model, file } = window.loaded;
        return {
          progress,
          backend: model.backend,
          name: file.name,
          threads: (model as XQuant.RemoteModel).threads,
        };
      });
      expect(report.backend).toBe('wasm');
      if (isolated) expect(report.threads).toBeGreaterThanOrEqual(1);
      else expect(report.threads).toBe(1);
      expect(report.progress.length).toBeGreaterThan(3);
      const last = report.progress.at(-1);
      expect(last?.loadedBytes).toBe(last?.totalBytes);
    });

    it.each(CACHES)('generates what Node generates, token by token: %s', async (cache) => {
      const ids = await watched.page.evaluate(
        async ({ cache, prompt, maxTokens }) => {
          const { model, tokenizer } = window.loaded;
          const generation = window.xquant.generate(model, tokenizer, prompt, { cache, maxTokens });
          const found: number[] = [];
          for await (const { id } of generation) found.push(id);
          const { bytes } = { bytes: generation.sequence.cache.bytes() };
          if (window.xquant.storedBytes(bytes) === 0) throw new Error('no bytes counted');
          return found;
        },
        { cache, prompt: PROMPT, maxTokens: TOKENS },
      );
      expect(ids).toEqual(expected.get(cache));
    });

    it('goes on from a snapshot that Node wrote, and writes one', async () => {
      const ids = await watched.page.evaluate(
        async ({ bytes, maxTokens }) => {
          const { generate, CachedSequence } = window.xquant;
          const { tokenizer } = window.loaded;
          const model = window.loaded.model as XQuant.RemoteModel;
          const restored = await model.restoreSnapshot(Uint8Array.from(bytes));
          const sequence = new CachedSequence(restored.cache, restored.tokens);
          const saved = await model.saveSnapshot(sequence, restored.pending);
          if (saved.length !== bytes.length || !saved.every((byte, i) => byte === bytes[i])) {
            throw new Error('the snapshot changed');
          }
          const prompt = [...restored.tokens, ...restored.pending];
          const generation = generate(model, tokenizer, prompt, { cache: sequence, maxTokens });
          return (await generation.finish()).ids;
        },
        { bytes: [...snapshot], maxTokens: TOKENS / 2 },
      );
      expect(ids).toEqual(expected.get('xquant-cl:2?window=32')?.slice(TOKENS / 2));
    });

    it('stops when it is told to, and can be used afterwards', async () => {
      const outcome = await watched.page.evaluate(async () => {
        const { generate } = window.xquant;
        const { model, tokenizer } = window.loaded;
        const controller = new AbortController();
        const generation = generate(model, tokenizer, 'word '.repeat(600), { signal: controller.signal });
        setTimeout(() => controller.abort(new Error('enough')), 30);
        const error = await generation.finish().catch((reason: Error) => reason.message);
        const { ids } = await generate(model, tokenizer, 'Once', { maxTokens: 2 }).finish();
        return { error, ids: ids.length };
      });
      expect(outcome).toEqual({ error: 'enough', ids: 2 });
    });

    it('keeps classes and fields of errors', async () => {
      const outcome = await watched.page.evaluate(async () => {
        const { CacheStateError, FormatError, ConfigError, loadModel } = window.xquant;
        const model = window.loaded.model as XQuant.RemoteModel;
        const caught = async (run: () => unknown) => {
          try {
            await run();
            return undefined;
          } catch (error) {
            return error;
          }
        };
        const damaged = await caught(() => model.restoreSnapshot(new Uint8Array(100), 'mine'));
        const config = await caught(() => model.createCache('xquant:5'));
        const missing = (await caught(() => loadModel('models/none.gguf'))) as Error;
        const head = await (
          await fetch('models/books-mha.gguf', { headers: { Range: 'bytes=0-999' } })
        ).blob();
        const broken = (await caught(() => loadModel(head))) as Error;
        const cache = model.createCache('kv?window=4');
        await model.forward([1, 2, 3, 4, 5, 6], cache);
        const trim = await caught(() => cache.trim(3));
        cache.trim(4);
        const after = await model.forward([5, 6], cache);
        return {
          damaged: damaged instanceof FormatError && [damaged.path, damaged.place, damaged.code],
          config: config instanceof ConfigError,
          missing: [missing.name, missing.message],
          broken: broken.name,
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
      // The one that is not there is a failed request, which the browser itself reports.
      expect(watched.complaints.filter((each) => !/404/.test(each))).toEqual([]);
      watched.complaints.length = 0;
    });

    it('did not block the page', async () => {
      const gaps = await watched.page.evaluate(() => window.gaps);
      const longest = Math.max(...gaps);
      console.log(
        `longest pause of the page (${isolated ? 'isolated' : 'not isolated'}): ${longest.toFixed(0)} ms`,
      );
    });

    it('loads again with the network cut', async () => {
      const { page } = watched;
      await page.goto(`${server.url}/test`);
      await page.waitForFunction(() => window.xquant !== undefined);
      // The kernels are part of the application, not of the model: they are read before the cut.
      const wasm = readFileSync(`${root}dist/wasm/simd.wasm`).toString('base64');
      const before = server.requests.length;
      server.down = true;
      try {
        const outcome = await page.evaluate(async (kernels) => {
          const url = `data:application/wasm;base64,${kernels}`;
          const wasm = { simd: url, relaxed: url, 'simd-threads': url, 'relaxed-threads': url };
          const started = performance.now();
          const { model, tokenizer, file } = await window.xquant.loadModel('models/books-mha.gguf', {
            kernel: 'simd',
            threads: 1,
            wasm,
          });
          const { ids } = await window.xquant.generate(model, tokenizer, 'Once', { maxTokens: 3 }).finish();
          const stored = await new window.xquant.OpfsStorage().list();
          await model.dispose();
          return { ids: ids.length, name: file.name, stored, seconds: (performance.now() - started) / 1000 };
        }, wasm);
        expect(outcome.ids).toBe(3);
        expect(outcome.stored).toHaveLength(1);
        expect(outcome.stored[0].key).toBe(`${server.url}/models/books-mha.gguf`);
        console.log(`load and three tokens from storage: ${outcome.seconds.toFixed(2)} s`);
        expect(server.requests.length).toBe(before);
      } finally {
        server.down = false;
      }
      expect(watched.complaints).toEqual([]);
    });
  });
});
