/**
 * The messages between a page and the worker that runs its model. Every request has a number, under which its
 * answer comes; requests are worked off in order, except that an abort is heard at once.
 *
 * @module
 */

import type { BackendName } from '../backends.js';
import type { CacheBytes } from '../cache/contract.js';
import type { CacheOptions, CacheRequest } from '../cache/options.js';
import type { FactoredMatrix } from '../cache/projection.js';
import type { KernelChoice, WasmBuild } from '../engine/load-wasm.js';
import type { KeyWeights } from '../engine/small-product.js';
import type { ModelFile } from '../io/model-file.js';
import type { LoadProgress } from '../io/progress.js';
import type { ForwardOptions } from '../model/language-model.js';
import type { Matrix } from '../numerics/matrix.js';
import type { PortableError } from './errors.js';

/** Options of a load that a worker can be told. */
export interface RemoteLoadOptions {
  readonly backend: BackendName;
  readonly kernel?: KernelChoice;
  readonly threads?: number;
  readonly memoryLimit?: number;
  readonly keyWeights?: KeyWeights;
  /** URLs of the kernels, by build. */
  readonly binaries: Readonly<Record<WasmBuild, string>>;
  readonly storage: 'opfs' | 'none';
  readonly name?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly hubUrl?: string;
  readonly accessToken?: string;
}

/** State of a cache after a request. */
export interface CacheReport {
  readonly length: number;
  readonly bytes: CacheBytes;
}

/** Options of a pass that can be sent. */
type PassOptions = Required<Pick<ForwardOptions, 'logits' | 'mode' | 'attention'>>;

/** Requests by name: what is asked, and what is answered. */
export interface Requests {
  load: [
    { source: string | Blob | ArrayBuffer | Uint8Array | readonly File[]; options: RemoteLoadOptions },
    { file: Omit<ModelFile, 'weights'>; backend: BackendName; threads: number; build?: WasmBuild },
  ];
  createCache: [{ cache: number; request: CacheRequest | string }, CacheReport];
  clone: [{ cache: number; copy: number }, CacheReport];
  trim: [{ cache: number; length: number }, CacheReport];
  free: [{ cache: number }, undefined];
  forward: [{ cache: number; tokens: number[] } & PassOptions, CacheReport & { logits: Matrix }];
  forwardBatch: [
    { caches: number[]; tokens: number[][] } & PassOptions,
    { reports: CacheReport[]; logits: Matrix },
  ];
  save: [
    { cache: number; tokens: readonly number[]; pending: readonly number[]; generated: number },
    Uint8Array<ArrayBuffer>,
  ];
  restore: [
    { cache: number; bytes: Uint8Array; path: string },
    CacheReport & {
      options: CacheOptions;
      tokens: readonly number[];
      pending: readonly number[];
      generated: number;
    },
  ];
  dispose: [Record<string, never>, undefined];
}

/** Name of a request. */
export type RequestName = keyof Requests;

/** From the page. */
export type ToWorker =
  | {
      [Name in RequestName]: {
        readonly kind: 'request';
        readonly id: number;
        readonly name: Name;
        readonly body: Requests[Name][0];
      };
    }[RequestName]
  | { readonly kind: 'abort'; readonly id: number };

/** From the worker. */
export type FromWorker =
  | { readonly kind: 'ready' }
  | { readonly kind: 'done'; readonly id: number; readonly body: unknown }
  | { readonly kind: 'failed'; readonly id: number; readonly error: PortableError }
  | { readonly kind: 'progress'; readonly id: number; readonly progress: LoadProgress }
  | { readonly kind: 'factor'; readonly layer: number; readonly matrix: FactoredMatrix };
