/**
 * Builds the explorer, and the rest of the site if it is not there, and serves it on localhost, with the headers that
 * let the explorer use threads.
 */

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { preview } from 'vite';

const docs = fileURLToPath(new URL('../docs/', import.meta.url));
await import(existsSync(`${docs}site/index.html`) ? './build-explorer.mjs' : './build-site.mjs');
const server = await preview({
  root: docs,
  configFile: false,
  build: { outDir: 'site' },
  preview: {
    headers: {
      'Cross-Origin-Opener-Policy': 'same-origin',
      'Cross-Origin-Embedder-Policy': 'require-corp',
    },
  },
});
console.log(`${server.resolvedUrls.local[0]}explorer/`);
