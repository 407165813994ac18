/**
 * Builds the explorer and serves it on localhost, with the headers that let it use threads.
 */

import { fileURLToPath } from 'node:url';
import { preview } from 'vite';
import './build-explorer.mjs';

const server = await preview({
  root: fileURLToPath(new URL('../docs', import.meta.url)),
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
