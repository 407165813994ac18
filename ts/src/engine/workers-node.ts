/**
 * Worker threads in Node.
 *
 * @module
 */

import { availableParallelism, cpus } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { SpawnThread } from './team.js';

/** Starts a `worker_threads` thread. It does not keep the process alive. */
export const spawnThread: SpawnThread = (source, setup, onMessage, onEnd) => {
  const body =
    "const { parentPort, workerData } = require('node:worker_threads');\n" +
    `${source}\nrun(workerData, (message) => parentPort.postMessage(message));`;
  const worker = new Worker(body, { eval: true, workerData: setup });
  worker.on('message', onMessage);
  worker.on('error', (error) => onEnd(error.message));
  worker.on('exit', (code) => onEnd(`it ended (exit code ${code})`));
  worker.unref();
  return { terminate: () => void worker.terminate() };
};

/**
 * Physical cores. Where the machine does not say, the cores that the system lets us use, halved if there
 * are more than two, because they then usually come in pairs that share a core.
 */
export function physicalCores(): number {
  const usable = availableParallelism();
  return usable <= 2 ? usable : Math.max(2, Math.min(usable, Math.ceil(cpus().length / 2)));
}
