/**
 * KIVI*: the quantized baseline of the paper (XQuant §4), KIVI (arXiv 2402.02750) with keys before RoPE.
 *
 * Keys are quantized per channel, because their outliers sit in fixed channels, and values per token.
 *
 * @module
 */

import type { Bits } from '../quant/uniform.js';
import { layerBits, quantizedFormat } from './format.js';
import { KeyValueCache } from './kv.js';
import type { CacheOptions } from './options.js';
import type { KeyValueProjection } from './types.js';

/** Quantized keys and values: `bits + 32 / groupSize` bits an element. */
export class KiviCache extends KeyValueCache {
  /** @param layers layers of the model, for `firstLayers` and `lastLayers` */
  constructor(options: CacheOptions, projection: KeyValueProjection, layers: number) {
    const bits = (nominal: Bits) => layerBits(options, projection.layer, layers, nominal);
    super(options, projection, {
      keys: quantizedFormat(options, bits(options.keyBits), options.keyGrouping),
      values: quantizedFormat(options, bits(options.valueBits), options.valueGrouping),
    });
  }
}
