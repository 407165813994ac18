/**
 * Snapshots of conversations in a folder: one file each, written whole or not at all.
 *
 *     cache-dir/FINGERPRINT-OPTIONS/ID.xqs      the model and the cache are part of the path, so that one folder can serve several
 *
 * @module
 */

import { createHash } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, readFile, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import type { CacheOptions } from '../cache/options.js';
import { FormatError, LoadError } from '../errors.js';
import { reasonOf } from '../io/node-file.js';
import { writeFileAtomically } from '../io/node-write.js';
import { readSnapshotHead } from '../io/snapshot.js';

/** Bytes of a snapshot before its ids are far fewer. */
const HEAD_BYTES = 65_536;

const SUFFIX = '.xqs';

/** A conversation that was found on disk. */
export interface FoundConversation {
  readonly id: string;
  readonly tokens: readonly number[];
  readonly generated: number;
  readonly bytes: number;
  /** When it was used last, in ms. */
  readonly usedAt: number;
}

/** See the module. */
export class ConversationFiles {
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /**
   * Opens the folder of one model and one cache, which is made if it is not there.
   *
   * @throws {LoadError} if it cannot be made
   */
  static async open(root: string, fingerprint: string, options: CacheOptions): Promise<ConversationFiles> {
    const entries = Object.entries(options).sort(([a], [b]) => (a < b ? -1 : 1));
    const hash = createHash('sha256').update(JSON.stringify(entries)).digest('hex').slice(0, 12);
    const folder = join(root, `${fingerprint}-${hash}`);
    try {
      await mkdir(folder, { recursive: true });
    } catch (cause) {
      throw new LoadError(folder, `cannot be made: ${reasonOf(cause)}`, { cause });
    }
    return new ConversationFiles(folder);
  }

  /**
   * All conversations in the folder. What a crash left half written goes; a damaged file goes, too.
   *
   * @param context of the model, which bounds how many ids there are
   * @param onDamaged told of each file that was removed
   */
  async find(context: number, onDamaged: (error: FormatError) => void): Promise<FoundConversation[]> {
    const found: FoundConversation[] = [];
    for (const name of await readdir(this.#folder)) {
      const path = join(this.#folder, name);
      if (name.endsWith('.tmp')) await rm(path, { force: true });
      if (!name.endsWith(SUFFIX)) continue;
      try {
        const { tokens, pending, generated, length } = readSnapshotHead(await readHead(path, context), path);
        const { size, mtimeMs } = await stat(path);
        const id = name.slice(0, -SUFFIX.length);
        const own = Math.max(0, generated - pending); // of those in the cache
        found.push({ id, tokens: tokens.slice(0, length), generated: own, bytes: size, usedAt: mtimeMs });
      } catch (error) {
        if (!(error instanceof FormatError)) throw error;
        onDamaged(error);
        await rm(path, { force: true });
      }
    }
    return found;
  }

  /** @throws {LoadError} if it cannot be written */
  async write(id: string, bytes: Uint8Array): Promise<void> {
    await writeFileAtomically(this.path(id), bytes);
  }

  /** Reads a conversation and notes that it was used. */
  async read(id: string): Promise<Uint8Array> {
    const path = this.path(id);
    const bytes = await readFile(path);
    const now = new Date();
    await utimes(path, now, now);
    return bytes;
  }

  async remove(id: string): Promise<void> {
    await rm(this.path(id), { force: true });
  }

  path(id: string): string {
    return join(this.#folder, `${id}${SUFFIX}`);
  }
}

/** The beginning of a file, with at least its ids. */
async function readHead(path: string, context: number): Promise<Uint8Array> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, 'r');
    const buffer = new Uint8Array(HEAD_BYTES + 4 * context);
    const { bytesRead } = await file.read(buffer, 0, buffer.length, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file?.close();
  }
}
