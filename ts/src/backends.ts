/**
 * The implementations of a model, by the names a user types. The only file that knows both.
 *
 *     wasm        the engine: WebAssembly kernels, threads
 *     reference   the definition in TypeScript: slow, exact to the bit where bits are defined, needs nothing
 *
 * @module
 */

import type { FactorProgress } from './cache/factors.js';
import { WasmModel, type WasmModelOptions } from './engine/wasm-model.js';
import { ConfigError } from './errors.js';
import type { ModelFile, UnreadModelFile } from './io/model-file.js';
import { readWeights, referenceWeights } from './model/weights.js';
import { ReferenceModel } from './reference-model.js';

/** Implementations; the first is the default. */
export const BACKENDS = ['wasm', 'reference'] as const;

/** One of {@link BACKENDS}. */
export type BackendName = (typeof BACKENDS)[number];

/** Which implementation runs a model, and how. All but `backend` and `onFactor` are for the engine alone. */
export interface BackendOptions extends WasmModelOptions {
  /** Default `'wasm'`. */
  readonly backend?: BackendName;
  /** Called before each SVD that a latent cache needs and no file provided. */
  readonly onFactor?: FactorProgress;
}

/**
 * Makes a model that runs.
 *
 * @param file its weights are read and not kept by the engine, which takes them piece by piece where they are in files
 * @param options what is not of {@link BackendOptions} is ignored
 * @throws {ConfigError} if `backend` is not one of {@link BACKENDS}, or an option is not for it
 * @throws {KernelError} if the runtime has no WebAssembly SIMD, or a kernel binary is missing or damaged
 * @throws {MemoryError} if the weights do not fit in the memory limit
 */
export async function startModel(
  { config, weights }: Pick<ModelFile | UnreadModelFile, 'config' | 'weights'>,
  options: BackendOptions = {},
): Promise<WasmModel | ReferenceModel> {
  const { backend = BACKENDS[0], onFactor, threads, kernel, memoryLimit, keyWeights, binary } = options;
  const engine = { threads, kernel, memoryLimit, keyWeights, binary };
  if (!BACKENDS.includes(backend)) throw new ConfigError('backend', backend, BACKENDS.join(' or '));
  if (backend === 'wasm') return WasmModel.load(config, weights, { ...engine, onFactor });
  for (const [option, value] of Object.entries(engine)) {
    if (value !== undefined) throw new ConfigError(option, value, 'absent: the reference backend has none');
  }
  return new ReferenceModel(config, referenceWeights(await readWeights(weights)), onFactor);
}
