/**
 * One linear memory for everything the kernels touch: weights, caches, scratch.
 *
 * The memory only grows, a page at a time; what is given back goes to a free list and is handed out
 * again, so that a long-running process takes as much as its busiest moment needed and no more. Every
 * pointer is 64-byte aligned: a cache line, and more than any kernel asks for.
 *
 * @module
 */

import { assertIndex, assertPositiveInteger, MemoryError } from '../errors.js';

/** Bytes of a WebAssembly page. */
const PAGE = 65536;

/** A 32-bit memory ends at 4 GiB; its last page stays out of use, so that no end pointer wraps to 0. */
export const MAX_MEMORY_BYTES = 2 ** 32 - PAGE;

/** Every pointer is a multiple of this. */
const ALIGNMENT = 64;

/** Pages taken at once, at least: growing is a system call. */
const GROWTH_BYTES = 16 * PAGE;

/** How to make a {@link LinearMemory}. */
export interface LinearMemoryOptions {
  /** Whether threads share it. */
  readonly shared: boolean;
  /** Most bytes it may take. Default: up to the 4 GiB that a 32-bit memory can have. */
  readonly limitBytes?: number;
  /** First free byte: the bytes below belong to the kernels' own static data. */
  readonly reservedBytes?: number;
}

interface FreeRange {
  start: number;
  bytes: number;
}

/** A WebAssembly memory with an allocator. */
export class LinearMemory {
  readonly memory: WebAssembly.Memory;
  readonly limitBytes: number;
  /** Sorted by address, never adjacent. */
  readonly #free: FreeRange[] = [];
  readonly #sizes = new Map<number, number>();
  /** First byte never handed out so far. */
  #end: number;
  #usedBytes = 0;
  #peakBytes = 0;
  #buffer: ArrayBufferLike | undefined;
  #u8 = new Uint8Array(0);
  #u16 = new Uint16Array(0);
  #i32 = new Int32Array(0);
  #f32 = new Float32Array(0);

  /**
   * @throws {RangeError | TypeError} if the limit is not a positive integer
   * @throws {MemoryError} if even the first page cannot be allocated
   */
  constructor({ shared, limitBytes = MAX_MEMORY_BYTES, reservedBytes = 0 }: LinearMemoryOptions) {
    assertPositiveInteger(limitBytes, 'memoryLimit');
    this.limitBytes = Math.min(limitBytes, MAX_MEMORY_BYTES);
    const initial = Math.max(1, Math.ceil(reservedBytes / PAGE));
    // The declared maximum is the limit of the format, not ours: a shared memory's import type must match
    // the kernels', which were compiled before the limit was known.
    try {
      this.memory = new WebAssembly.Memory({ initial, maximum: 65536, shared });
    } catch (error) {
      throw new MemoryError('WebAssembly memory', initial * PAGE, this.limitBytes, { cause: error });
    }
    this.#end = align(Math.max(reservedBytes, ALIGNMENT));
  }

  /** Bytes handed out now. */
  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** The most bytes that were ever handed out at once. */
  get peakBytes(): number {
    return this.#peakBytes;
  }

  /** Bytes the runtime has given us. */
  get committedBytes(): number {
    return this.memory.buffer.byteLength;
  }

  /** The memory as bytes. Like all views: fetch it again after an allocation, which may move it. */
  get u8(): Uint8Array {
    this.#refresh();
    return this.#u8;
  }

  /** The memory as 16-bit numbers; index = pointer / 2. */
  get u16(): Uint16Array {
    this.#refresh();
    return this.#u16;
  }

  /** The memory as 32-bit integers; index = pointer / 4. */
  get i32(): Int32Array {
    this.#refresh();
    return this.#i32;
  }

  /** The memory as f32; index = pointer / 4. */
  get f32(): Float32Array {
    this.#refresh();
    return this.#f32;
  }

  /**
   * Hands out memory. Its contents are undefined.
   *
   * @param bytes how many
   * @param purpose for the error message: `'weights'`, `'cache'`, `'scratch'`
   * @returns a pointer, a multiple of 64
   * @throws {RangeError} if `bytes` is not a size: NaN here would make every later pointer NaN
   * @throws {MemoryError} if the limit or the runtime does not allow it; nothing is taken then
   */
  allocate(bytes: number, purpose: string): number {
    assertIndex(bytes, Number.MAX_SAFE_INTEGER, 'bytes');
    const size = align(Math.max(bytes, 1));
    const pointer = this.#takeFree(size) ?? this.#takeNew(size, purpose);
    this.#sizes.set(pointer, size);
    this.#usedBytes += size;
    this.#peakBytes = Math.max(this.#peakBytes, this.#usedBytes);
    return pointer;
  }

  /**
   * Takes memory back.
   *
   * @param pointer from {@link allocate}; 0 is ignored
   * @throws {RangeError} if nothing was handed out there
   */
  free(pointer: number): void {
    if (pointer === 0) return;
    const bytes = this.#sizes.get(pointer);
    if (bytes === undefined) throw new RangeError(`nothing was allocated at ${pointer}`);
    this.#sizes.delete(pointer);
    this.#usedBytes -= bytes;
    this.#giveFree(pointer, bytes);
  }

  /**
   * Copies bytes into the memory.
   *
   * @returns the pointer given
   */
  write(pointer: number, source: Uint8Array | Uint16Array | Int8Array | Int16Array | Float32Array): number {
    this.u8.set(new Uint8Array(source.buffer, source.byteOffset, source.byteLength), pointer);
    return pointer;
  }

  /** A copy of some f32 numbers. */
  readFloats(pointer: number, count: number): Float32Array {
    return Float32Array.from(this.f32.subarray(pointer / 4, pointer / 4 + count));
  }

  /** A copy of some bytes. */
  readBytes(pointer: number, count: number): Uint8Array {
    return Uint8Array.from(this.u8.subarray(pointer, pointer + count));
  }

  #refresh(): void {
    const { buffer } = this.memory;
    if (buffer === this.#buffer) return;
    this.#buffer = buffer;
    this.#u8 = new Uint8Array(buffer);
    this.#u16 = new Uint16Array(buffer);
    this.#i32 = new Int32Array(buffer);
    this.#f32 = new Float32Array(buffer);
  }

  #takeFree(size: number): number | undefined {
    const at = this.#free.findIndex((range) => range.bytes >= size);
    if (at < 0) return undefined;
    const range = this.#free[at];
    const pointer = range.start;
    range.start += size;
    range.bytes -= size;
    if (range.bytes === 0) this.#free.splice(at, 1);
    return pointer;
  }

  #takeNew(size: number, purpose: string): number {
    // A free range at the end is too small, or it would have been taken; what it lacks comes after it.
    const last = this.#free.at(-1);
    const touchesEnd = last !== undefined && last.start + last.bytes === this.#end;
    const pointer = touchesEnd ? last.start : this.#end;
    const needed = pointer + size;
    if (needed > this.limitBytes) throw new MemoryError(purpose, size, this.limitBytes);
    const missing = needed - this.committedBytes;
    if (missing > 0) {
      const room = Math.ceil(this.limitBytes / PAGE) * PAGE - this.committedBytes;
      const wanted = Math.min(Math.max(missing, GROWTH_BYTES), room);
      try {
        this.memory.grow(Math.ceil(wanted / PAGE));
      } catch (error) {
        throw new MemoryError(purpose, size, this.committedBytes, { cause: error });
      }
    }
    if (touchesEnd) this.#free.pop();
    this.#end = needed;
    return pointer;
  }

  #giveFree(start: number, bytes: number): void {
    let at = this.#free.findIndex((range) => range.start > start);
    if (at < 0) at = this.#free.length;
    const before = this.#free[at - 1];
    const after = this.#free[at];
    if (before && before.start + before.bytes === start) {
      before.bytes += bytes;
      if (after && start + bytes === after.start) {
        before.bytes += after.bytes;
        this.#free.splice(at, 1);
      }
    } else if (after && start + bytes === after.start) {
      after.start = start;
      after.bytes += bytes;
    } else {
      this.#free.splice(at, 0, { start, bytes });
    }
  }
}

/** Rounds bytes up to whole cache lines. */
export function align(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}
