/**
 * `--snapshot`: a text that continues where an earlier run left it.
 *
 * @module
 */

import type { CacheOptions } from '../cache/options.js';
import { formatCacheOptions, resolveCacheOptions } from '../cache/presets.js';
import { CachedSequence, type Generation } from '../generate.js';
import { readSnapshotFile, saveSnapshot } from '../io/node-snapshot.js';
import { assertSnapshotModel, readSnapshotInfo, restoreSnapshot } from '../io/snapshot.js';
import { type OpenedModel, prepareCaches } from './backend.js';
import { UsageError, usage } from './errors.js';
import type { Terminal } from './terminal.js';

/** The text of an earlier run. */
export interface SavedText {
  readonly sequence: CachedSequence;
  /** All ids of the text, oldest first. */
  readonly ids: readonly number[];
  /** How many of them were generated: the newest ones. */
  readonly generated: number;
  /** The cache, as `--cache` writes it. */
  readonly cache: string;
}

/**
 * Restores the text of a file.
 *
 * @param path what `--snapshot` names
 * @param cache what `--cache` says, if it was given
 * @returns undefined if there is no such file
 * @throws {LoadError | FormatError} if it cannot be read, is damaged or of another model
 * @throws {UsageError} if it holds another cache than `--cache` asks for
 */
export async function openSnapshot(
  path: string,
  opened: OpenedModel,
  cache: string | undefined,
  terminal: Terminal,
): Promise<SavedText | undefined> {
  const bytes = await readSnapshotFile(path);
  if (!bytes) return undefined;
  const { model, fingerprint } = opened;
  const info = readSnapshotInfo(bytes, path);
  assertSnapshotModel(info, path, fingerprint);
  const saved = formatCacheOptions(info.options, model.config);
  if (cache !== undefined) {
    const wanted = usage(() => resolveCacheOptions(cache, model.config));
    const differs = (Object.keys(wanted) as (keyof CacheOptions)[]).some(
      (key) => wanted[key] !== info.options[key],
    );
    if (differs)
      throw new UsageError(`"--cache ${cache}": ${path} holds a cache ${saved}; leave the option out`);
  }
  await prepareCaches(opened, [info.options], terminal);
  const { tokens, pending, generated, ...restored } = restoreSnapshot(bytes, path, { model, fingerprint });
  return {
    sequence: new CachedSequence(restored.cache, tokens),
    ids: [...tokens, ...pending],
    generated,
    cache: saved,
  };
}

/**
 * Saves the text of a generation, finished or interrupted.
 *
 * @throws {LoadError} if the file cannot be written; it is as it was then
 */
export async function saveText(
  path: string,
  { sequence, pending, generated }: Generation,
  { fingerprint }: OpenedModel,
): Promise<void> {
  const { cache, tokens } = sequence;
  await saveSnapshot(path, { cache, tokens, pending, generated, fingerprint });
}
