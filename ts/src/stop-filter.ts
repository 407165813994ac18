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
   * @returns text that can be shown, and whether a stop string was found behind it
   */
  push(piece: string, last = false): { text: string; stopped: boolean } {
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
    const text = this.#held.slice(0, length);
    this.#held = forget ? '' : this.#held.slice(length);
    return text;
  }
}
