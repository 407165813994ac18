/**
 * Builds the explorer with everything that it needs, so that its folder can be served by any web server:
 *
 *     node scripts/build-explorer.mjs [FOLDER]     default: docs/site
 *
 *     FOLDER/explorer/index.html  style.css  icon.svg
 *                     offline.js                   keeps the page for visits without a network
 *                     js/theme.js  main.js  worker.js      the theme, the page, and the worker that holds the model
 *                     wasm/                        the kernels
 *                     models/                      the embedded models and their calibrations
 */

import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
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
const style = [join(root, 'docs/theme/palette.css'), join(source, 'style.css')];
writeFileSync(join(target, 'style.css'), style.map((file) => readFileSync(file, 'utf8')).join('\n'));
copy(join(root, 'docs/theme'), target, '.svg');

const kernels = join(root, 'dist/wasm');
if (!existsSync(join(kernels, 'simd.wasm'))) await buildWasm(kernels);
copy(kernels, join(target, 'wasm'), '.wasm');
copy(join(root, 'golden/models'), join(target, 'models'), '.gguf');
copy(join(root, 'golden/calibration'), join(target, 'models'), '.xquant-calibration.safetensors');

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
