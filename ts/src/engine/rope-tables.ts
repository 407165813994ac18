/**
 * Cosines and sines of the positions that passes have reached, in linear memory.
 *
 * @module
 */

import type { ModelConfig } from '../model/config.js';
import { layerRope, type Rope } from '../model/rope.js';
import type { RopeTables } from './calls.js';
import type { LinearMemory } from './memory.js';
import { placeFloats } from './placed-weights.js';

/** Tables start with this many positions and double. */
const FIRST_POSITIONS = 1024;

/** The tables of a model's layers, which grow with the longest sequence. */
export class LayerRopeTables {
  readonly #memory: LinearMemory;
  readonly #config: ModelConfig;
  #positions = 0;
  /** Tables of each layer; layers that rotate alike share them. */
  #tables: readonly RopeTables[] = [];

  /** Takes no memory yet. */
  constructor(memory: LinearMemory, config: ModelConfig) {
    this.#memory = memory;
    this.#config = config;
  }

  /** Tables of each layer. */
  get tables(): readonly RopeTables[] {
    return this.#tables;
  }

  /** Bytes of linear memory. */
  get bytes(): number {
    return new Set(this.#tables).size * this.#positions * this.#config.headDim * 4;
  }

  /**
   * Makes tables for positions up to `length`, and to the end of its block.
   *
   * @throws {MemoryError} if there is no room
   */
  reserve(length: number, residualWindow: number): void {
    const needed = Math.ceil(length / residualWindow) * residualWindow;
    if (needed <= this.#positions) return;
    let positions = Math.max(FIRST_POSITIONS, this.#positions);
    while (positions < needed) positions *= 2;
    const memory = this.#memory;
    for (const { cos, sin } of new Set(this.#tables)) for (const table of [cos, sin]) memory.free(table);
    this.#positions = 0;
    this.#tables = [];
    const kinds = new Map<string, RopeTables>();
    try {
      this.#tables = Array.from({ length: this.#config.numHiddenLayers }, (_, layer) => {
        const rope = layerRope(this.#config, layer);
        const kind = `${rope.frequencies} ${rope.magnitudes}`;
        const tables = kinds.get(kind) ?? placeRopeTables(memory, rope, positions);
        kinds.set(kind, tables);
        return tables;
      });
    } catch (error) {
      this.#tables = [...kinds.values()]; // freed by the next attempt
      throw error;
    }
    this.#positions = positions;
  }
}

/** Cosines and sines of the angles of positions, times the magnitudes of their pairs. */
function placeRopeTables(
  memory: LinearMemory,
  { frequencies, magnitudes }: Rope,
  positions: number,
): RopeTables {
  const pairs = frequencies.length;
  const cos = new Float32Array(positions * pairs);
  const sin = new Float32Array(positions * pairs);
  for (let p = 0, at = 0; p < positions; p++) {
    for (let i = 0; i < pairs; i++, at++) {
      const magnitude = magnitudes?.[i] ?? 1;
      cos[at] = Math.cos(p * frequencies[i]) * magnitude;
      sin[at] = Math.sin(p * frequencies[i]) * magnitude;
    }
  }
  const purpose = 'RoPE tables';
  return { cos: placeFloats(memory, cos, purpose), sin: placeFloats(memory, sin, purpose) };
}
