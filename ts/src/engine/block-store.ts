/**
 * The cache of a layer in linear memory: sealed blocks and the residual window.
 *
 * A sealed block is one allocation that holds the block's tensors one after another, as block-layout.ts lays them out.
 * Sealed blocks never change, so copies of a sequence share them; a block counts its holders and goes back
 * to the pool with the last. The window has room for one whole block of tokens in f16 and is not shared.
 *
 * @module
 */

import type { CacheBytes } from '../cache/contract.js';
import type { Float16Matrix, LayerState, StoredMatrix } from '../cache/state.js';
import { assertStoredShape, countStored, zeroBytes } from '../cache/stored-matrix.js';
import { assertTrim } from '../cache/trim.js';
import { CacheStateError, FormatError } from '../errors.js';
import type { Matrix } from '../numerics/matrix.js';
import type { GroupedOptions } from '../quant/grouped.js';
import { type BlockLayout, blockTensors, isGrouped, type TensorPlace } from './block-layout.js';
import type { LinearMemory } from './memory.js';

interface Block {
  readonly pointer: number;
  holders: number;
}

/** The stored tokens of one layer of one sequence. */
export class BlockStore {
  readonly layout: BlockLayout;
  readonly #memory: LinearMemory;
  #blocks: Block[] = [];
  #window = 0;
  #length = 0;
  #mark: { readonly length: number; readonly blocks: number } | undefined;
  /** The window as it was at the mark, where a block was sealed from it. */
  #markedWindow = 0;

  constructor(memory: LinearMemory, layout: BlockLayout) {
    this.#memory = memory;
    this.layout = layout;
  }

  /** Tokens stored. */
  get length(): number {
    return this.#length;
  }

  /** Complete, sealed blocks. */
  get blocks(): number {
    return this.#blocks.length;
  }

  /** Tokens in sealed blocks. */
  get sealedTokens(): number {
    return this.#blocks.length * this.layout.options.residualWindow;
  }

  /** Tokens in the window. */
  get windowTokens(): number {
    return this.#length - this.sealedTokens;
  }

  /** Bytes taken from linear memory by this layer; blocks that others hold, too, count in full. */
  get allocatedBytes(): number {
    return this.layout.blockBytes(this.#blocks.length) + (this.#window === 0 ? 0 : this.layout.windowBytes);
  }

  /** Pointer to a sealed block. */
  block(index: number): number {
    return this.#blocks[index].pointer;
  }

  /**
   * Pointer to the window, which is allocated on first use.
   *
   * @throws {MemoryError} if there is no room
   */
  window(): number {
    if (this.#window === 0)
      this.#window = this.#memory.allocate(this.layout.windowBytes, 'window of the cache');
    return this.#window;
  }

  /**
   * Takes memory for a block that is about to be sealed. It becomes part of the cache with {@link seal}.
   *
   * @throws {MemoryError} if there is no room
   */
  newBlock(): number {
    return this.#memory.allocate(this.layout.at(this.#blocks.length).bytes, 'block of the cache');
  }

  /**
   * Adds a sealed block.
   *
   * @param fromWindow whether it was made of the window, whose tokens it replaces
   */
  seal(pointer: number, fromWindow = false): void {
    this.#blocks.push({ pointer, holders: 1 });
    if (!fromWindow || !this.#mark) return;
    // The rows are still needed: to be sealed, and if everything is taken back. The next tokens get a new window.
    this.#markedWindow = this.#window;
    this.#window = 0;
  }

  /** Remembers the contents, until {@link commit} or {@link rollback}. */
  begin(): void {
    this.#mark = { length: this.#length, blocks: this.#blocks.length };
  }

  /** Keeps what was done since {@link begin}. */
  commit(): void {
    this.#memory.free(this.#markedWindow);
    this.#markedWindow = 0;
    this.#mark = undefined;
  }

  /** Takes back what was done since {@link begin}. */
  rollback(): void {
    const mark = this.#mark;
    if (!mark) return;
    this.#dropBlocks(mark.blocks);
    this.#length = mark.length;
    if (this.#markedWindow !== 0) {
      this.#memory.free(this.#window);
      this.#window = this.#markedWindow;
      this.#markedWindow = 0;
    }
    this.#mark = undefined;
  }

  /** Notes tokens whose rows have been written into the window or a block. */
  setLength(length: number): void {
    this.#length = length;
  }

  /**
   * Forgets tokens.
   *
   * @throws {CacheStateError} if `length` is inside a sealed block
   * @throws {RangeError} if `length` is not from 0 to the current length
   */
  trim(length: number): void {
    assertTrim(length, this.#length, this.layout.options);
    const { residualWindow } = this.layout.options;
    this.#dropBlocks(Math.min(this.#blocks.length, Math.floor(length / residualWindow)));
    this.#length = length;
  }

  /**
   * A store with the same contents: blocks shared, the window copied.
   *
   * @throws {MemoryError} if there is no room for the window
   */
  clone(): BlockStore {
    const copy = new BlockStore(this.#memory, this.layout);
    if (this.#window !== 0 && this.windowTokens > 0) {
      const pointer = copy.window();
      this.#memory.u8.copyWithin(pointer, this.#window, this.#window + this.layout.windowBytes);
    }
    for (const block of this.#blocks) block.holders++;
    copy.#blocks = [...this.#blocks];
    copy.#length = this.#length;
    return copy;
  }

  /** Gives all memory back. */
  dispose(): void {
    this.#dropBlocks(0);
    this.#memory.free(this.#window);
    this.#window = 0;
    this.#length = 0;
  }

  /** Bytes that the stored tokens take, as the reference counts them. */
  bytes(): CacheBytes {
    const bytes = zeroBytes();
    for (const index of this.#blocks.keys()) {
      const { sinks, sealed } = this.layout.at(index);
      for (const { format, dataBytes, groups } of [...sinks, ...sealed]) {
        if (typeof format === 'string') bytes.outliers += dataBytes;
        else {
          bytes.codes += dataBytes;
          bytes.scales += 2 * groups;
          if (isGrouped(format)) bytes.mins += 2 * groups;
        }
      }
    }
    for (const { columns, format } of this.layout.window) {
      bytes.window += this.windowTokens * columns * (format === 'f16' ? 2 : 4);
    }
    return bytes;
  }

  /** A copy of everything, in the reference's form. */
  state(): LayerState {
    return {
      length: this.#length,
      blocks: this.#blocks.map(({ pointer }, index) =>
        Object.fromEntries(
          blockTensors(this.layout.at(index)).map(({ place, rows }) => [
            place.name,
            this.#read(place, pointer, rows),
          ]),
        ),
      ),
      window: Object.fromEntries(
        this.layout.window.map((place) => [
          place.name,
          this.#read(place, this.#window, this.windowTokens) as Float16Matrix | Matrix,
        ]),
      ),
    };
  }

  /**
   * Replaces the contents.
   *
   * @throws {ShapeError | CacheStateError | FormatError} if the state is of another kind of cache
   * @throws {MemoryError} if there is no room; the store is empty then
   */
  restore(state: LayerState): void {
    const rows = this.layout.options.residualWindow;
    const windowTokens = state.length - state.blocks.length * rows;
    if (windowTokens < 0 || windowTokens >= rows) {
      const reason = `${state.blocks.length} blocks of ${rows} tokens do not make ${state.length} tokens`;
      throw new CacheStateError(this.layout.options.variant, state.length, 'restore', reason);
    }
    for (const [index, block] of state.blocks.entries()) {
      for (const tensor of blockTensors(this.layout.at(index))) {
        this.#assertFits(tensor.place, block[tensor.place.name], tensor.rows);
      }
    }
    for (const place of this.layout.window) this.#assertFits(place, state.window[place.name], windowTokens);

    this.dispose();
    try {
      for (const [index, block] of state.blocks.entries()) {
        const pointer = this.newBlock();
        this.seal(pointer);
        for (const { place } of blockTensors(this.layout.at(index))) {
          this.#write(place, pointer, block[place.name]);
        }
      }
      if (windowTokens > 0) {
        const pointer = this.window();
        for (const place of this.layout.window) this.#write(place, pointer, state.window[place.name]);
      }
    } catch (error) {
      this.dispose();
      throw error;
    }
    this.#length = state.length;
  }

  #dropBlocks(keep: number): void {
    for (const block of this.#blocks.splice(keep)) {
      if (--block.holders === 0) this.#memory.free(block.pointer);
    }
  }

  #read(place: TensorPlace, block: number, rows: number): StoredMatrix {
    const { columns, format } = place;
    const at = block + place.data;
    if (format === 'f32') return { rows, columns, data: this.#memory.readFloats(at, rows * columns) };
    if (format === 'f16') return { rows, columns, float16: this.#readHalves(at, rows * columns) };
    if (!isGrouped(format)) {
      const { groupSize } = format;
      const channelCodes = this.#memory.readBytes(at, place.dataBytes);
      return {
        rows,
        columns,
        groupSize,
        channelCodes,
        scales: this.#readHalves(block + place.scales, place.groups),
      };
    }
    const { bits, groupSize, grouping } = format;
    return {
      rows,
      columns,
      bits,
      groupSize,
      grouping,
      packed: this.#memory.readBytes(at, place.dataBytes),
      scales: this.#readHalves(block + place.scales, place.groups),
      mins: this.#readHalves(block + place.mins, place.groups),
    };
  }

  #readHalves(pointer: number, count: number): Uint16Array {
    return Uint16Array.from(this.#memory.u16.subarray(pointer / 2, pointer / 2 + count));
  }

  #write(place: TensorPlace, block: number, stored: StoredMatrix): void {
    const at = block + place.data;
    if ('packed' in stored) {
      this.#memory.write(at, stored.packed);
      this.#memory.write(block + place.scales, stored.scales);
      this.#memory.write(block + place.mins, stored.mins);
    } else if ('channelCodes' in stored) {
      this.#memory.write(at, stored.channelCodes);
      this.#memory.write(block + place.scales, stored.scales);
    } else if ('float16' in stored) {
      this.#memory.write(at, stored.float16);
    } else if ('data' in stored) {
      this.#memory.write(at, stored.data);
    }
  }

  #assertFits(place: TensorPlace, stored: StoredMatrix | undefined, rows: number): void {
    const { name, columns, format } = place;
    if (!stored) {
      throw new CacheStateError(this.layout.options.variant, this.#length, 'restore', `no tensor "${name}"`);
    }
    assertStoredShape(stored, rows, columns, name);
    const expected = countStoredFormat(stored);
    const wanted = typeof format === 'string' ? format : formatName(format);
    if (expected !== wanted) {
      throw new FormatError('cache state', name, `it is stored as ${expected}, this cache stores ${wanted}`);
    }
    const bytes = zeroBytes();
    countStored(stored, bytes);
    const size = bytes.codes + bytes.scales + bytes.mins + bytes.outliers;
    const rightSize =
      typeof format === 'string'
        ? rows * columns * (format === 'f16' ? 2 : 4)
        : place.dataBytes + (isGrouped(format) ? 4 : 2) * place.groups;
    if (size !== rightSize) {
      throw new FormatError('cache state', name, `it has ${size} bytes, not ${rightSize}`);
    }
  }
}

function countStoredFormat(stored: StoredMatrix): string {
  if ('packed' in stored || 'channelCodes' in stored) return formatName(stored);
  if ('rowCodes' in stored) return 'rows of kvquant';
  if ('float16' in stored) return 'f16';
  return 'data' in stored ? 'f32' : 'nonuniform codes';
}

function formatName(format: Omit<GroupedOptions, 'range'> | { groupSize: number }): string {
  const codes = 'bits' in format ? `${format.bits} bits ${format.grouping}` : 'symmetric codes';
  return `${codes} in groups of ${format.groupSize}`;
}
