/**
 * Web Workers. They need shared memory, which a page has only when it is cross-origin isolated.
 *
 * @module
 */

import type { SpawnThread } from './team.js';

/** Starts a Web Worker from source text. */
export const spawnThread: SpawnThread = (source, setup, onMessage, onEnd) => {
  const body = `${source}\nonmessage = ({ data }) => run(data, (message) => postMessage(message));`;
  const url = URL.createObjectURL(new Blob([body], { type: 'text/javascript' }));
  const worker = new Worker(url);
  worker.onmessage = ({ data }) => onMessage(data);
  worker.onerror = (event) => onEnd(event.message || 'it could not be started');
  worker.postMessage(setup);
  return {
    terminate: () => {
      worker.terminate();
      URL.revokeObjectURL(url);
      return undefined;
    },
  };
};

/** Cores of the machine as far as the browser tells; it does not say which of them share a core. */
export function physicalCores(): number {
  const reported = globalThis.navigator?.hardwareConcurrency ?? 1;
  return reported <= 2 ? reported : Math.ceil(reported / 2);
}
