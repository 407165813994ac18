/**
 * Sealing by absolute position, and the residual window: what all caches have in common (XQuant §4).
 *
 *     positions   0 .. 3 | 4 .... 127 | 128 ....... 255 | 256 ... 301
 *                 sealed block 0      | sealed block 1  | window, f16
 *                 sinks  | quantized  |
 *
 * The newest tokens stay unquantized until a whole block of `residualWindow` tokens is complete; then the
 * block is sealed. Which block a token belongs to depends on its position alone, and every token passes
 * through the f16 of the window, also when a block arrives whole. So appending one by one, in chunks or
 * all at once gives the same bytes.
 *
 * The first token of a text is often unlike all others and spoils every group that it is part of. Option `sinks` keeps
 * the first positions in f16: their rows are part of block 0, but of none of its groups.
 *
 * @module
 */

import { CacheStateError } from '../errors.js';
import { concatRows, type Matrix, matrix, rowRange } from '../numerics/matrix.js';
import type { CacheBytes, KeysAndValues, LayerCache, LayerInput } from './contract.js';
import { exactFormat, type LayerLayout, sinkName, sinksOf } from './layout.js';
import type { CacheOptions } from './options.js';
import type { KeyValueProjection } from './projection.js';
import type { Float16Matrix, LayerState, SealedBlock } from './state.js';
import {
  assertStorable,
  assertStoredShape,
  billAsBase,
  countStored,
  loadMatrix,
  storeMatrix,
  zeroBytes,
} from './stored-matrix.js';
import { assertTrim } from './trim.js';

/** Tensors of some tokens by name, each [tokens, its own width]. */
export type TokenRows = Readonly<Record<string, Matrix>>;

type WindowRows = Readonly<Record<string, Float16Matrix | Matrix>>;

/**
 * The cache of one layer, less what makes a variant: which tensors it stores of an input, how it seals
 * them, and how keys and values come back.
 */
export abstract class BlockCache<Layout extends LayerLayout = LayerLayout> implements LayerCache {
  readonly options: CacheOptions;
  readonly projection: KeyValueProjection;
  /** The layout of the layer. */
  readonly layout: Layout;
  #blocks: SealedBlock[] = [];
  #window: WindowRows | undefined;
  #length = 0;

  constructor(options: CacheOptions, projection: KeyValueProjection, layout: Layout) {
    this.options = options;
    this.projection = projection;
    this.layout = layout;
  }

  /** The rows that are stored of an input, by the names of the window's tensors. */
  protected abstract storedRows(input: LayerInput): TokenRows;

  /** Quantizes one complete block, less its sinks. */
  protected abstract seal(rows: TokenRows, block: number): SealedBlock;

  /** Keys and values of a sealed block, less its sinks. */
  protected abstract readBlock(sealed: SealedBlock, block: number): KeysAndValues;

  /** Keys and values of exact rows: of tokens that are not sealed yet, and of sinks. */
  protected abstract readWindow(rows: TokenRows): KeysAndValues;

  get length(): number {
    return this.#length;
  }

  /** Sealed blocks in order of position. */
  protected get blocks(): readonly SealedBlock[] {
    return this.#blocks;
  }

  /** The place of this layer, for error messages. */
  protected place(tensor: string): { layer: number; tensor: string } {
    return { layer: this.projection.layer, tensor };
  }

  append(input: LayerInput): void {
    const rows = this.storedRows(input);
    const tokens = input.x.rows;
    for (const [name, source] of Object.entries(rows)) {
      assertStorable(source, this.place(name), this.#length);
    }
    const rounded = this.#storeWindow(rows);
    const pending = this.#mapTensors((name, columns) => {
      const parts = [loadMatrix(rounded[name])];
      if (this.#window) parts.unshift(loadMatrix(this.#window[name]));
      return concatRows(parts, columns);
    });

    const size = this.options.residualWindow;
    const available = this.#windowTokens() + tokens;
    const sealed: SealedBlock[] = [];
    let at = 0;
    for (; at + size <= available; at += size) {
      const block = this.#blocks.length + sealed.length;
      const start = at + sinksOf(this.options, block);
      const rows = this.#mapTensors((name) => rowRange(pending[name], start, at + size));
      const sinks = this.#mapTensors((name) => rowRange(pending[name], at, start));
      sealed.push({ ...this.#storeSinks(sinks), ...this.seal(rows, block) });
    }

    // Nothing is kept before everything has worked.
    this.#blocks.push(...sealed);
    this.#window = this.#storeWindow(this.#mapTensors((name) => rowRange(pending[name], at, available)));
    this.#length += tokens;
  }

  keysAndValues(): KeysAndValues {
    const parts: KeysAndValues[] = [];
    for (const [block, sealed] of this.#blocks.entries()) {
      if (sinksOf(this.options, block) > 0) {
        parts.push(this.readWindow(this.#mapTensors((name) => loadMatrix(sealed[sinkName(name)]))));
      }
      parts.push(this.readBlock(sealed, block));
    }
    if (this.#window && this.#windowTokens() > 0) {
      const window = this.#window;
      parts.push(this.readWindow(this.#mapTensors((name) => loadMatrix(window[name]))));
    }
    const { kvDim } = this.projection;
    return {
      keys: concatRows(
        parts.map((part) => part.keys),
        kvDim,
      ),
      values: concatRows(
        parts.map((part) => part.values),
        kvDim,
      ),
    };
  }

  trim(length: number): void {
    assertTrim(length, this.#length, this.options);
    if (length === this.#length) return;
    const size = this.options.residualWindow;
    const sealedTokens = this.#blocks.length * size;
    this.#blocks.length = Math.min(this.#blocks.length, Math.floor(length / size));
    const window = this.#window;
    if (window) {
      const kept = Math.max(0, length - sealedTokens);
      this.#window = this.#storeWindow(
        this.#mapTensors((name) => rowRange(loadMatrix(window[name]), 0, kept)),
      );
    }
    this.#length = length;
  }

  bytes(): CacheBytes {
    const bytes = zeroBytes();
    for (const sealed of this.#blocks) {
      for (const stored of Object.values(sealed)) countStored(stored, bytes);
    }
    for (const stored of Object.values(this.#window ?? {})) {
      bytes.window += ('float16' in stored ? stored.float16 : stored.data).byteLength;
    }
    return this.layout.isBase ? billAsBase(bytes) : bytes;
  }

  state(): LayerState {
    return {
      length: this.#length,
      blocks: [...this.#blocks],
      window: this.#window ?? this.#storeWindow(this.#mapTensors((_, columns) => matrix(0, columns))),
    };
  }

  restore(state: LayerState): void {
    const windowTokens = state.length - state.blocks.length * this.options.residualWindow;
    this.#mapTensors((name, columns) => {
      const stored = state.window[name];
      if (!stored) {
        throw new CacheStateError(this.options.variant, state.length, 'restore', `no tensor "${name}"`);
      }
      assertStoredShape(stored, windowTokens, columns, name);
      return loadMatrix(stored);
    });
    this.#blocks = [...state.blocks];
    this.#window = state.window;
    this.#length = state.length;
  }

  #windowTokens(): number {
    return this.#length - this.#blocks.length * this.options.residualWindow;
  }

  #storeWindow(rows: TokenRows): WindowRows {
    const format = exactFormat(this.options);
    return Object.fromEntries(
      Object.entries(rows).map(([name, source]) => [name, storeMatrix(source, format, this.place(name))]),
    ) as WindowRows;
  }

  /** The first positions of a sequence, which stay as they are in the window. */
  #storeSinks(rows: TokenRows): SealedBlock {
    const sinks = Object.entries(this.#storeWindow(rows)).filter(([, { rows }]) => rows > 0);
    return Object.fromEntries(sinks.map(([name, stored]) => [sinkName(name), stored]));
  }

  #mapTensors(transform: (name: string, columns: number) => Matrix): TokenRows {
    return Object.fromEntries(
      this.layout.window.map(({ name, columns }) => [name, transform(name, columns)]),
    );
  }
}
