/**
 * Builds docs/site: guides and API by TypeDoc, and the explorer with the kernels and models that it runs. The site
 * asks no other host for anything. `--only-explorer` leaves the pages of TypeDoc as they are.
 */

import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundle } from './browser-bundle.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const site = join(root, 'docs/site');

/** Runs a tool of this project and stops the build if it fails. */
function run(script, args = []) {
  const { status, error } = spawnSync(process.execPath, [join(root, script), ...args], {
    cwd: root,
    stdio: 'inherit',
  });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

/** Copies the files of a folder whose names end in `ending`. */
function copy(from, to, ending) {
  mkdirSync(to, { recursive: true });
  for (const name of readdirSync(from).filter((each) => each.endsWith(ending))) {
    copyFileSync(join(from, name), join(to, name));
  }
}

if (!process.argv.includes('--only-explorer')) run('node_modules/typedoc/bin/typedoc');

const wasm = join(root, 'dist/wasm');
if (!existsSync(join(wasm, 'simd.wasm'))) run('scripts/build-wasm.mjs');
copy(wasm, join(site, 'wasm'), '.wasm');
copy(join(root, 'golden/models'), join(site, 'models'), '.gguf');

const explorer = join(site, 'explorer');
mkdirSync(explorer, { recursive: true });
for (const name of ['index.html', 'style.css']) {
  copyFileSync(join(root, 'docs/explorer', name), join(explorer, name));
}
for (const name of ['main', 'worker']) {
  const { code } = await bundle(join(root, `docs/explorer/${name}.ts`));
  writeFileSync(join(explorer, `${name}.js`), code);
}

// TypeDoc's pages lead to the explorer, too. Its links of the toolbar cannot be relative to the page.
for (const name of readdirSync(site, { recursive: true, encoding: 'utf8' })) {
  if (!name.endsWith('.html') || name.startsWith('explorer')) continue;
  const file = join(site, name);
  const html = readFileSync(file, 'utf8');
  const base = /<html[^>]* data-base="([^"]*)"/.exec(html)?.[1];
  const marker = '<div id="tsd-toolbar-links">';
  if (base === undefined || !html.includes(marker))
    throw new Error(`${name}: TypeDoc's pages look different now`);
  const links = `<a href="${base}explorer/index.html">Explorer</a>`;
  writeFileSync(file, html.replace(marker, marker + links));
}
console.log(`site: docs/site/index.html`);
