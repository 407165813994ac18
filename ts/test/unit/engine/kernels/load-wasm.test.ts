/** Which build is chosen, and what is said when it cannot be used. */

import { readFileSync } from 'node:fs';
import { afterEach, describe, expect, it, vi } from 'vitest';
import {
  chooseBuild,
  compileKernels,
  detectFeatures,
  instantiateKernels,
  type KernelChoice,
  type RuntimeFeatures,
  WASM_BUILDS,
  wasmUrl,
} from '../../../../src/engine/load-wasm.js';
import { readWasmFile } from '../../../../src/engine/load-wasm-node.js';
import { ConfigError, KernelError } from '../../../../src/errors.js';

const everything: RuntimeFeatures = { simd: true, relaxedSimd: true, threads: true };

afterEach(() => vi.restoreAllMocks());

/** The KernelError that a call ends in. */
async function kernelError(call: () => unknown): Promise<KernelError> {
  const error = await Promise.resolve()
    .then(call)
    .then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
  expect(error).toBeInstanceOf(KernelError);
  return error as KernelError;
}

describe('chooseBuild', () => {
  it('takes what is asked for, or the best there is', () => {
    expect(chooseBuild('auto', false, everything)).toBe('relaxed');
    expect(chooseBuild('auto', true, everything)).toBe('relaxed-threads');
    expect(chooseBuild('simd', true, everything)).toBe('simd-threads');
    expect(chooseBuild('auto', false, { ...everything, relaxedSimd: false })).toBe('simd');
    expect(chooseBuild(undefined, undefined, { ...everything, threads: false })).toBe('relaxed');
  });

  it('says what the runtime lacks', async () => {
    const lacking = (part: Partial<RuntimeFeatures>, kernel: KernelChoice, shared: boolean) =>
      kernelError(() => chooseBuild(kernel, shared, { ...everything, ...part }));
    expect((await lacking({ simd: false }, 'auto', false)).message).toMatch(
      /^simd: .*WebAssembly SIMD.*reference/,
    );
    expect((await lacking({ relaxedSimd: false }, 'relaxed', false)).message).toMatch(
      /^relaxed: .*relaxed SIMD/,
    );
    expect((await lacking({ threads: false }, 'simd', true)).message).toMatch(/^threads: .*shared memory/);
    expect(() => chooseBuild('fast' as KernelChoice)).toThrow(ConfigError);
  });

  it('finds this runtime to have SIMD and threads', () => {
    expect(detectFeatures()).toMatchObject({ simd: true, threads: true });
  });
});

describe('compileKernels', () => {
  it('loads the binary of the package, given bytes, a URL or a module', async () => {
    const { build, module } = await compileKernels({ kernel: 'simd' });
    expect(build).toBe('simd');
    const memory = new WebAssembly.Memory({ initial: 1 });
    const bytes = await readWasmFile(wasmUrl('simd'));
    const asked: string[] = [];
    const onRequest = (name: string): WebAssembly.Module => {
      asked.push(name);
      return module;
    };
    for (const binary of [module, bytes, onRequest]) {
      const compiled = await compileKernels({ kernel: 'simd', binary });
      expect(typeof instantiateKernels(compiled, memory).findNonFinite).toBe('function');
    }
    expect(asked).toEqual(['simd']);
  });

  it('has a file for every build', async () => {
    for (const build of WASM_BUILDS)
      expect(wasmUrl(build).pathname).toMatch(new RegExp(`/wasm/${build}\\.wasm$`));
  });

  it('names a damaged binary', async () => {
    const bytes = new Uint8Array((await readWasmFile(wasmUrl('simd'))) as Uint8Array);
    for (const damaged of [
      bytes.slice(0, 1000),
      new Uint8Array(0),
      bytes.map((byte, i) => (i === 8 ? ~byte : byte)), // the number of the first section
    ]) {
      const error = await kernelError(() => compileKernels({ kernel: 'simd', binary: damaged }));
      expect(error.message).toMatch(/^simd: the WebAssembly binary is damaged/);
      expect(error.kernel).toBe('simd');
    }
  });

  it('names a file that is not there', async () => {
    const missing = new URL('file:///nowhere/missing.wasm');
    const error = await kernelError(() => compileKernels({ kernel: 'simd', binary: missing }));
    expect(error.message).toMatch(/^simd: cannot read file:\/\/\/nowhere\/missing\.wasm/);
    const refused = vi.spyOn(globalThis, 'fetch').mockResolvedValue(new Response('', { status: 404 }));
    const url = 'https://example.invalid/simd.wasm';
    expect((await kernelError(() => compileKernels({ kernel: 'simd', binary: url }))).message).toMatch(
      /HTTP 404/,
    );
    expect(refused).toHaveBeenCalledOnce();
  });

  it('names a missing export and a memory of the wrong kind', async () => {
    const empty = new WebAssembly.Module(Uint8Array.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]));
    const memory = new WebAssembly.Memory({ initial: 1 });
    const error = await kernelError(() => instantiateKernels({ build: 'simd', module: empty }, memory));
    expect(error.message).toMatch(/^simd: the module does not export the kernel "encodeFloat16"/);
    const compiled = await compileKernels({ kernel: 'simd' });
    const shared = new WebAssembly.Memory({ initial: 1, maximum: 65536, shared: true });
    expect((await kernelError(() => instantiateKernels(compiled, shared))).message).toMatch(
      /cannot be instantiated/,
    );
  });

  it('does without relaxed SIMD where it computes wrongly, or says so', async () => {
    // a "relaxed" module whose product of bytes is the plain build's, on data laid out for bytes: wrong sums
    const wrong = new WebAssembly.Module(
      readFileSync(new URL('../../../../../dist/wasm/simd.wasm', import.meta.url)),
    );
    vi.spyOn(WebAssembly, 'validate').mockReturnValue(true);
    const error = await kernelError(() => compileKernels({ kernel: 'relaxed', binary: wrong }));
    expect(error.message).toMatch(/^relaxed: this runtime computes relaxed SIMD wrongly/);
    expect((await compileKernels({ kernel: 'auto', binary: wrong })).build).toBe('simd');
  });
});
