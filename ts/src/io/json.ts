/**
 * JSON of files that anybody may have written: of bounded depth, with strings of bounded length, so that nothing that
 * looks at it later runs out of stack or shows a megabyte of name.
 *
 * @module
 */

import { FormatError } from '../errors.js';
import { messageOf } from '../printable.js';
import { isObject, type Json } from './json-reader.js';

/** Objects and lists inside each other; real files have less than 20. */
const MAX_JSON_DEPTH = 64;

/** Longest key, in characters. */
const MAX_JSON_KEY = 2 ** 16;

/** Longest string, in characters: room for any chat template or precompiled normalizer. */
const MAX_JSON_STRING = 2 ** 24;

/**
 * Parses JSON that must be an object.
 *
 * @param path of the file, for messages
 * @param place in the file, for messages
 * @throws {FormatError} if it is not JSON, not an object, too deep, or has a key or string that is too long
 */
export function parseJsonObject(text: string, path: string, place = 'content'): Json {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(path, place, `is not JSON: ${messageOf(cause)}`, { cause });
  }
  if (!isObject(value)) throw new FormatError(path, place, 'must be a JSON object');
  const problem = findExcess(value);
  if (problem) throw new FormatError(path, place, problem);
  return value;
}

/** How a value exceeds the limits, in words. Without recursion: the value may be as deep as the file is long. */
function findExcess(root: object): string | undefined {
  let level: object[] = [root];
  for (let depth = 1; level.length > 0; depth++) {
    if (depth > MAX_JSON_DEPTH) return `is nested more than ${MAX_JSON_DEPTH} deep`;
    const next: object[] = [];
    for (const container of level) {
      const values = Array.isArray(container) ? container : Object.values(container);
      if (values !== container && Object.keys(container).some((key) => key.length > MAX_JSON_KEY)) {
        return `has a key of more than ${MAX_JSON_KEY} characters`;
      }
      for (const value of values) {
        if (typeof value === 'object' && value !== null) next.push(value);
        else if (typeof value === 'string' && value.length > MAX_JSON_STRING) {
          return `has a string of more than ${MAX_JSON_STRING} characters`;
        }
      }
    }
    level = next;
  }
  return undefined;
}
