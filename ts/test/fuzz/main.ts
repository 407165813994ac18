/**
 * Tries broken inputs on every reader of the package, with limits of time and memory.
 *
 *     npm run fuzz -- [--inputs 100000] [--seconds s] [--family name] [--seed n] [--write]
 *     npm run fuzz -- --files FOLDER
 *
 *     --inputs    how many in all, spread evenly over the families
 *     --seconds   ends after this time, whatever is left
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
import { join, parse } from 'node:path';
import { parseArgs } from 'node:util';
import { FAMILIES, type Family } from './doors.js';
import type { FoundFault } from './protocol.js';
import { formatTable, type Row, writeReliability } from './report.js';
import { HANG_SECONDS, MEMORY_BYTES, Runner } from './watch.js';

/** Inputs of one job: few enough that a job takes seconds. */
const BATCH = 500;

const FAULTS = 'build/fuzz/faults';

const { values } = parseArgs({
  options: {
    inputs: { type: 'string', default: '100000' },
    seconds: { type: 'string' },
    family: { type: 'string' },
    seed: { type: 'string' },
    write: { type: 'boolean', default: false },
    files: { type: 'string' },
  },
});
const runner = new Runner();
const failed = values.files ? await tryFiles(values.files) : await tryInputs();
runner.stop();
process.exitCode = failed ? 1 : 0;

/** Tries each file of a folder by itself. */
async function tryFiles(folder: string): Promise<boolean> {
  let failed = 0;
  const names = readdirSync(folder).sort();
  for (const name of names) {
    const bytes = readFileSync(join(folder, name)).toString('base64');
    const { answers, faults, slowest } = await runner.run({
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

/** Tries random inputs of all families, batch by batch. */
async function tryInputs(): Promise<boolean> {
  const families = values.family ? [asFamily(values.family)] : FAMILIES;
  const total = Number(values.inputs);
  const first = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);
  const end =
    values.seconds === undefined ? Number.POSITIVE_INFINITY : Date.now() + 1000 * Number(values.seconds);
  console.log(`seed ${first}, up to ${total} inputs`);
  const rows = new Map<Family, Row>(families.map((family) => [family, { family, answers: {}, slowest: 0 }]));
  const started = Date.now();
  let done = 0;
  let faults = 0;
  for (let batch = 0; done < total && Date.now() < end; batch++) {
    const seed = (first + batch) | 0;
    for (const family of families) {
      const inputs = Math.min(BATCH, total - done);
      if (inputs <= 0 || Date.now() >= end) break;
      const outcome = await runner.run({ family, seed, inputs });
      done += inputs;
      faults += outcome.faults.length;
      add(rows.get(family)!, outcome);
      for (const fault of outcome.faults) keep(family, seed, fault);
    }
  }
  const seconds = Math.round((Date.now() - started) / 1000);
  console.log(`${done} inputs in ${seconds} s, ${faults} faults\n\n${formatTable([...rows.values()])}`);
  const summary = { inputs: done, seed: first, hangSeconds: HANG_SECONDS, memoryBytes: MEMORY_BYTES };
  if (values.write) writeReliability([...rows.values()], summary);
  return faults > 0;
}

function add(row: Row, outcome: Awaited<ReturnType<Runner['run']>>): void {
  for (const [answer, count] of Object.entries(outcome.answers)) {
    row.answers[answer] = (row.answers[answer] ?? 0) + count;
  }
  row.slowest = Math.max(row.slowest, outcome.slowest.seconds);
  if (outcome.heapBytes > 0) {
    row.firstHeap ??= outcome.heapBytes;
    row.lastHeap = outcome.heapBytes;
  }
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
