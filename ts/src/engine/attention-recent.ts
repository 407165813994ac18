/**
 * Attention of guesses: sinks, the newest blocks and what is in no block (recent-blocks.ts). No block is rebuilt, but
 * each one once, when it comes to be kept.
 *
 * @module
 */

import { recordAverages } from './averages.js';
import { type Float16Block, isBehindWindow, recordAttendFloat16, recordFinishRows } from './calls.js';
import { type OpenRows, recordAttendOpen } from './exact-window.js';
import {
  type LayerStep,
  type PassContext,
  positionsFrom,
  queriesOf,
  type SequenceRows,
} from './pass-context.js';
import { type RecentBlock, recentParts } from './recent-blocks.js';

/** See the module. */
export function recordAttendRecent(context: PassContext, step: LayerStep, open: readonly OpenRows[]): void {
  const { team, model, sequences } = context;
  const { attention } = step;
  const blocks = sequences.map((_, i) => recentBlocks(context, step, i));
  team.barrier();
  sequences.forEach((sequence, i) => {
    const { first, count, position, cache } = sequence;
    const queries = queriesOf(context, first, count, position);
    const { attend } = cache.plan.scratch;
    team.task(); // one for all: they bring the same running softmaxes up to date
    for (const block of blocks[i]) {
      if (isBehindWindow(attention, { position }, block)) continue;
      recordAttendFloat16(team, model.config, attention, queries, block, attend);
    }
    for (const rows of open) {
      if (rows.sequence !== sequence) continue;
      recordAttendOpen(context, step, rows, [0, count], [0, model.config.numKeyValueHeads]);
    }
  });
  team.barrier();
  recordAverages(context, step);
}

/** The kept blocks of a sequence; records the filling of those that are new. */
function recentBlocks(context: PassContext, step: LayerStep, which: number): Float16Block[] {
  const { plan, index, before, caches } = step;
  const sequence = context.sequences[which];
  const tokens = plan.options.residualWindow;
  const parts = recentParts(before[which].blocks, tokens);
  const place = (block: number) => {
    const firstKey = block * tokens;
    return { firstKey, positions: positionsFrom(context, step, firstKey) };
  };
  const float16 = plan.f16Places;
  if (float16) {
    return parts.map((part) => {
      const pointer = caches[which].store.block(part.index);
      const [keys, values] = [pointer + float16.keys, pointer + float16.values];
      return { keys, values, tokens: part.tokens, ...place(part.index) };
    });
  }
  const { kept, fresh } = sequence.cache.memory.recent.keep(index, parts);
  for (const block of fresh) recordFill(context, step, sequence, block);
  return kept.map((block) => ({ ...block, ...place(block.index) }));
}

/** Records the rebuilding of a block that is to be kept. */
function recordFill(
  context: PassContext,
  { index, plan, weights }: LayerStep,
  { cache }: SequenceRows,
  { index: blockIndex, tokens, keys, values }: RecentBlock,
): void {
  const { team, model } = context;
  const { scratch } = cache.plan;
  const block = cache.memory.context(index, blockIndex, cache.layers[index].store.block(blockIndex), false);
  const count = tokens * plan.kvDim;
  team.task();
  plan.recordReadRows(team, block, scratch.keys, scratch.otherRows);
  const due = plan.storesFinished ? { bK: 0, keyNorm: 0, bV: 0 } : { ...weights, bV: 0 };
  recordFinishRows(team, model.config, due, scratch.keys, scratch.otherRows, tokens);
  // values that f16 cannot hold spoil guesses and nothing else
  team.call('encodeFloat16', scratch.keys, keys, count);
  team.call('encodeFloat16', scratch.otherRows, values, count);
}
