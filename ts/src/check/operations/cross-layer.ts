/**
 * The sums of XQuant-CL over layers: what `cl-encode` and `cl-decode` share.
 *
 * @module
 */

import { ShapeError } from '../../errors.js';
import { rotateRows } from '../../numerics/hadamard.js';
import { linearTiled } from '../../numerics/linear-tiled.js';
import { add, type Matrix, transpose } from '../../numerics/matrix.js';
import { dequantizeMatrix, type GroupedOptions, type QuantizedMatrix } from '../../quant/grouped.js';
import type { CaseInputs } from '../case/inputs.js';
import type { Expected } from '../compare/compare.js';
import { expectedLayerStack } from '../compare/expected.js';
import { F32_ROUNDOFF, productBound } from '../compare/tolerance.js';
import { GROUPED_OPTIONS, type OptionDoc } from '../operation.js';
import { FORM } from './stored-sources.js';

/** Options of both operations. */
export const CROSS_LAYER_OPTIONS: readonly OptionDoc[] = [
  FORM,
  ...GROUPED_OPTIONS,
  { name: 'baseBits', values: 'bits of layer 0' },
  { name: 'grouping', values: 'perToken | perChannel', optional: true },
];

/** Channels of a cross-layer case without projections: the accumulator or the shape of the parameters says it. */
function crossLayerWidth(inputs: CaseInputs): number | undefined {
  const accumulator = inputs.case.tensors.get('accumulator');
  if (accumulator) return accumulator.shape.at(-1);
  return inputs.grouping() === 'perChannel' ? inputs.tensor('scales_0').shape.at(-1) : undefined;
}

/** The sums after every layer, from stored tensors. */
export function decodeLayers(inputs: CaseInputs): {
  sums: Matrix[];
  bounds: ((index: number) => number)[];
  increments: Matrix[];
} {
  const downs = inputs.word('form', ['x', 'latent']) === 'latent' ? inputs.stack('down') : undefined;
  const sums: Matrix[] = [];
  const bounds: ((index: number) => number)[] = [];
  const increments: Matrix[] = [];
  for (let layer = 0; inputs.has(`packed_${layer}`); layer++) {
    const down = layer === 0 ? undefined : downs?.[layer]; // the base is stored in full width
    const columns = down
      ? down.rows
      : inputs.count('hiddenSize', downs?.[0].columns ?? crossLayerWidth(inputs));
    const format = inputs.grouped('grouping', layer === 0 ? 'baseBits' : 'bits');
    const quantized = inputs.quantized('', columns, format, `_${layer}`);
    addIncrement(sums, bounds, quantized, down);
    increments.push(
      down ? linearTiled(dequantizeMatrix(quantized), transpose(down)) : dequantizeMatrix(quantized),
    );
  }
  if (sums.length === 0) throw new ShapeError('cl-decode', 'packed_0', ['bytes'], []);
  return { sums, bounds, increments };
}

/** Inputs of `cl-encode`, in the rotated space. */
export function crossLayerInputs(inputs: CaseInputs): {
  layers: Matrix[];
  formats: (layer: number) => GroupedOptions;
  downs: Matrix[] | undefined;
} {
  const layers = inputs.stack('x').map((x) => rotateRows(x, inputs.rotation()));
  const downs = inputs.word('form', ['x', 'latent']) === 'latent' ? inputs.stack('down') : undefined;
  if (downs && downs.length !== layers.length) {
    throw new ShapeError('cl-encode', 'down', [layers.length, 'rank', 'hiddenSize'], [downs.length]);
  }
  const base = inputs.grouped('grouping', 'baseBits');
  const delta = inputs.grouped();
  return { layers, formats: (layer) => (layer === 0 ? base : delta), downs };
}

export function addIncrement(
  sums: Matrix[],
  bounds: ((index: number) => number)[],
  quantized: QuantizedMatrix,
  down: Matrix | undefined,
): void {
  const stored = dequantizeMatrix(quantized);
  const back = down && transpose(down);
  const increment = back ? linearTiled(stored, back) : stored;
  const below = sums.at(-1);
  const belowBound = bounds.at(-1);
  const sum = below ? add(below, increment) : increment;
  sums.push(sum);
  if (!back) {
    bounds.push(() => 0); // one addition of exact numbers, rounded once: the same bits everywhere
    return;
  }
  const product = productBound(stored, back);
  bounds.push(
    (index) => (belowBound?.(index) ?? 0) + product(index) + 2 * F32_ROUNDOFF * Math.abs(sum.data[index]),
  );
}

export function expectedAccumulator(
  sums: readonly Matrix[],
  bounds: readonly ((index: number) => number)[],
): Expected {
  const isExact = bounds.every((bound) => bound(0) === 0);
  return expectedLayerStack(sums, isExact ? undefined : bounds);
}
