/**
 * Files that are written whole or not at all. Node only: loaded by dynamic import, so that a browser never sees
 * `node:`.
 *
 * @module
 */

import { randomUUID } from 'node:crypto';
import { open, readdir, realpath, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { LoadError } from '../errors.js';
import { reasonOf } from './node-file.js';

/** A temporary file that nobody has written to for this long belongs to a process that was killed. */
const ABANDONED_MS = 3_600_000;

/**
 * Writes a whole file or nothing: under another name in the same folder first, which then takes its place, so that
 * a crash or a full disk leaves an existing file untouched. An existing file keeps its mode, and a symbolic link stays one:
 * what it points to is written. What is there and is no file, for instance /dev/null, is written to, not replaced.
 *
 * Temporary files of this path that a killed process has left are removed after an hour.
 *
 * @throws {LoadError} if it cannot be written
 */
export async function writeFileAtomically(path: string, content: string | Uint8Array): Promise<void> {
  let temporary: string | undefined;
  try {
    const target = await realpath(path).catch(() => path);
    const present = await stat(target).catch(() => undefined);
    if (present && !present.isFile()) return await writeFile(target, content);
    await removeAbandoned(target);
    temporary = join(dirname(target), `.${basename(target)}.${randomUUID()}.tmp`);
    const file = await open(temporary, 'wx');
    try {
      if (present) await file.chmod(present.mode & 0o7777);
      await file.writeFile(content);
      await file.sync(); // the rename must not reach the disk before the bytes
    } finally {
      await file.close();
    }
    await rename(temporary, target);
  } catch (cause) {
    if (temporary) await rm(temporary, { force: true }).catch(() => undefined);
    throw new LoadError(path, `cannot be written: ${reasonOf(cause)}`, { cause });
  }
}

/** Removes old temporary files of a path. What cannot be listed or removed now is left to a later run. */
async function removeAbandoned(path: string): Promise<void> {
  const folder = dirname(path);
  const start = `.${basename(path)}.`;
  const names = await readdir(folder).catch(() => []);
  for (const name of names) {
    if (!name.startsWith(start) || !/^[0-9a-f-]{36}\.tmp$/.test(name.slice(start.length))) continue;
    const file = join(folder, name);
    const age = Date.now() - ((await stat(file).catch(() => undefined))?.mtimeMs ?? Date.now());
    if (age > ABANDONED_MS) await rm(file, { force: true }).catch(() => undefined);
  }
}
