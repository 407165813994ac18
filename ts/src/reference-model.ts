/**
 * The reference: the forward pass of model/transformer.ts with the caches of cache/.
 *
 * @module
 */

import type { ModelCache } from './cache/contract.js';
import { ReferenceCache } from './cache/create.js';
import { ComputedFactors, type FactorProgress } from './cache/factors.js';
import type { CacheRequest } from './cache/options.js';
import { resolveCacheOptions } from './cache/presets.js';
import type { KeyValueProjection } from './cache/projection.js';
import { CacheStateError } from './errors.js';
import type { ModelConfig } from './model/config.js';
import { keyValueProjection } from './model/key-value-projection.js';
import { assertCache } from './model/tokens.js';
import { Transformer } from './model/transformer.js';
import type { ReferenceWeights } from './model/weights.js';

/** The reference implementation of {@link LanguageModel}. */
export class ReferenceModel extends Transformer {
  /** The projection of each layer, as caches see it. */
  readonly projections: readonly KeyValueProjection[];
  /** SVD factors for the latent forms; see io/svd-factors.ts to load them from a file. */
  readonly factors: ComputedFactors;

  /**
   * @param onFactor called before each SVD that has to be computed
   * @throws {ConfigError | ShapeError | NumericError} if config and weights do not fit together
   */
  constructor(config: ModelConfig, weights: ReferenceWeights, onFactor?: FactorProgress) {
    super(config, weights);
    this.projections = weights.layers.map((layer, index) =>
      keyValueProjection(config, index, layer, (role) => layer[role]),
    );
    this.factors = new ComputedFactors(this.projections, onFactor);
  }

  createCache(request: CacheRequest | string): ReferenceCache {
    const options = resolveCacheOptions(request, this.config, this.factors);
    const cache = new ReferenceCache(options, this.projections, this.factors);
    this.factors.keepComputed();
    return cache;
  }

  protected assertOwn(cache: ModelCache): void {
    if (cache instanceof ReferenceCache) {
      cache.assertUsable();
      return;
    }
    assertCache(cache);
    const reason = `it belongs to backend "${cache.backend}"`;
    throw new CacheStateError(cache.options.variant, cache.length, 'run', reason);
  }
}
