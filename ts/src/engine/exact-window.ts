/**
 * Keys and values that are in no sealed block: the tokens of the window as the cache stores them, and the pass's own.
 *
 * A sequence's finished keys and values of the window are kept from pass to pass (`ExactWindow`), so that each token
 * is rematerialized once. They form one block whose newest tokens are missing. Rows that see each other
 * exactly take their places there until the next pass reads them back as stored. Where every row is on its own, each
 * is a run of its own, and the window holds only what is stored: one row or many, the sums are the same.
 *
 * @module
 */

import type { ModelConfig } from '../model/config.js';
import { derivedSizes } from '../model/config.js';
import type { AttentionMode } from '../model/language-model.js';
import { isBehindWindow, type KeysAndAverages, recordAttendBlock } from './calls.js';
import type { Pointer } from './kernels.js';
import {
  type LayerStep,
  type PassContext,
  positionsFrom,
  queriesOf,
  type SequenceRows,
  sightOf,
  type WindowState,
} from './pass-context.js';
import type { LayerPlan } from './plans/plan.js';

/** Tokens of a window that become finished keys in one task. */
const TASK_TOKENS = 16;

/** Keys and values outside sealed blocks, and whose rows attend to them. */
export interface OpenRows {
  readonly sequence: SequenceRows;
  readonly block: KeysAndAverages;
  /** Rows of the sequence that attend to them, [from, to). Default: all. */
  readonly rows?: readonly [from: number, to: number];
  /** Whether a row sees only what is before its own position. */
  readonly before?: boolean;
}

/** Records the reading of what the windows store and is not there in finished form. */
export function recordWindows(context: PassContext, step: LayerStep): void {
  const { team, sequences } = context;
  for (const [i, layer] of step.caches.entries()) {
    const { cache } = sequences[i];
    const { plan, store } = layer;
    const first = layer.takeMissing();
    const { windowTokens, sealedTokens } = store;
    if (first >= windowTokens) continue;
    const window = store.window();
    const exact = cache.memory.exactWindow(plan.layer);
    const { scratch } = cache.plan;
    const stride = roundUp8(plan.options.residualWindow);
    for (let from = first; from < windowTokens; from += TASK_TOKENS) {
      const count = Math.min(TASK_TOKENS, windowTokens - from);
      team.task();
      const values = exact.values + from * plan.kvDim * 4;
      plan.recordReadWindow(team, window, from, count, scratch.keys, values, scratch);
      const positions = positionsFrom(context, step, sealedTokens + from);
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
    const { keysT, values } = sequence.cache.memory.exactWindow(plan.layer);
    const tokens = plan.options.residualWindow;
    rows.push({
      sequence,
      block: valuesBlock(model.config, { keysT, values, tokens, firstKey: sealedTokens }),
    });
  }
  return rows;
}

/**
 * Records the finished keys of the pass's own rows, as exact as they are.
 *
 * @returns all that rows attend to besides sealed blocks
 */
export function recordOwnRows(context: PassContext, step: LayerStep): OpenRows[] {
  const own = new OwnRows(context, step);
  context.sequences.forEach((sequence, i) => {
    if (sightOf(context, sequence) === 'stepwise') own.recordSingly(sequence, step.before[i]);
    else own.recordTogether(sequence, step.before[i]);
  });
  return own.open;
}

/** Gathers {@link OpenRows}; runs of rows follow one another in `ownKeysT`. */
class OwnRows {
  readonly open: OpenRows[] = [];
  readonly #context: PassContext;
  readonly #step: LayerStep;
  readonly #plan: LayerPlan;
  #next: Pointer;

  constructor(context: PassContext, step: LayerStep) {
    this.#context = context;
    this.#step = step;
    this.#plan = step.plan;
    this.#next = context.buffers.ownKeysT;
  }

  /** Each row is a run; the window, as it is stored, is seen up to the position before a row. */
  recordSingly(sequence: SequenceRows, { tokens, blocks }: WindowState): void {
    if (tokens + sequence.count > 1) {
      this.open.push({ sequence, block: this.#window(sequence, blocks), before: true });
    }
    for (let row = 0; row < sequence.count; row++) this.#recordRun(sequence, row, 1, [row, row + 1]);
  }

  /** Rows up to the end of the window's block take their places in it; the others are runs of a block at most. */
  recordTogether(sequence: SequenceRows, { tokens: slot, blocks }: WindowState): void {
    const { team } = this.#context;
    const { kvDim, options } = this.#plan;
    const { residualWindow } = options;
    let done = 0;
    if (slot > 0) {
      const { keysT } = sequence.cache.plan.scratch;
      const window = this.#window(sequence, blocks);
      done = Math.min(sequence.count, residualWindow - slot);
      this.#recordKeys(sequence, 0, done, keysT);
      team.call('placeKeys', keysT, kvDim, done, window.keysT, roundUp8(residualWindow), slot);
      const target = window.values + slot * kvDim * 4;
      team.call('copyBytes', this.#values(sequence, 0), target, done * kvDim * 4);
      this.open.push({ sequence, block: window });
    }
    for (; done < sequence.count; done += residualWindow) {
      this.#recordRun(sequence, done, Math.min(residualWindow, sequence.count - done));
    }
  }

  #recordRun(sequence: SequenceRows, first: number, count: number, rows?: OpenRows['rows']): void {
    const keysT = this.#next;
    this.#next += roundUp8(count) * this.#plan.kvDim * 4;
    this.#recordKeys(sequence, first, count, keysT);
    const block = { keysT, tokens: count, firstKey: sequence.position + first };
    const values = this.#values(sequence, first);
    this.open.push({ sequence, block: valuesBlock(this.#context.model.config, { ...block, values }), rows });
  }

  #recordKeys(sequence: SequenceRows, first: number, count: number, keysT: Pointer): void {
    const { team, buffers } = this.#context;
    const { kvDim } = this.#plan;
    const { scratch } = sequence.cache.plan;
    const source = buffers.keys + (sequence.first + first) * kvDim * 4;
    team.task();
    team.call('copyBytes', source, scratch.keys, count * kvDim * 4);
    const positions = positionsFrom(this.#context, this.#step, sequence.position + first);
    this.#plan.recordFinishKeys(team, scratch.keys, count, positions, keysT);
  }

  #values({ first }: SequenceRows, row: number): Pointer {
    return this.#context.buffers.values + (first + row) * this.#plan.kvDim * 4;
  }

  #window({ cache }: SequenceRows, blocks: number): KeysAndAverages {
    const { layer, options } = this.#plan;
    const tokens = options.residualWindow;
    const place = { ...cache.memory.exactWindow(layer), tokens, firstKey: blocks * tokens };
    return valuesBlock(this.#context.model.config, place);
  }
}

/** Columns of `ownKeysT` that {@link recordOwnRows} may need for a sequence. */
export function ownColumns({ cache, count }: SequenceRows, mode: AttentionMode | undefined): number {
  if (mode === 'stepwise') return 8 * count;
  const runs = Math.ceil(count / cache.options.residualWindow) + 1;
  return Math.min(8 * count, count + 7 * runs);
}

/** Records attention of some rows and KV heads of a sequence to open rows, as far as they see them. */
export function recordAttendOpen(
  context: PassContext,
  { attention }: LayerStep,
  { sequence, block, rows = [0, sequence.count], before = false }: OpenRows,
  [from, to]: readonly [from: number, to: number],
  heads: readonly [from: number, to: number],
): void {
  const { first, count, cache } = sequence;
  const position = sequence.position - (before ? 1 : 0);
  const seeing = [Math.max(from, rows[0]), Math.min(to, rows[1])] as const;
  if (seeing[0] >= seeing[1] || position + seeing[1] <= block.firstKey) return;
  const queries = queriesOf(context, first, count, position);
  const { attend } = cache.plan.scratch;
  if (before && attention.window === 1) return; // these rows see themselves only
  const shape = before && attention.window ? { ...attention, window: attention.window - 1 } : attention;
  if (isBehindWindow(shape, { position: position + seeing[0] }, block)) return;
  const range = { rows: seeing, heads };
  recordAttendBlock(context.team, context.model.config, shape, queries, block, attend, range);
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
