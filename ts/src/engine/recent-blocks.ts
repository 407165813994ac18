/**
 * Keys and values of a few sealed blocks of one sequence, kept so that guesses at the next tokens need not rebuild
 * them: the first tokens of the text, without which attention is lost (sinks, arXiv 2309.17453), and the newest blocks.
 *
 * f16 [tokens, kvDim] each: keys before RoPE, otherwise finished; values without their bias, unless the cache stores
 * them as such. They are approximate, and nothing but guesses ever sees them.
 *
 * @module
 */

import type { Pointer } from './kernels.js';
import type { LinearMemory } from './memory.js';

/** Newest blocks that are kept. */
const NEWEST_BLOCKS = 3;

/** First tokens that are kept. */
const SINKS = 4;

/** A sealed block, or its first tokens. */
export interface BlockPart {
  readonly index: number;
  readonly tokens: number;
}

/** Kept keys and values. */
export interface RecentBlock extends BlockPart {
  readonly keys: Pointer;
  readonly values: Pointer;
}

/** The sealed blocks that guesses attend to. */
export function recentParts(blocks: number, residualWindow: number): BlockPart[] {
  const first = Math.max(0, blocks - NEWEST_BLOCKS);
  const newest = Array.from({ length: blocks - first }, (_, i) => ({
    index: first + i,
    tokens: residualWindow,
  }));
  return first === 0 ? newest : [{ index: 0, tokens: Math.min(SINKS, residualWindow) }, ...newest];
}

/** See the module. */
export class RecentBlocks {
  readonly #memory: LinearMemory;
  readonly #kvDim: number;
  readonly #layers: RecentBlock[][];

  constructor(memory: LinearMemory, kvDim: number, layers: number) {
    this.#memory = memory;
    this.#kvDim = kvDim;
    this.#layers = Array.from({ length: layers }, () => []);
  }

  /** Bytes of all layers. */
  get bytes(): number {
    return this.#layers.flat().reduce((sum, { tokens }) => sum + this.#bytes(tokens), 0);
  }

  /**
   * Keeps the parts that are wanted of a layer and no others.
   *
   * @returns all that are wanted, and those of them that have to be filled
   * @throws {MemoryError} if there is no room
   */
  keep(layer: number, parts: readonly BlockPart[]): { kept: readonly RecentBlock[]; fresh: RecentBlock[] } {
    const wanted = (block: BlockPart) =>
      parts.some(({ index, tokens }) => index === block.index && tokens === block.tokens);
    this.#free(layer, (block) => !wanted(block));
    const known = this.#layers[layer];
    const fresh: RecentBlock[] = [];
    for (const { index, tokens } of parts) {
      if (known.some((block) => block.index === index)) continue;
      const keys = this.#memory.allocate(this.#bytes(tokens), 'keys and values for guesses');
      const block = { index, tokens, keys, values: keys + this.#bytes(tokens) / 2 };
      known.push(block);
      fresh.push(block);
    }
    return { kept: known, fresh };
  }

  /** Forgets the blocks of a layer from `blocks` on. */
  truncate(layer: number, blocks: number): void {
    this.#free(layer, ({ index }) => index >= blocks);
  }

  /** Gives all memory back. */
  dispose(): void {
    for (const layer of this.#layers.keys()) this.truncate(layer, 0);
  }

  #free(layer: number, which: (block: RecentBlock) => boolean): void {
    for (const block of this.#layers[layer].filter(which)) this.#memory.free(block.keys);
    this.#layers[layer] = this.#layers[layer].filter((block) => !which(block));
  }

  #bytes(tokens: number): number {
    return 2 * tokens * this.#kvDim * 2;
  }
}
