/**
 * The page's side: a model whose work is done in a worker. It is used like any other `LanguageModel`; what it
 * cannot do is show tensors or layers, which stay in the worker.
 *
 * @module
 */

import { cacheBytes } from '../analysis/memory.js';
import type { BackendName } from '../backends.js';
import type { CacheBytes, LayerCache, ModelCache } from '../cache/contract.js';
import type { FactorProgress } from '../cache/factors.js';
import type { CacheOptions, CacheRequest } from '../cache/options.js';
import { resolveCacheOptions } from '../cache/presets.js';
import { assertTrim } from '../cache/trim.js';
import type { WasmBuild } from '../engine/load-wasm.js';
import { CacheStateError, ConfigError, DisposedError, KernelError } from '../errors.js';
import type { ModelFile } from '../io/model-file.js';
import type { LoadProgress } from '../io/progress.js';
import type { ModelConfig } from '../model/config.js';
import type { BatchOptions, ForwardOptions, LanguageModel } from '../model/language-model.js';
import { assertBatch, assertCache, assertForwardOptions, assertTokens } from '../model/tokens.js';
import type { Matrix } from '../numerics/matrix.js';
import { fromPortable } from './errors.js';
import type {
  CacheReport,
  FromWorker,
  RemoteLoadOptions,
  RequestName,
  Requests,
  ToWorker,
} from './protocol.js';

/** The page's end of a connection to a worker. */
export interface EngineWorker {
  postMessage(message: ToWorker): void;
  terminate(): void;
  onmessage: ((event: MessageEvent<FromWorker>) => void) | null;
  onerror: ((event: ErrorEvent) => void) | null;
  onmessageerror: ((event: MessageEvent) => void) | null;
}

/** The browser does not say why. */
const NOT_STARTED =
  'the worker of the engine could not be started; where the security policy of the page forbids workers from blob: ' +
  'URLs, give createWorker';

interface Waiting {
  readonly resolve: (body: never) => void;
  readonly reject: (error: unknown) => void;
  readonly onProgress?: (progress: LoadProgress) => void;
}

/** Options of a request, besides its body. */
interface SendOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: LoadProgress) => void;
}

/** Requests to a worker and their answers. */
export class EngineConnection {
  readonly #worker: EngineWorker;
  readonly #waiting = new Map<number, Waiting>();
  readonly #onFactor: FactorProgress | undefined;
  #next = 1;
  #closed: Error | undefined;

  /** @param onFactor told of each decomposition that the worker computes */
  constructor(worker: EngineWorker, onFactor?: FactorProgress) {
    this.#worker = worker;
    this.#onFactor = onFactor;
    worker.onmessage = ({ data }) => this.#receive(data);
    worker.onerror = (event) => {
      event.preventDefault?.();
      this.close(new KernelError('worker', event.message || NOT_STARTED));
    };
    worker.onmessageerror = () => this.close(new KernelError('worker', 'a message could not be read'));
  }

  /**
   * Sends a request.
   *
   * @returns the answer
   * @throws what the worker throws, or the signal's reason
   */
  request<Name extends RequestName>(
    name: Name,
    body: Requests[Name][0],
    { signal, onProgress }: SendOptions = {},
  ): Promise<Requests[Name][1]> {
    if (this.#closed) return Promise.reject(this.#closed);
    if (signal?.aborted) return Promise.reject(signal.reason);
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      const abort = () => this.#worker.postMessage({ kind: 'abort', id });
      signal?.addEventListener('abort', abort);
      const settle = () => signal?.removeEventListener('abort', abort);
      this.#waiting.set(id, {
        onProgress,
        resolve: (answer) => {
          settle();
          resolve(answer);
        },
        // The worker knows that it was aborted; why, only the page knows.
        reject: (error) => {
          settle();
          const aborted = signal?.aborted && error instanceof Error && error.name === 'AbortError';
          reject(aborted ? signal.reason : error);
        },
      });
      try {
        this.#worker.postMessage({ kind: 'request', id, name, body } as ToWorker);
      } catch (error) {
        this.#waiting.delete(id);
        settle();
        reject(error);
      }
    });
  }

  /** Ends the worker; what still waits is rejected. */
  close(reason: Error = new DisposedError('model')): void {
    if (this.#closed) return;
    this.#closed = reason;
    this.#worker.terminate();
    for (const { reject } of this.#waiting.values()) reject(reason);
    this.#waiting.clear();
  }

  #receive(message: FromWorker): void {
    if (message.kind === 'ready') return;
    if (message.kind === 'factor') {
      this.#onFactor?.(message.layer, message.matrix);
      return;
    }
    const waiting = this.#waiting.get(message.id);
    if (message.kind === 'progress') {
      waiting?.onProgress?.(message.progress);
      return;
    }
    this.#waiting.delete(message.id);
    if (message.kind === 'done') waiting?.resolve(message.body as never);
    else waiting?.reject(fromPortable(message.error));
  }
}

/** Caches that were collected are freed in the worker, too. */
const registry = new FinalizationRegistry<{ connection: EngineConnection; id: number }>(
  ({ connection, id }) => {
    connection.request('free', { cache: id }).catch(() => undefined);
  },
);

let nextCache = 1;

/** A model in a worker. */
export class RemoteModel implements LanguageModel {
  readonly config: ModelConfig;
  readonly backend: BackendName;
  /** Threads that work on a pass. */
  readonly threads: number;
  /** The build of the kernels, if the engine runs. */
  readonly build: WasmBuild | undefined;
  readonly #connection: EngineConnection;

  /**
   * @param loaded what the worker said
   * @internal
   */
  constructor(connection: EngineConnection, loaded: Requests['load'][1]) {
    this.#connection = connection;
    this.config = loaded.file.config;
    this.backend = loaded.backend;
    this.threads = loaded.threads;
    this.build = loaded.build;
  }

  /**
   * Loads a model into the worker of a connection.
   *
   * @throws what loading throws; the worker is ended then
   * @internal
   */
  static async load(
    connection: EngineConnection,
    source: Requests['load'][0]['source'],
    options: RemoteLoadOptions,
    sending: SendOptions,
  ): Promise<{ model: RemoteModel; file: Omit<ModelFile, 'weights'> }> {
    try {
      const loaded = await connection.request('load', { source, options }, sending);
      return { model: new RemoteModel(connection, loaded), file: loaded.file };
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  createCache(request: CacheRequest | string): RemoteCache {
    const options = resolveCacheOptions(request, this.config);
    const cache = new RemoteCache(this, this.#connection, options);
    cache.follow(this.#connection.request('createCache', { cache: cache.id, request: options }));
    return cache;
  }

  async forward(tokens: ArrayLike<number>, cache: ModelCache, options: ForwardOptions = {}): Promise<Matrix> {
    assertForwardOptions(options);
    const { logits = 'last', mode = 'generation', attention = 'all', signal, onTensor } = options;
    if (onTensor) {
      throw new ConfigError(
        'onTensor',
        'a function',
        'absent: the tensors are in a worker; load the model in yours',
      );
    }
    const own = this.#own(cache);
    const body = { cache: own.id, tokens: assertTokens(tokens, own, this.config), logits, mode, attention };
    const answer = await own.ordered(() => this.#connection.request('forward', body, { signal }));
    own.note(answer);
    return answer.logits;
  }

  async forwardBatch(
    tokens: readonly ArrayLike<number>[],
    caches: readonly ModelCache[],
    options: BatchOptions = {},
  ): Promise<Matrix> {
    assertForwardOptions(options);
    const { logits = 'last', mode = 'generation', attention = 'all', signal } = options;
    assertBatch(tokens, caches);
    const own = caches.map((cache) => this.#own(cache));
    const lists = own.map((cache, i) => assertTokens(tokens[i], cache, this.config));
    for (const cache of own) await cache.ordered(async () => undefined); // what was asked before has worked
    const body = { caches: own.map(({ id }) => id), tokens: lists, logits, mode, attention };
    const answer = await this.#connection.request('forwardBatch', body, { signal });
    for (const [i, cache] of own.entries()) cache.note(answer.reports[i]);
    return answer.logits;
  }

  /**
   * Saves a cache, see io/snapshot.ts.
   *
   * @param sequence a cache of this model and the ids that it holds, for instance a `CachedSequence`
   * @param pending ids that follow and have not been run
   * @param generated how many of all ids were generated: the newest ones
   * @returns the bytes of a file
   */
  async saveSnapshot(
    sequence: { readonly cache: ModelCache; readonly tokens: readonly number[] },
    pending: readonly number[] = [],
    generated = 0,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const own = this.#own(sequence.cache);
    const tokens = [...sequence.tokens];
    return own.ordered(() => this.#connection.request('save', { cache: own.id, tokens, pending, generated }));
  }

  /**
   * Restores a cache.
   *
   * @param path for messages
   * @returns the cache, the ids that it holds, ids that follow, and how many of all were generated
   * @throws {FormatError} as `restoreSnapshot`
   */
  async restoreSnapshot(
    bytes: Uint8Array,
    path = 'snapshot',
  ): Promise<{
    cache: RemoteCache;
    tokens: readonly number[];
    pending: readonly number[];
    generated: number;
  }> {
    const id = nextCache++;
    const answer = await this.#connection.request('restore', { cache: id, bytes, path });
    const cache = new RemoteCache(this, this.#connection, answer.options, id);
    cache.note(answer);
    return { cache, tokens: answer.tokens, pending: answer.pending, generated: answer.generated };
  }

  /** Frees the model and ends the worker. */
  async dispose(): Promise<void> {
    this.#connection.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #own(cache: ModelCache): RemoteCache {
    if (cache instanceof RemoteCache && cache.model === this) return cache;
    assertCache(cache);
    const reason = `it belongs to ${cache instanceof RemoteCache ? 'another model' : `backend "${cache.backend}"`}`;
    throw new CacheStateError(cache.options.variant, cache.length, 'run', reason);
  }
}

/** A cache in a worker. */
export class RemoteCache implements ModelCache {
  readonly backend: string;
  readonly options: CacheOptions;
  /** Its number in the worker. */
  readonly id: number;
  readonly model: RemoteModel;
  readonly #connection: EngineConnection;
  #length = 0;
  #bytes: CacheBytes;
  /** Why the worker has no such cache, if it could not make it. */
  #failure: unknown;
  #pending: Promise<unknown> = Promise.resolve();

  /**
   * Made by {@link RemoteModel}.
   *
   * @internal
   */
  constructor(model: RemoteModel, connection: EngineConnection, options: CacheOptions, id = nextCache++) {
    this.model = model;
    this.backend = model.backend;
    this.options = options;
    this.id = id;
    this.#connection = connection;
    this.#bytes = cacheBytes(options, model.config, 0);
    registry.register(this, { connection, id }, this);
  }

  get length(): number {
    return this.#length;
  }

  /** @throws {CacheStateError} always: layers are in the worker; a snapshot has them */
  get layers(): readonly LayerCache[] {
    throw new CacheStateError(
      this.options.variant,
      this.#length,
      'show its layers',
      'they are in a worker; save a snapshot, or load the model in a worker of your own',
    );
  }

  trim(length: number): void {
    assertTrim(length, this.#length, this.options);
    if (length === this.#length) return;
    this.#length = length;
    this.#bytes = cacheBytes(this.options, this.model.config, length);
    this.follow(this.#connection.request('trim', { cache: this.id, length }));
  }

  clone(): RemoteCache {
    const copy = new RemoteCache(this.model, this.#connection, this.options);
    copy.#length = this.#length;
    copy.#bytes = this.#bytes;
    copy.follow(this.#connection.request('clone', { cache: this.id, copy: copy.id }));
    return copy;
  }

  dispose(): void {
    registry.unregister(this);
    this.#failure ??= new DisposedError('cache');
    // A worker that is gone has freed it already.
    this.#connection.request('free', { cache: this.id }).catch(() => undefined);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** As the worker counted them last; right after `trim`, by formula. */
  bytes(): CacheBytes {
    return { ...this.#bytes };
  }

  /** Notes what the worker says of the cache. @internal */
  note({ length, bytes }: CacheReport): void {
    this.#length = length;
    this.#bytes = bytes;
  }

  /** Keeps an error of a request that nobody waits for, to be thrown by the next. @internal */
  follow(request: Promise<CacheReport>): void {
    this.#pending = request.catch((error: unknown) => {
      this.#failure ??= error;
    });
  }

  /** Sends a request, unless one before it has failed. @internal */
  async ordered<T>(send: () => Promise<T>): Promise<T> {
    await this.#pending;
    if (this.#failure !== undefined) throw this.#failure;
    return send();
  }
}
