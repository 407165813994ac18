/**
 * The plans of a model's caches: one for each set of options that caches have.
 *
 * @module
 */

import { planOf } from '../cache/calibrated-plan.js';
import type { CacheOptions } from '../cache/options.js';
import { hasInputNorms } from '../model/config.js';
import type { CachePlan } from './cache-host.js';
import type { PlacedModel } from './placed-model.js';
import { createPlan } from './plans/create-plan.js';
import type { LayerPlan, PlanSource } from './plans/plan.js';
import type { Recorder } from './team.js';
import { threadScratch } from './thread-scratch.js';

/** The inputs of the plans of all layers. */
export interface PlansSource extends Pick<PlanSource, 'memory' | 'config' | 'keyWeights' | 'factors'> {
  readonly model: PlacedModel;
  /** The projection of each layer. */
  readonly projections: readonly PlanSource['projection'][];
}

/** See the module. */
export class CachePlans {
  readonly #source: PlansSource;
  readonly #plans = new Map<string, { plan: CachePlan; users: number }>();

  constructor(source: PlansSource) {
    this.#source = source;
  }

  /**
   * The plan for some options. Plans of other options that no cache uses are disposed of before it is made.
   *
   * @param options resolved for the model
   * @param recorder makes calls at once
   * @throws {ConfigError} if the engine has none for such caches
   * @throws {MemoryError} if there is no room for folded weights
   */
  get(options: CacheOptions, recorder: Recorder): CachePlan {
    const key = JSON.stringify(options);
    const known = this.#plans.get(key);
    if (known) return known.plan;
    for (const [other, { plan, users }] of this.#plans) {
      if (users > 0) continue;
      for (const layer of plan.layers) layer.dispose();
      this.#plans.delete(other);
    }
    const plan = this.#create(options, recorder);
    this.#plans.set(key, { plan, users: 0 });
    return plan;
  }

  /** Keeps a plan alive. */
  retain(plan: CachePlan): void {
    for (const entry of this.#plans.values()) if (entry.plan === plan) entry.users++;
  }

  /** Lets a plan go. */
  release(plan: CachePlan): void {
    for (const entry of this.#plans.values()) if (entry.plan === plan) entry.users--;
  }

  /** Forgets all plans, whose memory goes with the model's. */
  clear(): void {
    this.#plans.clear();
  }

  #create(options: CacheOptions, recorder: Recorder): CachePlan {
    const { memory, config, keyWeights, factors, model, projections } = this.#source;
    // Without input norms X, the normalized stream and the stream are one, and the plans need not tell them apart.
    const planned = hasInputNorms(config) ? options : { ...options, deltaSpace: 'x' as const };
    const calibrated = options.form === 'calibrated' ? planOf(options, projections[0], factors) : undefined;
    const shared = { memory, recorder, config, options: planned, keyWeights, factors, calibrated };
    const layers: LayerPlan[] = [];
    try {
      for (const [index, weights] of model.layers.entries()) {
        layers.push(createPlan({ ...shared, projection: projections[index], weights }));
      }
    } catch (error) {
      for (const layer of layers) layer.dispose();
      throw error;
    }
    const windowBytes = Math.max(...layers.map(({ layout }) => layout.windowBytes));
    return { options, layers, scratch: threadScratch(config, options, windowBytes), calibrated };
  }
}
