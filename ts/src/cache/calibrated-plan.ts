/**
 * From the options of a calibrated cache to its plan, on either backend.
 *
 * @module
 */

import { ConfigError } from '../errors.js';
import { type CalibratedPlan, type CarrierSizes, calibratedPlan } from './calibration.js';
import type { CacheOptions } from './options.js';
import type { FactorSource } from './projection.js';

/**
 * The plan that a cache asks for.
 *
 * @param options of form `calibrated`
 * @param sizes of the model
 * @throws {ConfigError} if the model has no calibration, or none for such a cache; says how to make one
 */
export function planOf(options: CacheOptions, { kvDim }: CarrierSizes, source: FactorSource): CalibratedPlan {
  const { variant, calibration: path } = options;
  const calibration = source.calibration?.('calibrated', path);
  if (!calibration) {
    const allowed =
      `a calibration of this model, loaded before the cache is made, for ${variant} with form "calibrated" (the command ` +
      'line looks for one beside the model); "xquant calibrate" makes one';
    throw new ConfigError('calibration', path, allowed);
  }
  return calibratedPlan(calibration, options, kvDim);
}
