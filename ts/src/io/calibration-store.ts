/**
 * Results that are computed once for a model and kept: its calibration, and the SVD factors of its layers. A cache that needs one
 * finds it by itself; whatever had to be computed is written, so that no start computes it twice.
 *
 *     beside the model      MODEL.xquant-calibration.safetensors
 *     for all models        FINGERPRINT.xquant-calibration.safetensors, FINGERPRINT.xquant-factors.safetensors
 *
 * Files are opened when something in them is first needed, and of their matrices only those are read that are. Where
 * files are, {@link StorePlaces} says: node-calibration.ts for disks, browser/storage.ts for pages.
 *
 * @module
 */

import type { Calibration } from '../cache/calibration.js';
import { type FactorKeeper, factorKey, type NamedFactors } from '../cache/factors.js';
import type { FactoredMatrix, LatentFactors } from '../cache/projection.js';
import { ConfigError } from '../errors.js';
import { openCalibrationFile } from './calibration-file.js';
import type { SyncFile } from './safetensors.js';
import { type FactorOwner, openFactors, type StoredFactors, writeFactors } from './svd-factors.js';

/** The kinds of files that are kept for a model. */
export type StoredKind = 'calibration' | 'factors';

/** Access to the files. */
export interface StorePlaces {
  /** The file of a kind that is nearest to the model, if there is one. */
  find(kind: StoredKind): SyncFile | undefined;
  /**
   * A file that somebody named.
   *
   * @throws {LoadError} if it cannot be read
   */
  open(path: string): SyncFile;
  /** Keeps a file of a kind, whole or not at all. A failure is only a warning: it costs no more than time. */
  write(kind: StoredKind, bytes: Uint8Array): void;
}

/** The name of a file that is beside a model or called like it. */
export function storedName(model: string, kind: StoredKind): string {
  return `${model}.xquant-${kind}.safetensors`;
}

/** See the module. */
export class ModelStore implements FactorKeeper {
  readonly #places: StorePlaces;
  readonly #owner: FactorOwner;
  readonly #model: string;
  readonly #calibration: string;
  readonly #calibrations = new Map<string, Calibration>();
  #factors: Map<string, StoredFactors> | undefined;

  /**
   * @param model as the user names it, for the command that makes a calibration
   * @param calibration a file that takes the place of what is found
   */
  constructor(places: StorePlaces, owner: FactorOwner, model: string, calibration = '') {
    this.#places = places;
    this.#owner = owner;
    this.#model = model;
    this.#calibration = calibration;
  }

  has(layer: number, matrix: FactoredMatrix): boolean {
    return this.#known().has(factorKey(layer, matrix));
  }

  factors(layer: number, matrix: FactoredMatrix): LatentFactors | undefined {
    return this.#known().get(factorKey(layer, matrix))?.read();
  }

  keep(computed: readonly NamedFactors[]): void {
    const known = this.#known();
    for (const { layer, matrix, factors } of computed) {
      known.set(factorKey(layer, matrix), { layer, matrix, read: () => factors });
    }
    const names = [...known.values()];
    const source = {
      factors: (layer: number, matrix: FactoredMatrix) => {
        const found = known.get(factorKey(layer, matrix));
        if (!found) throw new RangeError(`there are no factors ${factorKey(layer, matrix)}`);
        return found.read();
      },
    };
    this.#places.write('factors', writeFactors(names, source, this.#owner.fingerprint));
    for (const each of this.#inFile()) known.set(factorKey(each.layer, each.matrix), each);
  }

  /**
   * The calibration for calibrated caches.
   *
   * @param path a file; empty for the one that was given for all caches, or is found
   * @throws {ConfigError} if there is none; says how to make it
   * @throws {LoadError | FormatError} if the file cannot be read, or is of another model or version; names it
   */
  calibration(path: string): Calibration {
    const found = this.#find(path || this.#calibration);
    if (found) return found;
    const make = `xquant calibrate --model ${this.#model} --text FILE`;
    throw new ConfigError('calibration', 'none', `made once for this model, by: ${make}`);
  }

  findCalibration(): Calibration | undefined {
    return this.#find(this.#calibration);
  }

  /** @param wanted a file that somebody named, or empty */
  #find(wanted: string): Calibration | undefined {
    const known = this.#calibrations.get(wanted);
    if (known) return known;
    const file = wanted === '' ? this.#places.find('calibration') : this.#places.open(wanted);
    if (!file) return undefined;
    const found = openCalibrationFile(file, this.#owner);
    this.#calibrations.set(wanted, found);
    return found;
  }

  #known(): Map<string, StoredFactors> {
    this.#factors ??= new Map(this.#inFile().map((each) => [factorKey(each.layer, each.matrix), each]));
    return this.#factors;
  }

  #inFile(): StoredFactors[] {
    const file = this.#places.find('factors');
    return file ? openFactors(file, this.#owner) : [];
  }
}
