/**
 * Snapshots on disk. Node only: loaded by dynamic import, so that a browser never sees `node:`.
 *
 * @module
 */

import { readFile } from 'node:fs/promises';
import { LoadError } from '../errors.js';
import { reasonOf } from './node-file.js';
import { writeFileAtomically } from './node-write.js';
import {
  type RestoredSnapshot,
  restoreSnapshot,
  type SnapshotContent,
  type SnapshotOwner,
  writeSnapshot,
} from './snapshot.js';

/**
 * Saves a cache, whole or not at all.
 *
 * @throws {LoadError} if it cannot be written
 */
export async function saveSnapshot(path: string, content: SnapshotContent): Promise<void> {
  await writeFileAtomically(path, writeSnapshot(content));
}

/**
 * Reads the bytes of a snapshot, unchecked.
 *
 * @returns undefined if there is no such file
 * @throws {LoadError} if it cannot be read
 */
export async function readSnapshotFile(path: string): Promise<Uint8Array | undefined> {
  try {
    return await readFile(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new LoadError(path, `cannot be read: ${reasonOf(cause)}`, { cause });
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
  const bytes = await readSnapshotFile(path);
  return bytes && restoreSnapshot(bytes, path, owner);
}
