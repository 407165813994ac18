/**
 * Snapshots on disk. Node only: loaded by dynamic import, so that a browser never sees `node:`.
 *
 * @module
 */

import { randomBytes } from 'node:crypto';
import { open, readFile, rename, rm } from 'node:fs/promises';
import { LoadError } from '../errors.js';
import {
  type RestoredSnapshot,
  restoreSnapshot,
  type SnapshotContent,
  type SnapshotOwner,
  writeSnapshot,
} from './snapshot.js';
import { messageOf } from './source.js';

/**
 * Saves a cache. It is written under another name first and then renamed, so that a crash or a full disk leaves
 * the file as it was.
 *
 * @throws {LoadError} if it cannot be written
 */
export async function saveSnapshot(path: string, content: SnapshotContent): Promise<void> {
  const bytes = writeSnapshot(content);
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    const file = await open(temporary, 'wx');
    try {
      await file.writeFile(bytes);
      await file.sync(); // the rename must not reach the disk before the bytes
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw new LoadError(path, `cannot be written: ${messageOf(cause)}`, { cause });
  }
}

/**
 * Restores a cache.
 *
 * @returns undefined if there is no such file
 * @throws {LoadError} if it cannot be read
 * @throws {FormatError} as {@link restoreSnapshot}
 */
export async function loadSnapshot(
  path: string,
  owner: SnapshotOwner,
): Promise<RestoredSnapshot | undefined> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new LoadError(path, `cannot be read: ${messageOf(cause)}`, { cause });
  }
  return restoreSnapshot(bytes, path, owner);
}
