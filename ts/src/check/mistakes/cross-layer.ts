/**
 * Mistakes in the loop of XQuant-CL.
 *
 * @module
 */

import { decodeFloat16 } from '../../numerics/float16.js';
import { linearTiled } from '../../numerics/linear-tiled.js';
import { add, type Matrix, subtract, transpose } from '../../numerics/matrix.js';
import type { CaseInputs } from '../case/inputs.js';
import type { Expected } from '../compare/compare.js';
import type { ExpectedTensors } from '../operation.js';
import { crossLayerInputs, decodeLayers } from '../operations/cross-layer.js';
import { exactly, type KnownMistake, within } from './mistake.js';
import { type QuantizerMistakes, quantizeMistakenly } from './mistaken-quantizer.js';

/** What layer i of a mistaken cross-layer encoder takes its difference against, and what it adds to. */
type Loop = 'closed' | 'open' | 'baseOnly' | 'notUpdated';

/** XQuant-CL over layers with a mistaken quantizer, a mistaken loop, or both. */
export function encodeLayers(
  inputs: CaseInputs,
  right: ExpectedTensors,
  mistakes: QuantizerMistakes,
  loop: Loop = 'closed',
): ExpectedTensors {
  const { layers, formats, downs } = crossLayerInputs(inputs);
  const outputs: Record<string, Expected> = {};
  const sums: Matrix[] = [];
  for (const [layer, x] of layers.entries()) {
    const known = loop === 'closed' || loop === 'open' ? sums.at(-1) : sums[0];
    const against = loop === 'open' ? layers[layer - 1] : known;
    const difference = against ? subtract(x, against) : x;
    const down = layer === 0 ? undefined : downs?.[layer];
    const source = down ? linearTiled(difference, down) : difference;
    const { packed, scales, mins, values } = quantizeMistakenly(source, formats(layer), mistakes);
    outputs[`packed_${layer}`] = exactly(packed, 'U8', 'byte');
    outputs[`scales_${layer}`] = exactly(decodeFloat16(scales), 'F16', 'group');
    outputs[`mins_${layer}`] = exactly(decodeFloat16(mins), 'F16', 'group');
    const increment = down ? linearTiled(values, transpose(down)) : values;
    if (!known) sums.push(increment);
    else sums.push(loop === 'notUpdated' ? known : add(known, increment));
  }
  outputs.accumulator = accumulatorOf(sums, right);
  return outputs;
}

/** Sums of all layers; where products are in them, with the largest bound that the right ones have. */
function accumulatorOf(sums: readonly Matrix[], right: ExpectedTensors): Expected {
  const size = sums[0].data.length;
  const values = new Float32Array(sums.length * size);
  sums.forEach((sum, layer) => {
    values.set(sum.data, layer * size);
  });
  return within(right.accumulator, values);
}

/** Mistakes in the cross-layer loop. */
export const CROSS_LAYER_MISTAKES: readonly KnownMistake[] = [
  {
    id: 'open-loop',
    title: 'differences are taken against the true X of the layer below',
    specification: 'docs/numerics.md "The accumulator": against the reconstruction (closed loop)',
    operations: ['cl-encode'],
    *attempts(inputs, _context, right) {
      yield { outputs: () => encodeLayers(inputs, right, {}, 'open') };
    },
  },
  {
    id: 'accumulator-not-updated',
    title: 'the accumulator is not updated from layer to layer',
    specification: 'docs/numerics.md "The accumulator": A_i = A_(i-1) + dequantize(D_i)',
    operations: ['cl-encode', 'cl-decode'],
    *attempts(inputs, _context, right) {
      if (inputs.case.operation === 'cl-encode') {
        yield {
          detail: 'each layer adds to the base',
          outputs: () => encodeLayers(inputs, right, {}, 'baseOnly'),
        };
        yield {
          detail: 'it stays at the base',
          outputs: () => encodeLayers(inputs, right, {}, 'notUpdated'),
        };
        return;
      }
      const { increments } = decodeLayers(inputs);
      const [base] = increments;
      const added = increments.map((increment, i) => (i === 0 ? base : add(base, increment)));
      yield {
        detail: 'each layer adds to the base',
        outputs: () => ({ accumulator: accumulatorOf(added, right) }),
      };
      const still = increments.map(() => base);
      yield { detail: 'it stays at the base', outputs: () => ({ accumulator: accumulatorOf(still, right) }) };
      yield {
        detail: 'it holds the last difference only',
        outputs: () => ({ accumulator: accumulatorOf(increments, right) }),
      };
    },
  },
];
