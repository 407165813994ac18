/**
 * The explorer as it is built, in a real browser, with and without cross-origin isolation.
 *
 * @module
 */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser, BrowserContextOptions, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { SAMPLE_TEXT } from '../../../docs/explorer/sample-text.js';
import { violations } from './accessibility.js';
import { describeInChromium, longestTask, openPage, startChromium, type WatchedPage } from './chromium.js';
import { NodeModel, root } from './node-result.js';
import { type StaticServer, serveFolders } from './static-server.js';

/** Long enough for a block of 32 tokens to be sealed. */
const PROMPT =
  'It was a dark night, and the old man had lost his way among the hills. He had walked since morning without a ' +
  'word, and now he sat down upon a stone, and looked at the lights of the town that lay far below';
/** A block of 128 tokens, and some more. */
const TEXT = SAMPLE_TEXT.slice(0, 900);
const TOKENS = 12;
/** What the page samples with. */
const SAMPLING = { seed: 7, temperature: 0.8, topK: 40, topP: 0.95, minP: 0.05 };
const SAVED = 'xquant-cl:2@tuned?window=32';
const PAIRS = [
  ['kv', 'xquant-cl:2@paper?window=32'],
  ['kivi:2?group=32&window=32', 'xquant:2@paper?window=32'],
] as const;

/**
 * In front of the explorer's worker: a browser without relaxed SIMD, which may round differently from machine to
 * machine.
 */
const WITHOUT_RELAXED = `const validate = WebAssembly.validate;
WebAssembly.validate = (bytes) => !String(bytes).includes('253,128,2') && validate(bytes);
`;

/** No inline script or style, nothing from elsewhere but models; threads of the engine come from `blob:`. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self' https:",
  "worker-src 'self' blob:",
  "base-uri 'none'",
  "form-action 'none'",
].join('; ');

describeInChromium('the explorer', () => {
  let browser: Browser;
  let folder: string;
  /** Of 8 tokens behind the prompt, and the tokens that follow. */
  let snapshot: Uint8Array;
  let continuation: readonly number[];
  /** Perplexities of the text, as the page writes them. */
  let measured: readonly string[];
  /** For loading the model and a first token. */
  let nodeSeconds: number;
  const expected = new Map<string, readonly number[]>();
  /** Of the text of lane 1, by the caches of lane 1 and of the reader. */
  const losses = new Map<string, string>();

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'xquant-explorer-'));
    execFileSync(process.execPath, [`${root}scripts/build-explorer.mjs`, folder]);
    const started = performance.now();
    await using node = await NodeModel.load('books-mha');
    await node.generate(PROMPT, { cache: 'kv', maxTokens: 1 });
    nodeSeconds = (performance.now() - started) / 1000;
    for (const cache of PAIRS.flat()) {
      expected.set(cache, await node.generate(PROMPT, { ...SAMPLING, cache, maxTokens: TOKENS }));
    }
    for (const [first, second] of PAIRS) {
      const text = expected.get(first) as readonly number[];
      for (const cache of [first, second]) {
        losses.set(`${first} ${cache}`, (await node.loss(PROMPT, text, cache)).toFixed(3));
      }
    }
    snapshot = await node.snapshot(PROMPT, { ...SAMPLING, cache: SAVED, maxTokens: 8 });
    const whole = await node.generate(PROMPT, { ...SAMPLING, cache: SAVED, maxTokens: 8 + TOKENS });
    continuation = whole.slice(8);
    const perplexities = await node.perplexities(TEXT, ['kv', 'xquant-cl:2@tuned']);
    measured = perplexities.map((perplexity) => perplexity.toFixed(3));
    browser = await startChromium();
  });
  afterAll(async () => {
    await browser?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  describe.each([
    ['cross-origin isolated', true],
    ['not isolated', false],
  ])('%s', (_, isolated) => {
    let server: StaticServer;
    let watched: WatchedPage;
    let page: Page;

    beforeAll(async () => {
      server = await serveFolders({ '/': `${folder}/` }, { isolated, policy: POLICY });
    });
    afterAll(() => server?.close());

    async function open(options: BrowserContextOptions = {}, worker = WITHOUT_RELAXED): Promise<void> {
      const code = readFileSync(`${folder}/explorer/js/worker.js`, 'utf8');
      server.pages.set('/explorer/js/worker.js', worker + code);
      watched = await openPage(browser, options);
      page = watched.page;
      await page.goto(`${server.url}/explorer/`);
    }

    afterEach(async () => {
      expect(watched.complaints).toEqual([]);
      await watched.context.close();
    });

    describe('a page', () => {
      beforeEach(() => open());

      it('shows its first token soon after a cold load', async () => {
        const seconds = (await page.evaluate(async () => {
          const token = new Promise((resolve) => {
            new MutationObserver(() => {
              if (document.querySelector('[data-token]')) resolve(performance.now() / 1000);
            }).observe(document.body, { childList: true, subtree: true });
          });
          document.querySelector<HTMLButtonElement>('#go')?.click();
          return token;
        })) as number;
        console.log(`first token of the explorer after ${seconds.toFixed(2)} s`);
        // A machine that is busy with other tests may be slower by what Node is slower then.
        expect(seconds).toBeLessThan(Math.max(5, 5 * nodeSeconds));
        const note = await page.textContent('#model-note');
        expect(note).toMatch(isolated ? /threads\./ : /1 thread \(the page is not cross-origin isolated\)/);
      });

      it('generates with each cache what Node generates, and marks where the lanes part', async () => {
        for (const pair of PAIRS) {
          await generate(page, pair);
          const ids = [await tokensOf(page, 0), await tokensOf(page, 1)];
          expect(ids[0], pair[0]).toEqual(expected.get(pair[0]));
          expect(ids[1], pair[1]).toEqual(expected.get(pair[1]));
          for (const [lane, cache] of pair.entries()) {
            const shown = await page.textContent(`article:nth-child(${lane + 1}) .stats div:nth-child(2) dd`);
            expect(shown, `loss with ${cache}`).toBe(losses.get(`${pair[0]} ${cache}`));
          }
          const parting = ids[0].findIndex((id, i) => id !== ids[1][i]);
          for (const lane of [0, 1]) {
            const marked = await page
              .locator(`article:nth-child(${lane + 1}) [data-token]`)
              .evaluateAll((tokens) => tokens.map((token) => token.querySelector('mark') !== null));
            expect(marked.indexOf(true)).toBe(parting);
            expect(marked.filter(Boolean)).toHaveLength(parting < 0 ? 0 : 1);
          }
          expect(await page.textContent('#difference')).toMatch(
            parting < 0 ? /the same/ : `token ${parting + 1},`,
          );
        }
        // The caches differ in what they say of themselves, too.
        const legend = await page.textContent('article:nth-child(2) .legend');
        expect(legend).toMatch(/codes .*scales .*minima .*window/);
        expect(await page.textContent('article:nth-child(2) .stats')).toMatch(
          /\d+\.\d.*loss.*\d\.\d{3}.*times smaller.*times larger/,
        );
      });

      it('saves a snapshot, and goes on from one that Node wrote', async () => {
        await page.setInputFiles('#snapshot-1', file('node.xqs', snapshot));
        await page.waitForSelector('article:nth-child(2) .note:has-text("Snapshot of")');
        await page.fill('#seed', String(SAMPLING.seed));
        await generate(page, ['kv', undefined]);
        expect(await tokensOf(page, 1)).toEqual(continuation);
        const [download] = await Promise.all([
          page.waitForEvent('download'),
          page.click('article:nth-child(2) button'),
        ]);
        const saved = readFileSync(await download.path());
        expect(download.suggestedFilename()).toBe('lane-2.xqs');
        const text = await page.textContent('article:nth-child(2) .output');
        await page.setInputFiles('#snapshot-0', file('again.xqs', saved));
        await page.waitForSelector('article:nth-child(1) .note:has-text("Snapshot of")');
        expect(await page.textContent('article:nth-child(1) .output')).toBe(text);
      });

      it('says what is wrong with a file, and can be used afterwards', async () => {
        const model = readFileSync(`${root}golden/models/books-mha.gguf`);
        const damaged = new Uint8Array(model);
        damaged.fill(0xff, 64, 96); // keys of the header
        for (const [name, bytes, message] of [
          ['short.gguf', model.subarray(0, 100_000), /The file is damaged.*short\.gguf/],
          ['flipped.gguf', damaged, /The file is damaged.*flipped\.gguf/],
          ['notes.gguf', new TextEncoder().encode('not a model'), /The file is damaged.*notes\.gguf/],
        ] as const) {
          await page.selectOption('#model', 'file');
          await page.setInputFiles('#file', file(name, bytes));
          await page.click('#load');
          expect(await errorOf(page)).toMatch(message);
        }
        await page.selectOption('#model', 'books-mha');
        await generate(page, ['kv', 'kivi:4'], 3);
        for (const bytes of [snapshot.subarray(0, 500), snapshot.with(700, snapshot[700] ^ 4)]) {
          await page.setInputFiles('#snapshot-0', file('broken.xqs', bytes));
          expect(await errorOf(page)).toMatch(/broken\.xqs/);
        }
        await page.selectOption('#cache-0', '');
        await page.fill('#custom-0', 'xquant:5');
        await page.click('#go');
        expect(await errorOf(page)).toMatch(/bits.*5/);
        await generate(page, ['kv', 'kivi:4'], 3);
      });

      it('shows layers, perplexity, memory and roofline without blocking', async () => {
        await page.fill('#text', TEXT);
        const { milliseconds } = await longestTask(browser, page, async () => {
          await page.click('#inspect');
          await page.waitForSelector('#maps figure:nth-child(4) canvas');
          const before = await pixels(page);
          await page.focus('#layer');
          for (let i = 0; i < 3; i++) await page.keyboard.press('ArrowRight');
          await page.waitForFunction(() =>
            /^Layer 7:/.test(document.querySelector('#inside-note')?.textContent ?? ''),
          );
          expect(await pixels(page)).not.toBe(before);
          await page.click('#measure');
          await page.waitForSelector('#perplexity-table tbody tr:nth-child(2)');
        });
        expect(milliseconds).toBeLessThan(50);
        const perplexities = await page.locator('#perplexity-table td:nth-child(2)').allTextContents();
        expect(perplexities).toEqual(measured);

        await page.selectOption('#shape', 'llama-2-7b');
        await page.fill('#context', '4096');
        // 4096 tokens * 32 layers * 2 * 4096 channels * 2 bytes
        expect(await page.textContent('#memory-table tbody tr:first-child')).toMatch(
          /kv\s*2\.15 GB\s*16\.00/,
        );
        // The plan outweighs the cache, and the table does not hide it.
        const row = page.locator('#memory-table tbody tr', { hasText: 'xquant-cl:2@tuned' }).first();
        expect(await row.textContent()).toMatch(/67\.1 MB.*2\.41 GB.*x larger.*13\.1x/);
        await page.fill('#context', '');
        expect(await page.textContent('#memory-note')).toMatch(/positive/);

        expect(await page.textContent('#roofline-note')).toMatch(/2,281 tokens.*40,627 tokens/);
        await page.selectOption('#device', { label: 'GeForce RTX 4090' });
        expect(await page.inputValue('#teraflops')).toBe('165.2');
        await page.fill('#bandwidth', '0');
        expect(await page.textContent('#roofline-note')).toMatch(/above zero/);
      });

      it('shows calibrated caches with the bits and the importance of their channels', async () => {
        await page.selectOption('#cache-1', 'xquant-cl:1@calibrated');
        await page.fill('#text', TEXT);
        await page.click('#inspect');
        await page.waitForSelector('#spectrum svg');
        expect(await page.locator('#spectrum svg rect').count()).toBeGreaterThan(256);
        const note = (await page.textContent('#inside-note')) ?? '';
        const channels = [...note.matchAll(/(\d+) with (?:none|\d bits?)/g)].map(([, count]) =>
          Number(count),
        );
        expect(channels.length).toBeGreaterThan(1);
        expect(channels.reduce((sum, count) => sum + count, 0)).toBe(256);
        expect(await page.locator('#maps figure').count()).toBe(4);
        const [download] = server.requests.filter(({ path }) => path.endsWith('calibration.safetensors'));
        expect(download).toBeDefined();
        // The next visit has it already.
        const before = server.requests.length;
        await page.reload();
        await page.selectOption('#cache-1', 'xquant-cl:1@calibrated');
        await page.fill('#text', TEXT);
        await page.click('#inspect');
        await page.waitForSelector('#spectrum svg');
        const again = server.requests
          .slice(before)
          .filter(({ path }) => path.endsWith('calibration.safetensors'));
        expect(again.reduce((sum, { bytes }) => sum + bytes, 0)).toBeLessThan(1000);
        await page.selectOption('#cache-1', 'kv');
        await page.click('#inspect');
        await page.waitForSelector('#spectrum', { state: 'hidden' });
      });

      it('works with the keyboard alone', async () => {
        await page.keyboard.press('Tab');
        expect(await page.evaluate(() => document.activeElement?.textContent)).toMatch(/Skip/);
        await page.keyboard.press('Enter');
        await tabTo(page, 'tokens');
        await page.keyboard.press('ControlOrMeta+a');
        await page.keyboard.type('500');
        await tabTo(page, 'go');
        await page.keyboard.press('Enter');
        await page.waitForSelector('[data-token]');
        expect(await page.evaluate(() => document.activeElement?.id)).toBe('go');
        await page.keyboard.press('Escape');
        await page.waitForFunction(() => document.querySelector('#status')?.textContent === 'Stopped.');
        await tabTo(page, 'cache-0');
        await page.keyboard.type('kivi:4');
        expect(await page.inputValue('#cache-0')).toBe('kivi:4');
        await tabTo(page, 'inspect');
        await page.keyboard.press('Enter');
        await page.waitForSelector('#maps canvas');
        for (const id of ['measure', 'shape', 'context', 'device', 'bits']) await tabTo(page, id);
      });
    });

    it('loads from storage with the network cut', async () => {
      await open();
      await generate(page, ['kv', 'kivi:4'], 2);
      await page.evaluate(() => navigator.serviceWorker.ready);
      await page.reload(); // now by way of the service worker
      server.down = true;
      try {
        await page.reload();
        await generate(page, ['kv', 'kivi:4'], 2);
        expect(await tokensOf(page, 0)).toHaveLength(2);
      } finally {
        server.down = false;
        watched.complaints.length = 0; // the browser itself reports what it could not fetch
      }
    });

    it('says so when memory runs out', async () => {
      await open(
        {},
        `${WITHOUT_RELAXED}WebAssembly.Memory = function () { throw new RangeError('could not allocate memory'); };\n`,
      );
      await page.click('#go');
      expect(await errorOf(page)).toMatch(/There is not enough memory/);
    });

    it('says so when the browser has no WebAssembly SIMD', async () => {
      watched = await openPage(browser);
      page = watched.page;
      await page.addInitScript(() => {
        WebAssembly.validate = () => false;
      });
      await page.goto(`${server.url}/explorer/`);
      expect(await page.textContent('[role=alert]:visible')).toMatch(/no WebAssembly SIMD/);
      // What needs no engine still works.
      expect(await page.locator('#memory-table tbody tr').count()).toBeGreaterThan(5);
    });

    // Once is enough: what a page looks like does not depend on isolation.
    const themes = isolated ? (['light', 'dark'] as const) : [];
    it.each(themes)('fits a phone and is accessible, %s', async (colorScheme) => {
      await open({ colorScheme, viewport: { width: 320, height: 640 }, isMobile: true, hasTouch: true });
      await generate(page, ['kv', 'xquant-cl:2@paper?window=32']);
      await page.fill('#text', TEXT);
      await page.click('#inspect');
      await page.waitForSelector('#maps canvas');
      await page.click('#measure');
      await page.waitForSelector('#perplexity-table table');
      const { width, content } = await page.evaluate(() => ({
        width: window.innerWidth,
        content: document.documentElement.scrollWidth,
      }));
      expect(content).toBeLessThanOrEqual(width);
      expect(await violations(page)).toEqual([]);
      await page.setViewportSize({ width: 1280, height: 900 });
      expect(await violations(page)).toEqual([]);
    });
  });
});

/** A file to be chosen. */
function file(name: string, bytes: Uint8Array): { name: string; mimeType: string; buffer: Buffer } {
  return { name, mimeType: 'application/octet-stream', buffer: Buffer.from(bytes) };
}

/** Generates with two caches; `undefined` leaves a lane as it is. */
async function generate(page: Page, caches: readonly (string | undefined)[], tokens = TOKENS): Promise<void> {
  await page.fill('#prompt', PROMPT);
  await page.fill('#tokens', String(tokens));
  await page.fill('#seed', String(SAMPLING.seed));
  for (const [lane, cache] of caches.entries()) {
    if (cache === undefined) continue;
    await page.selectOption(`#cache-${lane}`, '');
    await page.fill(`#custom-${lane}`, cache);
  }
  await page.click('#go');
  await page.waitForFunction(
    (count) => {
      const done = document.querySelector('#status')?.textContent === 'Done.';
      const error = document.querySelector<HTMLElement>('#error');
      if (error && !error.hidden) throw new Error(error.textContent ?? '');
      return done && document.querySelectorAll('[data-token]').length === 2 * count;
    },
    tokens,
    { polling: 50 },
  );
}

/** Ids that a lane generated. */
function tokensOf(page: Page, lane: number): Promise<number[]> {
  return page
    .locator(`article:nth-child(${lane + 1}) [data-token]`)
    .evaluateAll((tokens) => tokens.map((token) => Number((token as HTMLElement).dataset.token)));
}

/** The message about what went wrong. It goes away with the next action. */
async function errorOf(page: Page): Promise<string> {
  await page.waitForSelector('#error:visible');
  return (await page.textContent('#error')) ?? '';
}

/** What the first picture shows. */
function pixels(page: Page): Promise<string> {
  return page
    .locator('#maps canvas')
    .first()
    .evaluate((canvas) => (canvas as HTMLCanvasElement).toDataURL());
}

/** Goes on with the Tab key until an element has the focus, and requires that it is in sight. */
async function tabTo(page: Page, id: string): Promise<void> {
  for (let i = 0; i < 40; i++) {
    await page.keyboard.press('Tab');
    const found = await page.evaluate((wanted) => {
      const element = document.activeElement;
      if (element?.id !== wanted) return undefined;
      const { left, top, width, height } = element.getBoundingClientRect();
      const seen = document.elementFromPoint(left + width / 2, top + height / 2);
      return { outline: getComputedStyle(element).outlineStyle, seen: element.contains(seen) };
    }, id);
    if (!found) continue;
    expect(found, id).toEqual({ outline: 'solid', seen: true });
    return;
  }
  throw new Error(`the Tab key does not lead to #${id}`);
}
