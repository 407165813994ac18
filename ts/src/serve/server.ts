/**
 * A model that is served on a port.
 *
 * @module
 */

import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createAdaptorServer } from '@hono/node-server';
import type { CacheRequest } from '../cache/options.js';
import { LoadError } from '../errors.js';
import { reasonOf } from '../io/node-file.js';
import type { LanguageModel } from '../model/language-model.js';
import type { SamplingOptions } from '../sampling.js';
import type { Tokenizer } from '../text/tokenizer.js';
import { ApiError } from './api-error.js';
import { createApp } from './app.js';
import { BatchingModel } from './batching-model.js';
import { Completions } from './completions.js';
import { ConversationFiles } from './conversation-files.js';
import { ConversationStore } from './conversation-store.js';
import { Metrics } from './metrics.js';
import { Slots } from './slots.js';

/** The model to serve, and the limits of the server. */
export interface ServerOptions {
  readonly model: LanguageModel;
  readonly tokenizer: Tokenizer;
  readonly fingerprint: string;
  /** Chat template; without one there are no chat completions. */
  readonly template: string | undefined;
  readonly cache: CacheRequest | string;
  readonly sampling: SamplingOptions;
  readonly modelId: string;
  readonly modelAliases: readonly string[];
  readonly host: string;
  /** 0 takes any that is free. */
  readonly port: number;
  readonly apiKey?: string;
  /** Answers that run at once. */
  readonly parallel: number;
  /** Requests that wait at most. */
  readonly queue: number;
  readonly timeoutSeconds: number;
  readonly bodyLimit: number;
  /** Bytes of idle conversations in memory. */
  readonly cacheMemory: number;
  /** Folder of idle conversations that do not fit in memory. */
  readonly cacheDirectory?: string;
  /** Bytes of that folder. */
  readonly cacheDisk: number;
  /** Called with each failure, in a line. */
  readonly log: (message: string) => void;
}

/** A server that listens. */
export interface RunningServer {
  readonly url: string;
  readonly store: ConversationStore;
  /** Ends all answers, keeps their conversations, saves what is in memory, and closes the port. */
  close(): Promise<void>;
}

/** Hosts that only this machine reaches. */
export const LOCAL_HOSTS: readonly string[] = ['localhost', '127.0.0.1', '::1'];

/** How long a connection may be idle after its request should have ended. */
const GRACE_MS = 30_000;

/**
 * Starts a server.
 *
 * @throws {LoadError} if the port cannot be had, or the folder not be made
 */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const { model, tokenizer, parallel, queue, log } = options;
  const batching = new BatchingModel(model, parallel);
  const store = await openStore(options, batching);
  const slots = new Slots(parallel, queue);
  const metrics = createMetrics(slots, store, batching);
  const completions = new Completions({ ...options, batching, store, slots, metrics });
  const stopping = new AbortController();
  const app = createApp({
    ...options,
    completions,
    metrics,
    tokenizer,
    localHostsOnly: LOCAL_HOSTS.includes(options.host) && options.apiKey === undefined,
    stopping: stopping.signal,
    onError: (error) => log(error instanceof Error ? (error.stack ?? error.message) : String(error)),
  });
  const server = createAdaptorServer({ fetch: app.fetch }) as Server;
  server.timeout = options.timeoutSeconds * 1000 + GRACE_MS;
  await listen(server, options);
  const { port } = server.address() as AddressInfo;
  const host = options.host.includes(':') ? `[${options.host}]` : options.host;
  return {
    url: `http://${host}:${port}`,
    store,
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      stopping.abort(new ApiError(503, 'the server stops', null, 'server_stopping'));
      await slots.idle();
      await store.saveAll();
      await closeConnections(server, closed);
    },
  };
}

async function openStore(options: ServerOptions, batching: BatchingModel): Promise<ConversationStore> {
  const { model, fingerprint, cache, cacheMemory, cacheDisk, cacheDirectory, log } = options;
  const probe = model.createCache(cache);
  const files =
    cacheDirectory === undefined
      ? undefined
      : await ConversationFiles.open(cacheDirectory, fingerprint, probe.options);
  probe.dispose();
  return ConversationStore.open({
    owner: { model, fingerprint },
    cache,
    batching,
    memoryBytes: cacheMemory,
    diskBytes: cacheDisk,
    files,
    onProblem: log,
  });
}

function createMetrics(slots: Slots, store: ConversationStore, batching: BatchingModel): Metrics {
  return new Metrics({
    requests_running: { help: 'Answers that run; a request with n has several', read: () => slots.running },
    requests_waiting: { help: 'Requests that wait for a slot', read: () => slots.waiting },
    conversations_in_memory: { help: 'Idle conversations in memory', read: () => store.use.inMemory },
    conversation_memory_bytes: {
      help: 'Bytes of idle conversations in memory',
      read: () => store.use.memoryBytes,
    },
    conversations_on_disk: { help: 'Idle conversations on disk', read: () => store.use.onDisk },
    conversation_disk_bytes: { help: 'Bytes of idle conversations on disk', read: () => store.use.diskBytes },
    decode_passes: {
      help: 'Passes of one token each of one or more requests',
      read: () => batching.decoded.passes,
    },
    decode_tokens: { help: 'Tokens in those passes', read: () => batching.decoded.tokens },
  });
}

/** Lets last answers reach their clients, and closes what is left after a second. */
async function closeConnections(server: Server, closed: Promise<void>): Promise<void> {
  const deadline = performance.now() + 1000;
  let isClosed = false;
  closed.then(() => {
    isClosed = true;
  });
  while (!isClosed && performance.now() < deadline) {
    server.closeIdleConnections();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  server.closeAllConnections();
  await closed;
}

function listen(server: Server, { host, port }: ServerOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (cause: Error) => {
      reject(new LoadError(`${host}:${port}`, `cannot listen: ${reasonOf(cause)}`, { cause }));
    };
    server.once('error', fail);
    server.listen(port, host, () => {
      server.off('error', fail);
      resolve();
    });
  });
}
