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
import { cacheLayout, layoutSizes } from '../cache/layout.js';
import type { CacheOptions, CacheRequest } from '../cache/options.js';
import { ConfigError, FormatError, XQuantError } from '../errors.js';
import type { LanguageModel } from '../model/language-model.js';
import type { ChatMessage } from '../text/chat-template.js';
import { crc32 } from './crc32.js';
import { layerParts, readLayer } from './snapshot-layers.js';
import { isCount, type Metadata, parseMetadata, type SnapshotInfo } from './snapshot-metadata.js';
import {
  PartReader,
  readFirstSections,
  readSections,
  type Section,
  SectionWriter,
  toLittleEndian,
} from './snapshot-sections.js';

/** The content of a snapshot. A `CachedSequence` has the first two. */
export interface SnapshotContent {
  readonly cache: ModelCache;
  /** Ids of what the cache holds, oldest first. */
  readonly tokens: readonly number[];
  /** Ids that follow and have not been run; see `Generation.pending`. */
  readonly pending?: readonly number[];
  /** How many of the ids, pending ones included, were generated; see `Generation.generated`. Default 0. */
  readonly generated?: number;
  /** Fingerprint of the model's weights, see io/fingerprint.ts. */
  readonly fingerprint: string;
  /** The conversation whose text the ids are, if it is one. */
  readonly messages?: readonly ChatMessage[];
}

/** A restored snapshot. */
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
  /** Fingerprint of its weights, see io/fingerprint.ts. */
  readonly fingerprint: string;
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
