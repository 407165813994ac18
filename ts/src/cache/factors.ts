/**
 * The offline step of the latent forms: factors of Wk, Wv and [Wk | Wv], computed on first use (XQuant §3.3).
 *
 * @module
 */

import { ConfigError } from '../errors.js';
import { concatRows, type Matrix, matrix, transpose } from '../numerics/matrix.js';
import { thinSvd } from '../numerics/svd.js';
import { type Calibration, carrierWidth } from './calibration.js';
import type { CalibrationFinder } from './default-cache.js';
import { foldGain } from './fold.js';
import type { KvquantCalibration } from './kvquant-calibration.js';
import type {
  Calibrations,
  FactoredMatrix,
  FactorSource,
  KeyValueProjection,
  LatentFactors,
} from './projection.js';

/** Called before each decomposition that has to be computed. */
export type FactorProgress = (layer: number, matrix: FactoredMatrix) => void;

/**
 * Factors `W = U S B^T`, W: [hiddenSize, outChannels] in the paper's orientation.
 *
 * @param w [outChannels, hiddenSize], as files store it
 * @returns fresh
 * @see XQuant §3.3.1
 */
export function latentFactors(w: Matrix): LatentFactors {
  // Files store W^T = B S U^T. Decomposing W itself makes U the left factor, to which the sign rule applies.
  const { u, s, vT } = thinSvd(transpose(w));
  const up = matrix(w.rows, s.length);
  for (let j = 0; j < up.rows; j++) {
    for (let k = 0; k < up.columns; k++) {
      up.data[j * up.columns + k] = s[k] * vT.data[k * vT.columns + j];
    }
  }
  return { downProjection: transpose(u), upProjection: up };
}

/**
 * The matrix of a name.
 *
 * @returns [outChannels, hiddenSize]
 */
export function factoredMatrix(projection: KeyValueProjection, name: FactoredMatrix): Matrix {
  const { wK, wV, normGain, hiddenSize } = projection;
  switch (name) {
    case 'key':
      return wK;
    case 'value':
      return wV;
    case 'keyValue':
      return concatRows([wK, wV], hiddenSize);
    case 'keyValueWithGain':
      return foldGain(concatRows([wK, wV], hiddenSize), normGain);
  }
}

/** Factors of one matrix, by name. */
export interface NamedFactors {
  readonly layer: number;
  readonly matrix: FactoredMatrix;
  readonly factors: LatentFactors;
}

/** Keeps factors and calibrations from run to run; see io/calibration-store.ts. */
export interface FactorKeeper {
  /** Whether {@link factors} has them. */
  has(layer: number, matrix: FactoredMatrix): boolean;
  /** Factors that a run before has kept. */
  factors(layer: number, matrix: FactoredMatrix): LatentFactors | undefined;
  /** Keeps factors for the next run. */
  keep(computed: readonly NamedFactors[]): void;
  /**
   * The calibration for calibrated caches.
   *
   * @param path as in `CacheOptions.calibration`
   * @returns undefined if it has none and knows of no way to make one
   * @throws {ConfigError} if there is none; says how to make it
   */
  calibration(path: string): Calibration | undefined;
  /** The calibration that caches use unless they name another, if there is one. */
  findCalibration(): Calibration | undefined;
}

/**
 * Factors of a model, each computed when it is first asked for. What a keeper has is read when somebody needs it, and not
 * held: the plan of a cache has its own form of it, and all factors together are half as large as a small model.
 */
export class ComputedFactors implements FactorSource, CalibrationFinder {
  readonly #projections: readonly KeyValueProjection[];
  readonly #known = new Map<string, LatentFactors>();
  /** Those of the keeper, as long as somebody uses them: caches of the reference share them. */
  readonly #read = new Map<string, WeakRef<LatentFactors>>();
  readonly #calibrations = new Map<string, Calibrations[keyof Calibrations]>();
  readonly #onCompute: FactorProgress | undefined;
  #keeper: FactorKeeper | undefined;
  #unkept: NamedFactors[] = [];

  /** @param projections of all layers, in order */
  constructor(projections: readonly KeyValueProjection[], onCompute?: FactorProgress) {
    this.#projections = projections;
    this.#onCompute = onCompute;
  }

  /** {@inheritDoc FactorSource.factors} */
  factors(layer: number, name: FactoredMatrix): LatentFactors {
    const key = factorKey(layer, name);
    const known = this.#stored(layer, name);
    if (known) return known;
    this.#onCompute?.(layer, name);
    const factors = latentFactors(factoredMatrix(this.#projections[layer], name));
    this.#known.set(key, factors);
    if (this.#keeper) this.#unkept.push({ layer, matrix: name, factors });
    return factors;
  }

  /** Whether factors need not be computed any more. */
  has(layer: number, name: FactoredMatrix): boolean {
    return this.#known.has(factorKey(layer, name)) || this.#keeper?.has(layer, name) === true;
  }

  /** Looks for what is not known in what runs before have kept. */
  useKeeper(keeper: FactorKeeper): void {
    this.#keeper = keeper;
  }

  /** Hands factors that were computed since the last call to the keeper, all at once: it writes a whole file. */
  keepComputed(): void {
    if (!this.#keeper || this.#unkept.length === 0) return;
    this.#keeper.keep(this.#unkept);
    for (const { layer, matrix } of this.#unkept) this.#known.delete(factorKey(layer, matrix));
    this.#unkept = [];
  }

  /** Factors that need not be computed. */
  #stored(layer: number, name: FactoredMatrix): LatentFactors | undefined {
    const key = factorKey(layer, name);
    const known = this.#known.get(key) ?? this.#read.get(key)?.deref();
    if (known) return known;
    const found = this.#keeper?.factors(layer, name);
    if (found) this.#read.set(key, new WeakRef(found));
    return found;
  }

  /** Uses factors from elsewhere, for instance a file, instead of computing them. */
  preset(layer: number, name: FactoredMatrix, factors: LatentFactors): void {
    this.#known.set(factorKey(layer, name), factors);
  }

  calibration<K extends keyof Calibrations>(kind: K, path: string): Calibrations[K] | undefined {
    const found = this.#calibrations.get(calibrationKey(kind, path)) as Calibrations[K] | undefined;
    if (found || kind !== 'calibrated') return found;
    return this.#keeper?.calibration(path) as Calibrations[K] | undefined;
  }

  /** {@inheritDoc CalibrationFinder.findCalibration} */
  findCalibration(): Calibration | undefined {
    const preset = this.#calibrations.get(calibrationKey('calibrated', ''));
    return (preset as Calibration | undefined) ?? this.#keeper?.findCalibration();
  }

  /** Whether a calibration was made for these weights, as far as it says. */
  isCalibrationOf({ keyWeights }: KvquantCalibration): boolean {
    if (!keyWeights) return true;
    return (
      keyWeights.length === this.#projections.length &&
      this.#projections.every(({ wK }, layer) =>
        keyWeights[layer].every((value, i) => Math.abs(value - wK.data[i]) <= 1e-6 * Math.abs(value)),
      )
    );
  }

  /**
   * Makes a calibration known.
   *
   * @param kind for which caches
   * @param path what caches ask for it by; empty for the one that they use unless told otherwise
   * @throws {ConfigError} if it was made for other weights, or for the same with rows in another order
   */
  presetCalibration<K extends keyof Calibrations>(kind: K, calibration: Calibrations[K], path = ''): void {
    const fits = 'sets' in calibration ? this.#hasSizesOf(calibration) : this.isCalibrationOf(calibration);
    if (!fits) throw new ConfigError('calibration', path, 'one that was made for this model and file format');
    this.#calibrations.set(calibrationKey(kind, path), calibration);
  }

  /** Whether there is a transform for every layer, and as wide as its carrier; more is known by the fingerprint of the file. */
  #hasSizesOf({ sets }: Calibration): boolean {
    const widths = this.#projections.map(carrierWidth);
    return sets.every(
      ({ layers }) =>
        layers.length === widths.length && layers.every(({ decode }, i) => decode.rows === widths[i]),
    );
  }
}

function calibrationKey(kind: keyof Calibrations, path: string): string {
  return `${kind}:${path}`;
}

/** A name for one set of factors, as files use it: `layers.3.key`. */
export function factorKey(layer: number, name: FactoredMatrix): string {
  return `layers.${layer}.${name}`;
}
