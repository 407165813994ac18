/**
 * Seconds from the start of `xquant generate` to its first token: of the first start with a model, which has to compute
 * factors, and of those after it.
 *
 *     node build/bench/bench/first-token.js --model FILE --cache xquant:4 [--starts 3] [--threads 1] [--calibration FILE]
 *
 * What a start keeps goes to a folder of its own. The result is JSON.
 *
 * @module
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { type Repeats, repeats } from './report.js';

/** What the process prints, in seconds. */
export interface FirstTokenResult {
  readonly cache: string;
  readonly threads: number;
  readonly first: number;
  readonly later: Repeats;
}

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    cache: { type: 'string', default: 'kv' },
    starts: { type: 'string', default: '3' },
    threads: { type: 'string', default: '1' },
    calibration: { type: 'string' },
  },
});
const { model, cache, threads, calibration } = options;
if (model === undefined) throw new Error('--model is missing');
const kept = mkdtempSync(join(tmpdir(), 'xquant-first-token-'));

/** Seconds until the first byte of text; the rest of the process is waited for. */
async function start(): Promise<number> {
  const main = resolve('dist/cli/main.js');
  const given = ['generate', 'It was a dark night, and', '-m', String(model), '--cache', cache];
  const found = calibration === undefined ? [] : ['--calibration', calibration];
  const started = performance.now();
  const child = spawn(
    process.execPath,
    [main, ...given, '-n', '1', '--ignore-eos', '--threads', threads, ...found],
    { env: { ...process.env, XDG_CACHE_HOME: kept }, stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const ended = once(child, 'close');
  await Promise.race([once(child.stdout, 'data'), ended]);
  const seconds = (performance.now() - started) / 1000;
  const [code] = await ended;
  if (code !== 0) throw new Error(`it ended with code ${code}`);
  return seconds;
}

try {
  const first = await start();
  const later: number[] = [];
  for (let i = 0; i < Number(options.starts); i++) later.push(await start());
  const result: FirstTokenResult = { cache, threads: Number(threads), first, later: repeats(later) };
  console.log(JSON.stringify(result));
} finally {
  rmSync(kept, { recursive: true });
}
