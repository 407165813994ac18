/**
 * Calibrated caches, read: coordinates and carriers of all layers from what is stored.
 *
 * @module
 */

import type { Matrix } from '../../numerics/matrix.js';
import type { SymmetricMatrix } from '../../quant/symmetric.js';
import type { CaseInputs } from '../case/inputs.js';
import type { Operation } from '../operation.js';
import {
  CALIBRATED_OPTIONS,
  calibratedLayers,
  expectedLayers,
  LAYER_OUTPUTS,
  PLAN_INPUTS,
  reconstruct,
} from './calibrated-layers.js';

/** The operation `calibrated-decode`. */
export const calibratedDecode: Operation = {
  name: 'calibrated-decode',
  summary: 'coordinates and carriers of all layers of a calibrated cache',
  specification: 'docs/numerics.md "Calibrated caches"',
  options: [...CALIBRATED_OPTIONS, { name: 'tokens', values: 'tokens of the block' }],
  tensors: [
    { name: 'packed_<layer>', role: 'input', dtype: 'U8', shape: '[bytes]' },
    { name: 'scales_<layer>', role: 'input', dtype: 'F16', shape: '[groups]' },
    ...PLAN_INPUTS,
    ...LAYER_OUTPUTS,
  ],
  run(inputs) {
    const plan = calibratedLayers(inputs);
    const coordinates: Matrix[] = [];
    for (const [layer, transform] of plan.transforms.entries()) {
      const stored = storedLayer(inputs, layer, plan.width, plan.groupSize);
      coordinates.push(reconstruct(transform, coordinates, stored, plan.bits[layer]));
    }
    return expectedLayers(plan, coordinates);
  },
};

function storedLayer(inputs: CaseInputs, layer: number, columns: number, groupSize: number): SymmetricMatrix {
  return {
    rows: inputs.count('tokens'),
    columns,
    groupSize,
    channelCodes: inputs.tensor(`packed_${layer}`).bytes,
    scales: inputs.halfBits(`scales_${layer}`),
  };
}
