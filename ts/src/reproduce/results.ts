/**
 * Everything a reproduction found out, in the form of `results.json`: tables, figures and pages are made from this.
 *
 * @module
 */

import type { Device } from '../analysis/roofline.js';
import type { ModelConfig } from '../model/config.js';
import type { ModelAnalysis } from './analysis.js';
import { type PlanName, type PlannedCache, plannedCaches, singleLayerCaches } from './plans.js';
import type { CacheResult, RunReport, SkippedCache } from './runner.js';
import {
  baselinePerplexity,
  type CacheSummary,
  type Claim,
  checkClaims,
  type Estimate,
  paretoFront,
  summarize,
} from './statistics.js';
import { type SystemModel, systemModel } from './system-model.js';
import { type ContextTotals, contextTotals } from './totals.js';

/** One cache of the plan with its numbers. */
export interface ReproducedCache extends PlannedCache, CacheSummary {
  /** Whether no other cache is at least as small and loses less. */
  readonly onParetoFront: boolean;
  /** What the cache takes in all, at the context of the model. */
  readonly totals: ContextTotals;
  /** The same as `onParetoFront`, by what caches take in all. */
  readonly onTotalParetoFront: boolean;
}

/** What a single layer loses. */
export interface LayerLoss {
  readonly layer: number;
  /** Nats a token. */
  readonly loss: Estimate;
}

/** What was run, on what, with which text. */
export interface ReproductionSetup {
  /** Command that gives these results again. */
  readonly command: string;
  readonly version: string;
  readonly plan: PlanName;
  readonly windows: number;
  readonly windowSize: number;
  readonly model: {
    readonly name: string;
    readonly fingerprint: string;
    readonly parameters: number;
    /** Weight types, most bytes first. */
    readonly weights: string;
    readonly config: ModelConfig;
  };
  readonly text: {
    readonly name: string;
    /** SHA-256 of the token ids. */
    readonly sha256: string;
    readonly tokens: number;
  };
  /** What ran the model. */
  readonly engine: string;
}

/** Circumstances, which differ from run to run. */
export interface RunCircumstances {
  /** ISO 8601, UTC. */
  readonly date: string;
  readonly machine: string;
  readonly threads: number;
}

/** See the module. */
export interface Reproduction extends ReproductionSetup {
  readonly format: 'xquant-reproduction';
  readonly formatVersion: 1;
  readonly baseline: { readonly perplexity: number; readonly stdErr: number | null };
  readonly caches: readonly ReproducedCache[];
  readonly skipped: readonly SkippedCache[];
  readonly claims: readonly Claim[];
  /** 2 bits in one layer, 8 in all others. */
  readonly layerLosses: readonly LayerLoss[];
  readonly analysis: ModelAnalysis;
  readonly systemModel: SystemModel;
  readonly run: RunCircumstances;
}

/**
 * Puts everything together.
 *
 * @param report of all caches of the plan and of {@link singleLayerCaches}
 * @param device for the curves of the system model
 */
export function assembleReproduction(
  setup: ReproductionSetup,
  report: RunReport,
  analysis: ModelAnalysis,
  device: Device,
  run: RunCircumstances,
): Reproduction {
  const { config } = setup.model;
  const byCache = new Map(report.results.map((each) => [each.cache, each]));
  const planned = plannedCaches(setup.plan, config).filter(({ cache }) => byCache.has(cache));
  const summaries = planned.map((row) => ({
    ...row,
    ...summarize(byCache.get(row.cache) as CacheResult),
    totals: contextTotals(row.cache, config),
  }));
  const frontBy = (size: (row: (typeof summaries)[number]) => number) =>
    new Set(paretoFront(summaries, (row) => [size(row), row.loss.mean]).map(({ cache }) => cache));
  const [front, totalFront] = [frontBy(({ size }) => size), frontBy(({ totals }) => totals.total)];
  const single = singleLayerCaches(config);
  const results = report.results.filter(({ cache }) => !single.includes(cache));
  return {
    format: 'xquant-reproduction',
    formatVersion: 1,
    ...setup,
    baseline: baselinePerplexity(results[0]),
    caches: summaries.map((row) => ({
      ...row,
      onParetoFront: front.has(row.cache),
      onTotalParetoFront: totalFront.has(row.cache),
    })),
    skipped: report.skipped,
    claims: checkClaims(results, config),
    layerLosses: single.flatMap((cache, layer) => {
      const result = byCache.get(cache);
      return result ? [{ layer, loss: summarize(result).loss }] : [];
    }),
    analysis,
    systemModel: systemModel(device, setup.model.name, config),
    run,
  };
}
