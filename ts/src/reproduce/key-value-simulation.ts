/**
 * Baselines on the WebAssembly engine, which has no kernels for them: a pass runs with an unquantized cache, and keys and
 * values are replaced by what the baseline would give back before they are stored.
 *
 * That is exact for teacher forcing, because these treat every token on its own: KVQuant's ranges of keys are fixed
 * offline, all other ranges come from the row itself. It is for measuring only, and counts the bytes that a real
 * cache would hold.
 *
 * @module
 */

import type { CacheBytes, KeysAndValues, ModelCache } from '../cache/contract.js';
import type { CacheOptions, CacheRequest } from '../cache/options.js';
import { resolveCacheOptions } from '../cache/presets.js';
import { zeroBytes } from '../cache/stored-matrix.js';
import type { WasmModel } from '../engine/wasm-model.js';
import { CacheStateError, ConfigError } from '../errors.js';
import type { ForwardOptions } from '../model/language-model.js';
import type { Matrix } from '../numerics/matrix.js';
import type { EvaluatedModel } from './evaluator.js';
import { kvquantRoundTrip } from './kvquant-round-trip.js';
import { isRotatedCache, rotatedRoundTrip } from './rotated-caches.js';
import type { RoundTrip } from './round-trip.js';

/** A model of the engine that has the baselines, too: `kvquant` and those of rotated-caches.ts. */
export class KeyValueSimulation implements EvaluatedModel {
  readonly config: WasmModel['config'];
  readonly #model: WasmModel;

  /** @param model kept; its owner disposes of it */
  constructor(model: WasmModel) {
    this.#model = model;
    this.config = model.config;
  }

  createCache(request: CacheRequest | string): ModelCache {
    const { config, factors } = this.#model;
    if (typeof request === 'string' && isRotatedCache(request)) {
      const options = resolveCacheOptions({ variant: 'kv', residualWindow: 1 }, config);
      return new SimulatedCache(this.#model, request, options, (layer) =>
        rotatedRoundTrip(request, config, layer),
      );
    }
    const options = resolveCacheOptions(request, config);
    if (options.variant !== 'kvquant') return this.#model.createCache(request);
    return new SimulatedCache(this.#model, 'kvquant', options, (layer) =>
      kvquantRoundTrip(config, options, factors, layer),
    );
  }

  async forward(tokens: ArrayLike<number>, cache: ModelCache, options: ForwardOptions = {}): Promise<Matrix> {
    if (!(cache instanceof SimulatedCache)) return this.#model.forward(tokens, cache, options);
    if (options.mode !== 'teacherForced') {
      throw new ConfigError('mode', options.mode, `"teacherForced" for ${cache.name} on the wasm backend`);
    }
    const position = cache.length;
    return this.#model.forward(tokens, cache.inner, {
      ...options,
      onFreshKeysAndValues: (layer, fresh) => cache.replace(layer, fresh, position),
    });
  }
}

class SimulatedCache implements ModelCache {
  /** For messages. */
  readonly name: string;
  readonly options: CacheOptions;
  readonly inner: ModelCache;
  readonly #model: WasmModel;
  readonly #roundTrip: (layer: number) => RoundTrip;
  readonly #layers: readonly RoundTrip[];
  #bytes = zeroBytes();

  constructor(
    model: WasmModel,
    name: string,
    options: CacheOptions,
    roundTrip: (layer: number) => RoundTrip,
  ) {
    this.name = name;
    this.options = options;
    this.#model = model;
    this.#roundTrip = roundTrip;
    this.#layers = Array.from({ length: model.config.numHiddenLayers }, (_, layer) => roundTrip(layer));
    this.inner = model.createCache({ variant: 'kv', quantizer: 'identity' });
  }

  get backend(): string {
    return this.inner.backend;
  }

  get length(): number {
    return this.inner.length;
  }

  get layers(): ModelCache['layers'] {
    return this.inner.layers;
  }

  /** Replaces what is about to be stored by what the cache would give back. */
  replace(layer: number, fresh: KeysAndValues, position: number): void {
    if (position % this.options.residualWindow !== 0) {
      const reason = 'the tokens before were not whole blocks';
      throw new CacheStateError(this.name, position, 'go on', reason);
    }
    this.#layers[layer](fresh, position, this.#bytes);
  }

  trim(length: number): void {
    if (length !== 0 && length !== this.length) {
      throw new CacheStateError(this.name, this.length, `trim to ${length}`, 'a simulated cache trims to 0');
    }
    if (length === 0) this.#bytes = zeroBytes();
    this.inner.trim(length);
  }

  clone(): ModelCache {
    const copy = new SimulatedCache(this.#model, this.name, this.options, this.#roundTrip);
    if (this.length > 0) {
      throw new CacheStateError(this.name, this.length, 'clone', 'a simulated cache is cloned empty');
    }
    return copy;
  }

  bytes(): CacheBytes {
    return { ...this.#bytes };
  }

  dispose(): void {
    this.inner.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
