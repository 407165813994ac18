/**
 * A calibration of a model: for every layer the basis in which its input is coded, how much each channel
 * matters, and how the layer is predicted from those below it.
 *
 *     carrier   c_i = X [Wk | Wv]  if 2 kvDim <= hiddenSize, before bias, QK-norm and RoPE     n = 2 kvDim
 *               c_i = X            otherwise                                                   n = hiddenSize
 *     encode    z_i = c_i E - (sum over p of y_(i-p) M_p + t)        one variance in every channel
 *     decode    y_i = sum over p of y_(i-p) M_p + t + z^_i           c^_i = y_i D          E D = 1
 *
 * `xquant calibrate` and `golden/generate/calibrate.py` make calibrations; io/calibration-file.ts is their file.
 *
 * @module
 */

import { ConfigError } from '../errors.js';
import { allocateBits, type Distortion } from '../quant/allocate-bits.js';
import type { ChannelBits } from '../quant/symmetric.js';
import type { Float16Matrix } from './state.js';

/** How far a basis may mix channels: all of a layer, keys and values apart, or each head of either apart. */
export type CalibrationBasis = 'joint' | 'tensor' | 'head';

/** The choices of {@link CalibrationBasis}. */
export const CALIBRATION_BASES: readonly CalibrationBasis[] = ['joint', 'tensor', 'head'];

/** How many layers below a layer is predicted from. */
export type PredictedFrom = 0 | 1 | 2;

/** How the carrier of one layer is coded. Matrices multiply row vectors from the right. */
export interface LayerTransform {
  /** D: coordinates to carrier. [n, n] */
  readonly decode: Float16Matrix;
  /** E: carrier to coordinates; the inverse of D where it is not given. [n, n] */
  readonly encode?: Float16Matrix;
  /** M_p: coordinates of the layer p below to the prediction of these, p = 1 first; fewer in the lowest layers. [n, n] each */
  readonly predict: readonly Float16Matrix[];
  /** t, what is added to every prediction. [n] */
  readonly offset: Float32Array;
  /** L: weighted variance of every channel before it was scaled to one; decides the bits. [n] */
  readonly importance: Float32Array;
}

/** The transforms of all layers for one way of coding. */
export interface CalibrationSet {
  readonly name: string;
  readonly predict: PredictedFrom;
  readonly basis: CalibrationBasis;
  /** Bits an element of K and V for which the prediction was fitted; null without prediction, where it does not matter. */
  readonly bits: number | null;
  /** The measured loss of a cache with these bits, if there is a measurement. */
  readonly loss?: MeasuredLoss;
  readonly layers: readonly LayerTransform[];
}

/** Perplexity above that of f16 keys and values. */
export interface MeasuredLoss {
  /** Name of the text. */
  readonly text: string;
  readonly percent: number;
  /** Standard error of the percentage. */
  readonly standardError: number;
}

/** A text that a calibration was made on. */
export interface CalibrationText {
  readonly name: string;
  /** 64 hexadecimal digits. */
  readonly sha256: string;
  /** Of the whole text. */
  readonly tokens: number;
}

/** How a calibration was made. */
export interface CalibrationOrigin {
  /** The model, for people. */
  readonly model: string;
  readonly texts: readonly CalibrationText[];
  /** Windows of all texts together. */
  readonly windows: number;
  /** Tokens of a window. */
  readonly windowTokens: number;
  /** Windows on which it was measured how much the layers matter. */
  readonly sensitivityWindows: number;
  /** The program. */
  readonly madeBy: string;
}

/** The calibration of a model. */
export interface Calibration {
  readonly origin: CalibrationOrigin;
  /** Squared error of channels of variance 1 by bits, measured on this model. */
  readonly distortion: Distortion;
  readonly sets: readonly CalibrationSet[];
}

/** The request of a cache to a calibration. */
export interface SetRequest {
  readonly predict: PredictedFrom;
  readonly basis: CalibrationBasis;
  /** Average bits an element of K and V. */
  readonly bits: number;
}

/** Sizes that decide what the carrier is. */
export interface CarrierSizes {
  readonly hiddenSize: number;
  /** numKeyValueHeads * headDim */
  readonly kvDim: number;
}

/**
 * Whether the carrier of a layer is its keys and values, or X where that is narrower.
 *
 * @see XQuant §3.3.2, which makes the same choice for latents of differences
 */
export function carrierOf({ hiddenSize, kvDim }: CarrierSizes): 'keysAndValues' | 'x' {
  return 2 * kvDim <= hiddenSize ? 'keysAndValues' : 'x';
}

/** Channels of the carrier: n. */
export function carrierWidth(sizes: CarrierSizes): number {
  return carrierOf(sizes) === 'x' ? sizes.hiddenSize : 2 * sizes.kvDim;
}

/**
 * Channels of each block of a basis: matrices are zero outside the blocks along their diagonal.
 *
 * @param width of the carrier
 * @throws {ConfigError} if the carrier is X, whose channels belong to all heads
 */
export function basisBlocks(
  kind: CalibrationBasis,
  { numKeyValueHeads, headDim }: { readonly numKeyValueHeads: number; readonly headDim: number },
  width: number,
): number[] {
  const kvDim = numKeyValueHeads * headDim;
  if (kind === 'joint') return [width];
  if (width !== 2 * kvDim) {
    const allowed =
      'joint: this model stores X itself, whose channels belong to keys and values of all heads';
    throw new ConfigError('basis', kind, allowed);
  }
  if (kind === 'tensor') return [kvDim, kvDim];
  return Array.from({ length: 2 * numKeyValueHeads }, () => headDim);
}

/**
 * The set for a request: the same prediction and basis, and bits nearest in ratio to those that are wished for.
 *
 * @throws {ConfigError} if there is none; says which there are and how to make it
 */
export function findSet(calibration: Calibration, { predict, basis, bits }: SetRequest): CalibrationSet {
  const distance = (set: CalibrationSet) => (set.bits === null ? 0 : Math.abs(Math.log(set.bits / bits)));
  const fitting = calibration.sets
    .filter((set) => set.predict === predict && set.basis === basis)
    .sort((a, b) => distance(a) - distance(b));
  if (fitting.length > 0) return fitting[0];
  const known = calibration.sets.map(describeSet).join('; ');
  throw new ConfigError(
    'calibrated cache',
    describeSet({ predict, basis, bits }),
    `one that the calibration was made for (${known}); "xquant calibrate" makes others`,
  );
}

/** A set in words, for messages. */
function describeSet({ predict, basis, bits }: Pick<CalibrationSet, 'predict' | 'basis' | 'bits'>): string {
  const width = bits === null ? '' : `, ${bits} bits`;
  return `predict=${predict}, basis=${basis}${width}`;
}

/** The part of a calibration that a cache uses: a set, and the bits of every channel. */
export interface CalibratedPlan {
  readonly set: CalibrationSet;
  /** [layers][n] */
  readonly channelBits: readonly (readonly ChannelBits[])[];
}

/** The request to a calibration, from the options of a cache. */
export interface PlanRequest {
  /** Average bits an element of K and V, scales included; never exceeded. */
  readonly bits: number;
  readonly predict: number;
  readonly basis: CalibrationBasis;
  /** Tokens that share a scale. */
  readonly groupSize: number;
}

/**
 * The plan of a cache: bits are given out over all layers, so that keys and values take the average that is wished for, or
 * less by a fraction of one channel.
 *
 * @param kvDim numKeyValueHeads * headDim
 * @returns the same object for the same request
 * @throws {ConfigError} if there is no set for the request
 */
export function calibratedPlan(
  calibration: Calibration,
  request: PlanRequest,
  kvDim: number,
): CalibratedPlan {
  const known = plansOf.get(calibration) ?? new Map<string, CalibratedPlan>();
  plansOf.set(calibration, known);
  const { predict, basis, bits, groupSize } = request;
  const key = [predict, basis, bits, groupSize, kvDim].join();
  let plan = known.get(key);
  if (!plan) {
    const set = findSet(calibration, { predict: predict as PredictedFrom, basis, bits });
    const channelBits = allocateBits({
      importance: set.layers.map(({ importance }) => importance),
      distortion: calibration.distortion,
      budget: bits * 2 * kvDim * set.layers.length,
      scaleBits: 16 / groupSize,
    });
    plan = { set, channelBits };
    known.set(key, plan);
  }
  return plan;
}

// A cache is copied for every continuation of a prompt, and all of them share the plan.
const plansOf = new WeakMap<Calibration, Map<string, CalibratedPlan>>();

/**
 * Bytes of everything that calibrated caches of a model are written and read with: D, E and M in f16, offsets in f32, a
 * byte for the bits of a channel.
 *
 * @param n channels of the carrier
 */
export function transformBytes(n: number, layers: number, predict: number): number {
  let total = 0;
  for (let layer = 0; layer < layers; layer++) {
    total += (2 + Math.min(predict, layer)) * 2 * n * n + 4 * n + n;
  }
  return total;
}
