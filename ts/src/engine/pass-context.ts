/**
 * The data that the parts of a pass share: the machine, the model, the sequences, the buffers.
 *
 * @module
 */

import type { KeysAndValues } from '../cache/contract.js';
import type { ForwardOptions } from '../model/language-model.js';
import type { Matrix } from '../numerics/matrix.js';
import type { CachePlan } from './cache-host.js';
import {
  type AttentionShape,
  isBehindWindow,
  type Queries,
  type RopeTables,
  ropeFrom,
  type Softmax,
  softmaxFrom,
} from './calls.js';
import type { LinearMemory } from './memory.js';
import type { PassBuffers } from './pass-buffers.js';
import type { PlacedLayer, PlacedModel } from './placed-model.js';
import type { Activations } from './placed-weights.js';
import type { LayerPlan } from './plans/plan.js';
import type { Team } from './team.js';
import type { WasmCache } from './wasm-cache.js';
import type { WasmLayerCache } from './wasm-layer-cache.js';

/** Some rows of a pass: the next tokens of one sequence. */
export interface SequenceRows {
  readonly cache: WasmCache;
  /** First row of the pass. */
  readonly first: number;
  readonly count: number;
  /** Position of the first row. */
  readonly position: number;
}

/** {@link ForwardOptions}, and what only this backend offers. */
export interface WasmForwardOptions extends ForwardOptions {
  /**
   * Called in every layer with keys (before RoPE) and values of the tokens of this pass, before they are stored;
   * what it writes into them is stored and used instead. For caches that store keys and values; caches without
   * kernels are simulated with it. [tokens, kvDim] each
   */
  readonly onFreshKeysAndValues?: (layer: number, fresh: KeysAndValues) => void;
  /**
   * Begins with a layer and the residual stream that enters it, [tokens, hiddenSize]; the layers below are not run and
   * store nothing. For measuring what a change in one layer does: the cache must be emptied afterwards.
   */
  readonly start?: { readonly layer: number; readonly stream: Matrix };
}

/** See the module. */
export interface PassContext {
  readonly memory: LinearMemory;
  readonly team: Team;
  readonly model: PlacedModel;
  /** RoPE tables of each layer. */
  readonly tables: readonly RopeTables[];
  /** The plan of all sequences. */
  readonly plan: CachePlan;
  readonly sequences: readonly SequenceRows[];
  /** Rows of all sequences together. */
  readonly rows: number;
  readonly options: WasmForwardOptions;
  readonly buffers: PassBuffers;
}

/** One layer of a pass. */
export interface LayerStep {
  readonly index: number;
  readonly weights: PlacedLayer;
  readonly attention: AttentionShape;
  readonly plan: LayerPlan;
  /** The layer's cache of each sequence. */
  readonly caches: readonly WasmLayerCache[];
  /** The state of each of them when the pass came to the layer. */
  readonly before: readonly WindowState[];
}

/** Sealed blocks of a layer's cache, and tokens of its window. */
export interface WindowState {
  readonly blocks: number;
  readonly tokens: number;
}

/** Starts a layer. */
export function layerStep({ model, plan, sequences }: PassContext, index: number): LayerStep {
  const caches = sequences.map(({ cache }) => cache.layers[index]);
  const before = caches.map(({ store }) => ({ blocks: store.blocks, tokens: store.windowTokens }));
  const { config, layers } = model;
  const attention = {
    scale: config.attentionScale ?? 1 / Math.sqrt(config.headDim),
    window: config.layers?.[index].slidingWindow ?? 0,
  };
  return { index, weights: layers[index], attention, plan: plan.layers[index], caches, before };
}

/**
 * How the rows of a sequence see each other and the window:
 *
 * - `together`: each other exactly, the window as it is stored (several rows of mode `generation`);
 * - `stepwise`: themselves exactly, each other and the window as stored (mode `stepwise`, and any single row);
 * - `stored`: everything as stored (`teacherForced`).
 */
export type Sight = 'together' | 'stepwise' | 'stored';

/** See {@link Sight}. */
export function sightOf({ options }: PassContext, { count }: SequenceRows): Sight {
  if (options.mode === 'teacherForced') return 'stored';
  return options.mode === 'stepwise' || count === 1 ? 'stepwise' : 'together';
}

/** Whether rows attend to what the pass itself has stored of others. */
export function readsOwnStored({ options, rows, sequences }: PassContext): boolean {
  return options.mode === 'teacherForced' || (options.mode === 'stepwise' && rows > sequences.length);
}

/**
 * Whether a layer that stores differences must read a block that none of some rows sees: a layer above sees it, and takes the sum
 * from here.
 *
 * @param first position of the first row
 */
export function handsOn(
  { model, plan }: PassContext,
  step: LayerStep,
  first: { position: number },
  block: { firstKey: number; tokens: number },
): boolean {
  if (!step.plan.accumulates || plan.options.accumulator === 'recompute') return false;
  const above = model.config.layers?.slice(step.index + 1) ?? [];
  return above.some(
    ({ slidingWindow = 0 }) => !isBehindWindow({ ...step.attention, window: slidingWindow }, first, block),
  );
}

/** RoPE tables of a layer from a position on. */
export function positionsFrom(
  { model, tables }: PassContext,
  { index }: LayerStep,
  position: number,
): RopeTables {
  return ropeFrom(tables[index], position, model.config);
}

/** The running softmaxes of the pass from a row and head on. */
export function softmaxOf({ buffers, model }: PassContext, row: number, head = 0): Softmax {
  return softmaxFrom(buffers.softmax, row * model.config.numAttentionHeads + head);
}

/** Rows of the pass as attention takes them. */
export function queriesOf(context: PassContext, first: number, count: number, position: number): Queries {
  const { numAttentionHeads, headDim } = context.model.config;
  const pointer = context.buffers.queries + first * numAttentionHeads * headDim * 4;
  return { pointer, count, position, softmax: softmaxOf(context, first) };
}

/** The rows of the pass; buffers may have room for more. */
export function rowsOf({ rows }: PassContext, x: Activations): Activations {
  return { ...x, rows };
}

/** Some rows of activations; `first` is the start of a chunk. */
export function rowsFrom(x: Activations, first: number, rows: number): Activations {
  const floats = x.floats + first * x.columns * 4;
  return { ...x, floats, tiles: x.tiles + Math.floor(first / x.chunk) * x.tileStride, rows };
}
