/**
 * A cache in a file: saved in the middle of a text, restored later, by another backend or on another machine, and
 * continued with the same tokens. `docs/format.md` draws every byte.
 *
 *     header     32 bytes: magic, version, count of sections, bytes of the file, CRC-32
 *     sections   META (JSON: model, cache options, lengths), TOKS (token ids), LAYR for each layer
 *
 * A layer is stored as the bytes its cache holds, so a snapshot is hardly larger than the cache. Everything is
 * little-endian, and every byte is covered by a CRC-32. What a file claims is compared with the model and with
 * the bytes that are there before anything is made from it.
 *
 * @module
 */

import { cacheLayout, type LayerLayout } from '../analysis/memory.js';
import { CACHE_VARIANTS, type CacheRequest } from '../cache/presets.js';
import type {
  CacheOptions,
  Float16Matrix,
  LayerState,
  ModelCache,
  SealedBlock,
  StoredMatrix,
} from '../cache/types.js';
import { ConfigError, FormatError, XQuantError } from '../errors.js';
import type { LanguageModel } from '../model/language-model.js';
import type { Matrix } from '../numerics/matrix.js';
import { GROUPINGS, groupedSizes } from '../quant/grouped.js';
import { BITS, RANGE_RULES } from '../quant/uniform.js';
import { crc32 } from './crc32.js';

/** Version of the format that is written, and the only one that is read. */
export const SNAPSHOT_VERSION = 1;

/** Like that of PNG: a transfer as text, or with the eighth bit cut, changes it. */
const MAGIC = Uint8Array.of(0x89, 0x58, 0x51, 0x53, 0x0d, 0x0a, 0x1a, 0x0a); // \x89 X Q S \r \n \x1a \n

const HEADER_BYTES = 32;
/** Tag, index, length. */
const SECTION_HEADER_BYTES = 16;
const CRC_BYTES = 4;

/** What is saved. A `CachedSequence` has the first two. */
export interface SnapshotContent {
  readonly cache: ModelCache;
  /** Ids of what the cache holds, oldest first. */
  readonly tokens: readonly number[];
  /** Ids that follow and have not been run: the last token that a generation gave. */
  readonly pending?: readonly number[];
  /** Of the model's weights, see io/fingerprint.ts. */
  readonly fingerprint: string;
}

/** What a snapshot says about itself. */
export interface SnapshotInfo {
  /** Fingerprint of the model it belongs to. */
  readonly model: string;
  /** Every option of the cache, resolved. */
  readonly options: CacheOptions;
  /** Tokens in the cache. */
  readonly length: number;
  /** Tokens that follow and have not been run. */
  readonly pending: number;
}

/** What a snapshot becomes. */
export interface RestoredSnapshot {
  readonly cache: ModelCache;
  /** Ids of what the cache holds: with `cache`, what a `CachedSequence` is made of. */
  readonly tokens: readonly number[];
  /** Ids that follow and have not been run. */
  readonly pending: readonly number[];
}

/** The model that a snapshot is restored for. */
export interface SnapshotOwner {
  readonly model: LanguageModel;
  /** Of its weights, see io/fingerprint.ts. */
  readonly fingerprint: string;
}

interface Metadata extends SnapshotInfo {
  readonly layers: number;
}

/** No option is a larger number than this: sizes are computed from them before the bytes are looked at. */
const COUNT_LIMIT = 2 ** 16;

/**
 * Choices of every option, or `'count'` for an integer from 0 to {@link COUNT_LIMIT}, `'fraction'` for a number
 * from 0 to 1. What is not known here or does not suit the model is refused.
 */
const OPTION_VALUES: Readonly<Record<string, readonly unknown[] | 'count' | 'fraction' | 'text'>> = {
  variant: CACHE_VARIANTS,
  bits: BITS,
  keyBits: BITS,
  valueBits: BITS,
  form: ['x', 'latent'],
  groupSize: 'count',
  residualWindow: 'count',
  grouping: GROUPINGS,
  keyGrouping: GROUPINGS,
  valueGrouping: GROUPINGS,
  range: RANGE_RULES,
  rotation: ['none', 'hadamard'],
  outlierChannel: ['quantized', 'f16'],
  deltaSpace: ['x', 'normalized', 'stream'],
  accumulator: ['f32', 'int8', 'recompute'],
  baseLayers: 'count',
  baseBits: BITS,
  baseStore: ['x', 'latent'],
  firstLayers: 'count',
  firstBits: BITS,
  lastLayers: 'count',
  lastBits: BITS,
  outlierFraction: 'fraction',
  sink: 'count',
  qNorm: ['off', 'on'],
  calibration: 'text',
  quantizer: ['uniform', 'identity'],
};

/**
 * Writes a cache to the bytes of a file.
 *
 * @param content read; nothing of it is kept
 * @returns fresh
 * @throws {ConfigError} if there are more or fewer ids than tokens in the cache, or it is a `kvquant` cache
 *
 * @example
 * ```ts
 * const { model, tokenizer, file } = await loadModel('books-mha');
 * const generation = generate(model, tokenizer, 'Call me', { maxTokens: 5 });
 * const { ids } = await generation.finish();
 * const { cache, tokens } = generation.sequence;
 * const bytes = writeSnapshot({ cache, tokens, pending: ids.slice(-1), fingerprint: file.fingerprint });
 * ```
 */
export function writeSnapshot(content: SnapshotContent): Uint8Array {
  const { cache, tokens, pending = [], fingerprint } = content;
  if (cache.options.variant === 'kvquant') {
    throw new ConfigError('cache', 'kvquant', 'another variant: this one is there to be measured, not saved');
  }
  if (tokens.length !== cache.length) {
    throw new ConfigError('tokens', `${tokens.length} ids`, `the ${cache.length} ids that the cache holds`);
  }
  const metadata: Metadata = {
    model: fingerprint,
    layers: cache.layers.length,
    length: cache.length,
    pending: pending.length,
    options: cache.options,
  };
  const writer = new SectionWriter();
  writer.add('META', 0, [new TextEncoder().encode(JSON.stringify(metadata))]);
  writer.add('TOKS', 0, [Uint32Array.from([...tokens, ...pending])]);
  for (const [index, layer] of cache.layers.entries()) {
    writer.add('LAYR', index, layerParts(layer.state()));
  }
  return writer.finish();
}

/**
 * Reads what a snapshot says about itself; every CRC is checked.
 *
 * @param path for messages
 * @throws {FormatError} if it is no snapshot, of another version, cut or damaged; names the place
 */
export function readSnapshotInfo(bytes: Uint8Array, path: string): SnapshotInfo {
  const { layers: _layers, ...info } = parseMetadata(readSections(bytes, path)[0], path);
  return info;
}

/**
 * Restores a cache.
 *
 * @param bytes read; nothing of it is kept
 * @param path for messages
 * @param owner the model that the snapshot must belong to
 * @returns a new cache of the model, with its tokens
 * @throws {FormatError} if it is no snapshot, of another version or another model, cut or damaged; names the
 *   place. Nothing has been made from the numbers in the file then.
 * @throws {MemoryError} if the model has no room for the cache
 */
export function restoreSnapshot(bytes: Uint8Array, path: string, owner: SnapshotOwner): RestoredSnapshot {
  const sections = readSections(bytes, path);
  const metadata = parseMetadata(sections[0], path);
  const { model, fingerprint } = owner;
  const { config } = model;
  if (metadata.model !== fingerprint) {
    const reason = `the snapshot belongs to model ${metadata.model}, not to this one (${fingerprint})`;
    throw new FormatError(path, 'model', reason);
  }
  if (metadata.layers !== config.numHiddenLayers || sections.length !== metadata.layers + 2) {
    const reason = `${metadata.layers} layers in ${sections.length} sections; the model has ${config.numHiddenLayers} layers`;
    throw new FormatError(path, 'layers', reason);
  }
  if (metadata.length > config.maxPositionEmbeddings) {
    const reason = `${metadata.length} tokens; the context of the model is ${config.maxPositionEmbeddings}`;
    throw new FormatError(path, 'length', reason);
  }
  const ids = readTokens(sections[1], metadata, config.vocabSize, path);
  const cache = emptyCache(metadata.options, model, path);
  const layouts = cacheLayout(cache.options, config);
  const states = layouts.map((layout, index) => {
    const reader = new PartReader(sections[index + 2], path);
    return readLayer(reader, layout, cache, index, metadata.length);
  });
  for (const [index, state] of states.entries()) cache.layers[index].restore(state);
  return { cache, tokens: ids.slice(0, metadata.length), pending: ids.slice(metadata.length) };
}

/** Everything that a layer holds, in the order in which it is written. */
function layerParts({ blocks, window }: LayerState): Part[] {
  return [...blocks, window].flatMap((tensors) => Object.values(tensors).flatMap(matrixParts));
}

function matrixParts(stored: StoredMatrix): Part[] {
  if ('packed' in stored) return [stored.packed, stored.scales, stored.mins];
  if ('rowCodes' in stored) throw new TypeError('rows of kvquant have no place in a snapshot');
  return ['float16' in stored ? stored.float16 : stored.data];
}

/** An empty cache with the options of a snapshot, each of which must be one that the model can have. */
function emptyCache(options: CacheOptions, model: LanguageModel, path: string): ModelCache {
  let cache: ModelCache;
  try {
    cache = model.createCache(options as CacheRequest);
  } catch (cause) {
    if (!(cause instanceof XQuantError || cause instanceof RangeError)) throw cause;
    throw new FormatError(path, 'options', `this model cannot have the cache: ${cause.message}`, { cause });
  }
  // An option that is missing in the file got a default here.
  const changed = Object.entries(cache.options).find(
    ([key, value]) => options[key as keyof CacheOptions] !== value,
  );
  if (changed) throw new FormatError(path, `option "${changed[0]}"`, `is missing, or not ${changed[1]}`);
  return cache;
}

function readTokens(
  section: Section,
  { length, pending }: Metadata,
  vocabSize: number,
  path: string,
): number[] {
  const reader = new PartReader(section, path);
  const ids = reader.uint32(length + pending);
  reader.end();
  const bad = ids.findIndex((id) => id >= vocabSize);
  if (bad >= 0) {
    throw new FormatError(path, section.name, `token ${bad} is ${ids[bad]}; the vocabulary has ${vocabSize}`);
  }
  return Array.from(ids);
}

function readLayer(
  reader: PartReader,
  layout: LayerLayout,
  cache: ModelCache,
  index: number,
  length: number,
): LayerState {
  const { residualWindow } = cache.options;
  const blockCount = Math.floor(length / residualWindow);
  const windowTokens = length - blockCount * residualWindow;
  const blocks: SealedBlock[] = [];
  for (let block = 0; block < blockCount; block++) {
    const tensors = layout.sealed.map(({ name, columns, format }) => {
      const place = `block ${block}, ${name}`;
      if (format === 'f16') return [name, reader.float16Matrix(residualWindow, columns, place)] as const;
      if (format === 'f32') return [name, reader.float32Matrix(residualWindow, columns, place)] as const;
      const { bits, groupSize, grouping } = format;
      const sizes = groupedSizes(residualWindow, columns, format);
      const packed = reader.bytes(sizes.packedBytes);
      const scales = reader.finiteFloat16(sizes.groups, `${place}, scales`);
      const mins = reader.finiteFloat16(sizes.groups, `${place}, mins`);
      const quantized = {
        rows: residualWindow,
        columns,
        bits,
        groupSize,
        grouping,
        packed,
        scales,
        mins,
      };
      return [name, quantized] as const;
    });
    blocks.push(Object.fromEntries(tensors));
  }
  // An empty cache knows the names and widths of its window.
  const empty = cache.layers[index].state().window;
  const window = Object.fromEntries(
    Object.entries(empty).map(([name, tensor]) => {
      const place = `window, ${name}`;
      return 'float16' in tensor
        ? [name, reader.float16Matrix(windowTokens, tensor.columns, place)]
        : [name, reader.float32Matrix(windowTokens, tensor.columns, place)];
    }),
  ) as LayerState['window'];
  reader.end();
  return { length, blocks, window };
}

function parseMetadata(section: Section, path: string): Metadata {
  const { name } = section;
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(section.body));
  } catch (cause) {
    throw new FormatError(path, name, 'is not JSON', { cause });
  }
  if (typeof json !== 'object' || json === null) throw new FormatError(path, name, 'is not an object');
  const { model, layers, length, pending, options } = json as Record<string, unknown>;
  if (typeof model !== 'string' || !/^[0-9a-f]{16}$/.test(model)) {
    throw new FormatError(path, `${name} "model"`, 'must be 16 hexadecimal digits');
  }
  for (const [key, value] of Object.entries({ layers, length, pending })) {
    if (!isCount(value)) throw new FormatError(path, `${name} "${key}"`, 'must be an integer from 0');
  }
  return { model, layers, length, pending, options: parseOptions(options, name, path) } as Metadata;
}

function parseOptions(options: unknown, section: string, path: string): CacheOptions {
  if (typeof options !== 'object' || options === null) {
    throw new FormatError(path, `${section} "options"`, 'must be an object');
  }
  for (const [key, value] of Object.entries(options)) {
    const place = `${section} option "${key}"`;
    if (!Object.hasOwn(OPTION_VALUES, key)) throw new FormatError(path, place, 'is not known');
    const wanted = wantedInstead(OPTION_VALUES[key], value);
    if (wanted) throw new FormatError(path, place, `must be ${wanted}`);
  }
  return options as CacheOptions;
}

/** In words, what an option must be; nothing if it is that. */
function wantedInstead(allowed: (typeof OPTION_VALUES)[string], value: unknown): string | undefined {
  if (typeof allowed !== 'string') {
    return allowed.includes(value) ? undefined : `one of ${allowed.join(', ')}`;
  }
  if (allowed === 'text') return typeof value === 'string' ? undefined : 'text';
  if (allowed === 'fraction') {
    return typeof value === 'number' && value >= 0 && value <= 1 ? undefined : 'a number from 0 to 1';
  }
  return isCount(value) && value <= COUNT_LIMIT ? undefined : `an integer from 0 to ${COUNT_LIMIT}`;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

type Part = Uint8Array | Uint16Array | Uint32Array | Float32Array;

/** Sections, one after another. */
class SectionWriter {
  readonly #sections: { tag: string; index: number; parts: readonly Part[]; length: number }[] = [];

  add(tag: string, index: number, parts: readonly Part[]): void {
    const length = parts.reduce((sum, part) => sum + part.byteLength, 0);
    this.#sections.push({ tag, index, parts, length });
  }

  finish(): Uint8Array {
    const overhead = SECTION_HEADER_BYTES + CRC_BYTES;
    const size = this.#sections.reduce((sum, { length }) => sum + length + overhead, HEADER_BYTES);
    const file = new Uint8Array(size);
    const view = new DataView(file.buffer);
    file.set(MAGIC);
    view.setUint32(8, SNAPSHOT_VERSION, true);
    view.setUint32(12, this.#sections.length, true);
    view.setBigUint64(16, BigInt(size), true);
    view.setUint32(28, crc32(file.subarray(0, 28)), true);
    let at = HEADER_BYTES;
    for (const { tag, index, parts, length } of this.#sections) {
      const start = at;
      new TextEncoder().encodeInto(tag, file.subarray(at));
      view.setUint32(at + 4, index, true);
      view.setBigUint64(at + 8, BigInt(length), true);
      at += SECTION_HEADER_BYTES;
      for (const part of parts) {
        file.set(toLittleEndian(part), at);
        at += part.byteLength;
      }
      view.setUint32(at, crc32(file.subarray(start, at)), true);
      at += CRC_BYTES;
    }
    return file;
  }
}

interface Section {
  /** For messages: `section "LAYR 3"`. */
  readonly name: string;
  /** A view on the file. */
  readonly body: Uint8Array;
}

/** The sections of a file, all checked: META, TOKS, then LAYR 0, 1, ... */
function readSections(bytes: Uint8Array, path: string): Section[] {
  if (bytes.length < HEADER_BYTES) {
    throw new FormatError(path, 'header', `is cut: ${bytes.length} bytes of ${HEADER_BYTES}`);
  }
  if (!MAGIC.every((byte, i) => bytes[i] === byte)) {
    throw new FormatError(path, 'magic', 'is not that of an xquant snapshot');
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = view.getUint32(8, true);
  if (version !== SNAPSHOT_VERSION) {
    throw new FormatError(path, 'version', `is ${version}; this package reads version ${SNAPSHOT_VERSION}`);
  }
  if (view.getUint32(28, true) !== crc32(bytes.subarray(0, 28))) {
    throw new FormatError(path, 'header', 'is damaged: its CRC-32 is wrong');
  }
  const size = Number(view.getBigUint64(16, true));
  if (size !== bytes.length) {
    throw new FormatError(path, 'size', `the file has ${bytes.length} bytes and should have ${size}`);
  }

  const count = view.getUint32(12, true);
  const sections: Section[] = [];
  let at = HEADER_BYTES;
  while (at < bytes.length) {
    const index = sections.length;
    const [tag, number] = index < 2 ? [['META', 'TOKS'][index], 0] : ['LAYR', index - 2];
    const name = `section "${tag} ${number}"`;
    const left = bytes.length - at - SECTION_HEADER_BYTES - CRC_BYTES;
    if (left < 0) throw new FormatError(path, name, 'is cut');
    const length = Number(view.getBigUint64(at + 8, true));
    if (length > left) {
      throw new FormatError(path, name, `claims ${length} bytes, of which ${left} are there`);
    }
    const end = at + SECTION_HEADER_BYTES + length;
    if (view.getUint32(end, true) !== crc32(bytes.subarray(at, end))) {
      throw new FormatError(path, name, 'is damaged: its CRC-32 is wrong');
    }
    const found = String.fromCharCode(...bytes.subarray(at, at + 4));
    if (found !== tag || view.getUint32(at + 4, true) !== number) {
      throw new FormatError(path, name, `expected, found "${found} ${view.getUint32(at + 4, true)}"`);
    }
    sections.push({ name, body: bytes.subarray(at + SECTION_HEADER_BYTES, end) });
    at = end + CRC_BYTES;
  }
  if (sections.length !== count || count < 2) {
    throw new FormatError(path, 'sections', `${count} announced, ${sections.length} found`);
  }
  return sections;
}

/** Takes one array after the other from a section, each no longer than what is left of it. */
class PartReader {
  readonly #section: Section;
  readonly #path: string;
  #at = 0;

  constructor(section: Section, path: string) {
    this.#section = section;
    this.#path = path;
  }

  /** @returns a copy of the next bytes in a buffer of their own */
  bytes(length: number): Uint8Array {
    const { body, name } = this.#section;
    const left = body.length - this.#at;
    if (length > left) {
      throw new FormatError(this.#path, name, `is too short: ${length} bytes needed, ${left} left`);
    }
    const part = new Uint8Array(length);
    part.set(body.subarray(this.#at, this.#at + length));
    this.#at += length;
    return part;
  }

  uint32(count: number): Uint32Array {
    return new Uint32Array(toLittleEndian(new Uint32Array(this.bytes(4 * count).buffer)).buffer);
  }

  /** f16 bits of finite numbers. */
  finiteFloat16(count: number, place: string): Uint16Array {
    const values = new Uint16Array(toLittleEndian(new Uint16Array(this.bytes(2 * count).buffer)).buffer);
    const bad = values.findIndex((bits) => (bits & 0x7c00) === 0x7c00);
    if (bad >= 0) this.#refuse(place, bad);
    return values;
  }

  float16Matrix(rows: number, columns: number, place: string): Float16Matrix {
    return { rows, columns, float16: this.finiteFloat16(rows * columns, place) };
  }

  float32Matrix(rows: number, columns: number, place: string): Matrix {
    const bytes = toLittleEndian(new Float32Array(this.bytes(4 * rows * columns).buffer));
    const data = new Float32Array(bytes.buffer);
    const bad = data.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) this.#refuse(place, bad);
    return { rows, columns, data };
  }

  /** Requires that everything was taken. */
  end(): void {
    const left = this.#section.body.length - this.#at;
    if (left > 0) throw new FormatError(this.#path, this.#section.name, `has ${left} bytes too many`);
  }

  #refuse(place: string, index: number): never {
    throw new FormatError(this.#path, this.#section.name, `${place}: number ${index} is not finite`);
  }
}

/**
 * The bytes of an array in little-endian order; of an array read from a file, the way back is the same.
 *
 * @returns a view on the array where the machine is little-endian, as nearly all are
 */
function toLittleEndian(part: Part): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(part.buffer as ArrayBuffer, part.byteOffset, part.byteLength);
  const size = part.BYTES_PER_ELEMENT;
  if (size === 1 || new Uint8Array(Uint16Array.of(1).buffer)[0] === 1) return bytes;
  const swapped = bytes.slice();
  for (let at = 0; at < swapped.length; at += size) swapped.subarray(at, at + size).reverse();
  return swapped;
}
