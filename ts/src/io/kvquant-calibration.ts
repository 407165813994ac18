/**
 * A calibration of KVQuant in a safetensors file, as `golden/generate/calibrate_kvquant.py` writes it: ranges of
 * key channels and levels, for several bits, fractions of outliers and sinks. That script lists the tensors.
 *
 * @module
 */

import type {
  KvquantCalibration,
  KvquantLayerCalibration,
  KvquantSetting,
} from '../cache/kvquant-calibration.js';
import { FormatError } from '../errors.js';
import { derivedSizes, type ModelConfig } from '../model/config.js';
import { NUQ_BITS, type NuqBits } from '../quant/nuq.js';
import { readSafetensors, type SafeTensor, toFloat32 } from './safetensors.js';

const FORMAT = 'xquant-kvquant-calibration';
const VERSION = '1';

/** The origin of a calibration, as its file says. */
export interface CalibrationOrigin {
  /** File of the model. */
  readonly model: string;
  /** File of the text. */
  readonly text: string;
  /** The windows of the text that were used, counted from 0. */
  readonly windows: readonly number[];
  /** Tokens of a window. */
  readonly windowSize: number;
}

/** A calibration from a file. */
export interface CalibrationFile extends KvquantCalibration {
  readonly origin: CalibrationOrigin;
}

/**
 * Reads the bytes of a file.
 *
 * @param path for messages
 * @param config of the model that it is for; whether its weights are the right ones is checked when the
 *   calibration is made known to a model (`presetCalibration`)
 * @throws {FormatError} if it is no calibration, of another version, or a tensor is missing or has another shape,
 *   type, or values out of order; names it
 */
export function readCalibration(bytes: Uint8Array, path: string, config: ModelConfig): CalibrationFile {
  const { metadata, tensors } = readSafetensors(bytes, path);
  for (const [key, expected] of [
    ['format', FORMAT],
    ['version', VERSION],
  ]) {
    if (metadata[key] !== expected) {
      throw new FormatError(
        path,
        `metadata "${key}"`,
        `expected "${expected}", got "${metadata[key] ?? ''}"`,
      );
    }
  }
  const { numHiddenLayers: layers } = config;
  const { kvDim } = derivedSizes(config);
  const rows = (name: string, columns: number) => takeRows(tensors, name, [layers, columns], path);
  const settings = parseSettings(metadata.settings, path);
  const known = settings.map((setting) => {
    const prefix = `outliers.${setting.outlierFraction}.sink.${setting.sink}.`;
    const sized = `${prefix}bits.${setting.bits}.`;
    const lower = rows(`${prefix}key_lower`, kvDim);
    const upper = rows(`${prefix}key_upper`, kvDim);
    const levels = {
      key: rows(`${sized}key_levels`, 2 ** setting.bits),
      value: rows(`${sized}value_levels`, 2 ** setting.bits),
    };
    for (const [name, perLayer] of Object.entries(levels)) {
      const isAscending = perLayer.every((each) => each.every((level, i) => i === 0 || level >= each[i - 1]));
      if (!isAscending) throw new FormatError(path, `${sized}${name}_levels`, 'levels must be ascending');
    }
    const qNorm = { key: rows(`${sized}key_q_norm`, 2), value: rows(`${sized}value_q_norm`, 2) };
    const calibrated = (name: 'key' | 'value', layer: number) => {
      const [scale, shift] = qNorm[name][layer];
      return { levels: levels[name][layer], qNorm: { scale, shift } };
    };
    return Array.from(
      { length: layers },
      (_, layer): KvquantLayerCalibration => ({
        keyRanges: { lower: lower[layer], upper: upper[layer] },
        keys: calibrated('key', layer),
        values: calibrated('value', layer),
      }),
    );
  });
  const sample = tensors.get('key_weights')?.shape[1] ?? 0;
  return {
    settings,
    keyWeights: rows('key_weights', sample),
    origin: {
      model: metadata.model ?? '',
      text: metadata.text ?? '',
      windows: parseNumbers(metadata.windows, path),
      windowSize: Number(metadata.windowSize ?? 0),
    },
    find({ bits, outlierFraction, sink }) {
      const index = settings.findIndex(
        (each) => each.bits === bits && each.outlierFraction === outlierFraction && each.sink === sink,
      );
      return known[index];
    },
  };
}

function parseSettings(json: string | undefined, path: string): KvquantSetting[] {
  const parsed = parseJson(json, 'settings', path);
  const settings = Array.isArray(parsed) ? parsed : [];
  const isSetting = (each: unknown): each is KvquantSetting => {
    const { bits, outlierFraction, sink } = (each ?? {}) as Partial<KvquantSetting>;
    return (
      NUQ_BITS.includes(bits as NuqBits) &&
      typeof outlierFraction === 'number' &&
      outlierFraction >= 0 &&
      outlierFraction < 1 &&
      Number.isInteger(sink)
    );
  };
  if (settings.length === 0 || !settings.every(isSetting)) {
    const reason = 'must be a list of { bits, outlierFraction, sink }';
    throw new FormatError(path, 'metadata "settings"', reason);
  }
  return settings;
}

function parseNumbers(json: string | undefined, path: string): number[] {
  const parsed = parseJson(json ?? '[]', 'windows', path);
  return Array.isArray(parsed) ? parsed.map(Number) : [];
}

function parseJson(json: string | undefined, key: string, path: string): unknown {
  try {
    return JSON.parse(json ?? '');
  } catch (cause) {
    throw new FormatError(path, `metadata "${key}"`, 'is not JSON', { cause });
  }
}

/** A tensor [layers, columns] as one array for each layer. */
function takeRows(
  tensors: ReadonlyMap<string, SafeTensor>,
  name: string,
  [layers, columns]: readonly [number, number],
  path: string,
): Float32Array[] {
  const tensor = tensors.get(name);
  if (!tensor) throw new FormatError(path, name, 'the tensor is missing');
  const { dtype, shape } = tensor;
  if (dtype !== 'F16' && dtype !== 'F32')
    throw new FormatError(path, name, `must be F16 or F32, got ${dtype}`);
  if (shape.length !== 2 || shape[0] !== layers || shape[1] !== columns) {
    throw new FormatError(path, name, `must be [${layers}, ${columns}], got [${shape.join(', ')}]`);
  }
  const data = toFloat32(tensor);
  const bad = data.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) throw new FormatError(path, name, `element ${bad} is not a finite number: ${data[bad]}`);
  return Array.from({ length: layers }, (_, layer) => data.slice(layer * columns, (layer + 1) * columns));
}
