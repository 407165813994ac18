/**
 * A model split over several GGUF files, as `llama-gguf-split` writes them: `NAME-00001-of-00003.gguf` and so on. The
 * first part has the metadata; each has some of the tensors.
 *
 * @module
 */

import { FormatError } from '../errors.js';
import { type GgufHeader, readGgufHeader } from './gguf-header.js';
import type { ByteSource } from './source.js';

/** A part of a model, or the whole of it. */
export interface GgufPart {
  readonly source: ByteSource;
  readonly header: GgufHeader;
}

/** The place of a file, from which the other parts of a model are found. */
export interface Siblings {
  /** Name of the file itself, without folders. */
  readonly name: string;
  /** Opens a file beside it; `undefined` if there is none. */
  open(name: string): Promise<ByteSource | undefined>;
}

const PART_NAME = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/i;

/** The largest models have some hundred parts. */
const MAX_PARTS = 1000;

/**
 * Whether names are the parts of one model.
 *
 * @param names of files
 */
export function arePartsOfOne(names: readonly string[]): boolean {
  const models = new Set(
    names.map((name) => PART_NAME.exec(name)).map((match) => match && match[1] + match[3]),
  );
  return models.size === 1 && !models.has(null);
}

/**
 * The header of a file, and those of the other parts if it is one part of several, whichever it is.
 *
 * @param source of any part
 * @param siblings where the other parts are; absent where a file has no neighbours
 * @returns in order
 * @throws {FormatError} names the part that is missing or contradicts the others
 * @throws {UnsupportedModelError} for other versions of GGUF
 */
export async function openParts(source: ByteSource, siblings?: Siblings): Promise<GgufPart[]> {
  const header = await readGgufHeader(source);
  const count = splitNumber(header, 'split.count', source.name) ?? 1;
  if (count <= 1) return [{ source, header }];
  if (count > MAX_PARTS) {
    throw new FormatError(source.name, 'split.count', `claims ${count} parts, more than ${MAX_PARTS}`);
  }
  const match = PART_NAME.exec(siblings?.name ?? '');
  if (!match || !siblings) {
    const reason = siblings
      ? `is one of ${count} parts, which are found by names like NAME-00001-of-${pad(count)}.gguf`
      : `is one of ${count} parts: give the path, URL or folder that all of them are in`;
    throw new FormatError(source.name, 'split.count', reason);
  }
  const parts: GgufPart[] = [];
  for (let i = 1; i <= count; i++) {
    const partName = `${match[1]}-${pad(i)}-of-${pad(count)}.gguf`;
    const part = partName === siblings.name ? source : await siblings.open(partName);
    if (!part)
      throw new FormatError(source.name, partName, `the part is missing (there are ${count} of them)`);
    const partHeader = part === source ? header : await readGgufHeader(part);
    const number = splitNumber(partHeader, 'split.no', part.name);
    const claimed = splitNumber(partHeader, 'split.count', part.name);
    if (number !== i - 1 || claimed !== count) {
      const reason = `says that it is part ${(number ?? -1) + 1} of ${claimed}, and its name says ${i} of ${count}`;
      throw new FormatError(part.name, 'split.no', reason);
    }
    parts.push({ source: part, header: partHeader });
  }
  assertAllTensors(parts);
  return parts;
}

/** Requires the tensors of all parts to be as many as the first part says, and all different. */
function assertAllTensors(parts: readonly GgufPart[]): void {
  const [{ header, source }] = parts;
  const expected = splitNumber(header, 'split.tensors.count', source.name);
  const places = new Map<string, string>();
  for (const part of parts) {
    for (const { name } of part.header.tensors) {
      const before = places.get(name);
      if (before) throw new FormatError(part.source.name, name, `the tensor is in "${before}", too`);
      places.set(name, part.source.name);
    }
  }
  if (expected !== undefined && expected !== places.size) {
    const reason = `claims ${expected} tensors, and the parts have ${places.size}`;
    throw new FormatError(source.name, 'split.tensors.count', reason);
  }
}

function splitNumber(header: GgufHeader, key: string, path: string): number | undefined {
  const value = header.metadata.get(key);
  if (value === undefined || (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0))
    return value;
  throw new FormatError(path, key, 'must be a count');
}

function pad(part: number): string {
  return String(part).padStart(5, '0');
}
