/**
 * Builds the four kernel modules into dist/wasm and compares them with as/CHECKSUMS.
 *
 *     node scripts/build-wasm.mjs             build; say so if a module is not the one that was checked in
 *     node scripts/build-wasm.mjs --update    build and write as/CHECKSUMS
 */

import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { buildWasmOnce, checksumsFile, formatChecksums, readChecksums } from './wasm-targets.mjs';

const out = fileURLToPath(new URL('../dist/wasm', import.meta.url));
const sums = await buildWasmOnce(out);

if (process.argv.includes('--update')) {
  writeFileSync(checksumsFile, formatChecksums(sums));
} else {
  const expected = readChecksums();
  for (const [name, sum] of Object.entries(sums)) {
    if (expected[name] !== sum) {
      console.warn(
        `${name} differs from as/CHECKSUMS; after a change in as/ run: npm run build:wasm -- --update`,
      );
    }
  }
}
