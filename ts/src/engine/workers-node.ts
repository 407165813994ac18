/**
 * Worker threads in Node.
 *
 * @module
 */

import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { SpawnThread } from './team.js';

/** Starts a `worker_threads` thread. It does not keep the process alive. */
export const spawnThread: SpawnThread = (source, setup, onMessage, onEnd) => {
  const body =
    "const { parentPort, workerData } = require('node:worker_threads');\n" +
    `${source}\nrun(workerData, (message) => parentPort.postMessage(message));`;
  // Not the options of this process: `--input-type=module` would make the body a module, without `require`.
  const worker = new Worker(body, { eval: true, execArgv: [], workerData: setup });
  worker.on('message', onMessage);
  worker.on('error', (error) => onEnd(error.message));
  worker.on('exit', (code) => onEnd(`it ended (exit code ${code})`));
  worker.unref();
  return { terminate: () => worker.terminate() };
};

/**
 * Physical cores: what Linux says about cores that share one, otherwise half of the logical cores if there are more
 * than two, because they then usually come in pairs. Never more than the system lets this process use.
 */
export function physicalCores(): number {
  const usable = availableParallelism();
  try {
    const cores = new Set<string>();
    for (const processor of readFileSync('/proc/cpuinfo', 'utf8').split('\n\n')) {
      const socket = /^physical id\s*:\s*(\d+)/m.exec(processor)?.[1];
      const core = /^core id\s*:\s*(\d+)/m.exec(processor)?.[1];
      if (core !== undefined) cores.add(`${socket}/${core}`);
    }
    if (cores.size > 0) return Math.min(cores.size, usable);
  } catch {
    // Not Linux.
  }
  return usable <= 2 ? usable : Math.ceil(usable / 2);
}
