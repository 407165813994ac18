/**
 * Builds the kernel modules twice, in fresh folders, and requires the same bytes both times and the hashes of
 * as/CHECKSUMS.
 */

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildWasm, readChecksums } from './wasm-targets.mjs';

const folders = [0, 1].map(() => mkdtempSync(join(tmpdir(), 'xquant-wasm-')));
let failed = false;
try {
  const first = await buildWasm(folders[0]);
  await buildWasm(folders[1]);
  const expected = readChecksums();
  for (const [name, sum] of Object.entries(first)) {
    const [a, b] = folders.map((folder) => readFileSync(join(folder, name)));
    const same = a.equals(b);
    const recorded = expected[name] === sum;
    console.log(`${name}  ${a.length} bytes  ${sum}`);
    if (!same) console.error(`${name}: two builds of the same source differ`);
    if (!recorded)
      console.error(
        `${name}: as/CHECKSUMS has ${expected[name] ?? 'nothing'} (npm run build:wasm -- --update)`,
      );
    failed ||= !same || !recorded;
  }
  for (const name of Object.keys(expected)) {
    if (!(name in first)) {
      console.error(`as/CHECKSUMS lists ${name}, which is not built`);
      failed = true;
    }
  }
} finally {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
}
process.exitCode = failed ? 1 : 0;
