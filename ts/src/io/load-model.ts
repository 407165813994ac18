/**
 * Loads a model from wherever it is: the one door to everything else in this folder.
 *
 * @module
 */

import { ConfigError, FormatError, LoadError } from '../errors.js';
import { inNode } from '../platform.js';
import { openGguf } from './gguf.js';
import { arePartsOfOne, type Siblings } from './gguf-split.js';
import { boundedFetch } from './http-request.js';
import { httpFolder, httpSource } from './http-source.js';
import { hubFolder, isHubReference, isRemote, parseHubReference } from './hub.js';
import { CONFIG_FILE, openHuggingFace } from './hugging-face.js';
import type { ModelFile, ModelHeader, UnreadModelFile } from './model-file.js';
import type { ModelKeeper } from './node-kept-models.js';
import { loadWeights, type OpenModel, unreadModel } from './open-model.js';
import { type LoadProgress, ProgressCounter } from './progress.js';
import {
  type ByteSource,
  blobSource,
  type FileFolder,
  filesFolder,
  memorySource,
  type SourceOptions,
} from './source.js';

/** Models that a clone of the repository has, by name. */
export const EMBEDDED_MODELS = ['books-mha', 'books-gqa'] as const;

/** Name of an embedded model. */
export type EmbeddedModel = (typeof EMBEDDED_MODELS)[number];

/**
 * Where a model is:
 *
 * - the name of an embedded model (in a clone, Node only),
 * - a path of a GGUF file or of a folder (Node only),
 * - `http://` or `https://`: a GGUF file, or with `/` at the end a folder,
 * - `hf:owner/repo[/file][@revision]`,
 * - a GGUF file as `Blob`, `ArrayBuffer` or `Uint8Array` (kept, not copied),
 * - the files of a folder as `File`s.
 */
export type ModelSource = string | URL | Blob | ArrayBuffer | Uint8Array | readonly File[];

/** Options of {@link loadModelFile} and {@link readModelHeader}. */
export interface LoadOptions {
  /** Stops the load, which then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Called with the progress of the load, over all files of the model. */
  readonly onProgress?: (progress: LoadProgress) => void;
  /** Name of the model in messages, for sources that have none of their own. */
  readonly name?: string;
  /** Instead of the global `fetch`, for instance to go through a cache. */
  readonly fetch?: typeof fetch;
  /** Sent with requests for `http(s)://` sources. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Instead of https://huggingface.co; in Node the default is `HF_ENDPOINT`. */
  readonly hubUrl?: string;
  /** For private and gated models of the hub; in Node the default is `HF_TOKEN`. */
  readonly accessToken?: string;
  /**
   * Node only: keep what comes from a URL or the hub on disk, in `$XDG_CACHE_HOME/xquant/models`, where the next load
   * finds it, and needs no network. Default false; true for `loadModel` and the command line.
   */
  readonly keep?: boolean;
}

/**
 * Loads a model into memory.
 *
 * @throws {LoadError} if something cannot be read, with the HTTP status where there is one
 * @throws {FormatError | ShapeError} if a file is not what it claims to be; names the place
 * @throws {UnsupportedModelError} names the architecture, tensor or type
 * @throws {NumericError} if a norm gain or bias is not finite
 * @throws {ConfigError} if `source` is none of the above
 *
 * @example
 * ```ts
 * const model = await loadModelFile('books-mha');
 * const tokenizer = new Tokenizer(model.tokenizer);
 * ```
 */
export async function loadModelFile(source: ModelSource, options: LoadOptions = {}): Promise<ModelFile> {
  return withWeights(source, options, loadWeights, async (file) => file);
}

/**
 * Uses a model whose weights stay in its files until somebody reads them, for instance into linear memory, where they
 * would otherwise be for the second time. Files are open while it is used.
 *
 * @throws as {@link loadModelFile}
 */
export async function useModelFile<T>(
  source: ModelSource,
  options: LoadOptions,
  use: (file: UnreadModelFile) => Promise<T>,
): Promise<T> {
  return withWeights(source, options, unreadModel, use);
}

/**
 * Opens a model and uses it; one that is to be kept on disk is downloaded first.
 *
 * @param read what is needed of the open model
 */
async function withWeights<F, T>(
  source: ModelSource,
  options: LoadOptions,
  read: (model: OpenModel) => Promise<F>,
  use: (file: F) => Promise<T>,
): Promise<T> {
  const progress = new ProgressCounter(options.onProgress);
  const keeper = await keeperFor(source, options, progress);
  if (keeper) {
    // A model that does not run is refused by its header, before it is downloaded.
    const check = async ({ header }: OpenModel) => progress.expect(header.byteLength);
    if (!keeper.isComplete) await withModel(source, options, progress, check, keeper);
    keeper.downloads = true;
  }
  const useOpen = async (model: OpenModel) => {
    progress.expect(model.header.byteLength);
    const file = await read(model);
    await keeper?.finish();
    const result = await use(file);
    progress.finish();
    return result;
  };
  return withModel(source, options, progress, useOpen, keeper);
}

/**
 * Reads what a model says about itself, and not its weights: of a remote file only the header is fetched, if the
 * server gives ranges. With `keep` it is read from disk where it is there, and nothing is downloaded to be kept.
 *
 * @throws as {@link loadModelFile}
 */
export async function readModelHeader(source: ModelSource, options: LoadOptions = {}): Promise<ModelHeader> {
  const progress = new ProgressCounter(options.onProgress);
  const keeper = await keeperFor(source, options, progress);
  return withModel(source, options, progress, async (model) => model.header, keeper);
}

/** What keeps a model on disk; nothing for one that is here already. */
async function keeperFor(
  source: ModelSource,
  { keep, signal }: LoadOptions,
  progress: ProgressCounter,
): Promise<ModelKeeper | undefined> {
  const location = source instanceof URL ? source.href : source;
  if (!keep || typeof location !== 'string' || !isRemote(location)) return undefined;
  if (!inNode()) throw new ConfigError('keep', keep, 'false: there is no disk; a page has "storage"');
  const { ModelKeeper } = await import('./node-kept-models.js');
  return ModelKeeper.open(location, { signal, onBytes: (count) => progress.add(count) });
}

function kept(folder: FileFolder, keeper: ModelKeeper | undefined): FileFolder {
  return keeper ? keeper.wrap(folder) : folder;
}

/** Opens a model, uses it, and closes its files whatever happens. */
async function withModel<T>(
  source: ModelSource,
  options: LoadOptions,
  progress: ProgressCounter,
  use: (model: OpenModel) => Promise<T>,
  keeper?: ModelKeeper,
): Promise<T> {
  options.signal?.throwIfAborted();
  const opened: ByteSource[] = [];
  try {
    return await use(await openModel(source, options, progress, opened, keeper));
  } finally {
    await Promise.all(opened.map((each) => each.close()));
  }
}

async function openModel(
  source: ModelSource,
  options: LoadOptions,
  progress: ProgressCounter,
  opened: ByteSource[],
  keeper?: ModelKeeper,
): Promise<OpenModel> {
  const { signal, headers } = options;
  let received = 0;
  const fetch = boundedFetch(options.fetch ?? globalThis.fetch, () => received);
  const onBytes = (count: number) => {
    received += count;
    progress.add(count);
  };
  const common: SourceOptions = { signal, fetch, headers, onBytes };
  const name = options.name ?? 'model';
  const file: OpenFile = (each, siblings) => {
    opened.push(each);
    return openGguf(each, siblings && keptOpen(siblings, opened));
  };

  if (source instanceof Uint8Array) return file(memorySource(source, name));
  if (source instanceof ArrayBuffer) return file(memorySource(new Uint8Array(source), name));
  if (source instanceof Blob) {
    return file(blobSource(source, options.name ?? (source as File).name ?? name, common));
  }
  if (Array.isArray(source) && source.every((each): each is File => each instanceof File)) {
    return openFolder(filesFolder(source, name, common), file, opened);
  }
  const location = source instanceof URL ? source.href : source;
  if (typeof location !== 'string' || location === '') {
    throw new ConfigError(
      'model',
      source,
      'a name, path, URL, Blob, ArrayBuffer, Uint8Array or list of Files',
    );
  }

  if (isHubReference(location)) {
    const reference = parseHubReference(location);
    const environment = inNode() ? (await import('./node-models.js')).hubEnvironment() : {};
    const { hubUrl = environment.hubUrl, accessToken = environment.accessToken } = options;
    // Headers are meant for the user's own server; the hub gets its token.
    const folder = kept(hubFolder(reference, { ...common, headers: undefined, hubUrl, accessToken }), keeper);
    if (!reference.file) return openFolder(folder, file, opened);
    return openNamed(folder, reference.file, file);
  }
  if (isRemote(location)) {
    if (location.endsWith('/')) return openFolder(kept(httpFolder(location, common), keeper), file, opened);
    const name = decodeURIComponent(new URL(location).pathname.split('/').pop() ?? '') || 'model';
    const http = { ...common, onSize: (size: number) => progress.expect(size) };
    const beside = httpFolder(new URL('.', location).href, common);
    // The file itself is asked for by its whole URL, which may have a query.
    const open = (each: string) => (each === name ? httpSource(location, http) : beside.open(each));
    const folder = kept({ ...beside, open }, keeper);
    const source = await folder.open(name);
    if (!source) throw new LoadError(folder.name, `there is no ${name}`);
    return file(source, { name, open: folder.open });
  }
  return openPath(location, common, file, opened);
}

/** A name or a path; both need a disk. */
async function openPath(
  location: string,
  common: SourceOptions,
  file: OpenFile,
  opened: ByteSource[],
): Promise<OpenModel> {
  if (!inNode()) {
    const reason = 'names and paths of models need Node; give a URL, a Blob or the bytes';
    throw new LoadError(location, reason);
  }
  const { fileSource, directoryFolder, isDirectory, toPath } = await import('./node-file.js');
  let path = toPath(location);
  if ((EMBEDDED_MODELS as readonly string[]).includes(location)) {
    path = (await import('./node-models.js')).embeddedModelPath(location);
  }
  if (await isDirectory(path)) return openFolder(directoryFolder(path, common), file, opened);
  if (path.endsWith('.safetensors')) {
    throw new FormatError(
      path,
      'file',
      'is one part of a model: give its folder, which has config.json, too',
    );
  }
  const [, folder = '', name = ''] = /^(.*[/\\])?([^/\\]*)$/.exec(path) ?? [];
  const open = (sibling: string) => directoryFolder(folder || '.', common).open(sibling);
  return file(await fileSource(path, common), { name, open });
}

/** Opens a GGUF file, and what it needs of the files beside it. */
type OpenFile = (source: ByteSource, siblings?: Siblings) => Promise<OpenModel>;

/** Collects the siblings that are opened, so that they are closed with the rest. */
function keptOpen(siblings: Siblings, opened: ByteSource[]): Siblings {
  const open = async (name: string) => {
    const source = await siblings.open(name);
    if (source) opened.push(source);
    return source;
  };
  return { name: siblings.name, open };
}

/** A folder is a Hugging Face model, or holds exactly one GGUF file, or the parts of one. */
async function openFolder(folder: FileFolder, file: OpenFile, opened: ByteSource[]): Promise<OpenModel> {
  const names = await folder.list();
  const models = names?.filter((name) => /\.gguf$/i.test(name)) ?? [];
  if (!names || names.includes(CONFIG_FILE)) {
    // Repositories of GGUF files often have the config of the original model beside them.
    const weights = !names || names.some((name) => /^[^/]*\.safetensors(\.index\.json)?$/.test(name));
    if (weights || models.length === 0) return openHuggingFace(folder, opened);
  }
  if (models.length === 1 || arePartsOfOne(models)) return openNamed(folder, models[0], file);
  if (models.length === 0) {
    throw new FormatError(folder.name, 'folder', `has neither ${CONFIG_FILE} nor a .gguf file`);
  }
  const example = `${folder.name.replace(/@.*$/, '')}/${models[0]}`;
  throw new FormatError(
    folder.name,
    'folder',
    `has several models, name one (${example}): ${models.join(', ')}`,
  );
}

async function openNamed(folder: FileFolder, path: string, file: OpenFile): Promise<OpenModel> {
  const source = await folder.open(path);
  const [, inside, name] = /^(.*\/)?([^/]*)$/.exec(path) as unknown as [string, string | undefined, string];
  const open = (sibling: string) => folder.open((inside ?? '') + sibling);
  if (source) return file(source, { name, open });
  const models = (await folder.list())?.filter((each) => /\.gguf$/i.test(each)) ?? [];
  const choices = models.length > 0 ? `; there are ${models.join(', ')}` : '';
  throw new LoadError(`${folder.name}/${path}`, `there is no such file${choices}`);
}
