/**
 * The browser of the tests: Debian's Chromium, driven by playwright-core.
 *
 * @module
 */

import { existsSync } from 'node:fs';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';
import { describe } from 'vitest';

const PATHS = [
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
];

const chromiumPath = [process.env.CHROMIUM, ...PATHS].find((path) => path !== undefined && existsSync(path));

const ADVICE = 'no Chromium for the browser tests: apt-get install chromium, or set CHROMIUM to its path';

/**
 * `describe` for tests in the browser. Without a browser they fail in CI; elsewhere they are left out, and the
 * output says so.
 */
export function describeInChromium(name: string, tests: () => void): void {
  describe.skipIf(!chromiumPath && !process.env.CI)(name, { timeout: 120_000 }, tests);
}

if (!chromiumPath) console.warn(`\n  *** ${ADVICE} ***\n`);

/**
 * Starts the browser. It asks nobody but the server of the test.
 *
 * @throws {Error} if there is none
 */
export async function startChromium(): Promise<Browser> {
  if (!chromiumPath) throw new Error(ADVICE);
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
  page.setDefaultTimeout(60_000);
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

/** A task of the page's main thread. */
interface TraceEvent {
  readonly name: string;
  readonly ph: string;
  readonly pid: number;
  readonly tid: number;
  /** Microseconds of the thread's own time: what others do with the processor meanwhile does not count. */
  readonly tdur?: number;
  readonly args?: { readonly name?: string };
}

/**
 * Runs an action and finds the longest task of the main threads of all pages meanwhile.
 *
 * @returns milliseconds of processor time, and what the action gives
 */
export async function longestTask<T>(
  browser: Browser,
  page: Page,
  action: () => Promise<T>,
): Promise<{ milliseconds: number; result: T }> {
  await browser.startTracing(page, { categories: ['toplevel', 'disabled-by-default-devtools.timeline'] });
  let result: T;
  let recorded: Buffer | undefined;
  try {
    result = await action();
  } finally {
    recorded = await browser.stopTracing();
  }
  const trace = JSON.parse(recorded.toString('utf8')) as { traceEvents: TraceEvent[] };
  const mainThreads = new Set<string>();
  for (const { name, args, pid, tid } of trace.traceEvents) {
    if (name === 'thread_name' && args?.name === 'CrRendererMain') mainThreads.add(`${pid} ${tid}`);
  }
  const tasks = trace.traceEvents.filter(
    ({ name, pid, tid, tdur }) =>
      /RunTask$/.test(name) && tdur !== undefined && mainThreads.has(`${pid} ${tid}`),
  );
  if (tasks.length === 0) throw new Error('the trace has no task of the page');
  return { milliseconds: Math.max(...tasks.map(({ tdur }) => tdur as number)) / 1000, result };
}
