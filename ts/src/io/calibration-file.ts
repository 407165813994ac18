/**
 * A calibration in a safetensors file, as `xquant calibrate` and `golden/generate/calibrate.py` write it.
 *
 *     S.layers.3.decode        F16 [n, n]        S: name of a set
 *     S.layers.3.encode        F16 [n, n]        optional
 *     S.layers.3.predict.1     F16 [n, n]        from layer 2; predict.2 from layer 1
 *     S.layers.3.offset        F32 [n]
 *     S.layers.3.importance    F32 [n]
 *
 * The metadata has format and version, the fingerprint of the model, texts, settings, distortion and sets. A file of
 * another model is refused: it would give wrong keys, not an error. docs/format.md describes all of it.
 *
 * @module
 */

import {
  basisBlocks,
  CALIBRATION_BASES,
  type Calibration,
  type CalibrationOrigin,
  type CalibrationSet,
  type CalibrationText,
  carrierOf,
  carrierWidth,
  type LayerTransform,
  type MeasuredLoss,
} from '../cache/calibration.js';
import type { Float16Matrix } from '../cache/state.js';
import { FormatError } from '../errors.js';
import { derivedSizes } from '../model/config.js';
import { alignedCopy } from '../numerics/bytes.js';
import type { Distortion } from '../quant/allocate-bits.js';
import { CHANNEL_BITS } from '../quant/symmetric.js';
import {
  openSafetensors,
  readSafetensors,
  type SafeTensor,
  type SafetensorsDtype,
  type SafetensorsFile,
  type SyncFile,
  toFloat32,
  toSafeTensor,
  writeSafetensors,
} from './safetensors.js';
import type { FactorOwner } from './svd-factors.js';

const FORMAT = 'xquant-calibration';
const VERSION = '1';

/** The metadata of a set. */
type SetDescription = Omit<CalibrationSet, 'layers'>;

/**
 * Writes a calibration to the bytes of a file.
 *
 * @param fingerprint of the model, see io/fingerprint.ts
 * @returns fresh
 */
export function writeCalibrationFile(calibration: Calibration, fingerprint: string): Uint8Array {
  const { origin, distortion, sets } = calibration;
  const tensors = new Map<string, SafeTensor>();
  for (const set of sets) {
    for (const [layer, transform] of set.layers.entries()) {
      const put = (name: string, tensor: SafeTensor) =>
        tensors.set(tensorName(set.name, layer, name), tensor);
      put('decode', matrixTensor(transform.decode));
      if (transform.encode) put('encode', matrixTensor(transform.encode));
      transform.predict.forEach((each, i) => {
        put(`predict.${i + 1}`, matrixTensor(each));
      });
      put('offset', toSafeTensor(transform.offset));
      put('importance', toSafeTensor(transform.importance));
    }
  }
  return writeSafetensors(tensors, {
    format: FORMAT,
    version: VERSION,
    fingerprint,
    model: origin.model,
    texts: JSON.stringify(origin.texts),
    windows: String(origin.windows),
    windowTokens: String(origin.windowTokens),
    sensitivityWindows: String(origin.sensitivityWindows),
    madeBy: origin.madeBy,
    distortion: JSON.stringify(distortion),
    sets: JSON.stringify(sets.map(({ layers: _, ...description }) => description)),
  });
}

/**
 * Reads the bytes of a file. The matrices stay in f16 and are views on them.
 *
 * @param bytes kept
 * @param path for messages
 * @param owner the model that the calibration must belong to
 * @throws {FormatError} if it is no calibration, of another version or model, or a tensor is missing, unknown, or has
 *   another shape or type or a value that cannot be; names it
 */
export function readCalibrationFile(bytes: Uint8Array, path: string, owner: FactorOwner): Calibration {
  const calibration = parseCalibration(readSafetensors(bytes, path), path, owner);
  for (const { layers } of calibration.sets) {
    for (const { decode, encode, predict } of layers) {
      for (const each of [decode, encode, ...predict]) each?.float16; // refuses what is not finite
    }
  }
  return calibration;
}

/**
 * Opens a file: vectors are read now, a matrix when a cache first needs it, and kept.
 *
 * @throws as {@link readCalibrationFile}; matrices that are not finite are found when they are read
 * @throws {LoadError} if it cannot be read
 */
export function openCalibrationFile(file: SyncFile, owner: FactorOwner): Calibration {
  return parseCalibration(openSafetensors(file), file.name, owner);
}

function parseCalibration(
  { metadata, tensors }: SafetensorsFile,
  path: string,
  owner: FactorOwner,
): Calibration {
  assertOwn(metadata, path, owner);
  const text = (key: string) => new MetadataValue(metadata[key], key, path);
  const sets = text('sets').json('a list of sets of different names', isListOfSets);
  const left = new TensorTaker(tensors, path);
  const { hiddenSize, numHiddenLayers: layers } = owner.config;
  const sizes = { hiddenSize, kvDim: derivedSizes(owner.config).kvDim };
  const width = carrierWidth(sizes);
  const calibration: Calibration = {
    origin: readOrigin(text),
    distortion: text('distortion').json(
      `{ ${CHANNEL_BITS.map((bits) => `"${bits}": number`).join(', ')} }, from 1 downwards`,
      isDistortion,
    ),
    sets: sets.map((description) => {
      if (description.basis !== 'joint' && carrierOf(sizes) === 'x') {
        const reason = `set "${description.name}" has basis ${description.basis}, but what this model stores is X, not keys and values`;
        throw new FormatError(path, 'metadata "sets"', reason);
      }
      const blocks = basisBlocks(description.basis, owner.config, width);
      return {
        ...description,
        layers: Array.from({ length: layers }, (_, layer) => readLayer(left, description, layer, blocks)),
      };
    }),
  };
  left.assertNothingLeft();
  return calibration;
}

function assertOwn(
  metadata: Readonly<Record<string, string>>,
  path: string,
  { fingerprint }: FactorOwner,
): void {
  for (const [key, expected] of [
    ['format', FORMAT],
    ['version', VERSION],
  ]) {
    if (metadata[key] !== expected) {
      const reason = `expected "${expected}", got "${metadata[key] ?? ''}"`;
      throw new FormatError(path, `metadata "${key}"`, reason);
    }
  }
  if (metadata.fingerprint !== fingerprint) {
    const reason = `the calibration belongs to model ${metadata.fingerprint}, not to this one (${fingerprint})`;
    throw new FormatError(path, 'metadata "fingerprint"', reason);
  }
}

function readOrigin(text: (key: string) => MetadataValue): CalibrationOrigin {
  return {
    model: text('model').text(),
    texts: text('texts').json('a list of { name, sha256, tokens }', isListOfTexts),
    windows: text('windows').count(),
    windowTokens: text('windowTokens').count(),
    sensitivityWindows: text('sensitivityWindows').count(),
    madeBy: text('madeBy').text(),
  };
}

/** @param blocks channels of each block of the basis */
function readLayer(
  tensors: TensorTaker,
  set: SetDescription,
  layer: number,
  blocks: readonly number[],
): LayerTransform {
  const n = blocks.reduce((sum, size) => sum + size, 0);
  const name = (tensor: string) => tensorName(set.name, layer, tensor);
  const encode = tensors.has(name('encode')) ? tensors.matrix(name('encode'), blocks) : undefined;
  const transform: LayerTransform = {
    decode: tensors.matrix(name('decode'), blocks),
    ...(encode ? { encode } : {}),
    predict: Array.from({ length: Math.min(set.predict, layer) }, (_, i) =>
      tensors.matrix(name(`predict.${i + 1}`), [n]),
    ),
    offset: tensors.vector(name('offset'), n),
    importance: tensors.vector(name('importance'), n),
  };
  tensors.assertEach(name('importance'), transform.importance, (value) => value >= 0, 'is negative');
  return transform;
}

function tensorName(set: string, layer: number, name: string): string {
  return `${set}.layers.${layer}.${name}`;
}

function matrixTensor({ rows, columns, float16 }: Float16Matrix): SafeTensor {
  return toSafeTensor(float16, [rows, columns], 'F16');
}

/** The tensors of a file, each taken once. */
class TensorTaker {
  readonly #tensors: ReadonlyMap<string, SafeTensor>;
  readonly #path: string;
  readonly #left: Set<string>;

  constructor(tensors: ReadonlyMap<string, SafeTensor>, path: string) {
    this.#tensors = tensors;
    this.#path = path;
    this.#left = new Set(tensors.keys());
  }

  has(name: string): boolean {
    return this.#tensors.has(name);
  }

  /** F16 [n, n] with zeros outside of blocks along the diagonal, read when it is asked for. */
  matrix(name: string, blocks: readonly number[]): Float16Matrix {
    const n = blocks.reduce((sum, size) => sum + size, 0);
    const tensor = this.#take(name, 'F16', [n, n]);
    let known: Uint16Array | undefined;
    const read = () => {
      if (!known) {
        known = this.#finite(name, tensor.bytes);
        this.#assertBlocks(name, known, blocks, n);
      }
      return known;
    };
    return {
      rows: n,
      columns: n,
      get float16() {
        return read();
      },
    };
  }

  #finite(name: string, bytes: Uint8Array): Uint16Array {
    const inPlace = bytes.byteOffset % 2 === 0;
    const float16 = inPlace
      ? new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2)
      : new Uint16Array(alignedCopy(bytes));
    // All bits of the exponent set: infinity or NaN.
    const bad = float16.findIndex((bits) => (bits & 0x7c00) === 0x7c00);
    if (bad >= 0) throw new FormatError(this.#path, name, `element ${bad} is not a finite number`);
    return float16;
  }

  #assertBlocks(name: string, float16: Uint16Array, blocks: readonly number[], n: number): void {
    let first = 0;
    for (const size of blocks) {
      for (let r = first; r < first + size; r++) {
        const row = float16.subarray(r * n, (r + 1) * n);
        const bad = row.findIndex((bits, c) => (c < first || c >= first + size) && (bits & 0x7fff) !== 0);
        if (bad < 0) continue;
        const reason = `element ${r * n + bad} must be zero: row ${r} and column ${bad} belong to different blocks of the basis`;
        throw new FormatError(this.#path, name, reason);
      }
      first += size;
    }
  }

  /** F32 [n] */
  vector(name: string, n: number): Float32Array {
    const values = toFloat32(this.#take(name, 'F32', [n]));
    this.assertEach(name, values, Number.isFinite, 'is not a finite number');
    return values;
  }

  assertEach(name: string, values: Float32Array, holds: (value: number) => boolean, problem: string): void {
    const bad = values.findIndex((value) => !holds(value));
    if (bad >= 0) throw new FormatError(this.#path, name, `element ${bad} ${problem}: ${values[bad]}`);
  }

  assertNothingLeft(): void {
    for (const name of this.#left) throw new FormatError(this.#path, name, 'is no tensor of a calibration');
  }

  #take(name: string, expected: SafetensorsDtype, sizes: readonly number[]): SafeTensor {
    const tensor = this.#tensors.get(name);
    if (!tensor) throw new FormatError(this.#path, name, 'the tensor is missing');
    const { dtype, shape } = tensor;
    if (dtype !== expected) throw new FormatError(this.#path, name, `must be ${expected}, got ${dtype}`);
    if (shape.length !== sizes.length || shape.some((size, i) => size !== sizes[i])) {
      throw new FormatError(this.#path, name, `must be [${sizes.join(', ')}], got [${shape.join(', ')}]`);
    }
    this.#left.delete(name);
    return tensor;
  }
}

/** One value of the metadata, which are all text. */
class MetadataValue {
  readonly #value: string | undefined;
  readonly #key: string;
  readonly #path: string;

  constructor(value: string | undefined, key: string, path: string) {
    this.#value = value;
    this.#key = key;
    this.#path = path;
  }

  text(): string {
    return this.#value ?? this.#refuse('is missing');
  }

  count(): number {
    const text = this.text();
    return /^\d{1,9}$/.test(text) ? Number(text) : this.#refuse(`must be an integer from 0, got "${text}"`);
  }

  json<T>(expected: string, is: (value: unknown) => value is T): T {
    let parsed: unknown;
    try {
      parsed = JSON.parse(this.text());
    } catch (cause) {
      if (cause instanceof FormatError) throw cause;
      this.#refuse('is not JSON', cause);
    }
    return is(parsed) ? parsed : this.#refuse(`must be ${expected}`);
  }

  #refuse(reason: string, cause?: unknown): never {
    throw new FormatError(this.#path, `metadata "${this.#key}"`, reason, cause ? { cause } : undefined);
  }
}

function isDistortion(value: unknown): value is Distortion {
  const given = (value ?? {}) as Record<string, unknown>;
  if (Object.keys(given).length !== CHANNEL_BITS.length || given[0] !== 1) return false;
  return CHANNEL_BITS.every((bits, i) => {
    const each = given[bits];
    const before = i === 0 ? Number.POSITIVE_INFINITY : (given[CHANNEL_BITS[i - 1]] as number);
    return typeof each === 'number' && each > 0 && each < before;
  });
}

function isListOfSets(value: unknown): value is SetDescription[] {
  if (!Array.isArray(value) || value.length === 0 || !value.every(isSet)) return false;
  return new Set(value.map(({ name }) => name)).size === value.length;
}

function isSet(value: unknown): value is SetDescription {
  const { name, predict, basis, bits, loss } = (value ?? {}) as Partial<SetDescription>;
  return (
    typeof name === 'string' &&
    name !== '' &&
    (predict === 0 || predict === 1 || predict === 2) &&
    CALIBRATION_BASES.includes(basis as CalibrationSet['basis']) &&
    (predict === 0 ? bits === null : typeof bits === 'number' && bits > 0 && Number.isFinite(bits)) &&
    (loss === undefined || isLoss(loss))
  );
}

function isLoss(value: unknown): value is MeasuredLoss {
  const { text, percent, standardError } = (value ?? {}) as Partial<MeasuredLoss>;
  return typeof text === 'string' && typeof percent === 'number' && typeof standardError === 'number';
}

function isListOfTexts(value: unknown): value is CalibrationText[] {
  return (
    Array.isArray(value) &&
    value.every((each) => {
      const { name, sha256, tokens } = (each ?? {}) as Partial<CalibrationText>;
      return (
        typeof name === 'string' &&
        typeof sha256 === 'string' &&
        /^[0-9a-f]{64}$/.test(sha256) &&
        Number.isSafeInteger(tokens) &&
        (tokens as number) >= 0
      );
    })
  );
}
