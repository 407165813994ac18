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
 *     --only text            the piece of that name, or pieces whose name has the text
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

const CACHES = ['kv', 'kivi:4', 'xquant:4', 'xquant-cl:2@tuned?form=x', 'xquant-cl:2@tuned?form=latent'];
/** Caches that rebuild keys and values, and `kv` to compare them with. */
const GUESSED_CACHES = CACHES.filter((cache) => !cache.startsWith('kivi'));
const CALIBRATED = ['xquant:4.25@calibrated?basis=head', 'xquant-cl:2.25@calibrated'];
/** Builds of llama.cpp with vectors of 512 bits or matrix units; without them it runs its AVX2 code. */
const BEYOND_AVX2 = 'zen4,sapphirerapids,icelake,cascadelake,cooperlake,cannonlake,skylakex,alderlake';

const here = (script: string) => fileURLToPath(new URL(`${script}.js`, import.meta.url));
const plain = (cache: string) => cache.replace(/[^a-z0-9.]+/g, '-');

function pieces(): Piece[] {
  const [first, ...more] = options.threads.split(',');
  return [
    ...generationPieces(first),
    ...peerPieces(first),
    ...startPieces(),
    ...unguessablePieces(first),
    ...speedPieces(first, '16,512,2048'),
    ...kernelPieces(),
    ...processPieces(),
    ...more.flatMap((threads) => [
      ...generationPieces(threads),
      ...peerPieces(threads),
      ...speedPieces(threads, '16,512,2048'),
    ]),
    ...speedPieces(first, '8192'),
  ];
}

function kernelPieces(): Piece[] {
  const args = ['--json', '--rounds', '5', '--seconds', '0.1'];
  return [{ name: 'kernels', kind: 'kernels', script: here('kernels'), args }];
}

/** Against node-llama-cpp, whose best build for the machine runs, then its AVX2 build. */
function peerPieces(threads: string): Piece[] {
  const script = resolve('ts/bench/peers/compare.mjs');
  return GUESSED_CACHES.flatMap((cache): Piece[] => {
    const args = ['--json', '--tokens', '8', '--rounds', '5', '--threads', threads, '--caches', cache];
    const name = `peers-${threads}-${plain(cache)}`;
    const best: Piece = { name, kind: 'peers', script, args };
    if (cache !== 'kv') return [best];
    return [best, { ...best, name: `${name}-avx2`, args: [...args, '--without', BEYOND_AVX2] }];
  });
}

/** Prefill and decode by context, with random weights. */
function speedPieces(threads: string, contexts: string): Piece[] {
  const isLong = contexts === '8192';
  return CACHES.map((cache): Piece => {
    const args = ['--cache', cache, '--threads', threads, '--contexts', contexts];
    const name = `speed-${threads}-${plain(cache)}-${isLong ? 'long' : 'short'}`;
    return { name, kind: 'speed', script: here('speed'), args: [...args, '--repeats', isLong ? '3' : '5'] };
  });
}

/** What names the model with its real weights; nothing if there is none. */
function realModel(): string[] | undefined {
  const { model, calibration } = options;
  if (model === undefined) return undefined;
  return ['--model', resolve(model), ...(calibration ? ['--calibration', resolve(calibration)] : [])];
}

/** Pieces of one kind with the real weights, one for each cache. */
function modelPieces(
  kind: 'generation' | 'process' | 'start',
  name: string,
  caches: readonly string[],
  args: (cache: string) => readonly string[],
): Piece[] {
  const model = realModel();
  if (!model) return [];
  return caches.map((cache) => ({
    name: `${name}-${plain(cache)}`,
    kind,
    script: here(SCRIPTS[kind]),
    args: [...model, '--cache', cache, ...args(cache)],
  }));
}

const SCRIPTS = { generation: 'generation', process: 'process-memory', start: 'first-token' } as const;

/** Guessing ahead on natural text. Slow caches generate less. */
function generationPieces(threads: string): Piece[] {
  const caches = [...GUESSED_CACHES, ...CALIBRATED];
  return modelPieces('generation', `generation-${threads}`, caches, (cache) => {
    const tokens = cache.startsWith('xquant-cl') ? ['48', '6'] : ['64', '24'];
    return ['--threads', threads, '--tokens', tokens[0], '--plain-tokens', tokens[1]];
  });
}

/** The same where no guess is right. */
function unguessablePieces(threads: string): Piece[] {
  const caches = ['kv', 'xquant:4', 'xquant-cl:2@tuned?form=latent', ...CALIBRATED];
  return modelPieces('generation', `unguessable-${threads}`, caches, (cache) => {
    const tokens = cache.startsWith('xquant-cl') ? ['40', '6'] : ['96', '24'];
    const settings = ['--threads', threads, '--temperature', '2', '--turns', '3'];
    return [...settings, '--tokens', tokens[0], '--plain-tokens', tokens[1]];
  });
}

/** Memory of a process; time does not count, so it may have two threads. */
function processPieces(): Piece[] {
  return ['1024', '8192'].flatMap((context) =>
    modelPieces('process', `process-${context}`, [...CACHES, ...CALIBRATED], () => [
      '--context',
      context,
      '--threads',
      '2',
    ]),
  );
}

/** Time to the first token. */
function startPieces(): Piece[] {
  return modelPieces('start', 'start', [...CACHES, ...CALIBRATED], () => []);
}

const all = pieces();
const named = all.filter(({ name }) => name === options.only);
const wanted = named.length > 0 ? named : all.filter(({ name }) => name.includes(options.only));
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
