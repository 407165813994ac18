/**
 * Reads the kernels from disk.
 *
 * @module
 */

import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';

/**
 * Reads a binary.
 *
 * The sources of this package are not next to the binaries, which are build products: run from `ts/src`, as
 * the tests are, a file that is not there is looked for in `dist/wasm`.
 */
export async function readWasmFile(url: URL): Promise<BufferSource> {
  if (!existsSync(url)) {
    const built = new URL(`../../../dist/wasm/${url.pathname.split('/').at(-1)}`, import.meta.url);
    if (existsSync(built)) return readFile(built);
  }
  return readFile(url);
}
