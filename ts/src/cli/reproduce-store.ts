/**
 * Results of `xquant reproduce` on disk: one file for each cache, and one that says whose results they are.
 *
 * @module
 */

import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { FormatError, LoadError } from '../errors.js';
import { writeFileAtomically } from '../io/node-write.js';
import type { CacheResult, ResultStore } from '../reproduce/runner.js';

/** Everything that results depend on. Results of another identity are no use. */
export interface RunIdentity {
  /** Version of the program. */
  readonly version: string;
  /** Fingerprint of the weights. */
  readonly model: string;
  /** SHA-256 of the token ids. */
  readonly text: string;
  /** What tells the calibration of the calibrated caches from others; empty if there is none. */
  readonly calibration: string;
  /** SHA-256 of the calibration of KVQuant, if one was given. */
  readonly kvquantCalibration: string;
  readonly windowSize: number;
  /** What runs the model: name, kernels, precision of the key weights. */
  readonly engine: string;
}

const IDENTITY_FILE = 'identity.json';
const RESULTS = 'results';

/** See the module. */
export class FolderStore implements ResultStore {
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /**
   * Opens a folder, which is made if there is none.
   *
   * @returns the store, and which parts of the identity are not those of the results that were there (and are gone)
   * @throws {LoadError} if the folder cannot be made or written
   */
  static async open(
    folder: string,
    identity: RunIdentity,
  ): Promise<{ store: FolderStore; changed: (keyof RunIdentity)[] }> {
    const path = join(folder, IDENTITY_FILE);
    const results = join(folder, RESULTS);
    const before = await readJson(path);
    const keys = Object.keys(identity) as (keyof RunIdentity)[];
    const changed = before
      ? keys.filter((key) => (before as Partial<RunIdentity>)[key] !== identity[key])
      : [];
    try {
      if (!before || changed.length > 0) await rm(results, { recursive: true, force: true });
      await mkdir(results, { recursive: true });
    } catch (cause) {
      throw new LoadError(folder, `cannot be written: ${(cause as Error).message}`, { cause });
    }
    await writeFileAtomically(path, `${JSON.stringify(identity, null, 2)}\n`);
    return { store: new FolderStore(results), changed };
  }

  async read(cache: string): Promise<CacheResult> {
    const path = this.#path(cache);
    const known = (await readJson(path)) as CacheResult | undefined;
    if (!known) return { cache, windows: [] };
    if (known.cache !== cache || !Array.isArray(known.windows)) {
      throw new FormatError(path, 'cache', `must hold results of ${cache}; delete the file to run it again`);
    }
    return known;
  }

  write(result: CacheResult): Promise<void> {
    return writeFileAtomically(this.#path(result.cache), `${JSON.stringify(result, null, 1)}\n`);
  }

  /** Something else that was found out, by name. */
  readPart(name: string): Promise<unknown> {
    return readJson(join(this.#folder, `${name}.json`));
  }

  /** Keeps something else: all or nothing. */
  writePart(name: string, value: unknown): Promise<void> {
    return writeFileAtomically(join(this.#folder, `${name}.json`), `${JSON.stringify(value)}\n`);
  }

  #path(cache: string): string {
    return join(this.#folder, `${cache.replace(/[^\w.-]+/g, '_')}.json`);
  }
}

/** The content of a JSON file; undefined if there is none. */
async function readJson(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new LoadError(path, `cannot be read: ${(cause as Error).message}`, { cause });
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new FormatError(path, 'file', 'is not JSON; delete it to start over', { cause });
  }
}
