/**
 * Models from a URL or the hub that stay on disk, so that the next start does not download them again. Node only.
 *
 *     $XDG_CACHE_HOME/xquant/models/ID/model.json       what is there, and where it came from
 *                                      files/NAME       a whole file, checked
 *                                      files/NAME.part  the beginning of one, for a download that goes on later
 *
 * A file gets its name when all of it is there, of the size that the server said and, where the server gives a SHA-256
 * (the hub does), with that hash; so a model is never read by halves. At each start the server is asked whether its file is
 * still the same one, unless the revision is a commit. Where no server can be reached, what is kept is used.
 *
 * @module
 */

import { createHash, type Hash } from 'node:crypto';
import { createReadStream, statSync } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { FormatError, LoadError } from '../errors.js';
import { describeValue } from '../printable.js';
import { unsignedUrl } from './http-request.js';
import { isHubReference, isRemote, parseHubReference } from './hub.js';
import { cacheFolder, fileSource, reasonOf } from './node-file.js';
import { writeFileAtomically } from './node-write.js';
import type { ByteSource, FileFolder, SourceOptions } from './source.js';

/** Default of {@link KeeperOptions.pieceBytes}. */
const PIECE_BYTES = 16 * 2 ** 20;

/** How long a download by another process is waited for between looks, ms. */
const LOCK_PAUSE_MS = 200;

/** What is known of a file that is there as a whole. */
interface KeptFile {
  /** Bytes. */
  readonly size: number;
  /** Changes with the contents, if the server gave one. */
  readonly version?: string;
  /** 64 hexadecimal digits. */
  readonly sha256: string;
}

/** `model.json`. */
interface KeptRecord {
  readonly source: string;
  /** Whether everything that the model needs is there. */
  readonly complete: boolean;
  readonly files: Readonly<Record<string, KeptFile>>;
  /** Names of all files at the source, where it can list them. */
  readonly listing?: readonly string[];
}

/** A model on disk. */
export interface KeptModel {
  /** As `--model` takes it. */
  readonly source: string;
  /** Path. */
  readonly folder: string;
  /** Whether everything that the model needs is there. */
  readonly complete: boolean;
  /** Bytes on disk, those of unfinished downloads included. */
  readonly bytes: number;
  /** Names of the files that are there. */
  readonly files: readonly string[];
}

/** All models that are kept, by source. */
export async function listKeptModels(): Promise<KeptModel[]> {
  const root = modelsFolder();
  const ids = await readdir(root).catch(() => []);
  const found: KeptModel[] = [];
  for (const id of ids) {
    const folder = join(root, id);
    const record = await readRecord(folder);
    if (!record) continue;
    const { source, complete, files } = record;
    found.push({ source, folder, complete, files: Object.keys(files), bytes: await folderBytes(folder) });
  }
  return found.sort((a, b) => (a.source < b.source ? -1 : 1));
}

/**
 * Removes a model.
 *
 * @param source as `--model` takes it
 * @returns whether there was one
 * @throws {LoadError} if it cannot be removed
 */
export async function removeKeptModel(source: string): Promise<boolean> {
  const folder = keptFolder(source);
  if (!(await readRecord(folder))) return false;
  try {
    await rm(folder, { recursive: true });
  } catch (cause) {
    throw new LoadError(folder, `cannot be removed: ${reasonOf(cause)}`, { cause });
  }
  return true;
}

/**
 * Reads all files of a model and compares them with their hashes. A file that differs is removed, so that the next start
 * downloads it.
 *
 * @returns paths of the files that differed
 */
export async function checkKeptModel({ folder }: KeptModel, signal?: AbortSignal): Promise<string[]> {
  const record = await readRecord(folder);
  const damaged: string[] = [];
  for (const [name, { sha256 }] of Object.entries(record?.files ?? {})) {
    signal?.throwIfAborted();
    const path = filePath(folder, name);
    const hash = createHash('sha256');
    const same = await addFile(hash, path)
      .then(() => hash.digest('hex') === sha256)
      .catch(() => false);
    if (same) continue;
    damaged.push(path);
    await rm(path, { force: true });
  }
  if (record && damaged.length > 0) await writeRecord(folder, { ...record, complete: false });
  return damaged;
}

/** Whether a model is there as a whole, so that reading it needs no download. */
export async function isKept(source: string): Promise<boolean> {
  return isRemote(source) && ((await readRecord(keptFolder(source)))?.complete ?? false);
}

/** What {@link ModelKeeper} takes besides the options of every source. */
export interface KeeperOptions extends SourceOptions {
  /** Bytes that are asked for at once; what has arrived of them is lost when the connection breaks. Default 16 MiB. */
  readonly pieceBytes?: number;
}

/** Stands between a remote model and its readers while it is loaded; see the module. */
export class ModelKeeper {
  /** Whether files that are not there are downloaded before they are read. */
  downloads = false;
  readonly #folder: string;
  readonly #options: KeeperOptions;
  /** A commit never changes: the server need not be asked. */
  readonly #isPinned: boolean;
  readonly #remotes = new Map<string, Promise<ByteSource | undefined>>();
  #record: KeptRecord;

  private constructor(folder: string, record: KeptRecord, isPinned: boolean, options: KeeperOptions) {
    this.#folder = folder;
    this.#record = record;
    this.#isPinned = isPinned;
    this.#options = options;
  }

  /** @param source a URL or a reference to the hub */
  static async open(source: string, options: KeeperOptions): Promise<ModelKeeper> {
    const folder = keptFolder(source);
    const record = (await readRecord(folder)) ?? { source: shownSource(source), complete: false, files: {} };
    const isPinned = isHubReference(source) && /^[0-9a-f]{40}$/.test(parseHubReference(source).revision);
    return new ModelKeeper(folder, record, isPinned, options);
  }

  /** Whether all files of the model were there after an earlier load. */
  get isComplete(): boolean {
    return this.#record.complete;
  }

  /** Notes that a load has read all that it needs. */
  async finish(): Promise<void> {
    if (this.downloads && !this.isComplete) await this.#note({ complete: true });
  }

  /** A remote folder whose files are read from disk once they are there. */
  wrap(remote: FileFolder): FileFolder {
    return {
      name: remote.name,
      list: () => this.#list(remote),
      open: (file) => this.#open(file, remote),
    };
  }

  async #list(remote: FileFolder): Promise<readonly string[] | undefined> {
    const known = this.#record.listing;
    if (this.#isPinned && known) return known;
    try {
      const listing = await remote.list();
      if (this.downloads && listing && String(listing) !== String(known)) await this.#note({ listing });
      return listing;
    } catch (error) {
      if (known && isUnreachable(error)) return known;
      throw error;
    }
  }

  async #open(file: string, remote: FileFolder): Promise<ByteSource | undefined> {
    const kept = this.#kept(file);
    if (kept && this.#isPinned) return this.#fromDisk(file);
    let source: ByteSource | undefined;
    try {
      source = await this.#remote(file, remote);
    } catch (error) {
      // Of a model that changed while it was downloaded, files of two versions may be there.
      if (kept && this.isComplete && isUnreachable(error)) return this.#fromDisk(file);
      throw error;
    }
    if (!source) return undefined;
    if (kept && kept.size === source.size && kept.version === source.version) return this.#fromDisk(file);
    if (!this.downloads) return source;
    await this.#download(file, source);
    return fileSource(filePath(this.#folder, file), { signal: this.#options.signal });
  }

  #remote(file: string, remote: FileFolder): Promise<ByteSource | undefined> {
    let source = this.#remotes.get(file);
    if (!source) {
      source = remote.open(file);
      this.#remotes.set(file, source);
    }
    return source;
  }

  /** What is known of a file, if it is there and as long as it was. */
  #kept(file: string): KeptFile | undefined {
    if (!Object.hasOwn(this.#record.files, file)) return undefined;
    const kept = this.#record.files[file];
    const size = statSync(filePath(this.#folder, file), { throwIfNoEntry: false })?.size;
    return size === kept.size ? kept : undefined;
  }

  #fromDisk(file: string): Promise<ByteSource> {
    return fileSource(filePath(this.#folder, file), this.#options);
  }

  async #download(file: string, source: ByteSource): Promise<void> {
    const path = filePath(this.#folder, file);
    try {
      await mkdir(dirname(path), { recursive: true });
      await this.#note({ complete: false });
      const unlock = await lock(`${path}.lock`, this.#options.signal);
      try {
        if (await this.#isDoneByOthers(file, source)) return;
        const sha256 = await fetchWhole(source, `${path}.part`, this.#options.pieceBytes);
        await rename(`${path}.part`, path);
        await rm(partNote(`${path}.part`), { force: true });
        const { size, version } = source;
        await this.#note({ files: { ...this.#record.files, [file]: { size, version, sha256 } } });
      } finally {
        await unlock();
      }
    } catch (cause) {
      this.#options.signal?.throwIfAborted();
      if (cause instanceof LoadError || cause instanceof FormatError) throw cause;
      throw new LoadError(path, `cannot be kept: ${reasonOf(cause)}`, { cause });
    }
  }

  /** Whether another process has downloaded a file while this one waited for it. */
  async #isDoneByOthers(file: string, { size, version }: ByteSource): Promise<boolean> {
    const files = (await readRecord(this.#folder))?.files ?? {};
    this.#record = { ...this.#record, files: { ...this.#record.files, ...files } };
    const kept = this.#kept(file);
    return kept !== undefined && kept.size === size && kept.version === version;
  }

  async #note(change: Partial<KeptRecord>): Promise<void> {
    this.#record = { ...this.#record, ...change };
    await mkdir(this.#folder, { recursive: true });
    await writeRecord(this.#folder, this.#record);
  }
}

/** The beginning of a file, and of which version of it. */
interface Part {
  readonly handle: FileHandle;
  readonly length: number;
}

/**
 * Downloads what is missing of a file.
 *
 * @param part path; what it holds already is kept if it belongs to the same version
 * @returns SHA-256 of the whole
 * @throws {FormatError} if the server has told another hash
 */
async function fetchWhole(source: ByteSource, part: string, pieceBytes = PIECE_BYTES): Promise<string> {
  const { handle, length } = await openPart(source, part);
  const hash = createHash('sha256');
  try {
    if (length > 0) await addFile(hash, part);
    for (let at = length; at < source.size; at += pieceBytes) {
      const bytes = await source.read(at, Math.min(pieceBytes, source.size - at));
      hash.update(bytes);
      await handle.writeFile(bytes); // goes on where the last one ended
    }
    await handle.sync(); // the rename must not reach the disk before the bytes
  } finally {
    await handle.close();
  }
  const sha256 = hash.digest('hex');
  const announced = announcedHash(source);
  if (announced !== undefined && announced !== sha256) {
    await rm(part, { force: true });
    throw new FormatError(source.name, 'content', `has SHA-256 ${sha256}, the server announced ${announced}`);
  }
  return sha256;
}

/** Opens a part for writing at its end; one of another version is emptied. */
async function openPart({ size, version }: ByteSource, part: string): Promise<Part> {
  const note = partNote(part);
  const wanted = JSON.stringify({ size, version });
  const known = await readFile(note, 'utf8').catch(() => '');
  // Without a version nobody can say that the rest belongs to the same file.
  const goesOn = version !== undefined && known === wanted;
  if (!goesOn) {
    await rm(part, { force: true });
    await writeFileAtomically(note, wanted);
  }
  const handle = await open(part, 'a');
  const { size: length } = await handle.stat();
  if (length <= size) return { handle, length };
  await handle.truncate(0);
  return { handle, length: 0 };
}

/** Says which version of a file a part belongs to. */
function partNote(part: string): string {
  return `${part}.json`;
}

/** The hub's ETag of a large file is its SHA-256. */
function announcedHash({ version }: ByteSource): string | undefined {
  return /^"?([0-9a-f]{64})"?$/.exec(version ?? '')?.[1];
}

async function addFile(hash: Hash, path: string): Promise<void> {
  for await (const piece of createReadStream(path)) hash.update(piece as Uint8Array);
}

/** Waits until no living process holds a lock, and takes it. */
async function lock(path: string, signal?: AbortSignal): Promise<() => Promise<void>> {
  for (;;) {
    signal?.throwIfAborted();
    try {
      const handle = await open(path, 'wx');
      await handle.writeFile(String(process.pid));
      await handle.close();
      return () => rm(path, { force: true });
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause;
      const holder = Number(await readFile(path, 'utf8').catch(() => ''));
      if (holder > 0 && !isAlive(holder)) await rm(path, { force: true });
      else await new Promise((resolve) => setTimeout(resolve, LOCK_PAUSE_MS));
    }
  }
}

function isAlive(process_: number): boolean {
  try {
    process.kill(process_, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Whether it was the way to the server that failed, and not what the server said. */
function isUnreachable(error: unknown): boolean {
  return error instanceof LoadError && (error.status === undefined || error.status >= 500);
}

function modelsFolder(): string {
  return join(cacheFolder(), 'models');
}

function keptFolder(source: string): string {
  const key = isHubReference(source) ? source.replace(/^hf:\/\//, 'hf:') : unsignedUrl(source);
  const id = createHash('sha256').update(key).digest('hex').slice(0, 16);
  return join(modelsFolder(), id);
}

/** For lists: what is secret in a URL is in its signature, which changes from day to day anyway. */
function shownSource(source: string): string {
  return isHubReference(source) ? source : unsignedUrl(source);
}

/** @throws {FormatError} if a name leads out of the folder */
function filePath(folder: string, name: string): string {
  const parts = name.split('/');
  if (parts.some((part) => part === '' || part === '.' || part === '..' || /[\\\0]/.test(part))) {
    throw new FormatError(
      folder,
      'file name',
      `must be a path inside the folder, got ${describeValue(name)}`,
    );
  }
  return join(folder, 'files', ...parts);
}

async function readRecord(folder: string): Promise<KeptRecord | undefined> {
  try {
    const record = JSON.parse(await readFile(join(folder, 'model.json'), 'utf8')) as KeptRecord;
    const { source, complete, files } = record;
    const sound = typeof source === 'string' && typeof complete === 'boolean' && typeof files === 'object';
    return sound ? record : undefined;
  } catch {
    return undefined; // not there, or damaged: as if it were not there
  }
}

function writeRecord(folder: string, record: KeptRecord): Promise<void> {
  return writeFileAtomically(join(folder, 'model.json'), JSON.stringify(record, undefined, 2));
}

async function folderBytes(folder: string): Promise<number> {
  const names = await readdir(folder, { recursive: true });
  const sizes = await Promise.all(
    names.map(async (name) => await stat(join(folder, name)).catch(() => undefined)),
  );
  return sizes.reduce((sum, each) => sum + (each?.isFile() ? each.size : 0), 0);
}
