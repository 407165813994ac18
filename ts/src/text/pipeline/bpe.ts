/**
 * Byte-pair encoding: a word starts as characters, and the pair of neighbours with the best rank is merged until no
 * merge applies (Sennrich et al. 2016, with a rank for each merge).
 *
 * Pairs wait in a heap, so a word of n characters takes n log n steps. SentencePiece vocabularies have no words: a
 * whole page is one.
 *
 * @module
 */

import { FormatError } from '../../errors.js';
import { MinHeap } from './min-heap.js';

/** The parts of a BPE model. */
export interface BpeModel {
  /** Ids by token. */
  readonly vocab: ReadonlyMap<string, number>;
  /** Best first. */
  readonly merges: readonly (readonly [string, string])[];
  /** Stands for characters without token. */
  readonly unknownId: number | undefined;
  /** Whether neighbouring unknown characters are one token. */
  readonly fuseUnknown: boolean;
  /** Whether characters without token are written as their UTF-8 bytes, `<0x0A>`. */
  readonly byteFallback: boolean;
  /** Whether a word that is a token is not taken apart. */
  readonly ignoreMerges: boolean;
}

/** Words that are kept with their ids, and the longest of them. */
const CACHE_SIZE = 20_000;
const CACHED_LENGTH = 64;

/** A heap entry is `rank * POSITIONS + position`, exact up to 2^53. */
const POSITIONS = 2 ** 28;

/** Encodes words. */
export class Bpe {
  readonly #model: BpeModel;
  readonly #ranks: PairTable;
  /** The token that a merge makes, by rank. */
  readonly #results: Int32Array;
  /** Ids of `<0x00>` to `<0xFF>`, absent unless all are needed and there. */
  readonly #byteIds: readonly (number | undefined)[];
  readonly #cache = new Map<string, readonly number[]>();

  /**
   * @param path for messages
   * @throws {FormatError} names a merge of which a part or the result is no token
   */
  constructor(model: BpeModel, path: string) {
    const { vocab, merges } = model;
    this.#model = model;
    this.#ranks = new PairTable(merges.length);
    this.#results = new Int32Array(merges.length);
    for (const [rank, [left, right]] of merges.entries()) {
      const ids = [left, right, left + right].map((token) => {
        const id = vocab.get(token);
        if (id !== undefined) return id;
        const shown = `merge ${rank}, ${JSON.stringify(left)} and ${JSON.stringify(right)}`;
        throw new FormatError(path, 'model.merges', `${shown}: there is no token ${JSON.stringify(token)}`);
      });
      this.#ranks.set(ids[0], ids[1], rank);
      this.#results[rank] = ids[2];
    }
    this.#byteIds = Array.from({ length: 256 }, (_, byte) =>
      vocab.get(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`),
    );
  }

  /** Ids of a word. */
  encode(word: string): readonly number[] {
    if (word.length > CACHED_LENGTH) return this.#encode(word);
    let ids = this.#cache.get(word);
    if (!ids) {
      ids = this.#encode(word);
      if (this.#cache.size >= CACHE_SIZE) this.#cache.clear();
      this.#cache.set(word, ids);
    }
    return ids;
  }

  #encode(word: string): readonly number[] {
    if (this.#model.ignoreMerges) {
      const id = this.#model.vocab.get(word);
      if (id !== undefined) return [id];
    }
    const symbols = this.#symbols(word);
    return symbols.length < 2 ? symbols : this.#merge(Int32Array.from(symbols));
  }

  /** One id a character. */
  #symbols(word: string): number[] {
    const { vocab, unknownId, fuseUnknown, byteFallback } = this.#model;
    const ids: number[] = [];
    let pendingUnknown = false;
    for (const character of word) {
      const id = vocab.get(character);
      if (id !== undefined) {
        if (pendingUnknown) ids.push(unknownId!);
        pendingUnknown = false;
        ids.push(id);
        continue;
      }
      const bytes = byteFallback ? this.#bytes(character) : undefined;
      if (bytes) ids.push(...bytes);
      else if (unknownId !== undefined) {
        if (pendingUnknown && !fuseUnknown) ids.push(unknownId);
        pendingUnknown = true;
      }
    }
    if (pendingUnknown) ids.push(unknownId!);
    return ids;
  }

  #bytes(character: string): number[] | undefined {
    const ids = Array.from(new TextEncoder().encode(character), (byte) => this.#byteIds[byte]);
    return ids.every((id) => id !== undefined) ? ids : undefined;
  }

  /**
   * Merges symbols in order of rank, the leftmost first.
   *
   * @param symbols changed
   */
  #merge(symbols: Int32Array): number[] {
    const { length } = symbols;
    const ranks = this.#ranks;
    const next = new Int32Array(length);
    const previous = new Int32Array(length);
    for (let at = 0; at < length; at++) {
      next[at] = at + 1 < length ? at + 1 : -1;
      previous[at] = at - 1;
    }
    const heap = new MinHeap(length);
    const offer = (at: number) => {
      if (at < 0 || next[at] < 0) return;
      const rank = ranks.get(symbols[at], symbols[next[at]]);
      if (rank >= 0) heap.push(rank * POSITIONS + at);
    };
    for (let at = 0; at + 1 < length; at++) offer(at);
    while (heap.size > 0) {
      const entry = heap.pop();
      const at = entry % POSITIONS;
      const made = this.#results[(entry - at) / POSITIONS];
      const right = next[at];
      // The entry is out of date if a neighbour was merged meanwhile, unless the same token still comes of it.
      if (symbols[at] < 0 || right < 0) continue;
      const rank = ranks.get(symbols[at], symbols[right]);
      if (rank < 0 || this.#results[rank] !== made) continue;
      symbols[at] = made;
      symbols[right] = -1;
      next[at] = next[right];
      if (next[at] >= 0) previous[next[at]] = at;
      offer(previous[at]);
      offer(at);
    }
    const ids: number[] = [];
    for (let at = 0; at >= 0; at = next[at]) ids.push(symbols[at]);
    return ids;
  }
}

/** Ranks by pairs of ids: a hash table with open addressing, a third of the size and time of a Map. */
class PairTable {
  readonly #mask: number;
  readonly #left: Int32Array;
  readonly #right: Int32Array;
  readonly #ranks: Int32Array;

  constructor(pairs: number) {
    const size = 2 ** Math.ceil(Math.log2(Math.max(8, pairs * 2)));
    this.#mask = size - 1;
    this.#left = new Int32Array(size).fill(-1);
    this.#right = new Int32Array(size);
    this.#ranks = new Int32Array(size);
  }

  /** A later rank of the same pair replaces the earlier one, as in Hugging Face's map. */
  set(left: number, right: number, rank: number): void {
    const slot = this.#slot(left, right);
    this.#left[slot] = left;
    this.#right[slot] = right;
    this.#ranks[slot] = rank;
  }

  /** @returns -1 if the pair has none */
  get(left: number, right: number): number {
    const slot = this.#slot(left, right);
    return this.#left[slot] < 0 ? -1 : this.#ranks[slot];
  }

  /** The slot of a pair, or the one that it would get. */
  #slot(left: number, right: number): number {
    const hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
    let slot = (hash ^ (hash >>> 15)) & this.#mask;
    while (this.#left[slot] >= 0 && (this.#left[slot] !== left || this.#right[slot] !== right)) {
      slot = (slot + 1) & this.#mask;
    }
    return slot;
  }
}
