/**
 * Attention of many rows: keys and values of a batch of blocks are rematerialized, then all rows attend to them, rows
 * and KV heads shared among threads. A row's running softmax takes the blocks in order.
 *
 * @module
 */

import { recordAverages } from './averages.js';
import type { BlockRun } from './block-runs.js';
import { isBehindWindow, recordAttendBlock } from './calls.js';
import { type OpenRows, recordAttendOpen } from './exact-window.js';
import type { Pointer } from './kernels.js';
import { handsOn, type LayerStep, type PassContext, positionsFrom, queriesOf } from './pass-context.js';

/** Blocks rematerialized before rows attend to them. */
const BATCH = 8;

/** Rows of one task. */
const TASK_ROWS = 32;

/** Keys and values of one block of a batch. */
interface Slot {
  /** f32 [kvDim, tokens rounded up to a multiple of 8] */
  readonly keysT: Pointer;
  /** f32 [tokens, kvDim] */
  readonly values: Pointer;
}

/** See the module. */
export async function recordAttendMany(
  context: PassContext,
  step: LayerStep,
  runs: readonly BlockRun[],
  open: readonly OpenRows[],
): Promise<void> {
  const { team, sequences } = context;
  if (runs.length > 0) {
    const slots = reserveSlots(context, step);
    for (const run of runs) {
      for (let from = run.from; from < run.to; from += BATCH) {
        recordBatch(context, step, { ...run, from, to: Math.min(from + BATCH, run.to) }, slots);
        await team.run(); // a long context has more of them than should be recorded at once
      }
    }
  }
  for (const sequence of sequences) {
    const own = open.filter((rows) => rows.sequence === sequence);
    forEachTask(context, sequence.count, (rows, heads) => {
      for (const each of own) recordAttendOpen(context, step, each, rows, heads);
    });
  }
  team.barrier();
  recordAverages(context, step);
}

/** Visits rows and KV heads, a task for each part. */
function forEachTask(
  { team, model }: PassContext,
  count: number,
  visit: (rows: readonly [number, number], heads: readonly [number, number]) => void,
): void {
  for (let row = 0; row < count; row += TASK_ROWS) {
    for (let g = 0; g < model.config.numKeyValueHeads; g++) {
      team.task();
      visit([row, Math.min(row + TASK_ROWS, count)], [g, g + 1]);
    }
  }
}

function reserveSlots({ buffers }: PassContext, { plan }: LayerStep): Slot[] {
  const { kvDim } = plan;
  const tokens = plan.options.residualWindow;
  const keyBytes = Math.ceil(tokens / 8) * 8 * kvDim * 4;
  const bytes = keyBytes + tokens * kvDim * 4;
  const first = buffers.reserve('blocks', BATCH * bytes);
  return Array.from({ length: BATCH }, (_, i) => ({
    keysT: first + i * bytes,
    values: first + i * bytes + keyBytes,
  }));
}

/** Records rematerialization of a batch of blocks, and attention to it. */
function recordBatch(context: PassContext, step: LayerStep, run: BlockRun, slots: readonly Slot[]): void {
  const { team, model } = context;
  const { index, plan, attention } = step;
  const { scratch } = run.cache.plan;
  const tokens = plan.options.residualWindow;
  const behind = (b: number) => isBehindWindow(attention, run, { firstKey: b * tokens, tokens });
  for (let b = run.from; b < run.to; b++) {
    if (behind(b) && !handsOn(context, step, run, { firstKey: b * tokens, tokens })) continue;
    const { keysT, values } = slots[b - run.from];
    const block = run.cache.memory.context(index, b, run.layer.store.block(b), false);
    team.task();
    plan.recordRead(team, block, positionsFrom(context, step, b * tokens), keysT, values);
  }
  team.barrier();
  const queries = queriesOf(context, run.firstRow, run.rows, run.position);
  forEachTask(context, run.rows, (rows, heads) => {
    for (let b = run.from; b < run.to; b++) {
      const firstKey = b * tokens;
      if (behind(b) || run.position + rows[1] <= firstKey) continue; // not visible any more, or not yet
      const place = { tokens, firstKey, stride: plan.kvDim, headStride: model.config.headDim };
      const block = { ...slots[b - run.from], ...place };
      recordAttendBlock(team, model.config, attention, queries, block, scratch.attend, { rows, heads });
    }
  });
  team.barrier();
}
