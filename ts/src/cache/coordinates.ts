/**
 * The coordinates y that layers of a calibrated `xquant-cl` pass on: those of a block, reconstructed, from which the layers
 * above are predicted. It takes the place of the sum of XQuant §3.2.
 *
 * Like that sum it is scratch of one forward pass, shared by all layers, and layers must be visited in order. It keeps as many
 * layers as a prediction needs, in f32. Tokens that are kept exactly in every layer (`sinks`) have no coordinates.
 *
 * @module
 */

import { CacheStateError } from '../errors.js';
import type { Matrix } from '../numerics/matrix.js';

/** The layers of one block that have been visited last. */
interface Entry {
  layer: number;
  /** Coordinates of `layer` and of the layers below it, the highest first. */
  coordinates: readonly Matrix[];
}

/** One per sequence. */
export class Coordinates {
  readonly #depth: number;
  #entries: (Entry | undefined)[] = [];

  /** @param depth layers that a prediction reads: 0, 1 or 2; with 0 nothing is kept and there is no order */
  constructor(depth: number) {
    this.#depth = depth;
  }

  /**
   * The coordinates of a layer, if it is the one that was visited last. Layer 0 starts a pass and is always computed.
   *
   * @returns [tokens, n], not to be written to
   */
  at(layer: number, block: number): Matrix | undefined {
    const entry = this.#entries[block];
    return layer > 0 && entry?.layer === layer ? entry.coordinates[0] : undefined;
  }

  /**
   * The coordinates that a layer is predicted from, the nearest layer first; fewer in the lowest layers.
   *
   * @returns [tokens, n] each, not to be written to
   * @throws {CacheStateError} if the layer below has not been written or read in this pass
   */
  below(layer: number, block: number): readonly Matrix[] {
    if (layer === 0 || this.#depth === 0) return [];
    const entry = this.#entries[block];
    if (entry?.layer !== layer - 1) {
      const at = entry === undefined ? 'no layer has been visited' : `the last one was layer ${entry.layer}`;
      throw new CacheStateError(
        'xquant-cl',
        this.#entries.length,
        `use layer ${layer} of block ${block}`,
        `layers must be visited in order, and ${at}`,
      );
    }
    return entry.coordinates;
  }

  /**
   * Notes the coordinates of a layer.
   *
   * @param coordinates y, [tokens, n], kept
   */
  advance(layer: number, block: number, coordinates: Matrix): void {
    if (this.#depth === 0) return;
    const below = layer === 0 ? [] : (this.#entries[block]?.coordinates ?? []);
    this.#entries[block] = { layer, coordinates: [coordinates, ...below].slice(0, this.#depth) };
  }

  /** Forgets the blocks from `block` on. */
  truncate(block: number): void {
    this.#entries.length = Math.min(this.#entries.length, block);
  }

  /** Bytes held now. */
  bytes(): number {
    return this.#entries.reduce(
      (sum, entry) => sum + (entry?.coordinates.reduce((part, { data }) => part + data.byteLength, 0) ?? 0),
      0,
    );
  }
}
