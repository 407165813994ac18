/**
 * The running sum of XQuant-CL: A_i = A_(i-1) + D^_i, handed from layer to layer (XQuant §3.2, §4.3).
 *
 * It is scratch of one forward pass, shared by all layers of a sequence, and holds one [tokens, hiddenSize]
 * matrix for each sealed block, with a note which layer it has reached. A layer can read it only at its
 * turn. Three policies trade memory for work:
 *
 *     f32         kept as it is
 *     int8        kept in 8 bits per token, groups of 128: a quarter of the memory, no loss that shows
 *     recompute   not kept: base and deltas of the layers below are summed again whenever it is needed
 *
 * Whatever is stored *is* the accumulator: with `int8`, keys, values and later differences all come from
 * the rounded matrix, so that writing and reading agree.
 *
 * @module
 */

import { CacheStateError } from '../errors.js';
import { add, type Matrix } from '../numerics/matrix.js';
import { groupedSizes } from '../quant/grouped.js';
import { ACCUMULATOR_INT8 } from './layout.js';
import type { AccumulatorPolicy } from './options.js';
import type { StoredMatrix } from './state.js';
import { loadMatrix, storeMatrix } from './stored-matrix.js';

/** A layer that adds to the accumulator. */
export interface AccumulatingLayer {
  /** The layer's increment to the sum of a sealed block: its base X^ or its delta in full width. [tokens, hiddenSize] */
  increment(block: number): Matrix;
}

/** Bytes that the sum of a block takes. */
export function accumulatorBytes(policy: AccumulatorPolicy, rows: number, columns: number): number {
  switch (policy) {
    case 'f32':
      return rows * columns * 4;
    case 'int8': {
      const { groups, packedBytes } = groupedSizes(rows, columns, ACCUMULATOR_INT8);
      return packedBytes + 4 * groups;
    }
    case 'recompute':
      return 0;
  }
}

interface Entry {
  layer: number;
  stored: StoredMatrix;
}

/** One per sequence. */
export class Accumulator {
  readonly #policy: AccumulatorPolicy;
  readonly #baseLayer: number;
  readonly #layers = new Map<number, AccumulatingLayer>();
  #entries: (Entry | undefined)[] = [];

  /** @param baseLayer the layer whose X^ starts the sum */
  constructor(policy: AccumulatorPolicy, baseLayer: number) {
    this.#policy = policy;
    this.#baseLayer = baseLayer;
  }

  /** Registers a layer; `recompute` asks it for its increments. */
  register(layer: number, accumulating: AccumulatingLayer): void {
    this.#layers.set(layer, accumulating);
  }

  /**
   * The sum of a block up to and including `layer`, reading what the layer itself adds.
   *
   * @returns [tokens, hiddenSize], not to be written to
   * @throws {CacheStateError} if the layer below has not been read in this pass
   */
  through(layer: number, block: number): Matrix {
    const reached = this.#entries[block];
    if (reached?.layer === layer && layer !== this.#baseLayer) return loadMatrix(reached.stored);
    const own = this.#layer(layer).increment(block);
    return this.advance(layer, block, layer === this.#baseLayer ? own : add(this.below(layer, block), own));
  }

  /**
   * The sum of a block up to the layer below `layer`: what a difference is taken against.
   *
   * @returns [tokens, hiddenSize], not to be written to
   * @throws {CacheStateError} if the layer below has not been written or read in this pass
   */
  below(layer: number, block: number): Matrix {
    if (this.#policy === 'recompute') {
      let sum = this.#layer(this.#baseLayer).increment(block);
      for (let i = this.#baseLayer + 1; i < layer; i++) sum = add(sum, this.#layer(i).increment(block));
      return sum;
    }
    const entry = this.#entries[block];
    if (entry?.layer !== layer - 1) {
      const at = entry === undefined ? 'has not been started' : `stands at layer ${entry.layer}`;
      throw new CacheStateError(
        'xquant-cl',
        this.#entries.length,
        `use layer ${layer} of block ${block}`,
        `layers must be visited in order, and the accumulator ${at}`,
      );
    }
    return loadMatrix(entry.stored);
  }

  /**
   * Notes the sum of a block at `layer`.
   *
   * @param sum [tokens, hiddenSize], kept under policy `f32`
   * @returns the sum as later reads will see it
   */
  advance(layer: number, block: number, sum: Matrix): Matrix {
    if (this.#policy === 'recompute') return sum;
    const place = { layer, tensor: 'accumulator' };
    const stored = this.#policy === 'int8' ? storeMatrix(sum, ACCUMULATOR_INT8, place) : sum;
    this.#entries[block] = { layer, stored };
    return loadMatrix(stored);
  }

  /** Forgets the blocks from `block` on. */
  truncate(block: number): void {
    this.#entries.length = Math.min(this.#entries.length, block);
  }

  /** Bytes held now. */
  bytes(): number {
    let total = 0;
    for (const entry of this.#entries) {
      if (!entry) continue;
      const { stored } = entry;
      if ('packed' in stored) {
        total += stored.packed.byteLength + stored.scales.byteLength + stored.mins.byteLength;
      } else if ('data' in stored) {
        total += stored.data.byteLength;
      }
    }
    return total;
  }

  #layer(layer: number): AccumulatingLayer {
    const found = this.#layers.get(layer);
    if (!found) throw new RangeError(`layer ${layer} has no part in the accumulator`);
    return found;
  }
}
