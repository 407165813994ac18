/**
 * Bytes of the weights that the engine folds, factors or rotates to read a cache. They belong to
 * the model and the options, and serve all sequences with those options.
 *
 * @module
 */

import { basisBlocks, type CalibratedPlan } from '../cache/calibration.js';
import { type LayerLayout, type LayoutOf, layerLayout, layoutSizes } from '../cache/layout.js';
import type { CacheModelShape, CacheOptions } from '../cache/options.js';
import type { StorageFormat } from '../cache/stored-matrix.js';
import { channelProductBytes } from './plans/basis-product.js';
import { type KeyWeights, smallProductBytes } from './small-product.js';

/**
 * Bytes of the plan of a cache, by formula: the products that `LayerPlan` makes.
 *
 * @param options resolved for the model
 * @param calibrated plan of a calibrated cache; without it every channel counts as one that has bits
 * @returns undefined for a cache that the engine has no such plan for
 */
export function planBytes(
  options: CacheOptions,
  shape: CacheModelShape,
  keyWeights: KeyWeights = 'exact',
  calibrated?: CalibratedPlan,
): number | undefined {
  let total = 0;
  for (let layer = 0; layer < shape.numHiddenLayers; layer++) {
    const layout = layerLayout(options, layoutSizes(shape), layer, calibrated);
    const bytes = layerPlanBytes(layout, layer, options, shape, keyWeights);
    if (bytes === undefined) return undefined;
    total += bytes;
  }
  return total;
}

function layerPlanBytes(
  layout: LayerLayout,
  layer: number,
  { residualWindow: tokens, deltaSpace, predict, sinks, basis }: CacheOptions,
  shape: CacheModelShape,
  keyWeights: KeyWeights,
): number | undefined {
  const { hiddenSize, numKeyValueHeads, headDim } = shape;
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
      const [{ columns: n, format }] = layout.sealed;
      const blocks = basisBlocks(basis, shape, n);
      const diagonal = (sizes: readonly number[]) => sizes.reduce((sum, size) => sum + exact(size, size), 0);
      const decodesSinks = layout.window[0].source === 'x' && sinks > 0;
      const common = diagonal(blocks) + (decodesSinks ? exact(n, n) : 0) + 4 * n;
      const rowKeys = smallProductBytes(kvDim, n, { tokens, rows: true, keyWeights });
      if (predict > 0) return common + Math.min(predict, layer) * exact(n, n) + rowKeys + exact(kvDim, n);
      const isJoint = basis === 'joint';
      const values = isJoint ? exact(kvDim, n) : diagonal(blocks.slice(blocks.length / 2));
      if (typeof format === 'string') return common + rowKeys + values;
      const keyBlocks = isJoint ? blocks : blocks.slice(0, blocks.length / 2);
      return common + values + channelKeyBytes(keyBlocks, isJoint ? [kvDim] : keyBlocks, format);
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

/** Bytes of the products that give keys from codes, one for each block. */
function channelKeyBytes(
  blocks: readonly number[],
  outputs: readonly number[],
  format: LayoutOf<'calibrated'>['sealed'][0]['format'],
): number {
  let first = 0;
  return blocks.reduce((sum, size, i) => {
    const bits = typeof format === 'object' && 'channelBits' in format ? format.channelBits : undefined;
    const live = bits?.slice(first, first + size).filter((each) => each > 0).length ?? size;
    first += size;
    return sum + channelProductBytes(outputs[i], live);
  }, 0);
}
