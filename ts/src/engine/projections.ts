/**
 * From x to what attention takes: latents, bias and norm of heads, RoPE.
 *
 * @module
 */

import { derivedSizes } from '../model/config.js';
import { normalizesAfterRope } from '../model/qk-norm.js';
import { recordAttendBegin, recordFinishRows, recordHeadNorm, recordRope } from './calls.js';
import { type LayerStep, type PassContext, positionsFrom, rowsOf, softmaxOf } from './pass-context.js';
import { forEachChunk } from './placed-weights.js';
import { readRows } from './taps.js';

/** Rows of one task of RoPE. */
const ROPE_ROWS = 128;

/** Projections of x that latent caches store. */
export function recordLatents({ team, buffers, plan, rows }: PassContext, step: LayerStep): void {
  const tokens = plan.options.residualWindow;
  step.plan.down.forEach((product, which) => {
    const outputs = Math.max(8, Math.ceil(product.outputs / team.threads / 8) * 8);
    for (let first = 0; first < rows; first += tokens) {
      const count = Math.min(tokens, rows - first);
      const source = buffers.x.floats + first * product.inputs * 4;
      const out = buffers.latents[which] + first * product.outputs * 4;
      for (let from = 0; from < product.outputs; from += outputs) {
        team.task();
        const to = Math.min(from + outputs, product.outputs);
        product.recordRows(team, source, count, out, plan.scratch, { from, to });
      }
    }
  });
}

/** Bias and norm of heads: of queries, and of what is stored as keys and values. */
export function recordHeads(context: PassContext, { weights, plan }: LayerStep): void {
  const { team, buffers } = context;
  const { bQ, bK, bV, keyNorm } = weights;
  const { numAttentionHeads } = context.model.config;
  const { kvDim, queryDim } = derivedSizes(context.model.config);
  const queryNorm = normalizesAfterRope(context.model.config) ? 0 : weights.queryNorm;
  const finishKeys = plan.storesFinished && (bK || bV || keyNorm);
  if (!(bQ || queryNorm || finishKeys)) return;
  forEachChunk(rowsOf(context, buffers.x), (first, count) => {
    team.task();
    const queries = buffers.queries + first * queryDim * 4;
    if (bQ) team.call('addBias', queries, bQ, count, queryDim);
    if (queryNorm) recordHeadNorm(team, context.model.config, queryNorm, queries, count, numAttentionHeads);
    if (!finishKeys) return;
    const offset = first * kvDim * 4;
    recordFinishRows(
      team,
      context.model.config,
      weights,
      buffers.keys + offset,
      buffers.values + offset,
      count,
    );
  });
}

/** Lets the caller change keys and values before they are stored. */
export async function replaceKeysAndValues(context: PassContext, { index, plan }: LayerStep): Promise<void> {
  const { memory, team, buffers, options } = context;
  if (!options.onFreshKeysAndValues || !plan.storesFinished) return;
  await team.run();
  const keys = readRows(context, buffers.keys, plan.kvDim);
  const values = readRows(context, buffers.values, plan.kvDim);
  options.onFreshKeysAndValues(index, { keys, values });
  memory.write(buffers.keys, keys.data);
  memory.write(buffers.values, values.data);
}

/** RoPE of the queries, and their norm if it comes after it; their running softmaxes are emptied. */
export function recordRopes(context: PassContext, step: LayerStep): void {
  const { team, model, buffers } = context;
  const { numAttentionHeads: heads } = model.config;
  const { queryDim } = derivedSizes(model.config);
  const norm = normalizesAfterRope(model.config) ? step.weights.queryNorm : 0;
  for (const { first, count, position } of context.sequences) {
    for (let done = 0; done < count; done += ROPE_ROWS) {
      const rows = Math.min(ROPE_ROWS, count - done);
      const queries = buffers.queries + (first + done) * queryDim * 4;
      team.task();
      recordRope(team, model.config, queries, rows, heads, positionsFrom(context, step, position + done));
      if (norm) recordHeadNorm(team, model.config, norm, queries, rows, heads);
      recordAttendBegin(team, softmaxOf(context, first + done), rows * heads);
    }
  }
}
