/**
 * Reads cases: a safetensors file that says in its metadata what it is, or a folder of `.npy` files or an `.npz` archive
 * with a `case.json`. And the manifest of the golden cases.
 *
 *     metadata    operation = "quantize"   options = "{\"bits\": 4, ...}"   version = "1"
 *     case.json   { "operation": "quantize", "options": { "bits": 4, ... } }
 *
 * @module
 */

import { unzipSync } from 'fflate';
import { FormatError } from '../../errors.js';
import { readSafetensors, writeSafetensors } from '../../io/safetensors.js';
import { type ByteSource, type FileFolder, readText } from '../../io/source.js';
import { messageOf } from '../../printable.js';
import type { CheckCase } from './inputs.js';
import { readNpy } from './npy.js';
import type { Tensor } from './tensor.js';

/** Version of the conventions that this package reads. */
export const CASE_VERSION = '1';

/** Largest dump that is read: expected values take as much again, and bounds more. */
export const LARGEST_CASE = 512 * 2 ** 20;

/** The file in a folder of arrays that says what they are. */
export const CASE_FILE = 'case.json';

const NPY = '.npy';

/** How one tensor of the manifest is compared. */
export type ManifestComparison = 'exact' | { readonly absolute: number; readonly relative: number };

/** One golden case in the manifest. */
export interface ManifestCase {
  /** File, from the folder of the manifest: `vectors/NAME.safetensors`. */
  readonly file: string;
  /** Hexadecimal. */
  readonly sha256: string;
  readonly operation: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly tensors: Readonly<
    Record<
      string,
      {
        readonly dtype: string;
        readonly shape: readonly number[];
        readonly role: 'input' | 'output';
        readonly comparison?: ManifestComparison;
      }
    >
  >;
}

/** golden/manifest.json. */
export interface Manifest {
  readonly version: string | number;
  readonly cases: readonly ManifestCase[];
}

/**
 * Reads a case from a safetensors file.
 *
 * @throws {FormatError} if the file is damaged, too large, or does not say which operation it is about
 * @throws {LoadError} if it cannot be read
 */
export async function readCase(source: ByteSource): Promise<CheckCase> {
  assertReadable(source.size, source.name);
  return parseCase(await source.read(0, source.size), source.name);
}

/**
 * Reads a case from the bytes of a safetensors file.
 *
 * @param bytes kept: the tensors are views on it
 * @param name for messages
 * @throws {FormatError} as {@link readCase}
 */
export function parseCase(bytes: Uint8Array, name: string): CheckCase {
  const { metadata, tensors } = readSafetensors(bytes, name);
  const { operation, options = '{}', version = CASE_VERSION } = metadata;
  if (operation === undefined) {
    throw new FormatError(
      name,
      '__metadata__',
      'the metadata must name the "operation"; see xquant check --list',
    );
  }
  if (version !== CASE_VERSION) {
    throw new FormatError(
      name,
      'version',
      `version ${version} is not ${CASE_VERSION}, the one that is read here`,
    );
  }
  return { name, operation, options: parseOptions(options, name, 'options'), tensors };
}

/**
 * Reads a case from a folder of `.npy` files.
 *
 * @throws {FormatError} if `case.json` or an array is not well formed
 * @throws {LoadError} if a file cannot be read
 */
export async function readNpyCase(folder: FileFolder): Promise<CheckCase> {
  const description = await folder.open(CASE_FILE);
  if (!description) throw new FormatError(folder.name, CASE_FILE, 'a folder of arrays needs this file');
  const { operation, options } = parseDescription(await closing(description, readText), folder.name);
  const tensors = new Map<string, Tensor>();
  let total = 0;
  for (const file of (await folder.list()) ?? []) {
    if (!file.endsWith(NPY)) continue;
    const source = await folder.open(file);
    if (!source) continue;
    total += source.size;
    assertReadable(total, folder.name);
    const tensor = await closing(source, async (open) => readNpy(await open.read(0, open.size), open.name));
    tensors.set(file.slice(0, -NPY.length), tensor);
  }
  return { name: folder.name, operation, options, tensors };
}

/**
 * Reads a case from an `.npz` archive, as `numpy.savez` and `savez_compressed` write it, with `case.json` as a member
 * of the archive or as a file of its own.
 *
 * @param description text of `case.json`, if it is not in the archive
 * @throws {FormatError} if the archive is damaged or too large, or there is no `case.json`
 * @throws {LoadError} if it cannot be read
 */
export async function readNpzCase(source: ByteSource, description?: string): Promise<CheckCase> {
  assertReadable(source.size, source.name);
  const members = unzip(await source.read(0, source.size), source.name);
  const inside = members.get(CASE_FILE);
  const text = inside ? new TextDecoder().decode(inside) : description;
  if (text === undefined) {
    const reason = `needs a member ${CASE_FILE}, or ${CASE_FILE} beside it`;
    throw new FormatError(source.name, CASE_FILE, reason);
  }
  const { operation, options } = parseDescription(text, source.name);
  const tensors = new Map<string, Tensor>();
  for (const [member, bytes] of members) {
    if (!member.endsWith(NPY)) continue;
    tensors.set(member.slice(0, -NPY.length), readNpy(bytes, `${source.name}: ${member}`));
  }
  return { name: source.name, operation, options, tensors };
}

/** Members of a zip archive; their size is bounded before anything is unpacked. */
function unzip(bytes: Uint8Array, name: string): Map<string, Uint8Array> {
  let total = 0;
  try {
    const members = unzipSync(bytes, {
      filter({ originalSize }) {
        total += originalSize;
        assertReadable(total, name);
        return true;
      },
    });
    return new Map(Object.entries(members));
  } catch (cause) {
    if (cause instanceof FormatError) throw cause;
    throw new FormatError(name, 'archive', `is not a zip archive: ${(cause as Error).message}`, { cause });
  }
}

function assertReadable(bytes: number, name: string): void {
  if (bytes <= LARGEST_CASE) return;
  const reason = `${bytes} bytes are more than the ${LARGEST_CASE} of the largest case; dump fewer tokens`;
  throw new FormatError(name, 'size', reason);
}

function parseDescription(
  text: string,
  name: string,
): { operation: string; options: Record<string, unknown> } {
  const { operation, options = {} } = parseOptions(text, name, CASE_FILE);
  if (typeof operation !== 'string' || !isRecord(options)) {
    throw new FormatError(name, CASE_FILE, 'must be {"operation": "...", "options": {...}}');
  }
  return { operation, options };
}

/**
 * Writes a case as the bytes of a safetensors file.
 *
 * @param source its name is not written
 * @returns fresh
 */
export function writeCase(source: CheckCase): Uint8Array {
  const { operation, options, tensors } = source;
  return writeSafetensors(new Map(tensors), {
    operation,
    options: JSON.stringify(options),
    version: CASE_VERSION,
  });
}

/**
 * Parses golden/manifest.json.
 *
 * @throws {FormatError} if a case lacks its file, sha256 or operation
 */
export function parseManifest(text: string, name: string): Manifest {
  const parsed = parseOptions(text, name, 'manifest');
  if (!Array.isArray(parsed.cases)) throw new FormatError(name, 'cases', 'must be a list');
  for (const [index, entry] of parsed.cases.entries()) {
    for (const key of ['file', 'sha256', 'operation']) {
      if (typeof entry?.[key] !== 'string')
        throw new FormatError(name, `cases[${index}].${key}`, 'must be a string');
    }
  }
  return parsed as unknown as Manifest;
}

/**
 * What is wrong with a folder of vectors: files that are missing or changed, and files nobody knows.
 *
 * @param folder with the files of the manifest
 * @returns one sentence for each problem; empty if all is well
 * @throws {LoadError} if a file cannot be read
 */
export async function manifestProblems(manifest: Manifest, folder: FileFolder): Promise<string[]> {
  const problems: string[] = [];
  for (const { file, sha256 } of manifest.cases) {
    const source = await folder.open(baseName(file));
    if (!source) {
      problems.push(`${file} is in the manifest and not in the folder`);
      continue;
    }
    const found = await closing(source, async (open) => sha256Of(await open.read(0, open.size)));
    if (found !== sha256.toLowerCase()) {
      problems.push(`${file} has sha256 ${found}, and the manifest says ${sha256}`);
    }
  }
  const known = new Set(manifest.cases.map(({ file }) => baseName(file)));
  for (const file of (await folder.list()) ?? []) {
    if (file.endsWith('.safetensors') && !known.has(file)) problems.push(`${file} is not in the manifest`);
  }
  return problems;
}

function baseName(file: string): string {
  return file.slice(file.lastIndexOf('/') + 1);
}

async function sha256Of(bytes: Uint8Array): Promise<string> {
  const digest = await crypto.subtle.digest('SHA-256', Uint8Array.from(bytes));
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

function parseOptions(text: string, name: string, place: string): Record<string, unknown> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(name, place, `is not JSON: ${messageOf(cause)}`, { cause });
  }
  if (!isRecord(parsed)) throw new FormatError(name, place, 'must be a JSON object');
  return parsed;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

async function closing<T>(source: ByteSource, use: (source: ByteSource) => Promise<T>): Promise<T> {
  try {
    return await use(source);
  } finally {
    await source.close();
  }
}
