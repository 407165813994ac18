/**
 * The metadata of a snapshot: section META, which is JSON.
 *
 * @module
 */

import { type CacheOptions, OPTION_KEYS, optionRow } from '../cache/options.js';
import { wantedInstead } from '../cache/presets.js';
import { FormatError } from '../errors.js';
import type { ChatMessage } from '../text/chat-template.js';
import { parseJsonObject } from './json.js';
import type { Section } from './snapshot-sections.js';

/** The description of a snapshot, from the snapshot itself. */
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

/** Everything in the section. */
export interface Metadata extends SnapshotInfo {
  readonly layers: number;
  /** CRC-32 of the calibration, which belongs to the model and is not in the file: ranges and levels of `kvquant`, or a plan. */
  readonly calibration?: number;
  readonly messages: readonly ChatMessage[];
}

/**
 * Reads the section.
 *
 * @param path for messages
 * @throws {FormatError} names the entry that is missing or wrong
 */
export function parseMetadata(section: Section, path: string): Metadata {
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

/** Whether a value is an integer from 0. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
