/**
 * A cache in a file: saved in the middle of a text, restored later, by another backend or on another machine, and
 * continued with the same tokens. `docs/format.md` draws every byte.
 *
 *     META    JSON: model, cache options, lengths
 *     TOKS    token ids
 *     LAYR    one section for each layer: the bytes that its cache holds
 *
 * So a snapshot is hardly larger than the cache, and the same whichever backend wrote it. What a file claims is
 * compared with the model and with the bytes that are there before anything is made from it.
 *
 * @module
 */

import type { CalibratedPlan } from '../cache/calibration.js';
import type { ModelCache } from '../cache/contract.js';
import { KvquantCache } from '../cache/kvquant.js';
import {
  cacheLayout,
  exactFormat,
  type LayerLayout,
  layoutSizes,
  type SealedFormat,
  sinkName,
  sinksOf,
  type TensorLayout,
  type WindowTensor,
} from '../cache/layout.js';
import { type CacheOptions, type CacheRequest, OPTION_KEYS, optionRow } from '../cache/options.js';
import { wantedInstead } from '../cache/presets.js';
import type { LayerState, SealedBlock, StoredMatrix } from '../cache/state.js';
import { ConfigError, FormatError, XQuantError } from '../errors.js';
import type { LanguageModel } from '../model/language-model.js';
import { groupedSizes } from '../quant/grouped.js';
import type { NuqFormat, NuqMatrix } from '../quant/nuq.js';
import { packedBytes } from '../quant/pack.js';
import { symmetricSizes } from '../quant/symmetric.js';
import type { ChatMessage } from '../text/chat-template.js';
import { crc32 } from './crc32.js';
import { parseJsonObject } from './json.js';
import {
  type Part,
  PartReader,
  readFirstSections,
  readSections,
  type Section,
  SectionWriter,
  toLittleEndian,
} from './snapshot-sections.js';

/** What is saved. A `CachedSequence` has the first two. */
export interface SnapshotContent {
  readonly cache: ModelCache;
  /** Ids of what the cache holds, oldest first. */
  readonly tokens: readonly number[];
  /** Ids that follow and have not been run; see `Generation.pending`. */
  readonly pending?: readonly number[];
  /** How many of the ids, pending ones included, were generated; see `Generation.generated`. Default 0. */
  readonly generated?: number;
  /** Of the model's weights, see io/fingerprint.ts. */
  readonly fingerprint: string;
  /** The conversation whose text the ids are, if it is one. */
  readonly messages?: readonly ChatMessage[];
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
  /** How many of all these tokens were generated: the newest ones. */
  readonly generated: number;
}

/** What a snapshot becomes. */
export interface RestoredSnapshot {
  readonly cache: ModelCache;
  /** Ids of what the cache holds: with `cache`, what a `CachedSequence` is made of. */
  readonly tokens: readonly number[];
  /** Ids that follow and have not been run. */
  readonly pending: readonly number[];
  /** How many of the ids, pending ones included, were generated; see `GenerateOptions.generatedBefore`. */
  readonly generated: number;
  /** The conversation whose text the ids are; empty if it is none. */
  readonly messages: readonly ChatMessage[];
}

/** The model that a snapshot is restored for. */
export interface SnapshotOwner {
  readonly model: LanguageModel;
  /** Of its weights, see io/fingerprint.ts. */
  readonly fingerprint: string;
}

interface Metadata extends SnapshotInfo {
  readonly layers: number;
  /** Of what belongs to the model and is not in the file, ranges and levels of `kvquant` or a calibrated plan: CRC-32. */
  readonly calibration?: number;
  readonly messages: readonly ChatMessage[];
}

/**
 * Writes a cache to the bytes of a file.
 *
 * @param content read; nothing of it is kept
 * @returns fresh
 * @throws {ConfigError} if there are more or fewer ids than tokens in the cache, or more were generated than there are
 *
 * @example
 * ```ts
 * const { model, tokenizer, file } = await loadModel('books-mha');
 * const generation = generate(model, tokenizer, 'Call me', { maxTokens: 5 });
 * await generation.finish();
 * const { sequence, pending, generated } = generation;
 * const { cache, tokens } = sequence;
 * const bytes = writeSnapshot({ cache, tokens, pending, generated, fingerprint: file.fingerprint });
 * ```
 */
export function writeSnapshot(content: SnapshotContent): Uint8Array {
  const { cache, tokens, pending = [], generated = 0, fingerprint, messages = [] } = content;
  if (tokens.length !== cache.length) {
    throw new ConfigError('tokens', `${tokens.length} ids`, `the ${cache.length} ids that the cache holds`);
  }
  if (!(isCount(generated) && generated <= tokens.length + pending.length)) {
    throw new ConfigError(
      'generated',
      generated,
      `from 0 to the number of ids, ${tokens.length + pending.length}`,
    );
  }
  const metadata: Partial<Metadata> = {
    model: fingerprint,
    layers: cache.layers.length,
    length: cache.length,
    pending: pending.length,
    generated,
    messages: messages.length > 0 ? messages : undefined,
    options: cache.options,
    calibration: calibrationCrc(cache),
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
  const {
    layers: _layers,
    calibration: _calibration,
    messages: _messages,
    ...info
  } = parseMetadata(readSections(bytes, path)[0], path);
  return info;
}

/**
 * Reads what a snapshot says about itself and its ids, from the beginning of the file. What follows them is not looked
 * at, so it may still be damaged.
 *
 * @param bytes the beginning of a file, with at least its first two sections
 * @param path for messages
 * @returns with all ids, those that have not been run included
 * @throws {FormatError} if it is no snapshot, of another version, cut or damaged; names the place
 */
export function readSnapshotHead(
  bytes: Uint8Array,
  path: string,
): SnapshotInfo & { readonly tokens: readonly number[] } {
  const sections = readFirstSections(bytes, path);
  const {
    layers: _layers,
    calibration: _calibration,
    messages: _messages,
    ...info
  } = parseMetadata(sections[0], path);
  const reader = new PartReader(sections[1], path);
  const tokens = Array.from(reader.uint32(info.length + info.pending));
  reader.end();
  return { ...info, tokens };
}

/**
 * Requires that a snapshot belongs to a model.
 *
 * @param path for messages
 * @param fingerprint of the model
 * @throws {FormatError} if it belongs to another one
 */
export function assertSnapshotModel({ model }: SnapshotInfo, path: string, fingerprint: string): void {
  if (model === fingerprint) return;
  throw new FormatError(
    path,
    'model',
    `the snapshot belongs to model ${model}, not to this one (${fingerprint})`,
  );
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
  assertSnapshotModel(metadata, path, fingerprint);
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
  const crc = calibrationCrc(cache);
  // With the identity quantizer kvquant needs no calibration, though older files name one.
  const needsNone = cache.options.variant === 'kvquant' && crc === undefined;
  if (!needsNone && metadata.calibration !== crc) {
    throw new FormatError(path, 'calibration', 'the snapshot was made with another calibration');
  }
  const layouts = cacheLayout(cache.options, layoutSizes(config), cache.calibrated);
  const states = layouts.map((layout, index) => {
    const reader = new PartReader(sections[index + 2], path);
    return readLayer(reader, layout, cache.options, metadata.length);
  });
  for (const [index, state] of states.entries()) cache.layers[index].restore(state);
  const { length, generated, messages } = metadata;
  return { cache, tokens: ids.slice(0, length), pending: ids.slice(length), generated, messages };
}

/** Everything that a layer holds, in the order in which it is written. */
function layerParts({ blocks, window }: LayerState): Part[] {
  return [...blocks, window].flatMap((tensors) => Object.values(tensors).flatMap(matrixParts));
}

function matrixParts(stored: StoredMatrix): Part[] {
  if ('packed' in stored) return [stored.packed, stored.scales, stored.mins];
  if ('rowCodes' in stored) return nuqParts(stored);
  if ('channelCodes' in stored) return [stored.channelCodes, stored.scales];
  return ['float16' in stored ? stored.float16 : stored.data];
}

/** Rows of `kvquant`; how many outliers there are is nowhere else. */
function nuqParts(rows: NuqMatrix): Part[] {
  const parts = [rows.rowCodes, rows.centers, rows.radii];
  if (rows.outlierStarts.length === 0) return parts;
  const { outlierStarts, outlierChannels, outlierValues } = rows;
  return [...parts, outlierStarts, Uint32Array.of(outlierValues.length), outlierChannels, outlierValues];
}

/**
 * CRC-32 of all ranges and levels that a `kvquant` cache is read with, or of the plan of a calibrated one; none if it reads
 * without.
 */
function calibrationCrc(cache: ModelCache): number | undefined {
  if (cache.calibrated) return planCrc(cache.calibrated);
  const layers = cache.layers.filter((layer) => layer instanceof KvquantCache);
  if (layers.length === 0) return undefined;
  const numbers = layers.flatMap((layer) => {
    const { keyRanges, keys, values } = layer.calibration;
    const qNorms = [keys.qNorm, values.qNorm].flatMap(({ scale, shift }) => [scale, shift]);
    return [...keyRanges.lower, ...keyRanges.upper, ...keys.levels, ...values.levels, ...qNorms];
  });
  return crc32(toLittleEndian(Float32Array.from(numbers)));
}

const crcOfPlan = new WeakMap<CalibratedPlan, number>();

function planCrc(plan: CalibratedPlan): number {
  let crc = crcOfPlan.get(plan);
  if (crc === undefined) {
    const parts = plan.set.layers.flatMap(({ decode, predict, offset }, layer) => {
      const matrices = [decode, ...predict].map(({ float16 }) => float16);
      return [Uint8Array.from(plan.channelBits[layer]), offset, ...matrices];
    });
    crc = crc32(toLittleEndian(Uint32Array.from(parts, (part) => crc32(toLittleEndian(part)))));
    crcOfPlan.set(plan, crc);
  }
  return crc;
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
  { sealed, window }: LayerLayout,
  options: CacheOptions,
  length: number,
): LayerState {
  const { residualWindow } = options;
  const format = exactFormat(options);
  const exact = ({ name, columns }: WindowTensor, rows: number, label: string, place: string): NamedTensor =>
    readTensor(reader, { name: label, columns, format }, rows, `${place}, ${name}`);
  const blockCount = Math.floor(length / residualWindow);
  const windowTokens = length - blockCount * residualWindow;
  const blocks: SealedBlock[] = [];
  for (let block = 0; block < blockCount; block++) {
    const place = `block ${block}`;
    const sinks = sinksOf(options, block);
    const tensors = [
      ...(sinks > 0 ? window.map((tensor) => exact(tensor, sinks, sinkName(tensor.name), place)) : []),
      ...sealed.map((tensor) =>
        readTensor(reader, tensor, residualWindow - sinks, `${place}, ${tensor.name}`),
      ),
    ];
    blocks.push(Object.fromEntries(tensors));
  }
  const rest = window.map((tensor) => exact(tensor, windowTokens, tensor.name, 'window'));
  reader.end();
  return { length, blocks, window: Object.fromEntries(rest) as LayerState['window'] };
}

type NamedTensor = readonly [string, StoredMatrix];

function readTensor(
  reader: PartReader,
  { name, columns, format }: TensorLayout<SealedFormat>,
  rows: number,
  place: string,
): NamedTensor {
  if (format === 'f16') return [name, reader.float16Matrix(rows, columns, place)];
  if (format === 'f32') return [name, reader.float32Matrix(rows, columns, place)];
  if ('rowRanges' in format) return [name, readNuq(reader, columns, format, rows, place)];
  if ('tokenBits' in format) throw new TypeError('a layout without a plan');
  if ('channelBits' in format) {
    const { groups, codeBytes } = symmetricSizes(rows, format);
    const channelCodes = reader.bytes(codeBytes);
    const scales = reader.finiteFloat16(groups, `${place}, scales`);
    return [name, { rows, columns, groupSize: format.groupSize, channelCodes, scales }];
  }
  const { bits, groupSize, grouping } = format;
  const sizes = groupedSizes(rows, columns, format);
  const packed = reader.bytes(sizes.packedBytes);
  const scales = reader.finiteFloat16(sizes.groups, `${place}, scales`);
  const mins = reader.finiteFloat16(sizes.groups, `${place}, mins`);
  return [name, { rows, columns, bits, groupSize, grouping, packed, scales, mins }];
}

function readNuq(
  reader: PartReader,
  columns: number,
  { bits, outlierFraction, rowRanges }: NuqFormat,
  rows: number,
  place: string,
): NuqMatrix {
  const ranges = rowRanges ? rows : 0;
  const isSparse = outlierFraction > 0;
  const rowCodes = reader.bytes(rows * packedBytes(columns, bits));
  const centers = reader.finiteFloat16(ranges, `${place}, centers`);
  const radii = reader.finiteFloat16(ranges, `${place}, radii`);
  const outlierStarts = reader.uint32(isSparse ? rows : 0);
  const outliers = isSparse ? reader.uint32(1)[0] : 0;
  const outlierChannels = reader.uint16(outliers);
  const outlierValues = reader.finiteFloat16(outliers, `${place}, outliers`);
  for (let token = 0; token < outlierStarts.length; token++) {
    const start = outlierStarts[token];
    const end = token + 1 < rows ? outlierStarts[token + 1] : outliers;
    if (end < start || end > outliers || (token === 0 && start !== 0)) {
      reader.refuse(place, `outliers of token ${token} are from ${start} to ${end}`);
    }
    for (let i = start; i < end; i++) {
      const channel = outlierChannels[i];
      if (channel >= columns || (i > start && channel <= outlierChannels[i - 1])) {
        reader.refuse(place, `outlier ${i} is at channel ${channel}`);
      }
    }
  }
  return { rows, columns, bits, rowCodes, centers, radii, outlierStarts, outlierChannels, outlierValues };
}

function parseMetadata(section: Section, path: string): Metadata {
  const { name } = section;
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(section.body);
  } catch (cause) {
    throw new FormatError(path, name, 'is not JSON', { cause });
  }
  const json = parseJsonObject(text, path, name);
  const { model, layers, length, pending, generated, options, calibration, messages } = json;
  if (typeof model !== 'string' || !/^[0-9a-f]{16}$/.test(model)) {
    throw new FormatError(path, `${name} "model"`, 'must be 16 hexadecimal digits');
  }
  for (const [key, value] of Object.entries({
    layers,
    length,
    pending,
    generated,
    calibration: calibration ?? 0,
  })) {
    if (!isCount(value)) throw new FormatError(path, `${name} "${key}"`, 'must be an integer from 0');
  }
  if ((generated as number) > (length as number) + (pending as number)) {
    throw new FormatError(path, `${name} "generated"`, 'must not be more than there are tokens');
  }
  return {
    ...{ model, layers, length, pending, generated, calibration },
    options: parseOptions(options, name, path),
    messages: parseMessages(messages, name, path),
  } as Metadata;
}

/** Files of version 1 that were written before there were conversations in them have none. */
function parseMessages(messages: unknown, section: string, path: string): readonly ChatMessage[] {
  if (messages === undefined) return [];
  if (!Array.isArray(messages)) throw new FormatError(path, `${section} "messages"`, 'must be a list');
  for (const [index, message] of (messages as Partial<ChatMessage>[]).entries()) {
    if (typeof message?.role === 'string' && typeof message.content === 'string') continue;
    throw new FormatError(path, `${section} message ${index}`, 'must have a role and a content, both text');
  }
  return messages;
}

/** The options of a file. An option that is newer than the file is missing there and gets its `absent` value. */
function parseOptions(options: unknown, section: string, path: string): CacheOptions {
  if (typeof options !== 'object' || options === null) {
    throw new FormatError(path, `${section} "options"`, 'must be an object');
  }
  const parsed: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(options)) {
    const place = `${section} option "${name}"`;
    const key = OPTION_KEYS.find((each) => each === name || optionRow(each).formerly === name);
    if (!key && name !== 'variant') throw new FormatError(path, place, 'is not known');
    const wanted = wantedInstead(key ?? 'variant', value);
    if (wanted) throw new FormatError(path, place, `must be ${wanted}`);
    parsed[key ?? 'variant'] = value;
  }
  for (const key of OPTION_KEYS) parsed[key] ??= optionRow(key).absent;
  return parsed as unknown as CacheOptions;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
