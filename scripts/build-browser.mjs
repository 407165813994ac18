/**
 * Builds dist/browser/: `xquant.js`, one module for pages and workers, and `xquant-worker.js`, the worker that
 * `xquant.js` carries as text, for pages whose security policy forbids workers from text.
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { bundleLibrary, bundleWorker } from './browser-bundle.mjs';

const target = fileURLToPath(new URL('../dist/browser/', import.meta.url));
mkdirSync(target, { recursive: true });
const worker = await bundleWorker();
const library = await bundleLibrary(worker);
for (const [name, code] of [
  ['xquant-worker.js', worker],
  ['xquant.js', library],
]) {
  writeFileSync(`${target}${name}`, code);
  console.log(`dist/browser/${name}: ${code.length} bytes, ${gzipSync(code).length} gzipped`);
}
