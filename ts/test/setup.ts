/**
 * Property tests are reproducible: the seed is fixed unless FC_SEED names another one.
 *
 * @module
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';

// Nothing that a test computes may end up in the cache folder of the user, or come from it.
const prefix = join(tmpdir(), 'xquant-test-cache-');
if (!process.env.XDG_CACHE_HOME?.startsWith(prefix)) {
  const folder = mkdtempSync(prefix);
  process.env.XDG_CACHE_HOME = folder;
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
}

const seed = Number(process.env.FC_SEED ?? 20250813);
if (!Number.isInteger(seed)) throw new Error(`FC_SEED must be an integer, got "${process.env.FC_SEED}"`);

fc.configureGlobal({ seed, numRuns: Number(process.env.FC_RUNS ?? 60) });
