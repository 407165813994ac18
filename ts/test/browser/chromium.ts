/**
 * The browser of the tests: Debian's Chromium, driven by playwright-core.
 *
 * @module
 */

import { existsSync } from 'node:fs';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';

const PATHS = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

/** Where the browser is, if there is one; `CHROMIUM` names another one. */
export const chromiumPath: string | undefined = [process.env.CHROMIUM, ...PATHS].find(
  (path) => path !== undefined && existsSync(path),
);

/** Says once why tests are skipped. */
export function explainSkip(what: string): void {
  if (!chromiumPath) console.log(`${what}: skipped, no Chromium (apt-get install chromium, or set CHROMIUM)`);
}

/** Starts the browser. It asks nobody but the server of the test. */
export function startChromium(): Promise<Browser> {
  return chromium.launch({
    executablePath: chromiumPath,
    headless: true,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}

/** A page that notes everything a user should not see in its console. */
export interface WatchedPage {
  readonly page: Page;
  readonly context: BrowserContext;
  /** Console errors, uncaught errors, requests to other hosts. */
  readonly complaints: string[];
}

/** Opens a page in a fresh profile. */
export async function openPage(
  browser: Browser,
  options: Parameters<Browser['newContext']>[0] = {},
): Promise<WatchedPage> {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') {
      complaints.push(`${message.type()}: ${message.text()} (${message.location().url})`);
    }
  });
  page.on('pageerror', (error) => complaints.push(`uncaught: ${error.message}`));
  context.on('request', (request) => {
    const { protocol, hostname } = new URL(request.url());
    if (/^https?:$/.test(protocol) && hostname !== 'localhost') complaints.push(`asked ${request.url()}`);
  });
  return { page, context, complaints };
}
