/**
 * From resolved options to the caches of all layers: one class for each kind of layout.
 *
 * @module
 */

import { DisposedError } from '../errors.js';
import { Accumulator } from './accumulator.js';
import { CalibratedCache } from './calibrated.js';
import { planOf } from './calibrated-plan.js';
import { type CalibratedPlan, carrierWidth, transformBytes } from './calibration.js';
import type { CacheBytes, LayerCache, ModelCache } from './contract.js';
import { Coordinates } from './coordinates.js';
import { KeyValueCache } from './kv.js';
import { KvquantCache } from './kvquant.js';
import { layerLayout } from './layout.js';
import type { CacheOptions } from './options.js';
import type { FactorSource, KeyValueProjection } from './projection.js';
import { addBytes, zeroBytes } from './stored-matrix.js';
import { XQuantCache } from './xquant.js';
import { CrossLayerBaseCache, CrossLayerDeltaCache } from './xquant-cl.js';
import { CrossLayerLatentCache } from './xquant-cl-gqa.js';
import { XQuantLatentCache } from './xquant-gqa.js';

/** The caches of one sequence, as the reference keeps them. */
export class ReferenceCache implements ModelCache {
  readonly backend = 'reference';
  readonly options: CacheOptions;
  readonly layers: readonly LayerCache[];
  readonly calibrated?: CalibratedPlan;
  readonly #projections: readonly KeyValueProjection[];
  readonly #factors: FactorSource;
  readonly #accumulator: Accumulator;
  readonly #coordinates: Coordinates;
  #disposed = false;

  /**
   * @param options resolved for the model, see presets.ts
   * @param projections of all layers, in order
   * @param factors asked only by the latent forms, by `kvquant` and by calibrated caches
   * @throws {ConfigError} if there is no calibration for a cache that needs one
   */
  constructor(options: CacheOptions, projections: readonly KeyValueProjection[], factors: FactorSource) {
    this.options = options;
    this.#projections = projections;
    this.#factors = factors;
    this.#accumulator = new Accumulator(options.accumulator, options.baseLayers - 1);
    this.#coordinates = new Coordinates(options.predict);
    if (options.form === 'calibrated') this.calibrated = planOf(options, projections[0], factors);
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
    for (const layer of this.layers) addBytes(total, layer.bytes());
    total.scratch += this.#accumulator.bytes() + this.#coordinates.bytes();
    if (this.calibrated) {
      total.plan = transformBytes(
        carrierWidth(this.#projections[0]),
        this.layers.length,
        this.options.predict,
      );
    }
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
    const { hiddenSize, kvDim } = projection;
    const sizes = { hiddenSize, kvDim, numHiddenLayers: this.#projections.length };
    const layout = layerLayout(options, sizes, projection.layer, this.calibrated);
    switch (layout.kind) {
      case 'keysAndValues':
        return new KeyValueCache(options, projection, layout);
      case 'nonUniform':
        return new KvquantCache(options, projection, layout, this.#factors);
      case 'x':
        return new XQuantCache(options, projection, layout);
      case 'latents':
        return new XQuantLatentCache(options, projection, layout, this.#factors);
      case 'baseX':
        return new CrossLayerBaseCache(options, projection, layout, this.#accumulator);
      case 'delta':
        return new CrossLayerDeltaCache(options, projection, layout, this.#accumulator);
      case 'latentDelta':
        return new CrossLayerLatentCache(options, projection, layout, this.#accumulator, this.#factors);
      case 'calibrated': {
        const { set } = this.calibrated as CalibratedPlan;
        return new CalibratedCache(options, projection, layout, set, this.#coordinates);
      }
    }
  }
}
