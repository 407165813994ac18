/**
 * A calibration of KVQuant as data: the levels and ranges of a model. io/kvquant-calibration.ts reads its file.
 *
 * @module
 */

import type { NuqBits, NuqRanges, QNorm } from '../quant/nuq.js';

/** Levels of one tensor of one layer, and Q-Norm's correction of them. */
export interface CalibratedLevels {
  /** Ascending. [2^bits] */
  readonly levels: Float32Array;
  readonly qNorm: QNorm;
}

/** The calibration of one layer. */
export interface KvquantLayerCalibration {
  readonly keyRanges: NuqRanges;
  readonly keys: CalibratedLevels;
  readonly values: CalibratedLevels;
}

/** The settings of a calibration, besides the model and the text. */
export interface KvquantSetting {
  readonly bits: NuqBits;
  readonly outlierFraction: number;
  /** First tokens of every window that were left out. */
  readonly sink: number;
}

/** The calibration of a model. */
export interface KvquantCalibration {
  /** The settings that it was made with; messages name them. */
  readonly settings: readonly KvquantSetting[];
  /** The first numbers of Wk of every layer, by which a model knows that it is its own. [layers] */
  readonly keyWeights?: readonly Float32Array[];
  /** The layers under a setting; undefined if it was not made for it. */
  find(setting: KvquantSetting): readonly KvquantLayerCalibration[] | undefined;
}
