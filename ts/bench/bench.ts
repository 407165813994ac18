/**
 * All speeds of the built package: kernels, prefill and decode, memory.
 *
 *     npm run bench [-- options]
 *
 *     --threads 1,2          thread counts
 *     --contexts 16,512,2048,8192
 *     --caches kv,...
 *     --repeats 5            turns; medians are printed, with the slowest and the fastest
 *     --kernel auto          instruction set: simd, relaxed, auto
 *     --key-weights exact    or int8
 *     --part kernels|models  one half only
 *     --json                 prints JSON instead of tables
 *     --out file             writes the JSON there, too; npm run bench:all measures what docs/benchmarks.md shows
 *
 * The model has random weights in the shape of SmolLM2-135M and is made on the spot. What is measured, and by which
 * clock, stands in kernels.ts and speed.ts.
 *
 * @module
 */

import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { KernelReport } from './kernels.js';
import { environment, type Repeats } from './report.js';
import type { SpeedResult } from './speed.js';

const { values: options } = parseArgs({
  options: {
    threads: { type: 'string', default: '1,2' },
    contexts: { type: 'string', default: '16,512,2048,8192' },
    caches: {
      type: 'string',
      default: 'kv,kivi:4,xquant:4,xquant-cl:2@tuned?form=x,xquant-cl:2@tuned?form=latent',
    },
    repeats: { type: 'string', default: '5' },
    kernel: { type: 'string', default: 'auto' },
    'key-weights': { type: 'string', default: 'exact' },
    part: { type: 'string', default: 'all' },
    json: { type: 'boolean', default: false },
    out: { type: 'string' },
  },
});
if (!['all', 'kernels', 'models'].includes(options.part)) {
  throw new Error(`--part must be kernels, models or all, not "${options.part}"`);
}

/** Runs a benchmark of this folder in a process of its own. */
function run<T>(name: string, args: readonly string[]): T {
  const script = fileURLToPath(new URL(`${name}.js`, import.meta.url));
  const output = execFileSync(process.execPath, [...process.execArgv, script, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return JSON.parse(output) as T;
}

const { kernel, contexts, repeats } = options;
let kernels: KernelReport | undefined;
if (options.part !== 'models') {
  process.stderr.write('kernels\n');
  kernels = run<KernelReport>('kernels', ['--json', '--kernel', kernel, '--rounds', repeats]);
}
const models: SpeedResult[] = [];
if (options.part !== 'kernels') {
  for (const threads of options.threads.split(',')) {
    for (const cache of options.caches.split(',')) {
      process.stderr.write(`${cache}, ${threads} thread(s)\n`);
      const common = ['--contexts', contexts, '--repeats', repeats, '--kernel', kernel];
      const keys = ['--key-weights', options['key-weights']];
      models.push(run<SpeedResult>('speed', ['--cache', cache, '--threads', threads, ...common, ...keys]));
    }
  }
}
const build = kernels?.build ?? models[0]?.build ?? kernel;
const report = { ...environment('bench', build), kernels: kernels?.results ?? [], models };
const json = `${JSON.stringify(report, null, 2)}\n`;
if (options.out) {
  mkdirSync(dirname(options.out), { recursive: true });
  writeFileSync(options.out, json);
}
if (options.json) {
  process.stdout.write(json);
} else {
  const { command, date, machine, node, flags } = report;
  console.log(`${command}\n${date}, ${machine}, Node ${node}${flags && ` ${flags}`}, kernels ${build}`);
  if (kernels) {
    console.log('\nkernel                                       rate                 of the plain tile');
    for (const { name, rate, unit, ratio } of kernels.results) {
      console.log(
        `${name.padEnd(44)} ${rate.toFixed(2).padStart(6)} ${unit.padEnd(13)} ${ratio?.toFixed(2) ?? ''}`,
      );
    }
  }
  const speed = (value: Repeats | undefined) =>
    value ? `${value.median.toFixed(1)} (${value.min.toFixed(1)}-${value.max.toFixed(1)})` : '';
  if (models.length > 0) {
    console.log(
      `\n${'cache'.padEnd(34)} threads context  ${'prefill, tokens/s'.padEnd(24)} ${'decode, tokens/s'.padEnd(24)} cache MB`,
    );
  }
  for (const { cache, threads, contexts: measured, memory } of models) {
    for (const { context, prefill, decode, cacheBytes } of measured) {
      console.log(
        `${cache.padEnd(34)} ${String(threads).padEnd(7)} ${String(context).padEnd(8)} ${speed(prefill).padEnd(24)} ` +
          `${speed(decode).padEnd(24)} ${(cacheBytes / 1e6).toFixed(1)}`,
      );
    }
    const { linear, resident } = memory;
    console.log(
      `${''.padEnd(34)} linear memory ${(linear / 1e6).toFixed(0)} MB, process ${(resident / 1e6).toFixed(0)} MB at most`,
    );
  }
}
