/**
 * Kernel calls by name: what attention and norms take, from what the engine knows. Pointers and counts as in kernels.ts.
 *
 * @module
 */

import type { ModelConfig } from '../model/config.js';
import { derivedSizes } from '../model/config.js';
import { type Pointer, ROPE_CODES } from './kernels.js';
import type { Recorder } from './team.js';

/** RoPE tables, f32 [positions, headDim / 2] each. */
export interface RopeTables {
  readonly cos: Pointer;
  readonly sin: Pointer;
}

/** The tables from a position on. */
export function ropeFrom(tables: RopeTables, position: number, { headDim }: ModelConfig): RopeTables {
  const offset = position * headDim * 2;
  return { cos: tables.cos + offset, sin: tables.sin + offset };
}

/** Running softmaxes of (row, head) pairs, row by row: maxima and sums f32 [rows, heads]. */
export interface Softmax {
  readonly maxima: Pointer;
  readonly sums: Pointer;
  /** Weighted sums, f32 [rows, heads, width]. */
  readonly acc: Pointer;
  readonly width: number;
}

/** The running softmaxes from a pair on. */
export function softmaxFrom(softmax: Softmax, pair: number): Softmax {
  const { maxima, sums, acc, width } = softmax;
  return { maxima: maxima + pair * 4, sums: sums + pair * 4, acc: acc + pair * width * 4, width };
}

/** Rows that attend, and where their results are gathered. */
export interface Queries {
  /** f32 [count, heads, headDim], after RoPE. */
  readonly pointer: Pointer;
  readonly count: number;
  /** Position of the first row; those after it follow one by one. */
  readonly position: number;
  readonly softmax: Softmax;
}

/** Finished keys, and what is averaged with their weights. */
export interface KeysAndAverages {
  /** f32 [kvHeads, headDim, tokens rounded up to a multiple of 8] */
  readonly keysT: Pointer;
  readonly tokens: number;
  /** Position of the first token. Rows see the tokens up to their own position. */
  readonly firstKey: number;
  /** f32: values [tokens, kvHeads, headDim], or latents [tokens, width] that all heads share. */
  readonly values: Pointer;
  /** Elements from token to token. */
  readonly stride: number;
  /** Elements from KV head to KV head; 0 for latents. */
  readonly headStride: number;
}

/** A part of the work of {@link recordAttendBlock}: rows and KV heads. */
export interface AttendRange {
  readonly rows: readonly [from: number, to: number];
  readonly heads: readonly [from: number, to: number];
}

/** How the attention of a layer differs (model/attention.ts). */
export interface AttentionShape {
  /** Multiplies scores. */
  readonly scale: number;
  /** Tokens that a row sees, its own included; 0 for all. */
  readonly window: number;
}

/** Whether a block is before the window of the first of some rows, and so of all. */
export function isBehindWindow(
  { window }: AttentionShape,
  { position }: { position: number },
  { firstKey, tokens }: { firstKey: number; tokens: number },
): boolean {
  return window > 0 && firstKey + tokens <= position + 1 - window;
}

/** One block of keys and values into the running softmaxes of some rows. */
export function recordAttendBlock(
  recorder: Recorder,
  config: ModelConfig,
  { scale, window }: AttentionShape,
  queries: Queries,
  block: KeysAndAverages,
  scratch: Pointer,
  range?: AttendRange,
): void {
  const { numAttentionHeads, numKeyValueHeads, headDim } = config;
  const { rows = [0, queries.count], heads = [0, numKeyValueHeads] } = range ?? {};
  const { maxima, sums, acc, width } = queries.softmax;
  recorder.call('attendBlock', {
    q: queries.pointer,
    heads: numAttentionHeads,
    kvHeads: numKeyValueHeads,
    headDim,
    keys: block.keysT,
    tokens: block.tokens,
    values: block.values,
    valueStride: block.stride,
    valueHeadStride: block.headStride,
    width,
    scale,
    firstQuery: queries.position,
    firstKey: block.firstKey,
    maxima,
    sums,
    acc,
    headStart: heads[0],
    headEnd: heads[1],
    queryStart: rows[0],
    queryEnd: rows[1],
    window,
    scratch,
  });
}

/** Keys (before RoPE, otherwise finished) and values in f16, [tokens, kvDim] each. */
export interface Float16Block {
  readonly keys: Pointer;
  readonly values: Pointer;
  readonly tokens: number;
  readonly firstKey: number;
  /** Tables from `firstKey` on. */
  readonly positions: RopeTables;
}

/** One block of f16 keys and values into the running softmaxes of all heads of some rows. */
export function recordAttendFloat16(
  recorder: Recorder,
  config: ModelConfig,
  { scale, window }: AttentionShape,
  queries: Queries,
  block: Float16Block,
  scratch: Pointer,
): void {
  const { numAttentionHeads, numKeyValueHeads, headDim, ropeLayout } = config;
  const { maxima, sums, acc } = queries.softmax;
  recorder.call('attendHalfBlock', {
    q: queries.pointer,
    heads: numAttentionHeads,
    kvHeads: numKeyValueHeads,
    headDim,
    keys: block.keys,
    tokens: block.tokens,
    values: block.values,
    valueStride: numKeyValueHeads * headDim,
    valueHeadStride: headDim,
    width: headDim,
    scale,
    firstQuery: queries.position,
    firstKey: block.firstKey,
    maxima,
    sums,
    acc,
    headStart: 0,
    headEnd: numKeyValueHeads,
    queryStart: 0,
    queryEnd: queries.count,
    window,
    scratch,
    cos: block.positions.cos,
    sin: block.positions.sin,
    layout: ROPE_CODES[ropeLayout],
  });
}

/** Empties running softmaxes. */
export function recordAttendBegin(recorder: Recorder, softmax: Softmax, pairs: number): void {
  const { maxima, sums, acc, width } = softmax;
  recorder.call('attendBegin', maxima, sums, acc, pairs, width);
}

/** Adds running softmaxes over other tokens to the first. */
export function recordAttendMerge(recorder: Recorder, into: Softmax, other: Softmax, pairs: number): void {
  const { maxima, sums, acc, width } = into;
  recorder.call('attendMerge', maxima, sums, acc, other.maxima, other.sums, other.acc, pairs, width);
}

/** Divides by the sums: weighted sums become averages. */
export function recordAttendFinish(recorder: Recorder, softmax: Softmax, pairs: number): void {
  recorder.call('attendFinish', softmax.sums, softmax.acc, pairs, softmax.width);
}

/** RoPE of rows [count, heads, headDim] in place. */
export function recordRope(
  recorder: Recorder,
  config: ModelConfig,
  rows: Pointer,
  count: number,
  heads: number,
  positions: RopeTables,
): void {
  const { headDim, ropeLayout } = config;
  recorder.call('rope', rows, count, heads, headDim, positions.cos, positions.sin, ROPE_CODES[ropeLayout]);
}

/** The steps between a key product and attention: bias and norm of heads; 0 where there is none. */
export interface KeyFinish {
  readonly bias: Pointer;
  readonly norm: Pointer;
}

/** QK-norm of rows [count, heads, headDim] in place: of each head, or of all heads together. */
export function recordHeadNorm(
  recorder: Recorder,
  { headDim, qkNorm, rmsNormEps }: ModelConfig,
  norm: Pointer,
  rows: Pointer,
  count: number,
  heads: number,
): void {
  const [vectors, width] = qkNorm === 'width' ? [count, heads * headDim] : [count * heads, headDim];
  recorder.call('rmsNorm', rows, vectors, width, norm, rmsNormEps, 0, rows);
}

/** Bias, norm of heads, RoPE and transposition of keys [tokens, kvDim], which are overwritten. */
export function recordFinishKeys(
  recorder: Recorder,
  config: ModelConfig,
  due: KeyFinish,
  keys: Pointer,
  tokens: number,
  positions: RopeTables,
  keysT: Pointer,
): void {
  const { numKeyValueHeads: heads, headDim, ropeLayout } = config;
  const { bias, norm } = due;
  if (bias) recorder.call('addBias', keys, bias, tokens, heads * headDim);
  if (norm) recordHeadNorm(recorder, config, norm, keys, tokens, heads);
  const { cos, sin } = positions;
  recorder.call('finishKeys', keys, tokens, heads, headDim, cos, sin, ROPE_CODES[ropeLayout], keysT);
}

/** Weights that turn products into keys and values; 0 where the model has none. */
export interface KeyValueFinish {
  readonly bK: Pointer;
  readonly bV: Pointer;
  readonly keyNorm: Pointer;
}

/** Bias and norm of heads of keys, bias of values, in place: what is still due before RoPE. [count, kvDim] each */
export function recordFinishRows(
  recorder: Recorder,
  config: ModelConfig,
  { bK, bV, keyNorm }: KeyValueFinish,
  keys: Pointer,
  values: Pointer,
  count: number,
): void {
  const { numKeyValueHeads } = config;
  const { kvDim } = derivedSizes(config);
  if (bK) recorder.call('addBias', keys, bK, count, kvDim);
  if (keyNorm) recordHeadNorm(recorder, config, keyNorm, keys, count, numKeyValueHeads);
  if (bV) recorder.call('addBias', values, bV, count, kvDim);
}
