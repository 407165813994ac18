/**
 * Property tests are reproducible: the seed is fixed unless FC_SEED names another one.
 *
 * @module
 */

import fc from 'fast-check';

const seed = Number(process.env.FC_SEED ?? 20250813);
if (!Number.isInteger(seed)) throw new Error(`FC_SEED must be an integer, got "${process.env.FC_SEED}"`);

fc.configureGlobal({ seed, numRuns: Number(process.env.FC_RUNS ?? 60) });
