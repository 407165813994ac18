/**
 * The page's end of the explorer's worker.
 *
 * @module
 */

import { fromPortable } from '../../ts/src/browser/errors.js';
import type { Activity, FromWorker, RequestName, Requests, ToWorker } from './protocol.js';

interface Waiting {
  readonly resolve: (body: never) => void;
  readonly reject: (error: Error) => void;
  readonly onActivity: (activity: Activity) => void;
}

/** Sends requests; one runs at a time, in order. */
export class Client {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #next = 1;

  /** @param onCrash told if the worker cannot start or dies */
  constructor(onCrash: (reason: string) => void) {
    this.#worker = new Worker(new URL('worker.js', import.meta.url), { type: 'module', name: 'explorer' });
    this.#worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.#receive(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const reason = event.message || 'the worker could not be started';
      for (const { reject } of this.#waiting.values()) reject(new Error(reason));
      this.#waiting.clear();
      onCrash(reason);
    };
  }

  /** Sends a request and tells what the worker is doing meanwhile. */
  request<Name extends RequestName>(
    name: Name,
    body: Requests[Name][0],
    onActivity: (activity: Activity) => void = () => undefined,
  ): Promise<Requests[Name][1]> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, onActivity });
      this.#worker.postMessage({ kind: 'request', id, name, body } satisfies ToWorker);
    });
  }

  /** Stops whatever runs or waits. */
  stop(): void {
    for (const id of this.#waiting.keys()) this.#worker.postMessage({ kind: 'stop', id } satisfies ToWorker);
  }

  #receive(message: FromWorker): void {
    const waiting = this.#waiting.get(message.id);
    if (message.kind === 'activity') {
      waiting?.onActivity(message.activity);
      return;
    }
    this.#waiting.delete(message.id);
    if (message.kind === 'done') waiting?.resolve(message.body as never);
    else waiting?.reject(fromPortable(message.error));
  }
}
