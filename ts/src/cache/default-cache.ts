/**
 * The cache that is used unless another one is asked for: `auto`.
 *
 * The rule follows from what was measured (docs/results.md). A calibrated cache loses least for its size on every model.
 * Without a calibration, differences from layer to layer lose 0.6 % of perplexity at 2 bits with multi-head attention. With
 * grouped-query attention the cache is small to begin with, the same 2 bits cost 5 to 6 % on a real model, and 4 bits of
 * layer inputs cost 0.4 to 2.1 %.
 *
 * @module
 */

import type { Calibration, CalibrationSet } from './calibration.js';
import type { CacheModelShape } from './options.js';

/** The name of the choice by the model. */
export const AUTO_CACHE = 'auto';

/** Bits an element of K and V of the calibrated choice. */
const CALIBRATED_BITS = 2.25;

/** A choice, and why. */
export interface ChosenCache {
  /** A cache argument. */
  readonly cache: string;
  /** For people, in half a sentence. */
  readonly reason: string;
}

/** Where the calibration of a model is looked for, if there is one. */
export interface CalibrationFinder {
  /**
   * The calibration that caches use unless they name another, if there is one.
   *
   * @throws {FormatError | LoadError} if there is one that cannot be read, or of another model; names it
   */
  findCalibration(): Calibration | undefined;
}

/**
 * The cache for a model.
 *
 * @param calibration of the model, if there is one
 */
export function chooseCache(
  { numAttentionHeads, numKeyValueHeads }: CacheModelShape,
  calibration?: Calibration,
): ChosenCache {
  // A calibration may have been made for caches without prediction alone.
  const set = calibration?.sets.find(({ predict, basis }) => predict === 1 && basis === 'joint');
  if (calibration && set) {
    return {
      cache: `xquant-cl:${CALIBRATED_BITS}@calibrated`,
      reason: `a calibration is at hand, made on ${describeTexts(calibration)}${describeLoss(set)}`,
    };
  }
  if (numAttentionHeads === numKeyValueHeads) {
    return {
      cache: 'xquant-cl:2@tuned',
      reason: 'multi-head attention, where 2 bits of differences between layers lose little',
    };
  }
  return {
    cache: 'xquant:4@tuned',
    reason: `grouped-query attention (${numAttentionHeads} query heads, ${numKeyValueHeads} KV heads), where fewer than 4 bits lose much`,
  };
}

function describeTexts({ origin }: Calibration): string {
  return origin.texts.map(({ name }) => name).join(' and ') || 'a text that it does not name';
}

/** Known only at the bits that were measured. */
function describeLoss({ bits, loss }: CalibrationSet): string {
  if (!loss || bits !== CALIBRATED_BITS) return '';
  return `; it loses ${loss.percent.toFixed(2)} % of perplexity on ${loss.text}`;
}
