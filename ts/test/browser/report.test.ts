/**
 * The report of `xquant reproduce` as its reader sees it.
 */

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { tinyModelGguf } from '../helpers/gguf-writer.js';
import { runInProcess } from '../helpers/run-cli.js';
import { describeInChromium, openPage, startChromium } from './chromium.js';

const FIGURES = [
  'figure-1',
  'figure-total',
  'figure-3',
  'figure-b2',
  'cosine-similarity',
  'difference-range',
  'single-layer-loss',
  'layer-errors',
  'channel-errors',
  'system-model',
];

describeInChromium('report.html in Chromium', () => {
  let folder = '';
  let browser: Browser;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'xquant-report-'));
    const model = join(folder, 'tiny.gguf');
    const text = join(folder, 'text.txt');
    writeFileSync(model, tinyModelGguf({ layers: 4, scale: 0.3, kvHeads: 4 }));
    writeFileSync(
      text,
      'The thin man and the other thin man ran in the rain, in and out of the inn. '.repeat(20),
    );
    const args = [
      '--model',
      model,
      '--text',
      text,
      '--windows',
      '2',
      '--window-size',
      '128',
      '--threads',
      '1',
    ];
    const run = await runInProcess(['reproduce', ...args, '--device', 'custom:10:100', '--out', folder]);
    expect(run).toMatchObject({ code: 0, stderr: '' });
    browser = await startChromium();
  }, 120_000);

  afterAll(async () => {
    await browser?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  it.each(['light', 'dark'] as const)(
    'shows every figure, and complains of nothing: %s',
    async (colorScheme) => {
      const { page, context, complaints } = await openPage(browser, { colorScheme });
      await page.goto(pathToFileURL(join(folder, 'report.html')).href);
      const seen = await page.evaluate(() =>
        [...document.querySelectorAll('figure')].map((figure) => {
          const svg = figure.querySelector('svg') as SVGSVGElement;
          const marks = [...svg.querySelectorAll('.mark-symbol, .mark-rect, .mark-line')].flatMap((group) => [
            ...group.querySelectorAll('path, rect'),
          ]);
          const visible = marks.filter((mark) => {
            const { width, height } = mark.getBoundingClientRect();
            return width + height > 1;
          });
          const label = svg.querySelector('.role-axis-label text') as Element;
          return {
            id: figure.closest('section')?.id,
            marks: visible.length,
            broken: /NaN|undefined|Infinity/.test(svg.outerHTML),
            caption: figure.querySelector('figcaption')?.textContent?.length ?? 0,
            label: getComputedStyle(label).fill,
          };
        }),
      );
      expect(seen.map(({ id }) => id)).toEqual(FIGURES);
      const text = await page.evaluate(() => getComputedStyle(document.body).color);
      for (const { id, marks, broken, caption, label } of seen) {
        expect(marks, id).toBeGreaterThan(3);
        expect(broken, id).toBe(false);
        expect(caption, id).toBeGreaterThan(40);
        expect(label, id).toBe(text);
      }
      expect(complaints).toEqual([]);
      await context.close();
    },
  );

  it('is one file: nothing is asked of the network, and no two things have the same id', async () => {
    const html = readFileSync(join(folder, 'report.html'), 'utf8');
    expect(html.match(/(?:src|href)="(?!#|https:\/\/arxiv\.org|data:)[^"]*"/g)).toBeNull();
    expect(html).not.toContain('<script');
    const ids = [...html.matchAll(/ id="([^"]+)"/g)].map(([, id]) => id);
    expect(new Set(ids).size).toBe(ids.length);
    // Links of the contents lead somewhere.
    for (const [, target] of html.matchAll(/href="#([^"]+)"/g)) expect(ids).toContain(target);
  });

  it('does not need to be scrolled sideways on a telephone', async () => {
    const { page, context } = await openPage(browser, { viewport: { width: 380, height: 800 } });
    await page.goto(pathToFileURL(join(folder, 'report.html')).href);
    const [page_, view] = await page.evaluate(() => [
      document.documentElement.scrollWidth,
      window.innerWidth,
    ]);
    expect(page_).toBeLessThanOrEqual(view);
    await context.close();
  });

  it('has the figures as files, which a browser draws', async () => {
    const files = readdirSync(join(folder, 'figures')).sort();
    expect(files).toEqual(FIGURES.map((id) => `${id}.svg`).sort());
    const { page, context, complaints } = await openPage(browser);
    for (const file of files) {
      await page.goto(pathToFileURL(join(folder, 'figures', file)).href);
      expect(await page.evaluate(() => document.documentElement.tagName)).toBe('svg');
    }
    expect(complaints).toEqual([]);
    await context.close();
  });
});
