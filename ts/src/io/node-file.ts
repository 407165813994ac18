/**
 * Files and folders on disk. Node only: loaded by dynamic import, so that a browser never sees `node:`.
 *
 * @module
 */

import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { type FileHandle, open, readdir, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LoadError } from '../errors.js';
import { messageOf } from '../printable.js';
import type { SyncFile } from './safetensors.js';
import {
  allocate,
  assertInside,
  assertPlainName,
  type ByteSource,
  type FileFolder,
  type SourceOptions,
} from './source.js';

// Between pieces the signal is checked and progress is reported.
const PIECE_BYTES = 8 * 2 ** 20;

/**
 * Opens a file.
 *
 * @throws {LoadError} if it is not there or may not be read
 */
export async function fileSource(path: string, options: SourceOptions = {}): Promise<ByteSource> {
  options.signal?.throwIfAborted();
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, 'r');
    const info = await handle.stat();
    if (!info.isFile()) throw new Error('it is not a file');
    return handleSource(path, info.size, handle, options);
  } catch (cause) {
    await handle?.close();
    throw new LoadError(path, `cannot be opened: ${reasonOf(cause)}`, { cause });
  }
}

/**
 * Opens a file of which parts are read now and then; it is not held open in between.
 *
 * @throws {LoadError} if it is not there or may not be read
 */
export function syncFile(path: string): SyncFile {
  const failing = <T>(work: () => T): T => {
    try {
      return work();
    } catch (cause) {
      throw new LoadError(path, `cannot be read: ${reasonOf(cause)}`, { cause });
    }
  };
  return {
    name: path,
    size: failing(() => statSync(path).size),
    read: (offset, length) =>
      failing(() => {
        const handle = openSync(path, 'r');
        try {
          const target = new Uint8Array(length);
          let at = 0;
          while (at < length) {
            const count = readSync(handle, target, at, length - at, offset + at);
            if (count === 0) throw new Error(`it ends at byte ${offset + at}`);
            at += count;
          }
          return target;
        } finally {
          closeSync(handle);
        }
      }),
  };
}

/** The files of a directory (not of those below it). */
export function directoryFolder(path: string, options: SourceOptions = {}): FileFolder {
  return {
    name: path,
    async open(file) {
      // The file may have any name that a listing gives, but it is in this folder.
      if (basename(file) !== file || file === '..') assertPlainName(file, path);
      const full = join(path, file);
      try {
        await stat(full);
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
        throw new LoadError(full, `cannot be opened: ${reasonOf(cause)}`, { cause });
      }
      return fileSource(full, options);
    },
    async list() {
      try {
        return (await readdir(path)).sort();
      } catch (cause) {
        throw new LoadError(path, `cannot be listed: ${reasonOf(cause)}`, { cause });
      }
    },
  };
}

/**
 * Whether a path is a directory.
 *
 * @throws {LoadError} if there is nothing at that path
 */
export async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (cause) {
    throw new LoadError(path, `cannot be opened: ${reasonOf(cause)}`, { cause });
  }
}

/** The path of a `file:` URL; a path stays as it is. */
export function toPath(location: string): string {
  return location.startsWith('file:') ? fileURLToPath(location) : location;
}

function handleSource(path: string, size: number, handle: FileHandle, options: SourceOptions): ByteSource {
  return {
    name: path,
    size,
    async read(offset, length, into) {
      assertInside(path, size, offset, length);
      const target = into?.subarray(0, length) ?? allocate(path, length);
      let at = 0;
      while (at < length) {
        options.signal?.throwIfAborted();
        const want = Math.min(PIECE_BYTES, length - at);
        let bytesRead: number;
        try {
          ({ bytesRead } = await handle.read(target, at, want, offset + at));
        } catch (cause) {
          throw new LoadError(path, `cannot be read: ${reasonOf(cause)}`, { cause });
        }
        if (bytesRead === 0)
          throw new LoadError(path, `ends at byte ${offset + at}: it was cut while being read`);
        at += bytesRead;
        options.onBytes?.(bytesRead);
      }
      return target;
    },
    close: () => handle.close(),
  };
}

/** Where files of this package are kept for the user: `$XDG_CACHE_HOME/xquant`, or `~/.cache/xquant`. */
export function cacheFolder(): string {
  const { XDG_CACHE_HOME: root } = process.env;
  return join(root ? root : join(homedir(), '.cache'), 'xquant');
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file or folder',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  EISDIR: 'it is a folder',
  ENOTDIR: 'a part of the path is not a folder',
  ENOSPC: 'the disk is full',
  EROFS: 'the disk is read-only',
};

/** An error of the file system in words. */
export function reasonOf(cause: unknown): string {
  const code = (cause as NodeJS.ErrnoException)?.code;
  return (code && REASONS[code]) || messageOf(cause);
}
