/**
 * Typed access to a JSON object of a file: a wrong type is an error that names the place.
 *
 * @module
 */

import { FormatError, UnsupportedModelError } from '../../errors.js';

/** A JSON object. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** Whether a JSON value is an object. */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** An object of a file with the place where it is. */
export class Fields {
  constructor(
    readonly json: JsonObject,
    /** File, for messages. */
    readonly path: string,
    /** Place in the file, for instance `'pre_tokenizer.pretokenizers[1]'`. */
    readonly place: string,
  ) {}

  /** @throws {FormatError} if a value is no object */
  static of(value: unknown, path: string, place: string): Fields {
    if (isObject(value)) return new Fields(value, path, place);
    throw new FormatError(path, place, `must be an object, got ${shown(value)}`);
  }

  /** The `type`. */
  get type(): string {
    return this.string('type');
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.json[name] ?? fallback;
    return typeof value === 'boolean' ? value : this.#wrong(name, 'true or false');
  }

  string(name: string, fallback?: string): string {
    const value = this.json[name] ?? fallback;
    return typeof value === 'string' ? value : this.#wrong(name, 'a text');
  }

  /** A count from 0. */
  count(name: string, fallback: number): number {
    const value = this.json[name] ?? fallback;
    const isCount = typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
    return isCount ? value : this.#wrong(name, 'a count');
  }

  /** Objects of a list. */
  list(name: string): Fields[] {
    const value = this.json[name];
    if (!Array.isArray(value)) return this.#wrong(name, 'a list');
    return value.map((each, i) => Fields.of(each, this.path, `${this.place}.${name}[${i}]`));
  }

  /** One of some texts. */
  oneOf<T extends string>(name: string, values: readonly T[], fallback?: T): T {
    const value = this.json[name] ?? fallback;
    return values.includes(value as T) ? (value as T) : this.#wrong(name, values.join(', '));
  }

  /** What this package does not have. */
  unsupported(feature: string, supported: string): UnsupportedModelError {
    return new UnsupportedModelError(this.path, `${this.place}: ${feature}`, supported);
  }

  error(name: string, reason: string): FormatError {
    return new FormatError(this.path, `${this.place}.${name}`, reason);
  }

  #wrong(name: string, wanted: string): never {
    throw this.error(name, `must be ${wanted}, got ${shown(this.json[name])}`);
  }
}

/** A value of a file as far as a message needs it. */
export function shown(value: unknown): string {
  const text = value === undefined ? 'nothing' : JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}
