/**
 * Files that are written whole or not at all. Node only: loaded by dynamic import, so that a browser never sees
 * `node:`.
 *
 * @module
 */

import { randomUUID } from 'node:crypto';
import { open, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { LoadError } from '../errors.js';
import { reasonOf } from './node-file.js';

/**
 * Writes a whole file or nothing: under another name in the same folder first, which then takes its place, so that
 * a crash or a full disk leaves what was there. What is there and is no file, for instance /dev/null, is written
 * to, not replaced.
 *
 * @throws {LoadError} if it cannot be written
 */
export async function writeFileAtomically(path: string, content: string | Uint8Array): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${randomUUID()}.tmp`);
  try {
    const present = await stat(path).catch(() => undefined);
    if (present && !present.isFile()) return await writeFile(path, content);
    const file = await open(temporary, 'wx');
    try {
      await file.writeFile(content);
      await file.sync(); // the rename must not reach the disk before the bytes
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw new LoadError(path, `cannot be written: ${reasonOf(cause)}`, { cause });
  }
}
