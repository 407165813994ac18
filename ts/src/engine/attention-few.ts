/**
 * Attention of few rows: the blocks are divided into parts, each with running softmaxes over its latents, so that
 * threads share them; then each row's parts are merged, and projected to values once.
 *
 *     part p     softmax over blocks [from, to): maxima, sums, weighted sums of latents      one task each
 *     row, head  merge the parts, project, merge with the open rows, divide by the sum       one task each
 *
 * The parts are the same for every number of threads, and so are the bits.
 *
 * @module
 */

import type { BlockRun } from './block-runs.js';
import {
  isBehindWindow,
  type Queries,
  recordAttendBegin,
  recordAttendBlock,
  recordAttendFinish,
  recordAttendFloat16,
  recordAttendMerge,
  type Softmax,
  softmaxFrom,
} from './calls.js';
import { type OpenRows, recordAttendOpen } from './exact-window.js';
import type { Pointer } from './kernels.js';
import {
  handsOn,
  type LayerStep,
  type PassContext,
  positionsFrom,
  queriesOf,
  softmaxOf,
} from './pass-context.js';

/** Parts into which the blocks of a sequence are divided. */
const PARTS = 16;

/** Some blocks with running softmaxes of their own. */
interface Part extends BlockRun {
  readonly softmax: Softmax;
}

/** See the module. */
export function recordAttendFew(
  context: PassContext,
  step: LayerStep,
  runs: readonly BlockRun[],
  open: readonly OpenRows[],
): void {
  const { team, sequences, model } = context;
  const parts = divide(context, step, runs);
  for (const sequence of sequences) {
    team.task(); // one for all: they bring the same running softmaxes up to date
    for (const rows of open) {
      if (rows.sequence !== sequence) continue;
      recordAttendOpen(context, step, rows, [0, sequence.count], [0, model.config.numKeyValueHeads]);
    }
  }
  for (const part of parts) recordPart(context, step, part);
  team.barrier();
  for (let row = 0; row < context.rows; row++) {
    const own = parts.filter(({ firstRow, rows }) => row >= firstRow && row < firstRow + rows);
    for (let g = 0; g < model.config.numKeyValueHeads; g++) recordAverages(context, step, own, row, g);
  }
}

/** Divides runs of blocks into parts and gives each its running softmaxes. */
function divide(context: PassContext, { plan }: LayerStep, runs: readonly BlockRun[]): Part[] {
  const { numAttentionHeads, headDim } = context.model.config;
  const width = plan.storesFinished ? headDim : plan.latentWidth;
  const ranges = runs.flatMap((run) => {
    const count = run.to - run.from;
    const parts = Math.min(count, PARTS);
    return Array.from({ length: parts }, (_, p) => ({
      ...run,
      from: run.from + Math.floor((p * count) / parts),
      to: run.from + Math.floor(((p + 1) * count) / parts),
    }));
  });
  const pairs = (run: BlockRun) => run.rows * numAttentionHeads;
  const bytes = ranges.reduce((sum, run) => sum + softmaxBytes(pairs(run), width), 0);
  let at = context.buffers.reserve('parts', bytes);
  return ranges.map((run) => {
    const softmax = placeSoftmax(at, pairs(run), width);
    at += softmaxBytes(pairs(run), width);
    return { ...run, softmax };
  });
}

/** Records the attention of a part's rows to its blocks. */
function recordPart(context: PassContext, step: LayerStep, part: Part): void {
  const { team, model } = context;
  const { index, plan, attention } = step;
  const { config } = model;
  const { softmax, rows, firstRow, position } = part;
  const { scratch } = part.cache.plan;
  const tokens = plan.options.residualWindow;
  const queries: Queries = { ...queriesOf(context, firstRow, rows, position), softmax };
  const float16 = plan.f16Places;
  team.task();
  recordAttendBegin(team, softmax, rows * config.numAttentionHeads);
  for (let b = part.from; b < part.to; b++) {
    team.seam(); // what a block leaves is in the running softmaxes
    const blockPointer = part.layer.store.block(b);
    const firstKey = b * tokens;
    const isBehind = isBehindWindow(attention, part, { firstKey, tokens });
    if (isBehind && !handsOn(context, step, part, { firstKey, tokens })) continue;
    const positions = positionsFrom(context, step, firstKey);
    if (float16) {
      const keys = blockPointer + float16.keys;
      const values = blockPointer + float16.values;
      const block = { keys, values, tokens, firstKey, positions };
      recordAttendFloat16(team, config, attention, queries, block, scratch.attend);
      continue;
    }
    const block = part.cache.memory.context(index, b, blockPointer, false);
    const { keysT } = scratch;
    const { values, stride } = plan.recordRead(team, block, positions, keysT, 0);
    if (isBehind) continue;
    const headStride = plan.storesFinished ? config.headDim : plan.latentHeadStride;
    const read = { keysT, tokens, firstKey, values, stride, headStride };
    recordAttendBlock(team, config, attention, queries, read, scratch.attend);
  }
}

/** Records one row's averages for the query heads of one KV head. */
function recordAverages(
  context: PassContext,
  { plan, weights }: LayerStep,
  parts: readonly Part[],
  row: number,
  g: number,
): void {
  const { team, model } = context;
  const { numAttentionHeads, numKeyValueHeads, headDim } = model.config;
  const grouped = numAttentionHeads / numKeyValueHeads;
  const { scratch } = context.plan;
  const pair = (part: Part) =>
    softmaxFrom(part.softmax, (row - part.firstRow) * numAttentionHeads + g * grouped);
  const result = softmaxOf(context, row, g * grouped);
  team.task();
  if (parts.length > 0) {
    const all = pair(parts[0]);
    for (const part of parts.slice(1)) recordAttendMerge(team, all, pair(part), grouped);
    if (plan.storesFinished) {
      recordAttendMerge(team, result, all, grouped);
    } else {
      plan.recordHeadValues(team, g, all.acc, grouped, scratch.projected, scratch);
      recordAttendMerge(team, result, { ...all, acc: scratch.projected, width: headDim }, grouped);
    }
  }
  recordAttendFinish(team, result, grouped);
  // averaging commutes with adding a bias, so values that lack it get it here
  if (weights.bV && !plan.storesFinished) {
    team.call('addBias', result.acc, weights.bV + g * headDim * 4, grouped, headDim);
  }
}

/** Bytes of the running softmaxes of some pairs. */
function softmaxBytes(pairs: number, width: number): number {
  return 2 * roundUp64(pairs * 4) + roundUp64(pairs * width * 4);
}

function placeSoftmax(at: Pointer, pairs: number, width: number): Softmax {
  const sums = at + roundUp64(pairs * 4);
  return { maxima: at, sums, acc: sums + roundUp64(pairs * 4), width };
}

function roundUp64(bytes: number): number {
  return Math.ceil(bytes / 64) * 64;
}
