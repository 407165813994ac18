/**
 * SVD factors of a model in a safetensors file, so that they are computed once and are the same for everybody.
 *
 *     layers.3.key.down_projection    [latentRank, hiddenSize]     U^T
 *     layers.3.key.up_projection      [outChannels, latentRank]    (S B^T)^T
 *
 * in f32, for every layer and matrix of `FactoredMatrix`; the metadata names format, version and the
 * fingerprint of the model. Factors of another model are refused: they would give wrong keys, not an error.
 *
 * @module
 */

import { factorKey, type NamedFactors } from '../cache/factors.js';

export type { NamedFactors };

import { cacheLayout, layoutSizes } from '../cache/layout.js';
import type { CacheOptions } from '../cache/options.js';
import { resolveCacheOptions } from '../cache/presets.js';
import type { FactoredMatrix, FactorSource, LatentFactors } from '../cache/projection.js';
import { ConfigError, FormatError } from '../errors.js';
import { derivedSizes, type ModelConfig } from '../model/config.js';
import { type Matrix, matrix } from '../numerics/matrix.js';
import {
  openSafetensors,
  readSafetensors,
  type SafeTensor,
  type SafetensorsFile,
  type SyncFile,
  toFloat32,
  toSafeTensor,
  writeSafetensors,
} from './safetensors.js';

const FORMAT = 'xquant-svd-factors';
const VERSION = '1';

/** A matrix of a layer. */
export interface FactorName {
  readonly layer: number;
  readonly matrix: FactoredMatrix;
}

/** The factors of one matrix in a file that is open. */
export interface StoredFactors extends FactorName {
  /** @throws {FormatError} if a value is not finite; names it */
  read(): LatentFactors;
}

/** The model that factors belong to. */
export interface FactorOwner {
  readonly config: ModelConfig;
  /** Fingerprint of the weights, see io/fingerprint.ts. */
  readonly fingerprint: string;
}

/**
 * The factors that a cache asks for, in order of layers; none for a cache that stores X.
 *
 * @param options resolved for the model
 */
export function factorsOfCache(options: CacheOptions, config: ModelConfig): FactorName[] {
  return cacheLayout(options, layoutSizes(config)).flatMap(({ factors }, layer) =>
    factors.map((name) => ({ layer, matrix: name })),
  );
}

/** All factors that some cache of a model can ask for, in order of layers. */
export function factorsOfModel(config: ModelConfig): FactorName[] {
  const caches = ['xquant?form=latent'];
  for (const deltaSpace of ['x', 'normalized']) {
    caches.push(`xquant-cl?form=latent&baseLayers=1&baseStore=latent&deltaSpace=${deltaSpace}`);
  }
  const names = caches.flatMap((cache) => {
    try {
      return factorsOfCache(resolveCacheOptions(cache, config), config);
    } catch (error) {
      // A model with wide keys and values has no latent deltas.
      if (error instanceof ConfigError) return [];
      throw error;
    }
  });
  return names.sort((a, b) => a.layer - b.layer);
}

/**
 * Writes factors to the bytes of a file.
 *
 * @param names which; each is computed by `source` if it has to be
 * @returns fresh
 */
export function writeFactors(
  names: readonly FactorName[],
  source: FactorSource,
  fingerprint: string,
): Uint8Array {
  const tensors = new Map<string, SafeTensor>();
  for (const { layer, matrix: name } of names) {
    const { downProjection, upProjection } = source.factors(layer, name);
    tensors.set(downKey(layer, name), asTensor(downProjection));
    tensors.set(upKey(layer, name), asTensor(upProjection));
  }
  return writeSafetensors(tensors, { format: FORMAT, version: VERSION, model: fingerprint });
}

/**
 * Reads the bytes of a file.
 *
 * @param path for messages
 * @param owner the model that the factors must belong to
 * @returns in order of layers
 * @throws {FormatError} if it is no file of factors, belongs to another model, or a tensor is missing, has
 *   another shape or type, or a value that is not finite; names it
 */
export function readFactors(bytes: Uint8Array, path: string, owner: FactorOwner): NamedFactors[] {
  const found = parseFactors(readSafetensors(bytes, path), path, owner);
  return found.map(({ layer, matrix: name, read }) => ({ layer, matrix: name, factors: read() }));
}

/**
 * Opens a file: the factors of a matrix are read when they are asked for.
 *
 * @throws as {@link readFactors}; values that are not finite are found by `read`
 * @throws {LoadError} if it cannot be read
 */
export function openFactors(file: SyncFile, owner: FactorOwner): StoredFactors[] {
  return parseFactors(openSafetensors(file), file.name, owner);
}

function parseFactors(
  { metadata, tensors }: SafetensorsFile,
  path: string,
  owner: FactorOwner,
): StoredFactors[] {
  if (metadata.format !== FORMAT) {
    throw new FormatError(path, 'metadata "format"', `expected "${FORMAT}", got "${metadata.format ?? ''}"`);
  }
  if (metadata.version !== VERSION) {
    throw new FormatError(path, 'metadata "version"', `expected ${VERSION}, got "${metadata.version ?? ''}"`);
  }
  if (metadata.model !== owner.fingerprint) {
    const reason = `the factors belong to model ${metadata.model}, not to this one (${owner.fingerprint})`;
    throw new FormatError(path, 'metadata "model"', reason);
  }

  const { hiddenSize } = owner.config;
  const { kvDim } = derivedSizes(owner.config);
  const found: StoredFactors[] = [];
  const left = new Set(tensors.keys());
  for (const { layer, matrix: name } of factorsOfModel(owner.config)) {
    const [down, up] = [downKey(layer, name), upKey(layer, name)];
    if (!left.has(down) && !left.has(up)) continue;
    const outChannels = name === 'key' || name === 'value' ? kvDim : 2 * kvDim;
    const latentRank = Math.min(hiddenSize, outChannels);
    const downProjection = takeMatrix(tensors, down, [latentRank, hiddenSize], path);
    const upProjection = takeMatrix(tensors, up, [outChannels, latentRank], path);
    const read = () => ({ downProjection: downProjection(), upProjection: upProjection() });
    left.delete(down);
    left.delete(up);
    found.push({ layer, matrix: name, read });
  }
  const [unknown] = left;
  if (unknown !== undefined) throw new FormatError(path, unknown, 'no cache of this model uses this tensor');
  return found;
}

function downKey(layer: number, name: FactoredMatrix): string {
  return `${factorKey(layer, name)}.down_projection`;
}

function upKey(layer: number, name: FactoredMatrix): string {
  return `${factorKey(layer, name)}.up_projection`;
}

function asTensor({ rows, columns, data }: Matrix): SafeTensor {
  return toSafeTensor(data, [rows, columns]);
}

/** Checks what the header says of a matrix; gives what reads it. */
function takeMatrix(
  tensors: ReadonlyMap<string, SafeTensor>,
  key: string,
  [rows, columns]: readonly [number, number],
  path: string,
): () => Matrix {
  const tensor = tensors.get(key);
  if (!tensor) throw new FormatError(path, key, 'the tensor is missing');
  const { dtype, shape } = tensor;
  if (dtype !== 'F32') throw new FormatError(path, key, `must be F32, got ${dtype}`);
  if (shape.length !== 2 || shape[0] !== rows || shape[1] !== columns) {
    throw new FormatError(path, key, `must be [${rows}, ${columns}], got [${shape.join(', ')}]`);
  }
  return () => {
    const data = toFloat32(tensor);
    const bad = data.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) throw new FormatError(path, key, `element ${bad} is not a finite number: ${data[bad]}`);
    return matrix(rows, columns, data);
  };
}
