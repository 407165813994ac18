/**
 * From cache options to the storage format of one tensor of one layer.
 *
 * @module
 */

import type { Grouping } from '../quant/grouped.js';
import { assertBits, type Bits } from '../quant/uniform.js';
import type { CacheOptions } from './options.js';
import type { StorageFormat } from './stored-matrix.js';

/** The format of a quantized tensor under the given options. */
export function quantizedFormat(options: CacheOptions, bits: Bits, grouping: Grouping): StorageFormat {
  if (options.quantizer === 'identity') return 'f32';
  return { bits, grouping, groupSize: options.groupSize, range: options.range };
}

/**
 * Bits of a code.
 *
 * @throws {ConfigError} if the bits of the options are an average
 */
export function bitsOfCode({ bits }: CacheOptions): Bits {
  assertBits(bits);
  return bits;
}

/**
 * Bits of a layer: `nominal`, unless it is one of the first or last layers with widths of their own
 * (XQuant Table 4 keeps the first three layers at 4 bits).
 *
 * @param layer 0 to layers - 1
 * @param layers of the model
 */
export function layerBits(options: CacheOptions, layer: number, layers: number, nominal: Bits): Bits {
  if (layer < options.firstLayers) return options.firstBits;
  if (layer >= layers - options.lastLayers) return options.lastBits;
  return nominal;
}
