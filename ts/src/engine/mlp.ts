/**
 * The gated MLP of a pass (model/mlp.ts), as many rows at a time as its buffers hold.
 *
 * @module
 */

import { type LayerStep, type PassContext, rowsFrom } from './pass-context.js';
import { forEachChunk, recordLinear, recordTile } from './placed-weights.js';

/** Records delta = wDown(activation(wGate x) * (wUp x)); the bias of wDown is added with what else delta needs. */
export function recordMlp(context: PassContext, { weights }: LayerStep): void {
  const { team, buffers, model } = context;
  const { hiddenSize, intermediateSize, activation = 'silu' } = model.config;
  for (let first = 0; first < context.rows; first += buffers.mlp.rows) {
    const rows = Math.min(buffers.mlp.rows, context.rows - first);
    const x = rowsFrom(buffers.x, first, rows);
    const gated = { ...buffers.mlp, rows };
    recordLinear(team, weights.wGate, x, gated.floats);
    recordLinear(team, weights.wUp, x, buffers.up);
    team.barrier();
    forEachChunk(gated, (at, count, chunk) => {
      const offset = at * intermediateSize * 4;
      const gate = gated.floats + offset;
      const up = buffers.up + offset;
      team.task();
      if (weights.bGate) team.call('addBias', gate, weights.bGate, count, intermediateSize);
      if (weights.bUp) team.call('addBias', up, weights.bUp, count, intermediateSize);
      team.call(activation === 'silu' ? 'siluGate' : 'geluGate', gate, up, gate, count * intermediateSize);
      recordTile(team, gated, at, count, chunk);
    });
    team.barrier();
    recordLinear(team, weights.wDown, gated, buffers.delta + first * hiddenSize * 4);
    team.barrier();
  }
}
