/**
 * Builds dist/: the JavaScript and the declarations, the WebAssembly kernels, and the bundle for browsers.
 *
 * Everything is built into a fresh folder, so that dist/ never holds a file whose source is gone.
 */

import { spawnSync } from 'node:child_process';
import { chmodSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Runs a tool of this project and stops the build if it fails. */
function run(script, args) {
  const { status, error } = spawnSync(process.execPath, [script, ...args], { cwd: root, stdio: 'inherit' });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

rmSync(`${root}dist`, { recursive: true, force: true });
run('node_modules/typescript/bin/tsc', ['-p', 'tsconfig.build.json']);
chmodSync(`${root}dist/cli/main.js`, 0o755);
run('scripts/build-wasm.mjs', []);
run('scripts/build-browser.mjs', []);
