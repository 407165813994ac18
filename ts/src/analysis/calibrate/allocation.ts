/**
 * The bits that a set of transforms is fitted with, and what a bit is worth on the channels of a model.
 *
 * @module
 */

import { derivedSizes, type ModelConfig } from '../../model/config.js';
import type { Matrix } from '../../numerics/matrix.js';
import { allocateBits, type Distortion } from '../../quant/allocate-bits.js';
import {
  CHANNEL_BITS,
  type ChannelBits,
  dequantizeSymmetric,
  quantizeSymmetric,
} from '../../quant/symmetric.js';
import { GROUP_TOKENS } from './sensitivities.js';

/** Bits of a scale for each token of its group. */
const SCALE_BITS = 16 / GROUP_TOKENS;

/**
 * Bits of every channel of every layer, so that keys and values take `average` bits an element.
 *
 * @param importance L of every channel, [layers][channels]
 * @param average bits an element of K and V, scales included
 */
export function bitsForAverage(
  importance: readonly Float32Array[],
  average: number,
  config: ModelConfig,
  distortion: Distortion,
): ChannelBits[][] {
  const elements = 2 * derivedSizes(config).kvDim * importance.length;
  return allocateBits({
    importance,
    distortion,
    budget: average * elements,
    scaleBits: SCALE_BITS,
  });
}

/**
 * Mean squared error of coordinates by the bits of their channel, as a fraction of their mean square.
 *
 * @param z coordinates, [tokens, channels], read
 * @returns 1 for 0 bits
 */
export function measureDistortion(z: Matrix): Record<ChannelBits, number> {
  const square = z.data.reduce((sum, value) => sum + value * value, 0);
  const result = { 0: 1 } as Record<ChannelBits, number>;
  for (const bits of CHANNEL_BITS) {
    if (bits === 0) continue;
    const format = { groupSize: GROUP_TOKENS, channelBits: new Array<ChannelBits>(z.columns).fill(bits) };
    const coded = dequantizeSymmetric(quantizeSymmetric(z, format), format.channelBits);
    result[bits] = coded.data.reduce((sum, value, i) => sum + (value - z.data[i]) ** 2, 0) / square;
  }
  return result;
}

/** The mean of several measurements. */
export function meanDistortion(measured: readonly Readonly<Record<ChannelBits, number>>[]): Distortion {
  const result = {} as Record<ChannelBits, number>;
  for (const bits of CHANNEL_BITS) {
    result[bits] = measured.reduce((sum, each) => sum + each[bits], 0) / measured.length;
  }
  return result;
}
