/**
 * The package in an application that Vite builds and serves, without any configuration.
 *
 * @module
 */

import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import { build, createServer } from 'vite';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeInChromium, openPage, startChromium } from './chromium.js';
import { NodeModel, root } from './node-result.js';
import { serveFolders } from './static-server.js';

const PROMPT = 'In the beginning';
const OPTIONS = { cache: 'xquant-cl:2@tuned', maxTokens: 12 };

/** The application: loads the model where the page, or its worker, says. */
const FILES = {
  'package.json': '{ "type": "module" }',
  'index.html':
    '<!doctype html><html lang="en"><title>application</title><link rel="icon" href="data:,">' +
    '<script type="module" src="/main.js"></script></html>',
  'main.js': `import { run } from './run.js';
window.inPage = run;
window.inWorker = (...message) => new Promise((resolve, reject) => {
  const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
  worker.onmessage = ({ data }) => resolve(data);
  worker.onerror = (event) => reject(new Error(event.message));
  worker.postMessage(message);
});`,
  'worker.js': `import { run } from './run.js';
onmessage = async ({ data }) => postMessage(await run(...data));`,
  'run.js': `import { generate, loadModel } from 'xquant';
export async function run(url, prompt, options) {
  const { model, tokenizer } = await loadModel(url, { kernel: 'simd' });
  const { ids } = await generate(model, tokenizer, prompt, options).finish();
  await model.dispose();
  return ids;
}`,
};

/** What the page of the application has in its global scope. */
interface ApplicationPage {
  inPage(url: string, prompt: string, options: typeof OPTIONS): Promise<number[]>;
  inWorker(url: string, prompt: string, options: typeof OPTIONS): Promise<number[]>;
}
declare const window: ApplicationPage;

describeInChromium('an application with Vite', () => {
  let browser: Browser;
  let folder: string;
  let expected: readonly number[];

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'xquant-vite-'));
    for (const [name, text] of Object.entries(FILES)) writeFileSync(join(folder, name), text);
    // As npm would install it.
    const installed = join(folder, 'node_modules/xquant');
    mkdirSync(installed, { recursive: true });
    cpSync(`${root}package.json`, join(installed, 'package.json'));
    for (const part of ['browser', 'wasm']) {
      cpSync(`${root}dist/${part}`, join(installed, 'dist', part), { recursive: true });
    }
    mkdirSync(join(folder, 'public'));
    cpSync(`${root}golden/models/books-mha.gguf`, join(folder, 'public/model.gguf'));
    await using node = await NodeModel.load('books-mha');
    expected = await node.generate(PROMPT, OPTIONS);
    browser = await startChromium();
  });
  afterAll(async () => {
    await browser?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  /** Runs the model in the page and in a worker of the application. */
  async function check(url: string): Promise<void> {
    const { page, context, complaints } = await openPage(browser);
    await page.goto(url);
    await page.waitForFunction(() => 'inWorker' in window);
    const model = new URL('/model.gguf', url).href;
    for (const where of ['inPage', 'inWorker'] as const) {
      const ids = await page.evaluate(
        ([where, model, prompt, options]) => window[where](model, prompt, options),
        [where, model, PROMPT, OPTIONS] as const,
      );
      expect(ids, where).toEqual(expected);
    }
    expect(complaints).toEqual([]);
    await context.close();
  }

  it('runs the model when it is built', async () => {
    await build({ root: folder, configFile: false, logLevel: 'error' });
    const server = await serveFolders({ '/': join(folder, 'dist/') }, { isolated: false });
    try {
      await check(`${server.url}/`);
    } finally {
      await server.close();
    }
  });

  it('runs the model while it is developed', async () => {
    const server = await createServer({
      root: folder,
      configFile: false,
      logLevel: 'error',
      server: { port: 0 },
    });
    try {
      await server.listen();
      await check(server.resolvedUrls?.local[0] as string);
    } finally {
      await server.close();
    }
  });
});
