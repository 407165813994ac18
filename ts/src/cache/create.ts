/**
 * The only file that knows all variants: from resolved options to the caches of all layers.
 *
 * @module
 */

import { DisposedError } from '../errors.js';
import { Accumulator } from './accumulator.js';
import { layerBits } from './format.js';
import { KiviCache } from './kivi.js';
import { Float16KeyValueCache } from './kv.js';
import { KvquantCache } from './kvquant.js';
import type { CacheOptions } from './options.js';
import { zeroBytes } from './stored-matrix.js';
import type { CacheBytes, FactorSource, KeyValueProjection, LayerCache, ModelCache } from './types.js';
import { XQuantCache } from './xquant.js';
import { CrossLayerBaseCache, CrossLayerDeltaCache } from './xquant-cl.js';
import { CrossLayerLatentCache } from './xquant-cl-gqa.js';
import { XQuantLatentBaseCache, XQuantLatentCache } from './xquant-gqa.js';

/** The caches of one sequence, as the reference keeps them. */
export class ReferenceCache implements ModelCache {
  readonly backend = 'reference';
  readonly options: CacheOptions;
  readonly layers: readonly LayerCache[];
  readonly #projections: readonly KeyValueProjection[];
  readonly #factors: FactorSource;
  readonly #accumulator: Accumulator | undefined;
  #disposed = false;

  /**
   * @param options resolved for the model, see presets.ts
   * @param projections of all layers, in order
   * @param factors asked only by the latent forms and by `kvquant`
   * @throws {ConfigError} if variant `kvquant` has no calibration
   */
  constructor(options: CacheOptions, projections: readonly KeyValueProjection[], factors: FactorSource) {
    this.options = options;
    this.#projections = projections;
    this.#factors = factors;
    if (options.variant === 'xquant-cl') {
      this.#accumulator = new Accumulator(options.accumulator, options.baseLayers - 1);
    }
    this.layers = projections.map((projection) => this.#createLayer(projection));
  }

  get length(): number {
    return this.layers[0].length;
  }

  trim(length: number): void {
    this.assertUsable();
    for (const layer of this.layers) layer.trim(length);
  }

  clone(): ReferenceCache {
    this.assertUsable();
    const copy = new ReferenceCache(this.options, this.#projections, this.#factors);
    this.layers.forEach((layer, index) => {
      copy.layers[index].restore(layer.state());
    });
    return copy;
  }

  bytes(): CacheBytes {
    const total = zeroBytes();
    for (const layer of this.layers) {
      const bytes = layer.bytes();
      for (const kind of Object.keys(total) as (keyof CacheBytes)[]) total[kind] += bytes[kind];
    }
    total.scratch += this.#accumulator?.bytes() ?? 0;
    return total;
  }

  dispose(): void {
    if (!this.#disposed) this.trim(0);
    this.#disposed = true;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @throws {DisposedError} after {@link dispose} */
  assertUsable(): void {
    if (this.#disposed) throw new DisposedError('cache');
  }

  #createLayer(projection: KeyValueProjection): LayerCache {
    const options = this.options;
    const layers = this.#projections.length;
    switch (options.variant) {
      case 'kv':
        return new Float16KeyValueCache(options, projection);
      case 'kivi':
        return new KiviCache(options, projection, layers);
      case 'kvquant':
        return new KvquantCache(options, projection, this.#factors);
      case 'xquant': {
        if (options.form === 'x') return new XQuantCache(options, projection, layers);
        const { layer } = projection;
        return new XQuantLatentCache(options, projection, this.#factors, {
          keys: layerBits(options, layer, layers, options.keyBits),
          values: layerBits(options, layer, layers, options.valueBits),
        });
      }
      case 'xquant-cl':
        return this.#createCrossLayer(projection, this.#accumulator as Accumulator);
    }
  }

  /** XQuant §3.2 for form `x`, §3.3.2 for form `latent`. */
  #createCrossLayer(projection: KeyValueProjection, accumulator: Accumulator): LayerCache {
    const options = this.options;
    const { layer } = projection;
    const base = options.baseLayers - 1;
    if (options.form === 'x') {
      return layer <= base
        ? new CrossLayerBaseCache(options, projection, accumulator)
        : new CrossLayerDeltaCache(options, projection, accumulator);
    }
    if (layer < base) {
      const bits = { keys: options.baseBits, values: options.baseBits };
      return new XQuantLatentBaseCache(options, projection, this.#factors, bits);
    }
    return layer === base && options.baseStore === 'x'
      ? new CrossLayerBaseCache(options, projection, accumulator)
      : new CrossLayerLatentCache(options, projection, accumulator, this.#factors);
  }
}
