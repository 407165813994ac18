/**
 * What an interrupted calibration keeps beside its output: a file of JSON lines, the first of which says whose results they
 * are, and each other one result. A line is added when a result is there, so that a crash costs the last one at most.
 *
 * @module
 */

import { appendFile, readFile, rm, writeFile } from 'node:fs/promises';
import type { CalibrationState } from '../analysis/calibrate/calibrate.js';
import { LoadError } from '../errors.js';
import { reasonOf } from '../io/node-file.js';

/** Arrays of numbers that results have. */
const ARRAYS = { Uint16Array, Float32Array, Float64Array } as const;

type ArrayName = keyof typeof ARRAYS;

/** See the module. */
export class CalibrationStateFile implements CalibrationState {
  readonly #path: string;
  readonly #known: Map<string, unknown>;
  /** Lines go into the file one after another. */
  #last: Promise<void> = Promise.resolve();

  private constructor(path: string, known: Map<string, unknown>) {
    this.#path = path;
    this.#known = known;
  }

  /**
   * Opens a file; it starts empty if it is missing, or of another calibration.
   *
   * @param identity all that results depend on
   * @throws {LoadError} if it cannot be read or written
   */
  static async open(
    path: string,
    identity: Readonly<Record<string, unknown>>,
  ): Promise<CalibrationStateFile> {
    const first = JSON.stringify(identity);
    const [head, ...lines] = await readLines(path);
    const known = new Map<string, unknown>();
    if (head === first) {
      for (const line of lines) {
        const entry = parseEntry(line);
        if (!entry) break; // cut off by a crash: everything before it is whole
        known.set(entry.name, entry.value);
      }
    }
    const kept = [...known].map(([name, value]) => formatEntry(name, value));
    await writing(path, () => writeFile(path, [first, ...kept, ''].join('\n')));
    return new CalibrationStateFile(path, known);
  }

  /** Results of a run before this one. */
  get size(): number {
    return this.#known.size;
  }

  get(name: string): unknown {
    return this.#known.get(name);
  }

  async put(name: string, value: unknown): Promise<void> {
    this.#known.set(name, value);
    const line = `${formatEntry(name, value)}\n`;
    this.#last = this.#last.then(() => writing(this.#path, () => appendFile(this.#path, line)));
    await this.#last;
  }

  /** Deletes the file, when the calibration is written. */
  async remove(): Promise<void> {
    await rm(this.#path, { force: true });
  }
}

async function readLines(path: string): Promise<string[]> {
  try {
    return (await readFile(path, 'utf8')).split('\n');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw new LoadError(path, `cannot be read: ${reasonOf(cause)}`, { cause });
  }
}

async function writing(path: string, write: () => Promise<void>): Promise<void> {
  try {
    await write();
  } catch (cause) {
    throw new LoadError(path, `cannot be written: ${reasonOf(cause)}`, { cause });
  }
}

function formatEntry(name: string, value: unknown): string {
  return JSON.stringify({ name, value }, (_, each: unknown) => {
    if (!ArrayBuffer.isView(each)) return each;
    const bytes = Buffer.from(each.buffer, each.byteOffset, each.byteLength);
    return { array: each.constructor.name, base64: bytes.toString('base64') };
  });
}

function parseEntry(line: string): { name: string; value: unknown } | undefined {
  try {
    return JSON.parse(line, (_, each: unknown) => {
      const { array, base64 } = (each ?? {}) as { array?: ArrayName; base64?: string };
      if (array === undefined || base64 === undefined) return each;
      const bytes = Uint8Array.from(Buffer.from(base64, 'base64'));
      return new ARRAYS[array](bytes.buffer);
    });
  } catch {
    return undefined;
  }
}
