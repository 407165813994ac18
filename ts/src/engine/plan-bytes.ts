/**
 * Bytes of the weights that the engine folds, factors or rotates to read a cache. They belong to
 * the model and the options, and serve all sequences with those options.
 *
 * @module
 */

import { type LayerLayout, layerLayout, layoutSizes } from '../cache/layout.js';
import type { CacheModelShape, CacheOptions } from '../cache/options.js';
import type { StorageFormat } from '../cache/stored-matrix.js';
import { type KeyWeights, smallProductBytes } from './small-product.js';

/**
 * Bytes of the plan of a cache, by formula: the products that `LayerPlan` makes.
 *
 * @param options resolved for the model
 * @returns undefined for a cache that the engine has no such plan for
 */
export function planBytes(
  options: CacheOptions,
  shape: CacheModelShape,
  keyWeights: KeyWeights = 'exact',
): number | undefined {
  let total = 0;
  for (let layer = 0; layer < shape.numHiddenLayers; layer++) {
    const layout = layerLayout(options, layoutSizes(shape), layer);
    const bytes = layerPlanBytes(layout, layer, options, shape, keyWeights);
    if (bytes === undefined) return undefined;
    total += bytes;
  }
  return total;
}

function layerPlanBytes(
  layout: LayerLayout,
  layer: number,
  { residualWindow: tokens, deltaSpace, predict, sinks }: CacheOptions,
  { hiddenSize, numKeyValueHeads, headDim }: CacheModelShape,
  keyWeights: KeyWeights,
): number | undefined {
  const kvDim = numKeyValueHeads * headDim;
  const exact = (outputs: number, inputs: number) =>
    smallProductBytes(outputs, inputs, { tokens, rows: true, keyWeights: 'exact' });
  const stored = (outputs: number, inputs: number, format: StorageFormat, dequantize = false) =>
    smallProductBytes(outputs, inputs, { tokens, rows: false, keyWeights, format, dequantize });
  switch (layout.kind) {
    case 'keysAndValues':
      return 0;
    case 'calibrated': {
      // Beside the calibration itself, which its cache counts.
      const [{ columns: n }] = layout.sealed;
      const decodesSinks = layout.window[0].source === 'x' && sinks > 0;
      const square = 1 + Math.min(predict, layer) + (decodesSinks ? 1 : 0);
      const keys = smallProductBytes(kvDim, n, { tokens, rows: true, keyWeights });
      return square * exact(n, n) + keys + exact(kvDim, n) + 4 * n;
    }
    case 'latents': {
      const rank = Math.min(hiddenSize, kvDim);
      const hasOutlier = layout.sealed.length === 3;
      const { format } = layout.sealed[hasOutlier ? 1 : 0];
      const downAndUp = 2 * exact(rank, hiddenSize) + 2 * exact(kvDim, rank);
      return downAndUp + stored(kvDim, rank, format as StorageFormat, hasOutlier);
    }
    case 'x':
    case 'baseX':
    case 'delta':
    case 'latentDelta': {
      const crossLayer = layout.kind !== 'x';
      const [{ columns, format }] = layout.sealed;
      // Above the base a block is read from the accumulator, which is f32.
      const fromCodes = !crossLayer || (layout.sum === 'none' && deltaSpace !== 'stream');
      const keys = fromCodes
        ? stored(kvDim, hiddenSize, format)
        : smallProductBytes(kvDim, hiddenSize, { tokens, rows: true, keyWeights });
      const latent =
        layout.kind === 'latentDelta' ? exact(columns, hiddenSize) + stored(hiddenSize, columns, format) : 0;
      return keys + exact(kvDim, hiddenSize) + latent;
    }
    case 'nonUniform': // no plan, see createPlan
      return undefined;
    default:
      return layout satisfies never;
  }
}
