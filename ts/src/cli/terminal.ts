/**
 * Where a command reads and writes, and how it leaves no half-written file behind.
 *
 * @module
 */

import { once } from 'node:events';
import { access, constants, readFile, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { LoadError } from '../errors.js';
import { reasonOf } from '../io/node-file.js';
import { writeFileAtomically } from '../io/node-write.js';
import { terminalText } from '../printable.js';
import { UsageError } from './errors.js';

/** The surroundings of a command; tests bring their own. */
export interface Terminal {
  readonly stdin: Readable & { isTTY?: boolean };
  readonly stdout: Writable & { isTTY?: boolean; columns?: number };
  readonly stderr: Writable & { isTTY?: boolean };
  /** Fires on Ctrl-C. */
  readonly signal: AbortSignal;
}

/** Writes, and waits if the reader does not keep up. A terminal gets nothing that would steer it. */
export async function write(
  stream: Writable & { isTTY?: boolean },
  text: string,
  signal?: AbortSignal,
): Promise<void> {
  if (text === '' || stream.write(stream.isTTY ? terminalText(text) : text)) return;
  if (stream.destroyed) return;
  await once(stream, 'drain', { signal });
}

/** The output of a command: to stdout at once, or to a file when all is done. */
export class Output {
  readonly #terminal: Terminal;
  readonly #file: string | undefined;
  #text = '';

  private constructor(terminal: Terminal, file: string | undefined) {
    this.#terminal = terminal;
    this.#file = file;
  }

  /**
   * Opens an output; creates nothing yet.
   *
   * @param file instead of stdout
   * @throws {LoadError} if the file could not be written in the end: better now than after the work
   */
  static async open(terminal: Terminal, file?: string): Promise<Output> {
    if (file !== undefined) await assertWritable(file);
    return new Output(terminal, file);
  }

  async write(text: string): Promise<void> {
    if (this.#file === undefined) await write(this.#terminal.stdout, text, this.#terminal.signal);
    else this.#text += text;
  }

  /** One object, one line. */
  async json(value: unknown): Promise<void> {
    await this.write(`${JSON.stringify(value)}\n`);
  }

  /** Writes the file, if there is one to write. */
  async close(): Promise<void> {
    if (this.#file !== undefined) await writeFileAtomically(this.#file, this.#text);
  }
}

/**
 * Requires a path at which a file can be written.
 *
 * @throws {LoadError} if it is a folder, or its folder is missing or read-only
 */
export async function assertWritable(path: string): Promise<void> {
  try {
    const folder = await stat(dirname(path));
    if (!folder.isDirectory()) throw new Error('a part of the path is not a folder');
    await access(dirname(path), constants.W_OK);
    const present = await stat(path).catch(() => undefined);
    if (present?.isDirectory()) throw new Error('it is a folder');
  } catch (cause) {
    throw new LoadError(path, `cannot be written: ${reasonOf(cause)}`, { cause });
  }
}

/**
 * Reads a file, or stdin for `-`.
 *
 * @throws {LoadError} if it cannot be read
 */
export async function readInput(path: string, terminal: Terminal): Promise<Uint8Array> {
  if (path !== '-') {
    try {
      return await readFile(path);
    } catch (cause) {
      throw new LoadError(path, `cannot be read: ${reasonOf(cause)}`, { cause });
    }
  }
  if (terminal.stdin.isTTY) throw new UsageError('"-" reads from a pipe or file, but stdin is a terminal');
  const parts: Uint8Array[] = [];
  for await (const part of terminal.stdin) parts.push(typeof part === 'string' ? Buffer.from(part) : part);
  return Buffer.concat(parts);
}

/**
 * Reads a file as text, or stdin for `-`.
 *
 * @throws {LoadError} if it cannot be read or is not UTF-8
 */
export async function readInputText(path: string, terminal: Terminal): Promise<string> {
  const bytes = await readInput(path, terminal);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new LoadError(path === '-' ? 'stdin' : path, 'is not UTF-8 text', { cause });
  }
}
