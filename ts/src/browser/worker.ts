/**
 * The worker's side: one model and its caches, driven by messages.
 *
 * @module
 */

import type { ModelCache } from '../cache/contract.js';
import { DisposedError } from '../errors.js';
import { restoreSnapshot, writeSnapshot } from '../io/snapshot.js';
import type { LanguageModel } from '../model/language-model.js';
import { toPortable } from './errors.js';
import { loadHere } from './load-here.js';
import { OpfsStorage } from './opfs-storage.js';
import type { CacheReport, FromWorker, RequestName, Requests, ToWorker } from './protocol.js';

/** The end of a worker or a port at which messages come and go. */
export interface MessageEnd {
  postMessage(message: FromWorker, transfer: Transferable[]): void;
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
}

/** Answers requests until the worker is terminated. */
export function serveEngine(end: MessageEnd): void {
  const engine = new Engine((message, transfer = []) => end.postMessage(message, transfer));
  end.onmessage = ({ data }) => engine.receive(data);
  end.postMessage({ kind: 'ready' }, []);
}

type Send = (message: FromWorker, transfer?: Transferable[]) => void;

type Handlers = {
  [Name in RequestName]: (
    body: Requests[Name][0],
    id: number,
    signal: AbortSignal,
  ) => Promise<Requests[Name][1]> | Requests[Name][1];
};

class Engine {
  readonly #send: Send;
  readonly #caches = new Map<number, ModelCache>();
  readonly #running = new Map<number, AbortController>();
  #model: LanguageModel | undefined;
  #fingerprint = '';
  #last: Promise<unknown> = Promise.resolve();

  constructor(send: Send) {
    this.#send = send;
  }

  receive(message: ToWorker): void {
    if (message.kind === 'abort') {
      this.#running.get(message.id)?.abort();
      return;
    }
    const { id, name, body } = message;
    const controller = new AbortController();
    this.#running.set(id, controller);
    const handle = this.#handlers[name] as (body: unknown, id: number, signal: AbortSignal) => unknown;
    this.#last = this.#last.then(async () => {
      try {
        controller.signal.throwIfAborted();
        const result = await handle(body, id, controller.signal);
        this.#send({ kind: 'done', id, body: result }, transferable(result));
      } catch (error) {
        this.#send({ kind: 'failed', id, error: toPortable(error) });
      } finally {
        this.#running.delete(id);
      }
    });
  }

  readonly #handlers: Handlers = {
    load: async ({ source, options }, id, signal) => {
      const { storage, binaries, ...rest } = options;
      const loaded = await loadHere(source as Parameters<typeof loadHere>[0], {
        ...rest,
        binary: (build) => binaries[build],
        storage: storage === 'opfs' ? new OpfsStorage() : undefined,
        signal,
        onProgress: (progress) => this.#send({ kind: 'progress', id, progress }),
        onFactor: (layer, matrix) => this.#send({ kind: 'factor', layer, matrix }),
      });
      this.#model = loaded.model;
      this.#fingerprint = loaded.file.fingerprint;
      const { backend, threads, build, file } = loaded;
      return { file, backend, threads, build };
    },
    createCache: ({ cache, request }) => this.#add(cache, this.#loaded().createCache(request)),
    clone: ({ cache, copy }) => this.#add(copy, this.#cache(cache).clone()),
    trim: ({ cache, length }) => {
      this.#cache(cache).trim(length);
      return report(this.#cache(cache));
    },
    free: ({ cache }) => {
      this.#caches.get(cache)?.dispose();
      this.#caches.delete(cache);
      return undefined;
    },
    forward: async ({ cache, tokens, ...options }, _id, signal) => {
      const own = this.#cache(cache);
      const result = await this.#loaded().forward(tokens, own, { ...options, signal });
      return { ...report(own), logits: result };
    },
    forwardBatch: async ({ caches, tokens, ...options }, _id, signal) => {
      const own = caches.map((cache) => this.#cache(cache));
      const result = await this.#loaded().forwardBatch(tokens, own, { ...options, signal });
      return { reports: own.map(report), logits: result };
    },
    save: ({ cache, tokens, pending, generated }) =>
      writeSnapshot({
        cache: this.#cache(cache),
        tokens,
        pending,
        generated,
        fingerprint: this.#fingerprint,
      }) as Uint8Array<ArrayBuffer>,
    restore: ({ cache, bytes, path }) => {
      const owner = { model: this.#loaded(), fingerprint: this.#fingerprint };
      const { cache: restored, tokens, pending, generated } = restoreSnapshot(bytes, path, owner);
      return { ...this.#add(cache, restored), options: restored.options, tokens, pending, generated };
    },
    dispose: async () => {
      for (const cache of this.#caches.values()) cache.dispose();
      this.#caches.clear();
      await this.#model?.dispose();
      this.#model = undefined;
      return undefined;
    },
  };

  #add(number: number, cache: ModelCache): CacheReport {
    this.#caches.set(number, cache);
    return report(cache);
  }

  #loaded(): LanguageModel {
    if (!this.#model) throw new DisposedError('model');
    return this.#model;
  }

  #cache(number: number): ModelCache {
    const cache = this.#caches.get(number);
    if (!cache) throw new DisposedError('cache');
    return cache;
  }
}

function report(cache: ModelCache): CacheReport {
  return { length: cache.length, bytes: cache.bytes() };
}

/** Large results are handed over, not copied. */
function transferable(result: unknown): Transferable[] {
  if (result instanceof Uint8Array) return [result.buffer];
  const logits = (result as { logits?: { data?: Float32Array } } | undefined)?.logits?.data;
  return logits && logits.byteLength === logits.buffer.byteLength ? [logits.buffer as ArrayBuffer] : [];
}
