/**
 * The KVQuant calibrations that a clone of the repository has for its embedded models. Node only.
 *
 * @module
 */

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { ModelConfig } from '../model/config.js';
import { type CalibrationFile, readCalibration } from './kvquant-calibration.js';
import { EMBEDDED_MODELS } from './load-model.js';
import { embeddedModelPath } from './node-models.js';

/**
 * The calibrations of all embedded models that have the sizes of this one.
 *
 * @returns empty outside a clone
 */
export function embeddedCalibrations(config: ModelConfig): CalibrationFile[] {
  return EMBEDDED_MODELS.flatMap((name) => {
    try {
      const path = join(dirname(embeddedModelPath(name)), '../calibration', `${name}.safetensors`);
      return existsSync(path) ? [readCalibration(readFileSync(path), path, config)] : [];
    } catch {
      return []; // not a clone, or of a model with other sizes
    }
  });
}
