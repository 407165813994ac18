/**
 * KVQuant on the WebAssembly engine, which has no kernels for it: a pass runs with an unquantized cache, and keys and
 * values are replaced by what KVQuant would give back before they are stored.
 *
 * That is exact for teacher forcing, because KVQuant treats every token on its own: ranges of keys are fixed
 * offline, ranges of values come from their own row. It is for measuring only, and counts the bytes that the real
 * cache would hold.
 *
 * @module
 */

import type { CacheBytes, KeysAndValues, ModelCache } from '../cache/contract.js';
import { kvquantLayer } from '../cache/kvquant.js';
import type { CacheOptions, CacheRequest } from '../cache/options.js';
import { resolveCacheOptions } from '../cache/presets.js';
import { zeroBytes } from '../cache/stored-matrix.js';
import type { WasmModel } from '../engine/wasm-model.js';
import { CacheStateError, ConfigError } from '../errors.js';
import { derivedSizes } from '../model/config.js';
import type { ForwardOptions } from '../model/language-model.js';
import { decodeFloat16, encodeFloat16 } from '../numerics/float16.js';
import { type Matrix, rowRange } from '../numerics/matrix.js';
import {
  dequantizeNuq,
  type NuqBits,
  type NuqMatrix,
  nuqBytes,
  nuqCodebook,
  quantizeNuqChannels,
  quantizeNuqRows,
} from '../quant/nuq.js';
import type { EvaluatedModel } from './evaluator.js';

/** A model of the engine that has `kvquant` caches, too. */
export class KvquantSimulation implements EvaluatedModel {
  readonly config: WasmModel['config'];
  readonly #model: WasmModel;

  /** @param model kept; its owner disposes of it */
  constructor(model: WasmModel) {
    this.#model = model;
    this.config = model.config;
  }

  createCache(request: CacheRequest | string): ModelCache {
    const options = resolveCacheOptions(request, this.config);
    if (options.variant !== 'kvquant') return this.#model.createCache(request);
    return new SimulatedCache(this.#model, options);
  }

  async forward(tokens: ArrayLike<number>, cache: ModelCache, options: ForwardOptions = {}): Promise<Matrix> {
    if (!(cache instanceof SimulatedCache)) return this.#model.forward(tokens, cache, options);
    if (options.mode !== 'teacherForced') {
      throw new ConfigError('mode', options.mode, '"teacherForced" for kvquant on the wasm backend');
    }
    const position = cache.length;
    return this.#model.forward(tokens, cache.inner, {
      ...options,
      onFreshKeysAndValues: (layer, fresh) => cache.replace(layer, fresh, position),
    });
  }
}

class SimulatedCache implements ModelCache {
  readonly options: CacheOptions;
  readonly inner: ModelCache;
  readonly #model: WasmModel;
  readonly #layers: readonly ((fresh: KeysAndValues, position: number, bytes: CacheBytes) => void)[];
  #bytes = zeroBytes();

  constructor(model: WasmModel, options: CacheOptions) {
    this.options = options;
    this.#model = model;
    this.#layers = Array.from({ length: model.config.numHiddenLayers }, (_, layer) =>
      roundTrip(model, options, layer),
    );
    const { residualWindow } = options;
    this.inner = model.createCache({ variant: 'kv', quantizer: 'identity', residualWindow });
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
      throw new CacheStateError('kvquant', position, 'go on', reason);
    }
    this.#layers[layer](fresh, position, this.#bytes);
  }

  trim(length: number): void {
    if (length !== 0 && length !== this.length) {
      throw new CacheStateError('kvquant', this.length, `trim to ${length}`, 'a simulated cache trims to 0');
    }
    if (length === 0) this.#bytes = zeroBytes();
    this.inner.trim(length);
  }

  clone(): ModelCache {
    const copy = new SimulatedCache(this.#model, this.options);
    if (this.length > 0) {
      throw new CacheStateError('kvquant', this.length, 'clone', 'a simulated cache is cloned empty');
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

/** What KVQuant does to the rows of one layer. */
function roundTrip(
  model: WasmModel,
  options: CacheOptions,
  layer: number,
): (fresh: KeysAndValues, position: number, bytes: CacheBytes) => void {
  const { keyRanges, keys, values } = kvquantLayer(options, model.factors, layer);
  const { outlierFraction, qNorm, residualWindow } = options;
  const bits = options.bits as NuqBits;
  const codebooks = [keys, values].map((each) =>
    nuqCodebook(each.levels, qNorm === 'on' ? each.qNorm : undefined),
  );
  const { kvDim } = derivedSizes(model.config);
  return (fresh, position, bytes) => {
    const tokens = fresh.keys.rows;
    const sealed = tokens - (tokens % residualWindow);
    const sink = position === 0 && sealed > 0 ? options.sinks : 0;
    bytes.outliers += 2 * 2 * sink * kvDim;
    bytes.window += 2 * 2 * (tokens - sealed) * kvDim;
    for (const [which, source] of [fresh.keys, fresh.values].entries()) {
      // Every row passes through the f16 of the window.
      source.data.set(decodeFloat16(encodeFloat16(source.data)));
      const rows = rowRange(source, Math.min(sink, sealed), sealed);
      const stored: NuqMatrix =
        which === 0
          ? quantizeNuqChannels(rows, bits, codebooks[0], keyRanges, outlierFraction > 0)
          : quantizeNuqRows(rows, bits, codebooks[1], outlierFraction);
      rows.data.set(dequantizeNuq(stored, codebooks[which], which === 0 ? keyRanges : undefined).data);
      const parts = nuqBytes(stored);
      bytes.codes += parts.codes;
      bytes.scales += parts.scales;
      bytes.mins += parts.mins;
      bytes.outliers += parts.outliers;
    }
  };
}
