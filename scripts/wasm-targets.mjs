/**
 * The kernel modules: how they are built, and what they hash to.
 */

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Where the hashes of the checked-in sources' modules stand: one `sha256  name` a line. */
export const checksumsFile = join(root, 'as', 'CHECKSUMS');

const targets = Object.keys(JSON.parse(readFileSync(join(root, 'asconfig.json'), 'utf8')).targets);

/**
 * Builds every target of asconfig.json into a folder, or copies what an earlier build of the same sources left:
 * the compiler takes half a minute, and the sources rarely change.
 *
 * @returns {Promise<Record<string, string>>} sha256 by file name
 */
export async function buildWasmOnce(folder) {
  const kept = join(root, 'node_modules', '.cache', 'xquant-wasm', sourcesHash());
  if (!existsSync(kept)) {
    const unfinished = `${kept}.${process.pid}`;
    await buildWasm(unfinished);
    // Another build may have been quicker; its modules are the same.
    if (!existsSync(kept)) renameSync(unfinished, kept);
  }
  mkdirSync(folder, { recursive: true });
  const files = targets.map((target) => `${target}.wasm`).sort();
  for (const file of files) copyFileSync(join(kept, file), join(folder, file));
  return Object.fromEntries(files.map((file) => [file, sha256(readFileSync(join(folder, file)))]));
}

/** A hash of everything that decides what the compiler writes. */
function sourcesHash() {
  const compiler = readFileSync(join(root, 'node_modules', 'assemblyscript', 'package.json'));
  const names = readdirSync(join(root, 'as')).filter((name) => name.endsWith('.ts'));
  const sources = ['asconfig.json', ...names.sort().map((name) => join('as', name))];
  return sha256(
    [compiler, ...sources.map((name) => `${name}\n${readFileSync(join(root, name))}`)].join('\0'),
  );
}

const sha256 = (data) => createHash('sha256').update(data).digest('hex');

/**
 * Builds every target of asconfig.json into a folder.
 *
 * @returns {Promise<Record<string, string>>} sha256 by file name
 */
export async function buildWasm(folder) {
  mkdirSync(folder, { recursive: true });
  const sums = {};
  // two at a time: a compiler is one thread and a few hundred megabytes
  const queue = [...targets];
  const worker = async () => {
    for (let target = queue.shift(); target; target = queue.shift()) {
      const file = `${target}.wasm`;
      await compile(target, join(folder, file));
      sums[file] = sha256(readFileSync(join(folder, file)));
    }
  };
  await Promise.all([worker(), worker()]);
  return Object.fromEntries(Object.entries(sums).sort());
}

function compile(target, outFile) {
  const asc = join(root, 'node_modules', 'assemblyscript', 'bin', 'asc.js');
  const args = [asc, '--target', target, '--outFile', outFile];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'inherit', 'pipe'] });
    let messages = '';
    child.stderr.on('data', (data) => {
      messages += data;
    });
    child.on('error', reject);
    child.on('close', (code) => {
      if (code === 0) resolve();
      else reject(new Error(`asc --target ${target} failed:\n${messages}`));
    });
  });
}

/** @returns {Record<string, string>} sha256 by file name; empty if there is no file yet */
export function readChecksums() {
  if (!existsSync(checksumsFile)) return {};
  const lines = readFileSync(checksumsFile, 'utf8').trim().split('\n');
  return Object.fromEntries(lines.map((line) => line.split(/\s+/).reverse()));
}

/** The text of as/CHECKSUMS. */
export function formatChecksums(sums) {
  return Object.entries(sums)
    .map(([name, sum]) => `${sum}  ${name}\n`)
    .join('');
}
