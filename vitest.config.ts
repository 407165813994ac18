import { defineConfig } from 'vitest/config';

/** Tests that run on one build of the kernels after another. */
const KERNEL_TESTS = 'ts/test/unit/engine/kernels/*.test.ts';

/**
 * What makes this Node run relaxed SIMD. Node 20 has it behind a flag, and its baseline compiler computes it
 * wrongly; later ones need nothing and know the first flag no more.
 */
const RELAXED_FLAGS = process.version.startsWith('v20.')
  ? ['--experimental-wasm-relaxed-simd', '--no-liftoff']
  : [];

export default defineConfig({
  test: {
    testTimeout: 60_000,
    hookTimeout: 60_000,
    setupFiles: ['ts/test/setup.ts'],
    maxWorkers: 2,
    // Files of a worker share loaded modules: loading them anew for each of 85 files took a quarter of the time.
    isolate: false,
    projects: [
      {
        extends: true,
        test: { name: 'all', include: ['ts/test/**/*.test.ts'], env: { XQUANT_KERNELS: 'simd' } },
      },
      {
        extends: true,
        test: {
          name: 'relaxed SIMD',
          include: [KERNEL_TESTS],
          exclude: ['**/load-wasm.test.ts'],
          execArgv: RELAXED_FLAGS,
          env: { XQUANT_KERNELS: 'relaxed' },
        },
      },
    ],
  },
});
