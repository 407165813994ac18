/**
 * A set of characters, looked up in a table.
 *
 * @module
 */

import { PatternError } from './syntax.js';

/** Code points that have an entry in the table: the basic multilingual plane. */
const TABLE_SIZE = 0x10000;

/** Which characters a class of a pattern has. */
export class CharacterSet {
  readonly #pattern: RegExp;
  /** 0 not looked up yet, 1 no, 2 yes. */
  readonly #table = new Uint8Array(TABLE_SIZE);
  readonly #others = new Map<number, boolean>();

  /**
   * @param source a class in the syntax of JavaScript's flag `v`
   * @throws {PatternError} if JavaScript does not take it
   */
  constructor(source: string, ignoreCase: boolean) {
    try {
      this.#pattern = new RegExp(`^${source}$`, ignoreCase ? 'vi' : 'v');
    } catch (cause) {
      throw new PatternError(`has the class ${source}, which is not supported`, { cause });
    }
  }

  has(point: number): boolean {
    if (point >= TABLE_SIZE) return this.#hasOther(point);
    const known = this.#table[point];
    if (known !== 0) return known === 2;
    const found = this.#pattern.test(String.fromCharCode(point));
    this.#table[point] = found ? 2 : 1;
    return found;
  }

  #hasOther(point: number): boolean {
    let found = this.#others.get(point);
    if (found === undefined) {
      found = this.#pattern.test(String.fromCodePoint(point));
      this.#others.set(point, found);
    }
    return found;
  }
}
