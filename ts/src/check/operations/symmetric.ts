/**
 * The symmetric quantizer of the calibrated caches.
 *
 * @module
 */

import { ConfigError, ShapeError } from '../../errors.js';
import { decodeFloat16, fromFloat16Bits } from '../../numerics/float16.js';
import type { Matrix } from '../../numerics/matrix.js';
import {
  CHANNEL_BITS,
  type ChannelBits,
  dequantizeSymmetric,
  quantizeSymmetric,
  type SymmetricMatrix,
  symmetricCodes,
  symmetricGroups,
} from '../../quant/symmetric.js';
import type { CaseInputs } from '../case/inputs.js';
import { type Expected, type Place, placeOf } from '../compare/compare.js';
import { expectedRows } from '../compare/expected.js';
import { F32_ROUNDOFF } from '../compare/tolerance.js';
import type { Operation } from '../operation.js';

/** The operation `symmetric`. */
export const symmetric: Operation = {
  name: 'symmetric',
  summary: 'a matrix to symmetric codes and scales, per channel, each channel with a width of its own',
  specification: 'docs/numerics.md "The symmetric quantizer"',
  options: [{ name: 'groupSize', values: 'tokens per scale (128)', optional: true }],
  tensors: [
    { name: 'x', role: 'input', dtype: 'F32', shape: '[tokens, channels]' },
    { name: 'bits', role: 'input', dtype: 'U8', shape: '[channels], each 0, 1, 2, 3, 4 or 8' },
    { name: 'packed', role: 'output', dtype: 'U8', shape: '[bytes]', comparison: 'exact' },
    { name: 'scales', role: 'output', dtype: 'F16', shape: '[groups]', comparison: 'exact' },
    { name: 'codes', role: 'output', dtype: 'U8', shape: '[tokens, channels]', comparison: 'exact' },
    { name: 'x_hat', role: 'output', dtype: 'F32', shape: '[tokens, channels]', comparison: 'exact' },
  ],
  run(inputs) {
    const x = inputs.matrix('x');
    const channelBits = channelBitsOf(inputs, x.columns);
    const quantized = quantizeSymmetric(
      x,
      { groupSize: inputs.count('groupSize', 128), channelBits },
      { tensor: 'x' },
    );
    return {
      ...expectedSymmetric(quantized, channelBits, x),
      x_hat: expectedRows(dequantizeSymmetric(quantized, channelBits)),
    };
  },
};

/**
 * The widths of channels.
 *
 * @throws {ShapeError} if there is not one a channel
 * @throws {ConfigError} if one does not exist
 */
export function channelBitsOf(inputs: CaseInputs, channels: number): ChannelBits[] {
  const { shape, data } = inputs.integers('bits');
  if (shape.length !== 1 || shape[0] !== channels) {
    throw new ShapeError(inputs.case.operation, 'bits', [channels], shape);
  }
  return toChannelBits(data);
}

/** @throws {ConfigError} if one does not exist */
export function toChannelBits(widths: ArrayLike<number>): ChannelBits[] {
  return Array.from(widths, (bits) => {
    const known = CHANNEL_BITS.find((each) => each === bits);
    if (known === undefined) throw new ConfigError('bits', bits, `one of ${CHANNEL_BITS.join(', ')}`);
    return known;
  });
}

/**
 * Expected stored tensors.
 *
 * @param source the values that were quantized, to tell values at the border of two cells
 */
export function expectedSymmetric(
  quantized: SymmetricMatrix,
  channelBits: readonly ChannelBits[],
  source: Matrix,
): { packed: Expected; scales: Expected; codes: Expected } {
  const { rows, columns, groupSize, channelCodes, scales } = quantized;
  const groups = symmetricGroups(rows, { groupSize, channelBits });
  // Channels of 0 bits have no group; the others are numbered in order.
  let stored = 0;
  const rank = channelBits.map((bits) => (bits > 0 ? stored++ : -1));
  const groupOfElement = (index: number) =>
    Math.floor(index / columns / groupSize) * stored + rank[index % columns];
  const locate = (index: number) => placeOf(index, [rows, columns], ['token', 'channel']);
  const view = (unpack: (bytes: Uint8Array) => Uint8Array) => ({
    unpack,
    isNearTie(index: number) {
      if (channelBits[index % columns] === 0) return false;
      const scale = fromFloat16Bits(scales[groupOfElement(index)]);
      if (scale === 0) return false;
      const cell = source.data[index] / scale;
      return Math.abs(cell - Math.round(cell)) <= 4 * F32_ROUNDOFF * Math.max(1, Math.abs(cell));
    },
    locate,
  });
  return {
    packed: {
      dtype: 'U8',
      values: channelCodes,
      shape: [channelCodes.length],
      dimensions: ['byte'],
      stored: true,
      locate(byte): Place {
        const group = groups.find(
          ({ byteOffset, byteLength }) => byte >= byteOffset && byte < byteOffset + byteLength,
        );
        return group
          ? { token: group.token, channel: group.channel, group: group.index, byte: byte - group.byteOffset }
          : { byte };
      },
      codes: view((bytes) => symmetricCodes({ ...quantized, channelCodes: bytes }, channelBits)),
    },
    scales: {
      dtype: 'F16',
      values: decodeFloat16(scales),
      shape: [scales.length],
      dimensions: ['group'],
      stored: true,
      locate: (index) => ({ group: index, token: groups[index].token, channel: groups[index].channel }),
    },
    codes: {
      dtype: 'U8',
      values: symmetricCodes(quantized, channelBits),
      shape: [rows, columns],
      dimensions: ['token', 'channel'],
      stored: true,
      codes: view((codes) => codes),
    },
  };
}
