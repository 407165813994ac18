/**
 * The whole site as it is built: its pages can be used by everybody, on any screen, and ask nobody for anything.
 *
 * @module
 */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { violations } from './accessibility.js';
import { describeInChromium, openPage, startChromium } from './chromium.js';
import { root } from './node-result.js';
import { type StaticServer, serveFolders } from './static-server.js';

const PAGES = {
  index: 'index.html',
  'a guide': 'documents/algorithm.html',
  'the guide to the command line': 'documents/run-a-model.html',
  'the guide to the server': 'documents/serve.html',
  'the API': 'modules.html',
  'a function of the API': 'functions/xquant.quantizeGroup.html',
  'the explorer': 'explorer/index.html',
};

describeInChromium('the site', () => {
  let browser: Browser;
  let folder: string;
  let server: StaticServer;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'xquant-site-'));
    execFileSync(process.execPath, [`${root}scripts/build-site.mjs`, folder], { cwd: root, stdio: 'pipe' });
    server = await serveFolders({ '/': `${folder}/` }, { isolated: false });
    browser = await startChromium();
  }, 300_000);
  afterAll(async () => {
    await browser?.close();
    await server?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  describe.each(Object.entries(PAGES))('%s', (_, path) => {
    it.each(['light', 'dark'] as const)('is accessible and fits a phone, %s', async (colorScheme) => {
      const { page, context, complaints } = await openPage(browser, { colorScheme });
      await page.goto(`${server.url}/${path}`);
      expect(await violations(page)).toEqual([]);
      await page.setViewportSize({ width: 320, height: 640 });
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(320);
      expect(await violations(page)).toEqual([]);
      expect(complaints).toEqual([]);
      await context.close();
    });
  });

  it.each(Object.values(PAGES))('shows every link of its toolbar on a phone: %s', async (path) => {
    const { page, context } = await openPage(browser);
    await page.setViewportSize({ width: 390, height: 844 });
    await page.goto(`${server.url}/${path}`);
    const cut = await page
      .locator('nav a:visible')
      .evaluateAll((links) =>
        links
          .filter((link) => link.getBoundingClientRect().right > document.documentElement.clientWidth)
          .map(({ textContent }) => textContent),
      );
    expect(cut).toEqual([]);
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390);
    await context.close();
  });

  it('leads from the start page to the explorer and back', async () => {
    const { page, context, complaints } = await openPage(browser);
    await page.goto(`${server.url}/`);
    await page.locator('a[href$="explorer/index.html"]:visible').first().click();
    await page.waitForSelector('#lanes article');
    await page.click('a.brand');
    await page.waitForURL(/\/index\.html$/);
    expect(complaints).toEqual([]);
    await context.close();
  });
});
