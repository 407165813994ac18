/**
 * Builds the explorer with everything that it needs, so that its folder can be served by any web server:
 *
 *     node scripts/build-explorer.mjs [FOLDER]     default: docs/site
 *
 *     FOLDER/explorer/index.html  style.css  icon.svg
 *                     offline.js                   keeps the page for visits without a network
 *                     js/theme.js  main.js  worker.js      the theme, the page, and the worker that holds the model
 *                     wasm/                        the kernels
 *                     models/                      the embedded models
 */

import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundle } from './browser-bundle.mjs';
import { buildWasm } from './wasm-targets.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const source = join(root, 'docs/explorer');
const target = join(resolve(process.argv[2] ?? join(root, 'docs/site')), 'explorer');

/** Copies the files of a folder whose names end in `ending`. */
function copy(from, to, ending) {
  mkdirSync(to, { recursive: true });
  for (const name of readdirSync(from).filter((each) => each.endsWith(ending))) {
    copyFileSync(join(from, name), join(to, name));
  }
}

rmSync(target, { recursive: true, force: true });
copy(source, target, '.html');
copy(source, target, '.css');
copy(join(root, 'docs/theme'), target, '.svg');

const kernels = join(root, 'dist/wasm');
if (!existsSync(join(kernels, 'simd.wasm'))) await buildWasm(kernels);
copy(kernels, join(target, 'wasm'), '.wasm');
copy(join(root, 'golden/models'), join(target, 'models'), '.gguf');

mkdirSync(join(target, 'js'));
for (const [name, entry] of [
  ['js/theme.js', 'theme-start.ts'],
  ['js/main.js', 'main.ts'],
  ['js/worker.js', 'worker.ts'],
  ['offline.js', 'offline.ts'],
]) {
  const { code } = await bundle(join(source, entry));
  writeFileSync(join(target, name), code);
  console.log(`explorer/${name}: ${code.length} bytes`);
}
