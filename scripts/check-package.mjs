/**
 * The published package carries no models and stays small: what a browser user downloads matters.
 */

import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const LIMIT_BYTES = 2_000_000;

const root = fileURLToPath(new URL('..', import.meta.url));
const output = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
  cwd: root,
  encoding: 'utf8',
});
const [{ size, files }] = JSON.parse(output);
const models = files.filter(({ path }) => /\.(gguf|safetensors)$/.test(path));
if (models.length > 0) throw new Error(`models in the package: ${models.map(({ path }) => path).join(', ')}`);
for (const needed of ['dist/index.js', 'dist/index.d.ts', 'dist/cli/main.js', 'README.md', 'LICENSE']) {
  if (!files.some(({ path }) => path === needed)) throw new Error(`${needed} is missing from the package`);
}
if (size >= LIMIT_BYTES) throw new Error(`the package packs to ${size} bytes, limit ${LIMIT_BYTES}`);
console.log(`package: ${files.length} files, ${size} bytes packed (limit ${LIMIT_BYTES})`);
