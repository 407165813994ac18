/**
 * Everything that docs/benchmarks.md shows, in pieces of less than 200 seconds each, one JSON file a piece: a piece whose
 * file is there is not measured again, so that a run can be stopped and continued at any time.
 *
 *     npm run bench:all -- --out docs/benchmarks/MACHINE --model SmolLM2-135M-Instruct.Q4_1.gguf [--only TEXT]
 *
 *     --out folder           one for each machine
 *     --model file           SmolLM2-135M with its real weights; without it, pieces that need it are left out
 *     --calibration file     of that model; by default it is found beside the model. Without one, pieces with calibrated
 *                            caches fail, and the others are measured
 *     --only text            pieces whose name has the text
 *     --list                 prints the names of the pieces that have no file yet
 *     --threads 1,2          thread counts
 *
 * `npm install --prefix ts/bench/peers --ignore-scripts` is needed before the pieces that begin with "peers". A piece that
 * fails leaves no file and does not stop the others.
 *
 * @module
 */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { environment } from './report.js';

const { values: options } = parseArgs({
  options: {
    out: { type: 'string' },
    model: { type: 'string' },
    calibration: { type: 'string' },
    only: { type: 'string', default: '' },
    threads: { type: 'string', default: '1,2' },
    list: { type: 'boolean', default: false },
  },
});

/** A part of the measurements, in a process of its own. */
interface Piece {
  /** The name of its file. */
  readonly name: string;
  /** What its result is: the question that it answers. */
  readonly kind: 'kernels' | 'speed' | 'peers' | 'generation' | 'process' | 'start';
  /** A script of this folder, or of peers. */
  readonly script: string;
  readonly args: readonly string[];
}

/** Longest that a piece may take. */
const LIMIT_MS = 230_000;

const RANDOM_CACHES = [
  'kv',
  'kivi:4',
  'xquant:4',
  'xquant-cl:2@tuned?form=x',
  'xquant-cl:2@tuned?form=latent',
];
const CALIBRATED = ['xquant:4.25@calibrated?basis=head', 'xquant-cl:2.25@calibrated'];
/** Builds of llama.cpp with vectors of 512 bits or matrix units; without them it runs its AVX2 code. */
const BEYOND_AVX2 = 'zen4,sapphirerapids,icelake,cascadelake,cooperlake,cannonlake,skylakex,alderlake';

const here = (script: string) => fileURLToPath(new URL(`${script}.js`, import.meta.url));
const plain = (cache: string) => cache.replace(/[^a-z0-9.]+/g, '-');

function pieces(): Piece[] {
  const threads = options.threads.split(',');
  return [...kernelPieces(), ...peerPieces(threads), ...speedPieces(threads), ...modelPieces(threads)];
}

function kernelPieces(): Piece[] {
  const args = ['--json', '--rounds', '5', '--seconds', '0.1'];
  return [{ name: 'kernels', kind: 'kernels', script: here('kernels'), args }];
}

/** Against node-llama-cpp, whose best build for the machine runs, then its AVX2 build. */
function peerPieces(threads: readonly string[]): Piece[] {
  const script = resolve('ts/bench/peers/compare.mjs');
  const common = ['--json', '--tokens', '8', '--rounds', '5'];
  return threads.flatMap((count) =>
    [...RANDOM_CACHES.filter((cache) => !cache.startsWith('kivi'))].flatMap((cache): Piece[] => {
      const args = [...common, '--threads', count, '--caches', cache];
      const name = `peers-${count}-${plain(cache)}`;
      const best: Piece = { name, kind: 'peers', script, args };
      if (cache !== 'kv') return [best];
      return [best, { ...best, name: `${name}-avx2`, args: [...args, '--without', BEYOND_AVX2] }];
    }),
  );
}

/** Prefill and decode by context, with random weights. */
function speedPieces(threads: readonly string[]): Piece[] {
  return threads.flatMap((count) =>
    RANDOM_CACHES.flatMap((cache) =>
      ['16,512,2048', '8192'].map((contexts): Piece => {
        const args = ['--cache', cache, '--threads', count, '--contexts', contexts];
        const repeats = ['--repeats', contexts === '8192' ? '3' : '5'];
        const name = `speed-${count}-${plain(cache)}-${contexts === '8192' ? 'long' : 'short'}`;
        return { name, kind: 'speed', script: here('speed'), args: [...args, ...repeats] };
      }),
    ),
  );
}

/** What needs the real weights. */
function modelPieces(threads: readonly string[]): Piece[] {
  const { model, calibration } = options;
  if (model === undefined) return [];
  const own = ['--model', resolve(model), ...(calibration ? ['--calibration', resolve(calibration)] : [])];
  const caches = [...RANDOM_CACHES, ...CALIBRATED];
  const guessed = [...RANDOM_CACHES.filter((cache) => !cache.startsWith('kivi')), ...CALIBRATED];
  const generation = (count: string, cache: string): Piece[] => {
    const args = [...own, '--cache', cache, '--threads', count];
    const slow = cache.startsWith('xquant-cl');
    const tokens = ['--tokens', slow ? '48' : '64', '--plain-tokens', slow ? '6' : '24'];
    const script = here('generation');
    const name = `${count}-${plain(cache)}`;
    return [
      { name: `generation-${name}`, kind: 'generation', script, args: [...args, ...tokens] },
      {
        name: `unguessable-${name}`,
        kind: 'generation',
        script,
        args: [
          ...args,
          '--temperature',
          '2',
          '--tokens',
          slow ? '32' : '96',
          '--plain-tokens',
          slow ? '6' : '24',
        ],
      },
    ];
  };
  const memory = (cache: string, context: string): Piece => ({
    name: `process-${plain(cache)}-${context}`,
    kind: 'process',
    script: here('process-memory'),
    args: [...own, '--cache', cache, '--context', context, '--threads', threads.at(-1) ?? '1'],
  });
  const start = (cache: string): Piece => ({
    name: `start-${plain(cache)}`,
    kind: 'start',
    script: here('first-token'),
    args: [...own, '--cache', cache],
  });
  return [
    ...threads.flatMap((count) => guessed.flatMap((cache) => generation(count, cache))),
    ...caches.flatMap((cache) => ['1024', '8192'].map((context) => memory(cache, context))),
    ...caches.map(start),
  ];
}

const wanted = pieces().filter(({ name }) => name.includes(options.only));
if (options.out === undefined) throw new Error('--out is missing');
const folder = options.out;
const left = wanted.filter(({ name }) => !existsSync(join(folder, `${name}.json`)));
if (options.list) {
  for (const { name } of left) console.log(name);
} else {
  mkdirSync(folder, { recursive: true });
  for (const [done, piece] of left.entries()) {
    process.stderr.write(`${done + 1} of ${left.length}: ${piece.name}\n`);
    if (!measure(piece)) process.exitCode = 1;
  }
}

/** Measures a piece and writes its file. */
function measure({ name, kind, script, args }: Piece): boolean {
  const started = performance.now();
  const { status, stdout } = spawnSync(process.execPath, [...process.execArgv, script, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: LIMIT_MS,
    maxBuffer: 2 ** 26,
  });
  const seconds = (performance.now() - started) / 1000;
  if (status !== 0) {
    process.stderr.write(`${name} failed after ${seconds.toFixed(0)} s\n`);
    return false;
  }
  // Paths of this machine say nothing to others.
  const shown = args.map((each) => each.replace(/^.*[/\\]/, '')).join(' ');
  const result = JSON.parse(stdout) as object;
  const { command: _command, ...where } = environment(
    'bench:all',
    'build' in result ? String(result.build) : '',
  );
  const report = { kind, ...where, args: shown, seconds: Math.round(seconds), result };
  writeFileSync(join(folder, `${name}.json`), `${JSON.stringify(report, null, 2)}\n`);
  process.stderr.write(`${name}: ${seconds.toFixed(0)} s\n`);
  return true;
}
