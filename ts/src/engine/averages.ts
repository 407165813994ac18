/**
 * The end of attention: running softmaxes become averages.
 *
 * @module
 */

import { recordAttendFinish } from './calls.js';
import { type LayerStep, type PassContext, softmaxOf } from './pass-context.js';

/** Rows of one task. */
const TASK_ROWS = 32;

/** Records the division by the sums, and the bias of values that lack it: averaging commutes with adding one. */
export function recordAverages(context: PassContext, step: LayerStep): void {
  const { team, model } = context;
  const { numAttentionHeads: heads } = model.config;
  for (let row = 0; row < context.rows; row += TASK_ROWS) {
    const count = Math.min(TASK_ROWS, context.rows - row);
    team.task();
    recordAttendFinish(team, softmaxOf(context, row), count * heads);
    for (let r = row; r < row + count; r++) recordValueBias(context, step, r);
  }
}

function recordValueBias(context: PassContext, { plan, weights }: LayerStep, row: number): void {
  const { bV } = weights;
  if (!bV || plan.storesFinished) return;
  const { numAttentionHeads, numKeyValueHeads, headDim } = context.model.config;
  const grouped = numAttentionHeads / numKeyValueHeads;
  for (let g = 0; g < numKeyValueHeads; g++) {
    const { acc } = softmaxOf(context, row, g * grouped);
    context.team.call('addBias', acc, bV + g * headDim * 4, grouped, headDim);
  }
}
