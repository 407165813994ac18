/**
 * A model as its caches know it: the projections of its layers to keys and values, their factors, and calibrations.
 *
 * @module
 */

import type { Matrix } from '../numerics/matrix.js';
import type { Calibration } from './calibration.js';
import type { KvquantCalibration } from './kvquant-calibration.js';

/** The projection of one layer to keys and values, as its cache sees it. */
export interface KeyValueProjection {
  readonly layer: number;
  readonly hiddenSize: number;
  /** numKeyValueHeads * headDim */
  readonly kvDim: number;
  /** [kvDim, hiddenSize] */
  readonly wK: Matrix;
  /** [kvDim, hiddenSize] */
  readonly wV: Matrix;
  /** [kvDim], added to keys after the projection (Qwen2) */
  readonly bK?: Float32Array;
  /** [kvDim], added to values after the projection (Qwen2) */
  readonly bV?: Float32Array;
  /** Gain of the layer's input norm: x = normalized * normGain; ones if there is none. [hiddenSize] */
  readonly normGain: Float32Array;
  /** Epsilon of the layer's input norm; absent if there is none, and x is the residual stream (OLMo 2). */
  readonly normEpsilon?: number;
  /** QK-norm between the key projection and RoPE (Qwen3): its gain for one head, or for all heads together, and epsilon. */
  readonly keyNorm?: { readonly gain: Float32Array; readonly epsilon: number };
}

/** The truncated factors `W = U S B^T` of one layer, as the latent forms use them (XQuant §3.3). */
export interface LatentFactors {
  /** U^T: takes x to its latent. [latentRank, hiddenSize] */
  readonly downProjection: Matrix;
  /** (S B^T)^T: takes the latent to keys or values. [outChannels, latentRank] */
  readonly upProjection: Matrix;
}

/** Offline knowledge of a model: factors of its layers, computed on first use or read from a file. */
export interface FactorSource {
  /**
   * The factors of one matrix of one layer.
   *
   * @param layer which layer
   * @param matrix which matrix is factored: `wK`, `wV`, `[wK | wV]`, or the latter with the norm gain folded in
   * @returns not to be written to
   */
  factors(layer: number, matrix: FactoredMatrix): LatentFactors;
  /**
   * A calibration, if it has been loaded.
   *
   * @param kind what it is for
   * @param path as option `calibration` of a cache
   */
  calibration?<K extends keyof Calibrations>(kind: K, path: string): Calibrations[K] | undefined;
}

/** Calibrations by what they are for: variant `kvquant`, and caches of form `calibrated`. */
export interface Calibrations {
  readonly kvquant: KvquantCalibration;
  readonly calibrated: Calibration;
}

/** Matrices that {@link FactorSource} factors. */
export type FactoredMatrix = 'key' | 'value' | 'keyValue' | 'keyValueWithGain';
