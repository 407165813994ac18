/**
 * Attention of a pass: sealed blocks, and what is in none, into a running softmax for each row and head
 * (docs/numerics.md), and averages at the end.
 *
 * Few rows average latents and project once (attention-few.ts). Many rows share a block's rematerialized keys and
 * values (attention-many.ts). Guesses attend to what is kept of a few blocks (attention-recent.ts). Blocks that all sequences of a batch share are read once.
 *
 * @module
 */

import { recordAttendFew } from './attention-few.js';
import { recordAttendMany } from './attention-many.js';
import { recordAttendRecent } from './attention-recent.js';
import { blockRuns } from './block-runs.js';
import type { OpenRows } from './exact-window.js';
import { type LayerStep, type PassContext, sightOf } from './pass-context.js';

/** Rows up to which every part of the blocks has a running softmax of its own. */
const FEW_ROWS = 16;

/** Records attention, up to the finished averages in `buffers.attended`. */
export async function recordAttention(
  context: PassContext,
  step: LayerStep,
  open: readonly OpenRows[],
): Promise<void> {
  if (context.options.attention === 'recent') {
    recordAttendRecent(context, step, open);
    return;
  }
  const blocks = step.caches.map(({ store }, i) =>
    sightOf(context, context.sequences[i]) === 'stored' ? store.blocks : step.before[i].blocks,
  );
  const runs = blockRuns(context, step.caches, blocks);
  if (areFew(context, step)) recordAttendFew(context, step, runs, open);
  else await recordAttendMany(context, step, runs, open);
}

/**
 * Averaging latents costs a row heads * width; values cost a block width * kvDim once, and a row less. Rows of mode
 * `stepwise` go the way that a single one would.
 */
function areFew(context: PassContext, { plan }: LayerStep): boolean {
  const { numAttentionHeads: heads, headDim } = context.model.config;
  const rows = context.options.mode === 'stepwise' ? 1 : context.rows;
  if (plan.storesFinished) return rows <= FEW_ROWS;
  const { latentWidth, kvDim } = plan;
  return rows * heads * (latentWidth - headDim) <= latentWidth * kvDim && rows <= 4 * FEW_ROWS;
}
