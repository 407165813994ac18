/**
 * The rows that a layer's cache may store, made from a layer's input outside of a pass.
 *
 * @module
 */

import type { LayerInput } from '../cache/contract.js';
import type { ModelConfig } from '../model/config.js';
import type { CachePlan, InputRows } from './cache-host.js';
import { recordFinishRows } from './calls.js';
import type { LinearMemory } from './memory.js';
import type { PlacedLayer } from './placed-model.js';
import type { Recorder } from './team.js';

/**
 * Computes rows.
 *
 * @param immediate makes calls at once
 * @throws {MemoryError} if there is no room
 */
export function inputRows(
  { memory, immediate, config }: { memory: LinearMemory; immediate: Recorder; config: ModelConfig },
  weights: PlacedLayer,
  { layers, options, scratch }: CachePlan,
  layer: number,
  input: LayerInput,
): InputRows {
  const plan = layers[layer];
  const { hiddenSize, kvDim, down, storesFinished, storesProjections } = plan;
  const tokens = input.x.rows;
  const free: number[] = [];
  const take = (columns: number, source?: Float32Array): number => {
    const pointer = memory.allocate(tokens * columns * 4, 'scratch');
    free.push(pointer);
    return source ? memory.write(pointer, source) : pointer;
  };
  try {
    const x = take(hiddenSize, input.x.data);
    const normalized = take(hiddenSize, input.normalized.data);
    const stream = take(hiddenSize, input.stream.data);
    const keys = take(kvDim);
    const values = take(kvDim);
    const latents = down.map(({ outputs }) => take(outputs));
    const step = options.residualWindow;
    for (let first = 0; first < tokens; first += step) {
      const count = Math.min(step, tokens - first);
      const source = x + first * hiddenSize * 4;
      if (storesProjections) {
        const at = first * kvDim * 4;
        plan.recordProjection(immediate, source, count, keys + at, values + at, scratch);
      }
      down.forEach((product, which) => {
        const out = latents[which] + first * product.outputs * 4;
        product.recordRows(immediate, source, count, out, scratch);
      });
    }
    if (storesFinished) recordFinishRows(immediate, config, weights, keys, values, tokens);
    const [keyLatent = 0, valueLatent = 0] = latents;
    return { rows: { x, normalized, stream, keys, values, keyLatent, valueLatent }, free };
  } catch (error) {
    for (const pointer of free) memory.free(pointer);
    throw error;
  }
}
