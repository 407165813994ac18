/**
 * One forward pass on the kernels: model/transformer.ts, step by step under the same names.
 *
 * It differs in where tensors are (pass-buffers.ts) and in the order of sums. A step records kernel calls,
 * cut into tasks that threads share: rows in chunks, outputs in ranges, blocks in parts; a barrier lets the next step
 * read what it wrote. Several sequences can be in one pass, each with rows of its own.
 *
 * @module
 */

import { derivedSizes } from '../model/config.js';
import { pauseForEvents } from '../model/pause.js';
import type { Matrix } from '../numerics/matrix.js';
import { recordAttention } from './attention.js';
import { recordOwnRows, recordWindows, windowRows } from './exact-window.js';
import type { Pointer } from './kernels.js';
import { computeLogits } from './logits.js';
import { recordMlp } from './mlp.js';
import { type LayerStep, layerStep, type PassContext, readsOwnStored, rowsOf } from './pass-context.js';
import { type Activations, forEachChunk, recordLinear, recordTile } from './placed-weights.js';
import { recordHeads, recordLatents, recordRopes, replaceKeysAndValues } from './projections.js';
import { tap, tapKeysAndValues } from './taps.js';

/**
 * Runs all layers and stores the tokens.
 *
 * @param tokens ids, row by row
 * @returns logits, fresh, of the last row of every sequence, or of all rows
 * @throws the signal's reason, between layers
 */
export async function runPass(context: PassContext, tokens: readonly number[]): Promise<Matrix> {
  const { start } = context.options;
  if (start) context.memory.write(context.buffers.stream, start.stream.data);
  else embed(context, tokens);
  for (let index = firstLayer(context); index < context.model.layers.length; index++) {
    await pauseForEvents(context.options.signal);
    await runLayer(context, layerStep(context, index));
  }
  return computeLogits(context);
}

/** One layer: attention over the cache, then the MLP, each added to the stream by the norm that follows. */
async function runLayer(context: PassContext, step: LayerStep): Promise<void> {
  const { team, buffers } = context;
  const { weights, index } = step;
  const { hiddenSize } = context.model.config;
  const { queryDim } = derivedSizes(context.model.config);
  const stored = context.options.mode === 'teacherForced';
  const x = rowsOf(context, buffers.x);
  const attended = rowsOf(context, buffers.attended);

  recordNorm(context, x, weights.attentionNorm, { addDelta: index > firstLayer(context), normalized: true });
  team.barrier();
  await tap(context, step, 'stream', buffers.stream, hiddenSize);
  await tap(context, step, 'normalized', buffers.normalized, hiddenSize);
  await tap(context, step, 'x', x.floats, hiddenSize);

  recordLinear(team, weights.wQ, x, buffers.queries);
  recordLinear(team, weights.wK, x, buffers.keys);
  recordLinear(team, weights.wV, x, buffers.values);
  recordLatents(context, step);
  if (!stored) recordWindows(context, step);
  team.barrier();
  recordHeads(context, step);
  team.barrier();
  await replaceKeysAndValues(context, step);
  await tap(context, step, 'queries', buffers.queries, queryDim);
  if (!stored) await tapKeysAndValues(context, step);

  recordRopes(context, step);
  recordAppend(context, step);
  let open = stored ? [] : recordOwnRows(context, step);
  team.barrier();
  if (readsOwnStored(context)) recordWindows(context, step);
  team.barrier();
  if (stored) {
    open = windowRows(context, step);
    await tapKeysAndValues(context, step);
  }
  await recordAttention(context, step, open);
  team.barrier();
  recordTiles(context, attended);
  team.barrier();
  recordLinear(team, weights.wO, attended, buffers.delta);
  team.barrier();
  recordDelta(context, x, weights.bO, weights.attentionPostNorm);
  await tap(context, step, 'attentionOutput', buffers.delta, hiddenSize);

  recordNorm(context, x, weights.mlpNorm, { addDelta: true });
  team.barrier();
  recordMlp(context, step);
  recordDelta(context, x, weights.bDown, weights.mlpPostNorm);
  await tap(context, step, 'mlpOutput', buffers.delta, hiddenSize);
  await team.run();
}

/** The layer that a pass begins with, whose stream is complete. */
function firstLayer({ options }: PassContext): number {
  return options.start?.layer ?? 0;
}

function embed({ team, model, buffers }: PassContext, tokens: readonly number[]): void {
  const { type, pointer, rows, columns } = model.embedding;
  tokens.forEach((token, row) => {
    const target = buffers.stream + row * columns * 4;
    team.immediate.call(`embed${type}`, pointer, rows, columns, token, target);
    const { embeddingScale } = model.config;
    if (embeddingScale) team.immediate.call('scaleBy', target, embeddingScale, columns);
  });
}

/** Finishes what attention or MLP adds to the stream: bias, norm after it, factor; nothing in most models. */
function recordDelta(
  { team, model, buffers }: PassContext,
  x: Activations,
  bias: Pointer,
  norm: Pointer,
): void {
  const { hiddenSize, rmsNormEps, residualScale = 1 } = model.config;
  if (!bias && !norm && residualScale === 1) return;
  forEachChunk(x, (first, count) => {
    const delta = buffers.delta + first * hiddenSize * 4;
    team.task();
    if (bias) team.call('addBias', delta, bias, count, hiddenSize);
    if (norm) team.call('rmsNorm', delta, count, hiddenSize, norm, rmsNormEps, 0, delta);
    if (residualScale !== 1) team.call('scaleBy', delta, residualScale, count * hiddenSize);
  });
  team.barrier();
}

/**
 * x = norm(stream), chunk by chunk; the stream first gets what the product before gave. Without a norm x is the stream.
 *
 * @param gain 0 for no norm
 */
function recordNorm(
  { team, model, buffers }: PassContext,
  x: Activations,
  gain: number,
  { addDelta, normalized = false }: { addDelta: boolean; normalized?: boolean },
): void {
  const { hiddenSize, rmsNormEps } = model.config;
  forEachChunk(x, (first, count, chunk) => {
    const offset = first * hiddenSize * 4;
    const stream = buffers.stream + offset;
    team.task();
    if (addDelta) team.call('addInto', stream, buffers.delta + offset, count * hiddenSize);
    const before = normalized ? buffers.normalized + offset : 0;
    if (gain) {
      team.call('rmsNorm', stream, count, hiddenSize, gain, rmsNormEps, before, x.floats + offset);
    } else {
      team.call('copyBytes', stream, x.floats + offset, count * hiddenSize * 4);
      if (before) team.call('copyBytes', stream, before, count * hiddenSize * 4);
    }
    recordTile(team, x, first, count, chunk);
  });
}

/** Stores the pass's tokens, and seals the blocks that become complete. */
function recordAppend({ team, buffers, sequences }: PassContext, { caches }: LayerStep): void {
  const { keys, values, x, normalized, stream, latents } = buffers;
  const [keyLatent, valueLatent] = latents;
  const rows = { keys, values, x: x.floats, normalized, stream, keyLatent, valueLatent };
  sequences.forEach(({ first, count }, i) => {
    caches[i].recordAppend(team, rows, first, count);
  });
}

function recordTiles({ team }: PassContext, x: Activations): void {
  forEachChunk(x, (first, count, chunk) => {
    team.task();
    recordTile(team, x, first, count, chunk);
  });
}
