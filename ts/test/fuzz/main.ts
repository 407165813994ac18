/**
 * Tries broken inputs on every reader of the package, with limits of time and memory.
 *
 *     npm run fuzz -- [--inputs 100000] [--seconds s] [--family name] [--seed n] [--processes n] [--resume] [--write]
 *     npm run fuzz -- --files FOLDER
 *
 *     --inputs    how many in all, spread evenly over the families
 *     --seconds   ends after this time, whatever is left
 *     --processes how many at once; default: all cores
 *     --resume    goes on with the run that was ended before (build/fuzz/run.json), whatever ended it
 *     --family    only this one
 *     --seed      of the first batch; printed, so that a run can be repeated
 *     --write     writes the table of docs/reliability.md
 *     --files     tries the files of a folder instead; their kind follows from the name
 *
 * Inputs that were answered wrongly are kept in build/fuzz/faults. The exit code is 1 if there are any.
 *
 * @module
 */

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, parse } from 'node:path';
import { parseArgs } from 'node:util';
import { FAMILIES, type Family } from './doors.js';
import type { FoundFault, Outcome } from './protocol.js';
import { faultsOf, formatTable, type Row, total, writeReliability } from './report.js';
import { HANG_SECONDS, MEMORY_BYTES, Runner } from './watch.js';

/** Inputs of one job: few enough that a job takes seconds. */
const BATCH = 500;

const FAULTS = 'build/fuzz/faults';
const RUN = 'build/fuzz/run.json';

/** Bytes of objects and buffers after the first job of a family in a process. */
const firstHeaps = new Map<string, number>();

const { values } = parseArgs({
  options: {
    inputs: { type: 'string', default: '100000' },
    seconds: { type: 'string' },
    family: { type: 'string' },
    seed: { type: 'string' },
    write: { type: 'boolean', default: false },
    files: { type: 'string' },
    processes: { type: 'string' },
    resume: { type: 'boolean', default: false },
  },
});
const processes = values.processes === undefined ? availableParallelism() : Number(values.processes);
const runners = Array.from({ length: values.files ? 1 : processes }, () => new Runner());
const failed = values.files ? await tryFiles(values.files) : await tryInputs();
for (const runner of runners) runner.stop();
process.exitCode = failed ? 1 : 0;

/** Tries each file of a folder by itself. */
async function tryFiles(folder: string): Promise<boolean> {
  let failed = 0;
  const names = readdirSync(folder).sort();
  for (const name of names) {
    const bytes = readFileSync(join(folder, name)).toString('base64');
    const { answers, faults, slowest } = await runners[0].run({
      family: familyOf(name),
      seed: 0,
      inputs: 1,
      file: { name, bytes },
    });
    const [answer] = Object.keys(answers);
    const [fault] = faults;
    if (fault) failed++;
    console.log(
      `${fault ? 'FAULT' : 'ok   '} ${name}: ${fault ? fault.message : answer} (${slowest.seconds.toFixed(2)} s)`,
    );
  }
  console.log(`${names.length} files, ${failed} faults`);
  return failed > 0;
}

/** The family that a file name stands for. */
function familyOf(name: string): Family {
  const { ext } = parse(name);
  if (ext === '.gguf') return 'gguf';
  if (ext === '.jinja') return 'template';
  if (ext === '.txt') return 'cache';
  if (ext === '.npy') return 'npy';
  if (ext === '.safetensors') return 'safetensors';
  return name.startsWith('folder') ? 'folder' : 'tokenizer';
}

/** How far a run has come: enough to go on with it. */
interface Run {
  readonly seed: number;
  readonly inputs: number;
  readonly families: readonly Family[];
  /** The first task that nobody has taken; task t is batch floor(t / families) of family t mod families. */
  next: number;
  /** Tasks that were taken and are not done. */
  readonly open: number[];
  readonly rows: Readonly<Record<string, Row>>;
  seconds: number;
}

/** Tries random inputs of all families, batch by batch, in several processes. */
async function tryInputs(): Promise<boolean> {
  const run = values.resume ? (JSON.parse(readFileSync(RUN, 'utf8')) as Run) : newRun();
  const end =
    values.seconds === undefined ? Number.POSITIVE_INFINITY : Date.now() + 1000 * Number(values.seconds);
  const before = run.seconds;
  const started = Date.now();
  console.log(`seed ${run.seed}, up to ${run.inputs} inputs, ${runners.length} processes`);
  const waiting = run.open.splice(0);
  const take = () => waiting.shift() ?? run.next++;
  await Promise.all(
    runners.map(async (runner) => {
      for (let task = take(); inputsOf(run, task) > 0; task = take()) {
        run.open.push(task);
        if (Date.now() >= end) break;
        const family = run.families[task % run.families.length];
        const seed = (run.seed + Math.floor(task / run.families.length)) | 0;
        const outcome = await runner.run({ family, seed, inputs: inputsOf(run, task) });
        add(run.rows[family], outcome, runner.started);
        for (const fault of outcome.faults) keep(family, seed, fault);
        run.open.splice(run.open.indexOf(task), 1);
        run.seconds = before + Math.round((Date.now() - started) / 1000);
        writeFileSync(RUN, JSON.stringify(run));
      }
    }),
  );
  writeFileSync(RUN, JSON.stringify(run));
  const rows = Object.values(run.rows);
  const [done, faults] = [
    rows.reduce((sum, row) => sum + total(row), 0),
    rows.reduce((sum, row) => sum + faultsOf(row), 0),
  ];
  console.log(`${done} inputs in ${run.seconds} s, ${faults} faults\n\n${formatTable(rows)}`);
  const summary = { inputs: done, seed: run.seed, hangSeconds: HANG_SECONDS, memoryBytes: MEMORY_BYTES };
  if (values.write) writeReliability(rows, summary);
  return faults > 0;
}

function newRun(): Run {
  const families = values.family ? [asFamily(values.family)] : FAMILIES;
  const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
  const rows = families.map((family): [string, Row] => [
    family,
    { family, answers: {}, slowest: 0, growth: 0 },
  ]);
  return {
    seed,
    inputs: Number(values.inputs),
    families,
    next: 0,
    open: [],
    rows: Object.fromEntries(rows),
    seconds: 0,
  };
}

/** Inputs of a task: a batch, or what is left. */
function inputsOf({ inputs }: Run, task: number): number {
  return Math.min(BATCH, inputs - task * BATCH);
}

function add(row: Row, outcome: Outcome, process: number): void {
  for (const [answer, count] of Object.entries(outcome.answers)) {
    row.answers[answer] = (row.answers[answer] ?? 0) + count;
  }
  row.slowest = Math.max(row.slowest, outcome.slowest.seconds);
  if (outcome.heapBytes === 0) return; // the process was ended
  const key = `${row.family} ${process}`;
  const first = firstHeaps.get(key);
  if (first === undefined) firstHeaps.set(key, outcome.heapBytes);
  else row.growth = Math.max(row.growth, outcome.heapBytes - first);
}

function keep(family: Family, seed: number, { seed: from, bytes, message }: FoundFault): void {
  mkdirSync(FAULTS, { recursive: true });
  const path = join(FAULTS, `${family}-${seed}-${Date.now() % 1e6}.bin`);
  writeFileSync(path, Buffer.from(bytes, 'base64'));
  console.log(`FAULT ${family}, seed ${seed}, made from "${from}", kept as ${path}\n  ${message}`);
}

function asFamily(name: string): Family {
  if ((FAMILIES as readonly string[]).includes(name)) return name as Family;
  throw new Error(`--family must be one of ${FAMILIES.join(', ')}, got "${name}"`);
}
