/**
 * What the explorer's page and its worker say to each other.
 *
 * @module
 */

import type { PortableError } from '../../ts/src/browser/errors.js';
import type { CacheBytes } from '../../ts/src/cache/contract.js';
import type { LoadProgress } from '../../ts/src/io/progress.js';
import type { ModelConfig } from '../../ts/src/model/config.js';
import type { CachePerplexity } from '../../ts/src/perplexity.js';

/** What is known of a loaded model. */
export interface LoadedInfo {
  readonly name: string;
  readonly config: ModelConfig;
  readonly parameterCount: number;
  readonly threads: number;
  /** The build of the kernels. */
  readonly build: string;
  /** Why the model is not kept for the next visit, if it is not. */
  readonly storageNote: string;
}

/** How to generate. */
export interface RunOptions {
  readonly seed: number;
  readonly temperature: number;
  readonly maxTokens: number;
}

/** One lane of a run. */
export interface LaneStart {
  readonly cache: string;
  /** Go on from this lane's snapshot instead of starting with the prompt. */
  readonly resume: boolean;
}

/** The state of a lane after a step. */
export interface LaneReport {
  readonly lane: number;
  /** Text that became complete. */
  readonly text: string;
  /** Tokens generated so far. */
  readonly generated: number;
  /** The newest of them, if this step generated one. */
  readonly id?: number;
  /** Tokens in the cache. */
  readonly length: number;
  readonly bytes: CacheBytes;
  /** What f16 keys and values of the same tokens take. */
  readonly float16Bytes: number;
  /** Cache, accumulator and plan. */
  readonly totalBytes: number;
  /** Seconds of this lane's own work since the prompt. */
  readonly seconds: number;
  /** Mean negative log-likelihood of the text of lane 1 so far, in nats per token; NaN where there is none yet. */
  readonly loss: number;
  readonly stopped?: string;
}

/** One tensor as it was and as it is stored. */
export interface StoredView {
  /** For instance `x`, `keys`, `delta`. */
  readonly name: string;
  /** What is shown, in words. */
  readonly title: string;
  /** Its letter in the paper. */
  readonly symbol: string;
  readonly rows: number;
  readonly columns: number;
  /** [rows, columns] */
  readonly exact: Float32Array<ArrayBuffer>;
  /** [rows, columns] */
  readonly restored: Float32Array<ArrayBuffer>;
  /** [rows, codeColumns]; absent if the tensor is kept in f16. */
  readonly codes?: Uint8Array<ArrayBuffer>;
  readonly codeColumns: number;
  readonly bits: number;
  readonly codesTitle: string;
}

/** A layer in its learned basis. */
export interface Spectrum {
  /** [channels] */
  readonly importance: Float32Array<ArrayBuffer>;
  /** [channels], as the cache has them. */
  readonly bits: Uint8Array<ArrayBuffer>;
}

/** The views of one layer. */
export interface Inspection {
  readonly layer: number;
  readonly tokens: number;
  readonly views: readonly StoredView[];
  /** Of a calibrated cache. */
  readonly spectrum?: Spectrum;
}

/** Requests by name: what is asked, and what is answered. */
export interface Requests {
  load: [{ source: string | File; calibration?: string | File; storage: 'opfs' | 'none' }, LoadedInfo];
  run: [{ prompt: string; lanes: readonly LaneStart[]; options: RunOptions }, undefined];
  inspect: [{ text: string; cache: string; layer: number }, Inspection];
  perplexity: [{ text: string; caches: readonly string[] }, readonly CachePerplexity[]];
  save: [{ lane: number }, Uint8Array<ArrayBuffer>];
  restore: [
    { lane: number; bytes: Uint8Array; name: string },
    { cache: string; text: string; length: number },
  ];
}

/** Name of a request. */
export type RequestName = keyof Requests;

/** From the page. */
export type ToWorker =
  | { readonly kind: 'request'; readonly id: number; readonly name: RequestName; readonly body: unknown }
  | { readonly kind: 'stop'; readonly id: number };

/** What the worker is doing. */
export type Activity =
  | { readonly kind: 'loading'; readonly progress: LoadProgress }
  | { readonly kind: 'doing'; readonly what: string }
  | { readonly kind: 'measuring'; readonly done: number; readonly total: number }
  | { readonly kind: 'lane'; readonly report: LaneReport };

/** From the worker. */
export type FromWorker =
  | { readonly kind: 'activity'; readonly id: number; readonly activity: Activity }
  | { readonly kind: 'done'; readonly id: number; readonly body: unknown }
  | { readonly kind: 'failed'; readonly id: number; readonly error: PortableError };
