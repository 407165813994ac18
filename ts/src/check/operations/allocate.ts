/**
 * Bits of channels by importance.
 *
 * @module
 */

import { ConfigError, ShapeError } from '../../errors.js';
import { allocateBits, type Distortion } from '../../quant/allocate-bits.js';
import { CHANNEL_BITS } from '../../quant/symmetric.js';
import type { CaseInputs } from '../case/inputs.js';
import type { Operation } from '../operation.js';

/** Bits of a scale. */
const SCALE_BITS = 16;

/** The operation `allocate`. */
export const allocate: Operation = {
  name: 'allocate',
  summary: 'bits of every channel of every layer for an average width, by importance',
  specification: 'docs/numerics.md "The symmetric quantizer"',
  options: [
    { name: 'average', values: 'bits an element of K and V, scales included' },
    { name: 'elements', values: 'elements of K and V of one token in one layer (2 kvDim)' },
    { name: 'distortion', values: '{"0": 1, "1": ..., "2": ..., "3": ..., "4": ..., "8": ...}' },
    { name: 'groupSize', values: 'tokens per scale (128)', optional: true },
  ],
  tensors: [
    { name: 'importance', role: 'input', dtype: 'F32', shape: '[layers, channels]' },
    { name: 'bits', role: 'output', dtype: 'U8', shape: '[layers, channels]', comparison: 'exact' },
  ],
  run(inputs) {
    const { shape, data } = inputs.floats('importance', ['layer', 'channel']);
    const [layers, channels] = shape;
    if (layers < 1) throw new ShapeError('allocate', 'importance', ['layers', 'channels'], shape);
    const bits = allocateBits({
      importance: Array.from({ length: layers }, (_, i) => data.subarray(i * channels, (i + 1) * channels)),
      distortion: distortionOf(inputs),
      budget: inputs.number('average') * inputs.count('elements') * layers,
      scaleBits: SCALE_BITS / inputs.count('groupSize', 128),
    });
    return {
      bits: {
        dtype: 'U8',
        values: Uint8Array.from(bits.flat()),
        shape: [layers, channels],
        dimensions: ['layer', 'channel'],
        stored: true,
      },
    };
  },
};

function distortionOf(inputs: CaseInputs): Distortion {
  const given = inputs.case.options.distortion as Record<string, unknown> | undefined;
  const entries = CHANNEL_BITS.map((bits) => {
    const value = given?.[bits];
    if (typeof value !== 'number' || !(value >= 0)) {
      throw new ConfigError('distortion', given, `a number for each of ${CHANNEL_BITS.join(', ')} bits`);
    }
    return [bits, value];
  });
  return Object.fromEntries(entries) as Distortion;
}
