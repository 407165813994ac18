/**
 * The builds of one instruction set, and a memory to run them on. `vitest.config.ts` runs the tests of the kernels
 * once for each set (`XQUANT_KERNELS`), in a process with the flags that it needs; if a runtime cannot run a build
 * all the same, its tests are skipped, and the reason is in their title.
 *
 * @module
 */

import { describe, expect } from 'vitest';
import type { Kernels } from '../../../../src/engine/kernels.js';
import {
  compileKernels,
  instantiateKernels,
  WASM_BUILDS,
  type WasmBuild,
} from '../../../../src/engine/load-wasm.js';
import type { BlockKernel, ParameterBlock } from '../../../../src/engine/parameter-blocks.js';
import { KernelError } from '../../../../src/errors.js';
import { callBlock } from './call-block.js';

/** The first page is that of constants and of parameter blocks. */
const FIRST = 65536;

/** Kernels and their memory, handed out piece by piece; {@link Bench.reset} takes everything back. */
export class Bench {
  readonly kernels: Kernels;
  readonly build: WasmBuild;
  readonly #memory: WebAssembly.Memory;
  #top = FIRST;

  constructor(kernels: Kernels, build: WasmBuild, memory: WebAssembly.Memory) {
    this.kernels = kernels;
    this.build = build;
    this.#memory = memory;
  }

  /** Frees everything. */
  reset(): void {
    this.#top = FIRST;
  }

  /**
   * Memory full of 0xA5, so that a kernel that relies on zeros is found out; 64 bytes of it behind the end are
   * watched by {@link Bench.guard}.
   *
   * @returns a byte offset, a multiple of 16
   */
  reserve(bytes: number): number {
    const at = this.#top;
    this.#top = Math.ceil((at + bytes) / 16) * 16 + 64;
    const missing = this.#top - this.#memory.buffer.byteLength;
    if (missing > 0) this.#memory.grow(Math.ceil(missing / 65536));
    this.bytes(at, this.#top - at).fill(0xa5);
    return at;
  }

  /** Whether the bytes behind an area are untouched. */
  guard(at: number, bytes: number): boolean {
    return this.bytes(at + bytes, 48).every((byte) => byte === 0xa5);
  }

  /** Puts data into memory. */
  put(data: Float32Array | Uint8Array | Uint16Array | Int16Array | Int32Array): number {
    const at = this.reserve(data.byteLength);
    this.bytes(at, data.byteLength).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    return at;
  }

  /** The last bytes of the memory: reading past them traps. */
  reserveAtEnd(bytes: number): number {
    const size = Math.ceil((this.#top + bytes) / 65536) * 65536;
    if (size > this.#memory.buffer.byteLength)
      this.#memory.grow((size - this.#memory.buffer.byteLength) / 65536);
    return this.#memory.buffer.byteLength - bytes;
  }

  bytes(at: number, count: number): Uint8Array {
    return new Uint8Array(this.#memory.buffer, at, count);
  }

  /** A copy. */
  readBytes(at: number, count: number): Uint8Array {
    return this.bytes(at, count).slice();
  }

  /** A copy. */
  readFloats(at: number, count: number): Float32Array {
    return new Float32Array(this.readBytes(at, count * 4).slice().buffer);
  }

  /** A copy. */
  readHalves(at: number, count: number): Uint16Array {
    return new Uint16Array(this.readBytes(at, count * 2).slice().buffer);
  }

  /** A copy. */
  readInts(at: number, count: number): Int32Array {
    return new Int32Array(this.readBytes(at, count * 4).slice().buffer);
  }

  /** Calls a kernel that takes a parameter block. */
  call<K extends BlockKernel>(kernel: K, block: ParameterBlock<K>): number {
    return callBlock(this.kernels, this.#memory, kernel, block);
  }

  /** Puts RoPE tables of positions [first, first + tokens): cosines and sines, [tokens, headDim / 2] each. */
  putRopeTables(frequencies: Iterable<number>, first: number, tokens: number): { cos: number; sin: number } {
    const angles = Array.from({ length: tokens }, (_, t) =>
      Array.from(frequencies, (f) => (first + t) * f),
    ).flat();
    return {
      cos: this.put(Float32Array.from(angles, Math.cos)),
      sin: this.put(Float32Array.from(angles, Math.sin)),
    };
  }
}

/** Instantiates one build. */
export async function openBench(build: WasmBuild): Promise<Bench> {
  const shared = build.endsWith('-threads');
  const kernel = build.startsWith('relaxed') ? 'relaxed' : 'simd';
  const compiled = await compileKernels({ kernel, shared });
  const memory = new WebAssembly.Memory(shared ? { initial: 64, maximum: 65536, shared } : { initial: 64 });
  return new Bench(instantiateKernels(compiled, memory), build, memory);
}

type Numbers = Float32Array | Uint8Array | Uint16Array | Int32Array;

/** Requires the same length and the same bits, signs of zeros included. */
export function expectSameBits(actual: Numbers, expected: Numbers): void {
  expect(actual.length).toBe(expected.length);
  const bytes = (numbers: Numbers): Uint8Array =>
    new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
  const [a, b] = [bytes(actual), bytes(expected)];
  if (Buffer.compare(a, b) === 0) return;
  const at = actual.findIndex((value, i) => !Object.is(value, expected[i]));
  // two NaN with other bits are the same number to us
  if (at < 0) return;
  expect.fail(`element ${at} is ${actual[at]}, not ${expected[at]}`);
}

/**
 * Requires every error to be within its bound; a bound is a sum of rounding errors, never a fitted number.
 *
 * @returns the largest error as a part of its bound
 */
export function expectWithin(
  actual: Float32Array,
  expected: ArrayLike<number>,
  bound: (index: number) => number,
): number {
  expect(actual.length).toBe(expected.length);
  let worst = 0;
  for (let i = 0; i < actual.length; i++) {
    const error = Math.abs(actual[i] - expected[i]);
    const allowed = bound(i);
    if (!(error <= allowed)) {
      expect.fail(`element ${i} is ${actual[i]}, not ${expected[i]}: off by ${error}, allowed ${allowed}`);
    }
    if (allowed > 0) worst = Math.max(worst, error / allowed);
  }
  return worst;
}

/** Builds of this runtime, or the reason why one cannot be used. */
const benches = new Map<WasmBuild, Bench | string>();
for (const build of WASM_BUILDS) {
  if (!build.startsWith(process.env.XQUANT_KERNELS ?? '')) continue;
  try {
    benches.set(build, await openBench(build));
  } catch (error) {
    // a missing or damaged binary is a failure; a runtime that cannot run it is not
    if (!(error instanceof KernelError) || !/this runtime/.test(error.message)) throw error;
    benches.set(build, error.message);
  }
}

/** Runs a suite on each build; builds that the runtime cannot run are skipped and the reason is in the title. */
export function forEachBuild(suite: (open: () => Bench) => void): void {
  for (const [build, bench] of benches) {
    const skipped = typeof bench === 'string';
    describe.skipIf(skipped)(skipped ? `${build} (skipped: ${bench})` : build, () => {
      suite(() => {
        if (typeof bench === 'string') throw new Error(bench);
        bench.reset();
        return bench;
      });
    });
  }
}
