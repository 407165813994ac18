/**
 * Snapshots in files, for programs that run in Node. In a browser, the bytes of snapshot.ts are all there is.
 *
 * @module
 */

import { LoadError } from '../errors.js';
import { inNode } from '../platform.js';
import type { RestoredSnapshot, SnapshotContent, SnapshotOwner } from './snapshot.js';

/**
 * Saves a cache in a file, whole or not at all: under another name first, which then takes its place. Node only.
 *
 * @throws {LoadError} if it cannot be written; an existing file is left untouched
 * @throws {ConfigError} as `writeSnapshot`
 */
export async function saveSnapshot(path: string, content: SnapshotContent): Promise<void> {
  const { saveSnapshot: save } = await onDisk(path);
  await save(path, content);
}

/**
 * Restores a cache from a file. Node only.
 *
 * @returns undefined if there is no such file
 * @throws {LoadError} if it cannot be read
 * @throws {FormatError} as `restoreSnapshot`
 */
export async function loadSnapshot(
  path: string,
  owner: SnapshotOwner,
): Promise<RestoredSnapshot | undefined> {
  const { loadSnapshot: load } = await onDisk(path);
  return load(path, owner);
}

/** @throws {LoadError} outside Node */
async function onDisk(path: string): Promise<typeof import('./node-snapshot.js')> {
  if (!inNode()) {
    throw new LoadError(path, 'there are no files here; use writeSnapshot and restoreSnapshot with bytes');
  }
  return import('./node-snapshot.js');
}
