/**
 * Time and memory of `xquant check` on large dumps: 100 MB of tensors of an operation, made by the reference
 * with a few elements changed, so that mistakes are looked for too.
 *
 *     npm run build
 *     npx tsc -p ts/bench/tsconfig.json && node build/bench/bench/check.js [--mb 100] [--op quantize,...]
 *
 * Each dump is checked in a process of its own by the built command line; memory is the largest resident size
 * that the system saw of it.
 *
 * @module
 */

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { writeCase } from '../src/check/case/golden.js';
import { makeCase } from '../src/check/make-case.js';
import { NO_MODELS } from '../src/check/mistakes/mistake.js';

const { values } = parseArgs({
  options: {
    mb: { type: 'string', default: '100' },
    op: { type: 'string', default: 'quantize,quantize-mse,rotate,rematerialize,cl-encode' },
  },
});
const megabytes = Number(values.mb);

/** Bytes of all tensors of a case for each token, at 1024 channels and 4 bits. */
const CASES: Readonly<
  Record<string, { operation: string; bytesPerToken: number; options: Record<string, unknown> }>
> = {
  quantize: { operation: 'quantize', bytesPerToken: 1024 * 9.5, options: {} },
  'quantize-mse': {
    operation: 'quantize',
    bytesPerToken: 1024 * 9.5,
    options: { bits: 2, range: 'mse', rotation: 'hadamard', grouping: 'perChannel' },
  },
  rotate: { operation: 'rotate', bytesPerToken: 1024 * 8, options: {} },
  rematerialize: { operation: 'rematerialize', bytesPerToken: 1024 * 8.5, options: { kvDim: 1024 } },
  'cl-encode': { operation: 'cl-encode', bytesPerToken: 1024 * 42, options: {} },
};

const folder = mkdtempSync(join(tmpdir(), 'xquant-bench-'));
process.stdout.write('case            MB      seconds   peak MB   exit code\n');
try {
  for (const name of values.op.split(',')) {
    const { operation, bytesPerToken, options } = CASES[name];
    const rows = Math.ceil((megabytes * 1e6) / bytesPerToken / 128) * 128;
    const path = join(folder, `${name}.safetensors`);
    const bytes = writeCase(await makeCase({ operation, rows, columns: 1024, seed: 1, options }, NO_MODELS));
    bytes[bytes.length - 4001] ^= 1;
    writeFileSync(path, bytes);
    const { seconds, peak, code } = await measure(path);
    const size = statSync(path).size / 1e6;
    const columns = [
      size.toFixed(0).padEnd(7),
      seconds.toFixed(1).padEnd(9),
      peak.toFixed(0).padEnd(9),
      code,
    ];
    process.stdout.write(`${name.padEnd(15)} ${columns.join(' ')}\n`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}

/** Runs the check in its own process; its peak memory is read from the system where it says so (Linux). */
function measure(path: string): Promise<{ seconds: number; peak: number; code: number | null }> {
  const start = performance.now();
  const child = spawn(process.execPath, [resolve('dist/cli/main.js'), 'check', path], { stdio: 'ignore' });
  let peak = 0;
  const timer = setInterval(() => {
    try {
      const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
      peak = Math.max(peak, Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1000);
    } catch {
      // Not Linux, or the process has ended.
    }
  }, 20);
  return new Promise((done) => {
    child.on('close', (code) => {
      clearInterval(timer);
      done({ seconds: (performance.now() - start) / 1000, peak, code });
    });
  });
}
