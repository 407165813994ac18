/**
 * Typed access to the metadata of a GGUF file: a wrong type is an error that names the key.
 *
 * @module
 */

import { FormatError, UnsupportedModelError } from '../errors.js';
import type { GgufHeader } from './gguf-header.js';

/** Reads metadata: methods without `Of` take the end of a key, after the name of the architecture. */
export class GgufMetadata {
  /** `general.architecture`. */
  readonly architecture: string;

  /**
   * @param header of the file
   * @param path for messages
   * @throws {FormatError} if there is no architecture
   */
  constructor(
    private readonly header: GgufHeader,
    readonly path: string,
  ) {
    this.architecture = this.textOf('general.architecture') ?? this.missing('general.architecture');
  }

  /** A text, if it is there. */
  textOf(key: string): string | undefined {
    const value = this.header.metadata.get(key);
    if (value === undefined || typeof value === 'string') return value;
    throw this.wrongType(key, 'a string');
  }

  /** A number, if it is there; a list of equal numbers (one per layer) counts as that number. */
  numberOf(key: string): number | undefined {
    const value = this.header.metadata.get(key);
    if (value === undefined || typeof value === 'number') return value;
    if (typeof value === 'object' && value.length > 0 && typeof value[0] === 'number') {
      const list = Array.from(value as ArrayLike<number>);
      if (list.every((each) => each === list[0])) return list[0];
      const shown = `"${key}" = [${list.slice(0, 8).join(', ')}, ...]`;
      throw new UnsupportedModelError(this.path, shown, 'one value for all layers');
    }
    throw this.wrongType(key, 'a number');
  }

  text(suffix: string): string | undefined {
    return this.textOf(this.key(suffix));
  }

  number(suffix: string): number | undefined {
    return this.numberOf(this.key(suffix));
  }

  requiredNumber(suffix: string): number {
    return this.number(suffix) ?? this.missing(this.key(suffix));
  }

  /** A count, if it is there. */
  size(suffix: string): number | undefined {
    const value = this.number(suffix);
    if (value === undefined || (Number.isSafeInteger(value) && value >= 0)) return value;
    throw new FormatError(this.path, this.key(suffix), `must be a size, got ${value}`);
  }

  requiredSize(suffix: string): number {
    return this.size(suffix) ?? this.missing(this.key(suffix));
  }

  /** A factor, if it is there; 0 means that it is not, as in llama.cpp. */
  factor(suffix: string): number | undefined {
    const value = this.number(suffix);
    if (value === undefined || value === 0) return undefined;
    if (value > 0 && Number.isFinite(value)) return value;
    throw new FormatError(this.path, this.key(suffix), `must be a positive number, got ${value}`);
  }

  /** The window of sliding layers, if the file has one. */
  window(): number | undefined {
    return this.size('attention.sliding_window') || undefined;
  }

  /** The window of sliding layers. */
  requiredWindow(): number {
    return this.window() ?? this.missing(this.key('attention.sliding_window'));
  }

  /** Which layers slide, if the file says: a list, or the distance between layers that see everything. */
  windowPattern(layers: number): ((layer: number) => boolean) | undefined {
    const key = this.key('attention.sliding_window_pattern');
    const value = this.header.metadata.get(key);
    if (value === undefined) return undefined;
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 1) {
      return (layer) => (layer + 1) % value !== 0;
    }
    if (typeof value === 'object' && value.length === layers) return (layer) => Boolean(value[layer]);
    throw this.wrongType(key, `a count or a list of ${layers}`);
  }

  /**
   * Requires a key to be absent or to have one of some values.
   *
   * @throws {UnsupportedModelError} names key and value
   */
  only(suffix: string, ...values: (number | boolean | string)[]): void {
    const value = this.header.metadata.get(this.key(suffix));
    if (value === undefined || (values as unknown[]).includes(value)) return;
    const shown = typeof value === 'object' ? 'a list' : String(value);
    const allowed = values.length > 0 ? values.join(' or ') : 'models without it';
    throw new UnsupportedModelError(this.path, `${this.key(suffix)} = ${shown}`, allowed);
  }

  /** The whole key. */
  key(suffix: string): string {
    return `${this.architecture}.${suffix}`;
  }

  private missing(key: string): never {
    throw new FormatError(this.path, key, 'the metadata key is missing');
  }

  private wrongType(key: string, expected: string): FormatError {
    const value = this.header.metadata.get(key);
    const actual = typeof value === 'object' ? 'a list' : `a ${typeof value}`;
    return new FormatError(this.path, key, `must be ${expected}, got ${actual}`);
  }
}
