/**
 * Where calibrations and factors of models are on disk, and the KVQuant calibrations that a clone of the repository has for
 * its embedded models. Node only.
 *
 * @module
 */

import { randomUUID } from 'node:crypto';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import type { ModelConfig } from '../model/config.js';
import { ModelStore, type StoredKind, type StorePlaces, storedName } from './calibration-store.js';
import { type CalibrationFile, readCalibration } from './kvquant-calibration.js';
import { EMBEDDED_MODELS } from './load-model.js';
import { cacheFolder, reasonOf, syncFile, toPath } from './node-file.js';
import { embeddedModelPath } from './node-models.js';
import type { SyncFile } from './safetensors.js';
import type { FactorOwner } from './svd-factors.js';

/**
 * The calibrations of all embedded models that have the sizes of this one.
 *
 * @returns empty outside a clone
 */
export function embeddedCalibrations(config: ModelConfig): CalibrationFile[] {
  return EMBEDDED_MODELS.flatMap((name) => {
    try {
      const path = join(calibrationFolder(name), `${name}.safetensors`);
      return existsSync(path) ? [readCalibration(readFileSync(path), path, config)] : [];
    } catch {
      return []; // not a clone, or of a model with other sizes
    }
  });
}

/** Calibrations and factors on disk: beside the model, in a clone, or in the user's cache folder. */
export class NodePlaces implements StorePlaces {
  readonly #model: string;
  readonly #fingerprint: string;

  /**
   * @param model as it was loaded: a name, a path, or something that is on no disk
   * @param fingerprint of the weights
   */
  constructor(model: string, fingerprint: string) {
    this.#model = model;
    this.#fingerprint = fingerprint;
  }

  find(kind: StoredKind): SyncFile | undefined {
    const path = [...besideModel(this.#model, kind), this.#cached(kind)].find((each) => existsSync(each));
    return path === undefined ? undefined : this.open(path);
  }

  open(path: string): SyncFile {
    return syncFile(path);
  }

  write(kind: StoredKind, bytes: Uint8Array): void {
    const path = this.#cached(kind);
    const temporary = `${path}.${randomUUID()}.tmp`;
    try {
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(temporary, bytes);
      renameSync(temporary, path);
    } catch (cause) {
      if (existsSync(temporary)) rmSync(temporary);
      process.emitWarning(`${path} cannot be written: ${reasonOf(cause)}`, 'XQuantWarning');
    }
  }

  /** The path of a kept file: beside the model if that is a file of the user's, else in the cache folder. */
  target(kind: StoredKind): string {
    const [beside] = isEmbedded(this.#model) ? [] : besideModel(this.#model, kind);
    return beside !== undefined && isWritable(dirname(beside)) ? beside : this.#cached(kind);
  }

  #cached(kind: StoredKind): string {
    return join(cacheFolder(), storedName(this.#fingerprint, kind));
  }
}

/** The store of a model that was loaded in Node. */
export function nodeStore(
  model: string,
  { config, fingerprint }: FactorOwner,
  calibration?: string,
): ModelStore {
  return new ModelStore(new NodePlaces(model, fingerprint), { config, fingerprint }, model, calibration);
}

/**
 * Whether reading the weights of a model can tell that there is a calibration of it: a calibration in the cache folder is
 * known by the fingerprint alone.
 */
export function mayHaveCalibration(model: string): boolean {
  if (besideModel(model, 'calibration').some((path) => existsSync(path))) return true;
  const kept = existsSync(cacheFolder()) ? readdirSync(cacheFolder()) : [];
  return kept.some((name) => name.endsWith(storedName('', 'calibration')));
}

/** Paths that belong to a model alone; none for one that is on no disk. */
function besideModel(model: string, kind: StoredKind): string[] {
  if (isEmbedded(model)) return [join(calibrationFolder(model), storedName(model, kind))];
  const path = toPath(model).replace(/[/\\]+$/, '');
  return existsSync(path) ? [storedName(path, kind)] : [];
}

function isWritable(folder: string): boolean {
  try {
    accessSync(folder, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function isEmbedded(model: string): boolean {
  return (EMBEDDED_MODELS as readonly string[]).includes(model);
}

/** @throws {LoadError} if this is no clone */
function calibrationFolder(embedded: string): string {
  return join(dirname(embeddedModelPath(embedded)), '../calibration');
}
