/**
 * XQuant-CL, written: the base layer, then quantized differences.
 *
 * @module
 */

import { XQuantError } from '../../errors.js';
import { linearTiled } from '../../numerics/linear-tiled.js';
import { type Matrix, subtract } from '../../numerics/matrix.js';
import { type GroupedOptions, type QuantizedMatrix, quantizeMatrix } from '../../quant/grouped.js';
import type { CaseInputs } from '../case/inputs.js';
import { type AdoptedMatrix, adoptDecisions } from '../compare/adopt.js';
import type { Expected } from '../compare/compare.js';
import { expectedStored } from '../compare/expected.js';
import { productBound } from '../compare/tolerance.js';
import type { Operation } from '../operation.js';
import { addIncrement, CROSS_LAYER_OPTIONS, crossLayerInputs, expectedAccumulator } from './cross-layer.js';

/** The operation `cl-encode`. */
export const crossLayerEncode: Operation = {
  name: 'cl-encode',
  summary: 'XQuant-CL over layers: the base layer, then quantized differences against the reconstruction',
  specification: 'docs/numerics.md "The accumulator"',
  options: CROSS_LAYER_OPTIONS,
  tensors: [
    { name: 'x', role: 'input', dtype: 'F32', shape: '[layers, tokens, hiddenSize]' },
    {
      name: 'down',
      role: 'input',
      dtype: 'F32',
      shape: '[layers, rank, hiddenSize]',
      when: 'form latent; layer 0 is not used',
    },
    { name: 'packed_<layer>', role: 'output', dtype: 'U8', shape: '[bytes]', comparison: 'exact' },
    {
      name: 'scales_<layer>',
      role: 'output',
      dtype: 'F16',
      shape: '[tokens, groups] or [blocks, channels]',
      comparison: 'exact',
    },
    { name: 'mins_<layer>', role: 'output', dtype: 'F16', shape: 'as scales', comparison: 'exact' },
    {
      name: 'accumulator',
      role: 'output',
      dtype: 'F32',
      shape: '[layers, tokens, hiddenSize]',
      comparison: 'bound',
    },
  ],
  run(inputs) {
    const { layers, formats, downs } = crossLayerInputs(inputs);
    const outputs: Record<string, Expected> = {};
    const sums: Matrix[] = [];
    const bounds: ((index: number) => number)[] = [];
    for (const [layer, x] of layers.entries()) {
      const below = sums.at(-1);
      const difference = below ? subtract(x, below) : x;
      const down = layer === 0 ? undefined : downs?.[layer]; // the base is stored in full width
      const source = down ? linearTiled(difference, down) : difference;
      const noise = down ? productBound(difference, down) : undefined;
      const own = quantizeMatrix(source, formats(layer), { layer, tensor: 'delta' });
      const adopted = noise && adoptDumped(inputs, layer, own, source, noise, formats(layer));
      const quantized = adopted?.quantized ?? own;
      const { packed, scales, mins } = expectedStored(quantized, source, noise);
      outputs[`packed_${layer}`] = { ...packed, notes: adoptionNotes(adopted?.codes, 'codes') };
      outputs[`scales_${layer}`] = { ...scales, notes: adoptionNotes(adopted?.parameters, 'groups') };
      outputs[`mins_${layer}`] = mins;
      addIncrement(sums, bounds, quantized, down);
    }
    outputs.accumulator = expectedAccumulator(sums, bounds);
    return outputs;
  },
};

/** What the dump decided otherwise where rounding of the latents allows it; nothing if it lacks the layer. */
function adoptDumped(
  inputs: CaseInputs,
  layer: number,
  own: QuantizedMatrix,
  source: Matrix,
  noise: (index: number) => number,
  format: GroupedOptions,
): AdoptedMatrix | undefined {
  if (!['packed', 'scales', 'mins'].every((name) => inputs.has(`${name}_${layer}`))) return undefined;
  const dumped = inputs.with({ options: { tokens: own.rows } });
  try {
    return adoptDecisions(own, source, noise, dumped.quantized('', own.columns, format, `_${layer}`), format);
  } catch (error) {
    // Tensors of another size or with NaN are a mismatch, which the comparison reports.
    if (error instanceof XQuantError) return undefined;
    throw error;
  }
}

function adoptionNotes(count: number | undefined, what: string): string[] | undefined {
  if (!count) return undefined;
  return [
    `${count} ${what} are stored otherwise than by the reference, within the error of the product: as right`,
  ];
}
