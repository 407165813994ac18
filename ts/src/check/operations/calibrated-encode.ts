/**
 * Calibrated caches, written: coordinates against what the layers below predict.
 *
 * @module
 */

import { ShapeError } from '../../errors.js';
import { add, type Matrix, subtract } from '../../numerics/matrix.js';
import { dequantizeSymmetric, quantizeSymmetric } from '../../quant/symmetric.js';
import type { Expected } from '../compare/compare.js';
import type { Operation } from '../operation.js';
import {
  below,
  CALIBRATED_OPTIONS,
  calibratedLayers,
  expectedLayers,
  LAYER_OUTPUTS,
  PLAN_INPUTS,
} from './calibrated-layers.js';
import { expectedSymmetric } from './symmetric.js';

/** The operation `calibrated-encode`. */
export const calibratedEncode: Operation = {
  name: 'calibrated-encode',
  summary: 'layers of a calibrated cache: coordinates less their prediction, in symmetric codes',
  specification: 'docs/numerics.md "Calibrated caches"',
  options: CALIBRATED_OPTIONS,
  tensors: [
    { name: 'x', role: 'input', dtype: 'F32', shape: '[layers, tokens, width], the carriers' },
    { name: 'encode', role: 'input', dtype: 'F32', shape: '[layers, width, width]' },
    ...PLAN_INPUTS,
    { name: 'packed_<layer>', role: 'output', dtype: 'U8', shape: '[bytes]', comparison: 'exact' },
    { name: 'scales_<layer>', role: 'output', dtype: 'F16', shape: '[groups]', comparison: 'exact' },
    ...LAYER_OUTPUTS,
  ],
  run(inputs) {
    const carriers = inputs.stack('x');
    const encodes = inputs.stack('encode');
    const plan = calibratedLayers(inputs, encodes);
    if (carriers.length !== plan.transforms.length || encodes.length !== carriers.length) {
      const { width, transforms } = plan;
      throw new ShapeError('calibrated-encode', 'x', [transforms.length, 'tokens', width], [carriers.length]);
    }
    const outputs: Record<string, Expected> = {};
    const coordinates: Matrix[] = [];
    for (const [layer, transform] of plan.transforms.entries()) {
      const channelBits = plan.bits[layer];
      const predicted = transform.predict(below(coordinates, transform), carriers[layer].rows);
      const z = subtract(transform.encode(carriers[layer]), predicted);
      const stored = quantizeSymmetric(z, { groupSize: plan.groupSize, channelBits }, { layer, tensor: 'z' });
      const { packed, scales } = expectedSymmetric(stored, channelBits, z);
      outputs[`packed_${layer}`] = packed;
      outputs[`scales_${layer}`] = scales;
      coordinates.push(add(predicted, dequantizeSymmetric(stored, channelBits)));
    }
    return { ...outputs, ...expectedLayers(plan, coordinates) };
  },
};
