/**
 * Typed access to a parsed JSON file: a wrong type is an error that names file and key.
 *
 * @module
 */

import { FormatError, UnsupportedModelError } from '../errors.js';
import { describeValue } from '../printable.js';

/** A parsed JSON object. */
export type Json = Readonly<Record<string, unknown>>;

/** Whether a value is a JSON object. */
export function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Reads keys of one object of a JSON file; `null` counts as absent. */
export class JsonReader {
  /**
   * @param json the object
   * @param path of the file, for messages
   * @param prefix of the object inside the file, for messages
   */
  constructor(
    readonly json: Json,
    readonly path: string,
    private readonly prefix = '',
  ) {}

  has(key: string): boolean {
    return this.json[key] !== undefined && this.json[key] !== null;
  }

  /** @throws {FormatError} if it is no finite number, or absent without a fallback */
  number(key: string, fallback?: number): number {
    const value = this.json[key] ?? fallback;
    if (typeof value === 'number' && Number.isFinite(value)) return value;
    if (value === undefined) return this.missing(key);
    throw this.wrong(key, 'a number');
  }

  /** A number above 0. */
  positive(key: string, fallback?: number): number {
    const value = this.number(key, fallback);
    if (value > 0) return value;
    throw this.wrong(key, 'a positive number');
  }

  /** A count, if it is there. */
  count(key: string): number | undefined {
    if (!this.has(key)) return undefined;
    const value = this.json[key];
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 1) return value;
    throw this.wrong(key, 'a positive integer');
  }

  /** @throws {FormatError} if it is there and neither true nor false */
  flag(key: string, fallback = false): boolean {
    const value = this.json[key] ?? fallback;
    if (typeof value === 'boolean') return value;
    throw this.wrong(key, 'true or false');
  }

  /** A list of `length` values of one type, if it is there. */
  list<T extends number | string>(key: string, length: number, type: 'number' | 'string'): T[] | undefined {
    if (!this.has(key)) return undefined;
    const value = this.json[key];
    if (Array.isArray(value) && value.length === length && value.every((each) => typeof each === type)) {
      return value as T[];
    }
    throw this.wrong(key, `a list of ${length} ${type}s`);
  }

  /** A reader of an object inside this one, if it is there. */
  object(key: string): JsonReader | undefined {
    if (!this.has(key)) return undefined;
    const value = this.json[key];
    if (isObject(value)) return new JsonReader(value, this.path, `${this.prefix}${key}.`);
    throw this.wrong(key, 'an object');
  }

  /**
   * Requires a key to be absent or to have one of some values.
   *
   * @throws {UnsupportedModelError} names key, value and values
   */
  only(key: string, ...values: (string | number | boolean)[]): void {
    const value = this.json[key];
    if (value === undefined || value === null || (values as unknown[]).includes(value)) return;
    const allowed =
      values.length > 0 ? values.map((each) => JSON.stringify(each)).join(' or ') : 'models without it';
    throw new UnsupportedModelError(this.path, `"${this.prefix}${key}": ${describeValue(value)}`, allowed);
  }

  /** @throws {FormatError} always */
  missing(key: string): never {
    throw new FormatError(this.path, this.prefix + key, 'the key is missing');
  }

  /** @throws {UnsupportedModelError} always */
  refuse(what: string, supported: string): never {
    throw new UnsupportedModelError(this.path, what, supported);
  }

  private wrong(key: string, expected: string): FormatError {
    const value = describeValue(this.json[key]);
    return new FormatError(this.path, this.prefix + key, `must be ${expected}, got ${value}`);
  }
}
