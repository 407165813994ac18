/**
 * Keys and values that are in no sealed block: the tokens of the window as the cache stores them, and the pass's own.
 *
 * A sequence's finished keys and values of the window are kept from pass to pass (`ExactWindow`), so that each token
 * is rematerialized once. They lie as one block of which the newest tokens are missing; the pass's own tokens take
 * their places, exactly, until they are read back as stored by the next pass.
 *
 * @module
 */

import type { ModelConfig } from '../model/config.js';
import { derivedSizes } from '../model/config.js';
import { type KeysAndAverages, recordAttendBlock } from './calls.js';
import {
  type LayerStep,
  type PassContext,
  positionsFrom,
  queriesOf,
  type SequenceRows,
} from './pass-context.js';

/** Tokens of a window that become finished keys in one task. */
const TASK_TOKENS = 16;

/** Keys and values outside sealed blocks, and whose rows attend to them. */
export interface OpenRows {
  readonly sequence: SequenceRows;
  readonly block: KeysAndAverages;
}

/** Records the reading of what the windows store and is not there in finished form. */
export function recordWindows(context: PassContext, { caches }: LayerStep): void {
  const { team, sequences } = context;
  for (const [i, layer] of caches.entries()) {
    const { cache } = sequences[i];
    const { plan, store } = layer;
    const first = layer.takeMissing();
    const { windowTokens, sealedTokens } = store;
    if (first >= windowTokens) continue;
    const window = store.window();
    const exact = cache.exactWindow(plan.layer);
    const { scratch } = cache.plan;
    const stride = roundUp8(plan.options.residualWindow);
    for (let from = first; from < windowTokens; from += TASK_TOKENS) {
      const count = Math.min(TASK_TOKENS, windowTokens - from);
      team.task();
      const values = exact.values + from * plan.kvDim * 4;
      plan.recordReadWindow(team, window, from, count, scratch.keys, values, scratch);
      const positions = positionsFrom(context, sealedTokens + from);
      plan.recordFinishKeys(team, scratch.keys, count, positions, scratch.keysT);
      team.call('placeKeys', scratch.keysT, plan.kvDim, count, exact.keysT, stride, from);
    }
  }
}

/** The windows as they are stored, this pass's tokens included. */
export function windowRows({ model, sequences }: PassContext, { plan, caches }: LayerStep): OpenRows[] {
  const rows: OpenRows[] = [];
  for (const [i, sequence] of sequences.entries()) {
    const { windowTokens, sealedTokens } = caches[i].store;
    if (windowTokens === 0) continue;
    const { keysT, values } = sequence.cache.exactWindow(plan.layer);
    const tokens = plan.options.residualWindow;
    rows.push({
      sequence,
      block: valuesBlock(model.config, { keysT, values, tokens, firstKey: sealedTokens }),
    });
  }
  return rows;
}

/**
 * Records the finished keys of the pass's own rows: into the window as far as its block goes, then in runs.
 *
 * @returns all that rows attend to besides sealed blocks
 */
export function recordOwnRows(context: PassContext, { plan, before }: LayerStep): OpenRows[] {
  const { team, model, buffers, sequences } = context;
  const { kvDim } = plan;
  const tokens = plan.options.residualWindow;
  const open: OpenRows[] = [];
  let runs = buffers.ownKeysT;
  for (const [i, sequence] of sequences.entries()) {
    const { scratch } = sequence.cache.plan;
    const slot = before[i].tokens;
    let done = 0;
    const finish = (count: number, keysT: number): void => {
      const source = buffers.keys + (sequence.first + done) * kvDim * 4;
      team.task();
      team.call('copyBytes', source, scratch.keys, count * kvDim * 4);
      const positions = positionsFrom(context, sequence.position + done);
      plan.recordFinishKeys(team, scratch.keys, count, positions, keysT);
    };
    if (slot > 0) {
      const { keysT, values } = sequence.cache.exactWindow(plan.layer);
      const count = Math.min(sequence.count, tokens - slot);
      finish(count, scratch.keysT);
      team.call('placeKeys', scratch.keysT, kvDim, count, keysT, roundUp8(tokens), slot);
      const source = buffers.values + sequence.first * kvDim * 4;
      team.call('copyBytes', source, values + slot * kvDim * 4, count * kvDim * 4);
      const firstKey = before[i].blocks * tokens;
      open.push({ sequence, block: valuesBlock(model.config, { keysT, values, tokens, firstKey }) });
      done = count;
    }
    while (done < sequence.count) {
      const count = Math.min(tokens, sequence.count - done);
      finish(count, runs);
      const values = buffers.values + (sequence.first + done) * kvDim * 4;
      const firstKey = sequence.position + done;
      open.push({
        sequence,
        block: valuesBlock(model.config, { keysT: runs, values, tokens: count, firstKey }),
      });
      runs += roundUp8(count) * kvDim * 4;
      done += count;
    }
  }
  return open;
}

/** Columns of `ownKeysT` that {@link recordOwnRows} may need for a sequence. */
export function ownColumns({ cache, count }: SequenceRows): number {
  const runs = Math.ceil(count / cache.options.residualWindow) + 1;
  return Math.min(8 * count, count + 7 * runs);
}

/** Records attention of some rows and KV heads of a sequence to open rows. */
export function recordAttendOpen(
  context: PassContext,
  { sequence, block }: OpenRows,
  rows: readonly [from: number, to: number],
  heads: readonly [from: number, to: number],
): void {
  const { first, count, position, cache } = sequence;
  if (position + rows[1] <= block.firstKey) return; // not visible yet
  const queries = queriesOf(context, first, count, position);
  const { attend } = cache.plan.scratch;
  recordAttendBlock(context.team, context.model.config, queries, block, attend, { rows, heads });
}

/** A block of finished values. */
function valuesBlock(
  config: ModelConfig,
  block: Omit<KeysAndAverages, 'stride' | 'headStride'>,
): KeysAndAverages {
  return { ...block, stride: derivedSizes(config).kvDim, headStride: config.headDim };
}

function roundUp8(count: number): number {
  return Math.ceil(count / 8) * 8;
}
