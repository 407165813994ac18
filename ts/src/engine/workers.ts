/**
 * Worker threads of the runtime.
 *
 * @module
 */

import { ConfigError, KernelError } from '../errors.js';
import { inNode } from '../platform.js';
import type { SpawnThread } from './team.js';

/** Most threads of a model. */
const MOST_THREADS = 64;

/**
 * How many threads to run, and how to start them.
 *
 * @param wanted default: the machine's physical cores, or 1 without shared memory
 * @throws {ConfigError} if there cannot be so many
 * @throws {KernelError} if the code for worker threads is missing
 */
export async function threadRuntime(
  wanted: number | undefined,
): Promise<{ threads: number; spawn: SpawnThread }> {
  const { spawnThread: spawn, physicalCores } = await runtimeWorkers();
  const threads = wanted ?? (canShare() ? physicalCores() : 1);
  if (!Number.isInteger(threads) || threads < 1 || threads > MOST_THREADS) {
    throw new ConfigError('threads', threads, `an integer from 1 to ${MOST_THREADS}`);
  }
  return { threads, spawn };
}

function canShare(): boolean {
  return typeof SharedArrayBuffer === 'function' && (inNode() || globalThis.crossOriginIsolated === true);
}

async function runtimeWorkers(): Promise<{ spawnThread: SpawnThread; physicalCores: () => number }> {
  try {
    return inNode() ? await import('./workers-node.js') : await import('./workers-browser.js');
  } catch (cause) {
    throw new KernelError('threads', 'the code for worker threads is missing', { cause });
  }
}
