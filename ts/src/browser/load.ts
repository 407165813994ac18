/**
 * `loadModel` in a browser: the engine runs in a worker, so that the page stays responsive, and what is downloaded
 * is kept for the next visit.
 *
 * @module
 */

import { detectFeatures, WASM_BUILDS, type WasmBuild, wasmUrl } from '../engine/load-wasm.js';
import { ConfigError, KernelError } from '../errors.js';
import type { ModelSource } from '../io/load-model.js';
import type { LoadedModel } from '../load.js';
import { Tokenizer } from '../text/tokenizer.js';
import { type LoadHereOptions, loadHere } from './load-here.js';
import { OpfsStorage } from './opfs-storage.js';
import { EngineConnection, type EngineWorker, RemoteModel } from './remote-model.js';
import type { ModelStorage } from './storage.js';
import { WORKER_SOURCE } from './worker-source.js';

/** Options of {@link loadModel} in a browser. */
export interface BrowserLoadOptions extends Omit<LoadHereOptions, 'storage' | 'binary'> {
  /**
   * Where downloaded files are kept: the origin-private file system, nowhere, or (in a worker only) a storage of
   * your own. Default `'opfs'` where the browser has it for this page, otherwise `'none'`.
   */
  readonly storage?: 'opfs' | 'none' | ModelStorage;
  /**
   * Where the kernels are: a folder that holds `simd.wasm` and its three siblings, or the URL of each build.
   * Default: `wasm/` next to the folder of this module.
   */
  readonly wasm?: string | URL | Readonly<Record<WasmBuild, string | URL>>;
  /**
   * Starts the worker, where the page's security policy forbids workers from `blob:` URLs: make one from
   * `xquant/worker`.
   */
  readonly createWorker?: () => Worker;
}

/**
 * Loads a model and its tokenizer. In a page, the model runs in a worker of its own; in a worker, on that worker's
 * thread. Threads are used where the page is cross-origin isolated.
 *
 * The tokenizer is built on the thread of the caller. That is one short task for a vocabulary of some thousand
 * tokens, and a pause that one can see for the largest: call this in a worker of your own to keep it off the page.
 *
 * @param source a URL (relative to the page, too), `hf:owner/repo[/file]`, a `Blob` or `File`, bytes, or files
 * @throws {LoadError | FormatError | UnsupportedModelError | ShapeError | NumericError} names what is wrong
 * @throws {KernelError} if the browser has no WebAssembly SIMD
 * @throws {StorageError} if there is no room to keep the model
 * @throws {MemoryError} if there is no room to run it
 */
export async function loadModel(source: ModelSource, options: BrowserLoadOptions = {}): Promise<LoadedModel> {
  const { wasm, createWorker, storage = await defaultStorage(), ...rest } = options;
  const binaries = wasmUrls(wasm);
  const location = absolute(source);
  if (!isPage()) {
    const own = storage === 'opfs' ? new OpfsStorage() : storage === 'none' ? undefined : storage;
    const binary = (build: WasmBuild) => binaries[build];
    const { model, file } = await loadHere(location, { ...rest, binary, storage: own });
    return withTokenizer(model, file);
  }
  if (typeof storage !== 'string') {
    throw new ConfigError('storage', 'an object', '"opfs" or "none": a worker cannot be given an object');
  }
  if (rest.fetch) throw new ConfigError('fetch', 'a function', 'absent: a worker cannot be given a function');
  const { signal, onProgress, onFactor, backend = 'wasm', fetch: _fetch, ...told } = rest;
  if (backend === 'wasm' && !detectFeatures().simd) {
    throw new KernelError('simd', 'this browser has no WebAssembly SIMD; use a newer one');
  }
  const connection = new EngineConnection(createWorker?.() ?? startWorker(), onFactor);
  const remote = { ...told, backend, binaries, storage };
  const { model, file } = await RemoteModel.load(connection, location, remote, { signal, onProgress });
  await new Promise((resolve) => setTimeout(resolve, 0)); // two short tasks in place of a long one
  return withTokenizer(model, file);
}

/** Builds the tokenizer; one that cannot be built leaves no engine behind. */
async function withTokenizer(model: LoadedModel['model'], file: LoadedModel['file']): Promise<LoadedModel> {
  try {
    return { model, file, tokenizer: new Tokenizer(file.tokenizer) };
  } catch (error) {
    await model.dispose();
    throw error;
  }
}

/** A page has a document; a worker has none. */
function isPage(): boolean {
  return typeof document === 'object';
}

async function defaultStorage(): Promise<'opfs' | 'none'> {
  try {
    await navigator.storage.getDirectory();
    return 'opfs';
  } catch {
    return 'none'; // no secure context, or a private window: the documented default there
  }
}

function startWorker(): EngineWorker {
  if (WORKER_SOURCE === '') {
    throw new KernelError(
      'worker',
      'in a browser use the bundle (dist/browser/xquant.js), which has the worker',
    );
  }
  const url = URL.createObjectURL(new Blob([WORKER_SOURCE], { type: 'text/javascript' }));
  try {
    return new Worker(url, { type: 'module', name: 'xquant' }) as unknown as EngineWorker;
  } finally {
    // The worker has its own reference by the time this runs.
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }
}

/** Absolute, because a worker made from text has no address to be relative to. */
function wasmUrls(given: BrowserLoadOptions['wasm']): Record<WasmBuild, string> {
  const base = globalThis.document?.baseURI ?? globalThis.location?.href;
  const urlOf = (build: WasmBuild): string => {
    if (given === undefined) return wasmUrl(build).href;
    if (typeof given === 'string' || given instanceof URL) {
      const folder = String(given);
      return new URL(`${build}.wasm`, new URL(folder.endsWith('/') ? folder : `${folder}/`, base)).href;
    }
    return new URL(given[build], base).href;
  };
  return Object.fromEntries(WASM_BUILDS.map((build) => [build, urlOf(build)])) as Record<WasmBuild, string>;
}

/** Relative URLs are relative to the page, as everywhere in a browser. */
function absolute(source: ModelSource): Exclude<ModelSource, URL> {
  if (source instanceof URL) return source.href;
  if (typeof source !== 'string' || /^(hf:|https?:)/i.test(source)) return source;
  const base = globalThis.document?.baseURI ?? globalThis.location?.href;
  return /^\.{0,2}\/|\.gguf$/i.test(source) ? new URL(source, base).href : source;
}
