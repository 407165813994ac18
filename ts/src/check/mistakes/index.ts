/**
 * The table of mistakes that kernels are known to make, each with the place in the specification that says
 * otherwise. Order matters where data cannot tell two apart: the commoner one stands first.
 *
 * @module
 */

import { CALIBRATED_MISTAKES } from './calibrated.js';
import { CROSS_LAYER_MISTAKES } from './cross-layer.js';
import type { KnownMistake } from './mistake.js';
import { packingMistakes, QUANTIZER_MISTAKES } from './quantizer.js';
import { ROPE_MISTAKES, ROTATION_MISTAKES } from './rotation.js';
import { WEIGHT_MISTAKES } from './weights.js';

/** Every mistake that a dump is compared with. */
export const KNOWN_MISTAKES: readonly KnownMistake[] = [
  ...QUANTIZER_MISTAKES,
  ...packingMistakes(),
  ...ROTATION_MISTAKES,
  ...ROPE_MISTAKES,
  ...WEIGHT_MISTAKES,
  ...CROSS_LAYER_MISTAKES,
  ...CALIBRATED_MISTAKES,
];
