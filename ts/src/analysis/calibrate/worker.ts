/**
 * What a thread does for a calibration: the contract between calibrate.ts, which knows the order of things, and
 * windows.ts, which runs the model on its share of the text. All messages are plain data, so that they can go to a worker.
 *
 * @module
 */

import type { LayerTransform } from '../../cache/calibration.js';
import type { Dense } from '../../numerics/dense.js';
import type { Matrix } from '../../numerics/matrix.js';
import type { ChannelBits } from '../../quant/symmetric.js';
import type { LayerBasis, MetricRoot } from './basis.js';
import type { CodedPart, Probe } from './sensitivities.js';
import type { CoMoments } from './statistics.js';

/** Statistics of exact activations of one layer. */
export interface CollectedLayer {
  /** Of the carrier. [n, n] */
  readonly own: CoMoments;
  /** Of the carrier of the layer 1 below, 2 below, ... and this one. [n, n] each */
  readonly below: readonly CoMoments[];
  /** Sum over tokens of q^T q before RoPE, of every query head. [headDim, headDim] each */
  readonly queries: readonly Dense[];
  /** Tokens of `queries`. */
  readonly tokens: number;
}

/** One part of one layer that is coded to see what it costs. */
export interface ProbeRequest {
  readonly layer: number;
  readonly part: CodedPart;
  readonly basis: LayerBasis;
  /** Of the part. [kvDim] */
  readonly mean: Float64Array;
}

/** What a layer is fitted to. */
export interface FitRequest {
  readonly metric: MetricRoot;
  /** Channels of each part with a basis of its own. */
  readonly blocks: readonly number[];
  /** Covariance of the exact carrier, [n, n], and its mean, [n]. */
  readonly own: Dense;
  readonly mean: Float64Array;
  /** The layers below, side by side; none without prediction. */
  readonly inputs?: {
    /** [inputs, inputs] */
    readonly covariance: Dense;
    /** [inputs, n] */
    readonly cross: Dense;
    /** [inputs] */
    readonly mean: Float64Array;
    /** D of each, [n, n]; none if only importances are wanted */
    readonly decode: readonly Dense[];
  };
}

/** A transform, with E in f32. */
export interface LayerFit extends Omit<LayerTransform, 'encode'> {
  /** [n, n] */
  readonly encode: Matrix;
}

/** A fitted layer that is to be coded. */
export interface CodeRequest {
  /** Name of the set of transforms; each has reconstructions of its own. */
  readonly set: string;
  readonly layer: number;
  readonly fit: LayerFit;
  /** [n] */
  readonly bits: readonly ChannelBits[];
  /** Layers that a layer is predicted from. */
  readonly predict: number;
}

/** Moments of reconstructed carriers, for the fit of the next layer. */
export interface CodedLayer {
  /** Of the layer that was coded and each below it that is needed, itself first: with itself. [n, n] each */
  readonly inputs: readonly CoMoments[];
  /** Of the same and the exact carrier of the next layer; none after the last. [n, n] each */
  readonly cross: readonly CoMoments[];
}

/** One thread with its windows, at least one. */
export interface CalibrationWorker {
  /**
   * Runs its windows and keeps their carriers.
   *
   * @param depth layers below whose moments with a layer are wanted
   * @param onTokens told how many tokens were run since the last call
   * @returns one entry a layer
   */
  collect(depth: number, onTokens: (count: number) => void): Promise<CollectedLayer[]>;
  /**
   * Codes one part of one layer at a time.
   *
   * @param ids of a window
   * @param onProbe told each result, in order
   */
  probe(
    ids: readonly number[],
    requests: readonly ProbeRequest[],
    onProbe: (probe: Probe) => void,
  ): Promise<void>;
  /** The root of a metric; see `metricRoot`. */
  root(blocks: readonly Dense[], cuts: readonly number[]): Promise<MetricRoot>;
  /** A basis alone. */
  basis(metric: MetricRoot, residual: Dense, blocks: readonly number[]): Promise<LayerBasis>;
  /** Prediction and basis of a layer. */
  fit(request: FitRequest): Promise<LayerFit>;
  /** What bits are worth on the channels of a layer that is not predicted. */
  distortion(layer: number, fit: LayerFit): Promise<Record<ChannelBits, number>>;
  /** Codes a layer of its windows, and reconstructs it. */
  code(request: CodeRequest): Promise<CodedLayer>;
}
