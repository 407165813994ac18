/**
 * The model as its caches in linear memory see it.
 *
 * @module
 */

import type { CalibratedPlan } from '../cache/calibration.js';
import type { LayerInput } from '../cache/contract.js';
import type { CacheOptions } from '../cache/options.js';
import type { LinearMemory } from './memory.js';
import type { LayerPlan, PassRows } from './plans/plan.js';
import type { Recorder } from './team.js';
import type { ThreadScratch } from './thread-scratch.js';

/** The plan that all sequences with the same options share. */
export interface CachePlan {
  readonly options: CacheOptions;
  readonly layers: readonly LayerPlan[];
  readonly scratch: ThreadScratch;
  /** How layers are coded, if the caches are calibrated. */
  readonly calibrated?: CalibratedPlan;
}

/** Rows that a layer's cache may store, and what has to be freed after use. */
export interface InputRows {
  readonly rows: PassRows;
  readonly free: readonly number[];
}

/** The model, as far as its caches know it. */
export interface CacheHost {
  readonly memory: LinearMemory;
  /**
   * Makes sure that kernels can be called now.
   *
   * @returns makes calls at once
   * @throws {CacheStateError} if a forward pass is running
   * @throws {DisposedError} if the model is gone
   */
  immediate(plan: CachePlan): Recorder;
  /** Computes the rows that a layer's cache may store, from a layer's input. */
  inputRows(layer: number, plan: CachePlan, input: LayerInput): InputRows;
  /** Adds bias, norm of heads to keys and bias to values, where a plan leaves them out. */
  finishRows(layer: number, plan: CachePlan, keys: number, values: number, tokens: number): void;
  /** Notes an error outside a pass; after an internal one the model refuses further work. */
  noteFailure(error: unknown): void;
  /** Keeps a plan alive, or lets it go. */
  retain(plan: CachePlan): void;
  release(plan: CachePlan): void;
}
