/**
 * Finds out what the runtime can do, picks a build of the kernels, compiles and instantiates it.
 *
 *     kernel: 'simd'      SIMD128 (every browser since 2023, Node since 16)
 *     kernel: 'relaxed'   relaxed SIMD: fused multiply-add and products of bytes, where the runtime has them
 *     kernel: 'auto'      relaxed where it is there, otherwise SIMD
 *
 * Each comes with and without shared memory, so there are four binaries; they export the same names. They are in
 * `wasm/` next to the folder of this module, and {@link LoadOptions.binary} takes their place where a bundler or
 * an application puts them elsewhere.
 *
 * @module
 */

import { ConfigError, KernelError } from '../errors.js';
import { messageOf } from '../printable.js';
import { bindKernels, type Kernels } from './kernels.js';

/** Instruction set as a user asks for it. */
export type KernelChoice = 'simd' | 'relaxed' | 'auto';

/** The choices of {@link KernelChoice}. */
export const KERNEL_CHOICES: readonly KernelChoice[] = ['simd', 'relaxed', 'auto'];

/** The builds, by the names of their files. */
export const WASM_BUILDS = ['simd', 'relaxed', 'simd-threads', 'relaxed-threads'] as const;

/** One of {@link WASM_BUILDS}. */
export type WasmBuild = (typeof WASM_BUILDS)[number];

/** The features of a runtime. */
export interface RuntimeFeatures {
  readonly simd: boolean;
  readonly relaxedSimd: boolean;
  /** Shared memory and atomic operations; a page has them only when it is cross-origin isolated. */
  readonly threads: boolean;
}

/** A binary: its bytes, where it is, or a module that was compiled before. */
export type WasmBinary = BufferSource | URL | string | WebAssembly.Module;

/** How to load the kernels. */
export interface LoadOptions {
  /** Default `'auto'`. */
  readonly kernel?: KernelChoice;
  /** Whether the memory will be shared. */
  readonly shared?: boolean;
  /** Takes the place of the binary that comes with the package; asked with the build that was chosen. */
  readonly binary?: WasmBinary | ((build: WasmBuild) => WasmBinary | Promise<WasmBinary>);
}

/** A compiled build. */
export interface CompiledKernels {
  readonly build: WasmBuild;
  readonly module: WebAssembly.Module;
}

// Each is the smallest module that needs the feature: one function (or memory) that is never run.
const HEADER = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
/** () -> v128: i32.const 0, i8x16.splat */
const SIMD_PROBE = [1, 5, 1, 0x60, 0, 1, 0x7b, 3, 2, 1, 0, 10, 8, 1, 6, 0, 0x41, 0, 0xfd, 15, 11];
/** () -> v128: two splats, i8x16.relaxed_swizzle */
const RELAXED_PROBE = [
  1, 5, 1, 0x60, 0, 1, 0x7b, 3, 2, 1, 0, 10, 15, 1, 13, 0, 0x41, 1, 0xfd, 15, 0x41, 2, 0xfd, 15, 0xfd, 0x80,
  2, 11,
];
/** A shared memory and i32.atomic.load */
const THREADS_PROBE = [
  1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0, 5, 4, 1, 3, 1, 1, 10, 11, 1, 9, 0, 0x41, 0, 0xfe, 0x10, 2, 0, 0x1a, 11,
];

/** Asks the runtime, by validating tiny modules. */
export function detectFeatures(): RuntimeFeatures {
  if (typeof WebAssembly !== 'object') return { simd: false, relaxedSimd: false, threads: false };
  const validates = (probe: number[]): boolean =>
    WebAssembly.validate(Uint8Array.from([...HEADER, ...probe]));
  return {
    simd: validates(SIMD_PROBE),
    relaxedSimd: validates(RELAXED_PROBE),
    threads: typeof SharedArrayBuffer === 'function' && validates(THREADS_PROBE),
  };
}

/**
 * Picks the build.
 *
 * @throws {ConfigError} if `kernel` is not one of the choices
 * @throws {KernelError} if the runtime lacks what the choice needs
 */
export function chooseBuild(
  kernel: KernelChoice = 'auto',
  shared = false,
  features: RuntimeFeatures = detectFeatures(),
): WasmBuild {
  if (!KERNEL_CHOICES.includes(kernel)) throw new ConfigError('kernel', kernel, KERNEL_CHOICES.join(', '));
  const lacking = (build: string, feature: string, advice: string): KernelError =>
    new KernelError(build, `this runtime has no ${feature}; ${advice}`);
  if (!features.simd) {
    throw lacking('simd', 'WebAssembly SIMD', 'use a newer one, or the reference backend');
  }
  if (kernel === 'relaxed' && !features.relaxedSimd) {
    throw lacking('relaxed', 'relaxed SIMD', 'use kernel "simd" (Node 20: --experimental-wasm-relaxed-simd)');
  }
  if (shared && !features.threads) {
    throw lacking('threads', 'shared memory', 'use one thread (a page needs to be cross-origin isolated)');
  }
  const set = kernel === 'auto' ? (features.relaxedSimd ? 'relaxed' : 'simd') : kernel;
  return shared ? `${set}-threads` : set;
}

/** The URL of a build. Spelled out, so that bundlers see the files. */
export function wasmUrl(build: WasmBuild): URL {
  switch (build) {
    case 'simd':
      return new URL('../wasm/simd.wasm', import.meta.url);
    case 'relaxed':
      return new URL('../wasm/relaxed.wasm', import.meta.url);
    case 'simd-threads':
      return new URL('../wasm/simd-threads.wasm', import.meta.url);
    case 'relaxed-threads':
      return new URL('../wasm/relaxed-threads.wasm', import.meta.url);
  }
}

/**
 * Chooses and compiles a build.
 *
 * Relaxed SIMD is tried out before it is trusted: the baseline compiler of Node 20, where it is experimental,
 * computes wrong products of bytes (`--no-liftoff` helps). `'auto'` then falls back to plain SIMD.
 *
 * @throws {ConfigError} if `kernel` is not one of the choices
 * @throws {KernelError} if the runtime lacks a feature, or the binary is missing or damaged; names the build
 */
export async function compileKernels(options: LoadOptions = {}): Promise<CompiledKernels> {
  const compiled = await compileBuild(chooseBuild(options.kernel, options.shared), options.binary);
  if (!compiled.build.startsWith('relaxed') || relaxedWorks(compiled)) return compiled;
  if (options.kernel === 'relaxed') {
    throw new KernelError(
      compiled.build,
      'this runtime computes relaxed SIMD wrongly; use kernel "simd" (Node 20: or --no-liftoff)',
    );
  }
  return compileBuild(chooseBuild('simd', options.shared), options.binary);
}

async function compileBuild(build: WasmBuild, source: LoadOptions['binary']): Promise<CompiledKernels> {
  const given = typeof source === 'function' ? await source(build) : source;
  const binary = given ?? wasmUrl(build);
  if (binary instanceof WebAssembly.Module) return { build, module: binary };
  const bytes =
    typeof binary === 'string' || binary instanceof URL ? await readBinary(binary, build) : binary;
  try {
    return { build, module: await WebAssembly.compile(bytes) };
  } catch (cause) {
    throw new KernelError(build, `the WebAssembly binary is damaged: ${messageOf(cause)}`, { cause });
  }
}

/** Multiplies a few bytes, as the kernels for 8-bit key weights do, and looks at the result. */
function relaxedWorks(compiled: CompiledKernels): boolean {
  const shared = compiled.build.endsWith('-threads');
  const memory = new WebAssembly.Memory(shared ? { initial: 1, maximum: 65536, shared } : { initial: 1 });
  const kernels = instantiateKernels(compiled, memory);
  const [tokens, rows, columns] = [4, 8, 16];
  const [floats, weights, tile, out] = [1024, 2048, 4096, 8192];
  // The largest is 127, so these are the integers themselves, and the sums are exact.
  const integers = Float32Array.from({ length: rows * columns }, (_, i) => ((i * 89) % 255) - 127);
  new Float32Array(memory.buffer, floats, rows * columns).set(
    integers.map((w, i) => (i % columns ? w : 127)),
  );
  kernels.packWeightsInt8(floats, rows, columns, columns, 0, 0, weights);
  const codes = Uint8Array.from({ length: tokens * columns }, (_, i) => (i * 7) % 16);
  new Uint8Array(memory.buffer).set(codes, tile);
  new Float32Array(memory.buffer, tile + 2 * codes.length, tokens).fill(1); // scales; offsets are 0
  kernels.matmulTileInt8(weights, tile, tokens, columns, columns, rows, out, rows);
  const sums = new Float32Array(memory.buffer, out, tokens * rows);
  return sums.every((sum, i) => {
    const [t, j] = [Math.floor(i / rows), i % rows];
    let expected = 0;
    for (let k = 0; k < columns; k++) {
      expected += codes[t * columns + k] * (k ? integers[j * columns + k] : 127);
    }
    return sum === expected;
  });
}

/**
 * Instantiates a compiled build on a memory.
 *
 * @param memory shared exactly if the build is one with threads
 * @throws {KernelError} if it cannot be instantiated or an export is missing; names the build
 */
export function instantiateKernels({ build, module }: CompiledKernels, memory: WebAssembly.Memory): Kernels {
  let instance: WebAssembly.Instance;
  try {
    instance = new WebAssembly.Instance(module, { env: { memory } });
  } catch (cause) {
    throw new KernelError(build, `the module cannot be instantiated: ${messageOf(cause)}`, { cause });
  }
  return bindKernels(instance.exports, build);
}

async function readBinary(location: URL | string, build: WasmBuild): Promise<BufferSource> {
  const url = new URL(location, import.meta.url);
  try {
    if (url.protocol === 'file:') {
      const { readWasmFile } = await import('./load-wasm-node.js');
      return await readWasmFile(url);
    }
    const response = await fetch(url);
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    return await response.arrayBuffer();
  } catch (cause) {
    throw new KernelError(build, `cannot read ${url.href}: ${messageOf(cause)}`, { cause });
  }
}
