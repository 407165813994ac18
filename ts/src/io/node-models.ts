/**
 * The embedded models of a clone, and what the environment says about the hub. Node only.
 *
 * @module
 */

import { existsSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LoadError } from '../errors.js';

const FOLDER = 'golden/models';
const HELDOUT_TEXT = 'golden/text/heldout.txt';

/**
 * The path of an embedded model.
 *
 * @param name for instance `'books-mha'`
 * @param root the directory of the package
 * @throws {LoadError} if this is not a clone: the published package carries no models
 */
export function embeddedModelPath(name: string, root: string | undefined = packageRoot()): string {
  const path = root && join(root, FOLDER, `${name}.gguf`);
  if (path && existsSync(path)) return path;
  const reason = `the published package carries no models: take ${FOLDER}/${name}.gguf from a clone of the repository and give its path`;
  throw new LoadError(name, reason);
}

/**
 * The text that the embedded models were not trained on.
 *
 * @throws {LoadError} if this is not a clone
 */
export async function heldoutText(): Promise<string> {
  const root = packageRoot();
  const path = root && join(root, HELDOUT_TEXT);
  if (path && existsSync(path)) return readFile(path, 'utf8');
  throw new LoadError(HELDOUT_TEXT, 'is in a clone of the repository, and not in the published package');
}

/** Options from `HF_ENDPOINT` and `HF_TOKEN`. */
export function hubEnvironment(): { hubUrl?: string; accessToken?: string } {
  const { HF_ENDPOINT: hubUrl, HF_TOKEN: accessToken } = process.env;
  return {
    ...(hubUrl ? { hubUrl: hubUrl.replace(/\/+$/, '') } : {}),
    ...(accessToken ? { accessToken } : {}),
  };
}

/** The directory above this file whose package.json is this package's. */
function packageRoot(): string | undefined {
  let directory = dirname(fileURLToPath(import.meta.url));
  for (;;) {
    const file = join(directory, 'package.json');
    if (existsSync(file) && JSON.parse(readFileSync(file, 'utf8')).name === 'xquant') return directory;
    const parent = dirname(directory);
    if (parent === directory) return undefined;
    directory = parent;
  }
}
