/**
 * What the baselines of key-value-simulation.ts have in common.
 *
 * @module
 */

import type { CacheBytes, KeysAndValues } from '../cache/contract.js';

/**
 * What a baseline does to the new keys and values of one layer, in place, and what it would hold of them.
 *
 * @param fresh of a pass, keys before RoPE
 * @param position of the first token
 * @param bytes counted up
 */
export type RoundTrip = (fresh: KeysAndValues, position: number, bytes: CacheBytes) => void;
