/**
 * The contract of a cache: what it is given, what it gives back, what it costs.
 *
 * Most KV caches are handed finished keys and values. These caches are handed the *input* of a layer,
 * because that is what XQuant stores; keys and values appear when they are read (XQuant §3.1). Keys are
 * always given back before RoPE, in every variant, so that all variants can take each other's place.
 *
 * @module
 */

// Declarations name Symbol.dispose, which a project with an older `lib` does not know.
/// <reference lib="esnext.disposable" preserve="true" />

import type { Matrix } from '../numerics/matrix.js';
import type { CalibratedPlan } from './calibration.js';
import type { CacheOptions } from './options.js';
import type { LayerState } from './state.js';

/** One layer input in three forms. A variant reads the one it stores. */
export interface LayerInput {
  /** After the input norm, including its gain: what the paper calls X. [tokens, hiddenSize] */
  readonly x: Matrix;
  /** After the input norm, before its gain. [tokens, hiddenSize] */
  readonly normalized: Matrix;
  /** The residual stream before the norm. [tokens, hiddenSize] */
  readonly stream: Matrix;
}

/** Keys (before RoPE) and values of some tokens. */
export interface KeysAndValues {
  /** [tokens, kvDim] */
  readonly keys: Matrix;
  /** [tokens, kvDim] */
  readonly values: Matrix;
}

/** Bytes that a cache holds, counted from its buffers. */
export interface CacheBytes {
  /** Packed codes. */
  codes: number;
  /** f16 scales. */
  scales: number;
  /** f16 minima. */
  mins: number;
  /** Newest tokens, not yet sealed, in f16. */
  window: number;
  /** Sealed values that are kept unquantized: all of the `kv` cache, f16 outlier channels, outliers of `kvquant`, sinks. */
  outliers: number;
  /** Everything that the first, differently coded layers of `xquant-cl` hold once sealed. */
  baseLayers: number;
  /** Scratch that all layers share during a forward pass: the cross-layer accumulator, or the coordinates of layers below. */
  scratch: number;
  /** Matrices, offsets and bits of a calibrated cache. They belong to the model and are shared by all its caches. */
  plan: number;
}

/** The cache of one layer. */
export interface LayerCache {
  /** Tokens stored. */
  readonly length: number;
  /**
   * Stores the next tokens. A block is sealed (quantized) the moment its last token arrives.
   *
   * @param input of the next tokens, read
   * @throws {ShapeError} if a tensor is not [tokens, hiddenSize]
   * @throws {NumericError} if a value is NaN, infinite or too large for f16; nothing is stored then
   * @throws {CacheStateError} if a cross-layer variant is called out of layer order
   */
  append(input: LayerInput): void;
  /**
   * Rematerializes all stored tokens.
   *
   * @returns fresh, keys before RoPE, [length, kvDim] each
   * @throws {CacheStateError} if a cross-layer variant is read out of layer order
   */
  keysAndValues(): KeysAndValues;
  /**
   * Forgets all tokens from `length` on.
   *
   * @throws {CacheStateError} if `length` is inside a sealed block: its exact values are gone
   * @throws {RangeError} if `length` is not from 0 to the current length
   */
  trim(length: number): void;
  /** Counted from the buffers that exist; `scratch` is left to the model cache, since it is shared. */
  bytes(): CacheBytes;
  /** Shares memory with the cache; treat as read-only. */
  state(): LayerState;
  /**
   * Replaces the contents.
   *
   * @param state of a cache with the same options and projection
   */
  restore(state: LayerState): void;
}

/** The caches of all layers of one sequence. */
export interface ModelCache {
  /** Which implementation made it; another one refuses it. */
  readonly backend: string;
  /** Every option, resolved. */
  readonly options: CacheOptions;
  /** How the layers of a calibrated cache are coded. */
  readonly calibrated?: CalibratedPlan;
  /** Tokens stored (the same in every layer, except inside a forward pass). */
  readonly length: number;
  readonly layers: readonly LayerCache[];
  /** @see LayerCache.trim */
  trim(length: number): void;
  /** An independent copy. Sealed blocks never change, so they are shared. */
  clone(): ModelCache;
  /** Sum over layers, and the scratch they share. */
  bytes(): CacheBytes;
  /**
   * Gives memory back at once, rather than when the cache is collected; blocks that copies share stay. It cannot be
   * used afterwards.
   */
  dispose(): void;
  /** The same, for `using`. */
  [Symbol.dispose](): void;
}
