/**
 * Stop strings in a stream of text: none of them is shown, nor the beginning of one.
 *
 * @module
 */

import { ConfigError } from './errors.js';

/** Lets text through, but for stop strings and what may be the beginning of one. */
export class StopFilter {
  readonly #stops: readonly string[];
  #held = '';
  /** Parts of what is held that are looked through but not shown: the spelling of special tokens. */
  #hidden: { start: number; end: number }[] = [];

  /**
   * @param stops not empty strings
   * @throws {ConfigError} if one is empty
   */
  constructor(stops: readonly string[]) {
    for (const stop of stops) {
      if (typeof stop !== 'string' || stop === '') throw new ConfigError('stop', stop, 'a string, not empty');
    }
    this.#stops = stops;
  }

  /**
   * Takes the next piece of text.
   *
   * @param last whether no more will come: what was held back is given out
   * @param hidden text before the piece that is not shown, but may be part of a stop string
   * @returns text that can be shown, and whether a stop string was found after it
   */
  push(piece: string, last = false, hidden = ''): { text: string; stopped: boolean } {
    if (hidden !== '' && this.#stops.length > 0) {
      this.#hidden.push({ start: this.#held.length, end: this.#held.length + hidden.length });
      this.#held += hidden;
    }
    this.#held += piece;
    const found = this.#stops.map((stop) => this.#held.indexOf(stop)).filter((at) => at >= 0);
    if (found.length > 0) return { text: this.#release(Math.min(...found), true), stopped: true };
    return { text: this.#release(last ? this.#held.length : this.#safeLength(), last), stopped: false };
  }

  /** Length of the held text up to the first place where a stop string could begin. */
  #safeLength(): number {
    for (let at = 0; at < this.#held.length; at++) {
      const rest = this.#held.slice(at);
      if (this.#stops.some((stop) => stop.startsWith(rest))) return at;
    }
    return this.#held.length;
  }

  #release(length: number, forget: boolean): string {
    let text = '';
    let at = 0;
    for (const { start, end } of this.#hidden) {
      if (start >= length) break;
      text += this.#held.slice(at, start);
      at = Math.min(end, length);
    }
    text += this.#held.slice(at, length);
    this.#held = forget ? '' : this.#held.slice(length);
    this.#hidden = this.#hidden
      .filter(({ end }) => !forget && end > length)
      .map(({ start, end }) => ({ start: Math.max(0, start - length), end: end - length }));
    return text;
  }
}
