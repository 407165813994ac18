/**
 * KVQuant (arXiv 2401.18079), the stronger baseline of the paper (XQuant §4): non-uniform levels fitted
 * offline, and about 1 % of the values kept exactly.
 *
 *     keys      before RoPE, per channel, ranges calibrated offline     outliers: beyond them
 *     values    per token, the whole row of all KV heads                outliers: its largest and smallest
 *     sinks     optionally the first tokens of a sequence stay in f16
 *
 * Needs a calibration of the model; see `golden/generate/calibrate_kvquant.py`. Like the SVD factors of the
 * latent forms, ranges and levels belong to the model and are not counted with a cache (for keys, 32 bits a
 * channel: 32 / length bits an element).
 *
 * @module
 */

import { ConfigError } from '../errors.js';
import { concatRows, rowRange } from '../numerics/matrix.js';
import {
  assertNuqBits,
  dequantizeNuq,
  type NuqBits,
  type NuqCodebook,
  type NuqFormat,
  type NuqMatrix,
  type NuqRanges,
  nuqCodebook,
  type QNorm,
  quantizeNuqChannels,
  quantizeNuqRows,
} from '../quant/nuq.js';
import { BlockCache, type TokenRows } from './block.js';
import { project } from './fold.js';
import type { CacheOptions } from './options.js';
import { loadMatrix, storeMatrix } from './stored-matrix.js';
import type { FactorSource, KeysAndValues, KeyValueProjection, LayerInput, SealedBlock } from './types.js';

/** Levels of one tensor of one layer, and Q-Norm's correction of them. */
export interface CalibratedLevels {
  /** Ascending. [2^bits] */
  readonly levels: Float32Array;
  readonly qNorm: QNorm;
}

/** What calibration found out about one layer. */
export interface KvquantLayerCalibration {
  readonly keyRanges: NuqRanges;
  readonly keys: CalibratedLevels;
  readonly values: CalibratedLevels;
}

/** What calibration depends on besides the model and the text. */
export interface KvquantSetting {
  readonly bits: NuqBits;
  readonly outlierFraction: number;
  /** First tokens of every window that were left out. */
  readonly sink: number;
}

/** The calibration of a model. */
export interface KvquantCalibration {
  /** What it was made for, in words, for messages. */
  readonly settings: readonly KvquantSetting[];
  /** The first numbers of Wk of every layer, by which a model knows that it is its own. [layers] */
  readonly keyWeights?: readonly Float32Array[];
  /** The layers under a setting; undefined if it was not made for it. */
  find(setting: KvquantSetting): readonly KvquantLayerCalibration[] | undefined;
}

/**
 * The calibration that a cache asks for.
 *
 * @throws {ConfigError} if the model has none, or not for this setting; says how to make one
 */
export function kvquantLayer(
  options: CacheOptions,
  source: FactorSource,
  layer: number,
): KvquantLayerCalibration {
  const { calibration: path, bits, outlierFraction, sinks: sink } = options;
  const calibration = source.calibration?.(path);
  if (!calibration) {
    const allowed =
      'a file of KVQuant ranges and levels of this model, loaded before the cache is made (the command line ' +
      'does that); make one with "python golden/generate/calibrate_kvquant.py" and give it as calibration=FILE';
    throw new ConfigError('calibration', path, allowed);
  }
  assertNuqBits(bits);
  const layers = calibration.find({ bits, outlierFraction, sink });
  if (!layers) {
    const wanted = `${bits} bits, outliers ${100 * outlierFraction} %, sink ${sink}`;
    const known = calibration.settings.map(
      (each) => `${each.bits} bits, outliers ${100 * each.outlierFraction} %, sink ${each.sink}`,
    );
    throw new ConfigError(
      'kvquant setting',
      wanted,
      `one that the calibration was made for: ${known.join('; ')}`,
    );
  }
  return layers[layer];
}

/** Keys and values in levels of KVQuant, with their outliers. */
export class KvquantCache extends BlockCache {
  /** What stored rows are read with. */
  readonly calibration: KvquantLayerCalibration;
  protected readonly tensors: Readonly<Record<string, number>>;
  readonly #keyCodebook: NuqCodebook;
  readonly #valueCodebook: NuqCodebook;

  /**
   * @param source asked for the calibration
   * @throws {ConfigError} if there is none for these options
   */
  constructor(options: CacheOptions, projection: KeyValueProjection, source: FactorSource) {
    super(options, projection);
    this.tensors = { keys: projection.kvDim, values: projection.kvDim };
    this.calibration = kvquantLayer(options, source, projection.layer);
    const { keys, values } = this.calibration;
    const codebook = ({ levels, qNorm }: CalibratedLevels) =>
      nuqCodebook(levels, options.qNorm === 'on' ? qNorm : undefined);
    this.#keyCodebook = codebook(keys);
    this.#valueCodebook = codebook(values);
  }

  protected storedRows({ x }: LayerInput): TokenRows {
    const { keys, values } = project(x, x, this.projection, this.projection);
    return { keys, values };
  }

  protected seal(rows: TokenRows, block: number): SealedBlock {
    const { options } = this;
    if (options.quantizer === 'identity') {
      return {
        keys: storeMatrix(rows.keys, 'f32', this.place('keys')),
        values: storeMatrix(rows.values, 'f32', this.place('values')),
      };
    }
    const bits = options.bits as NuqBits;
    const { outlierFraction, residualWindow } = options;
    const sink = block === 0 ? options.sinks : 0;
    const keys = rowRange(rows.keys, sink, residualWindow);
    const values = rowRange(rows.values, sink, residualWindow);
    const sealed: SealedBlock = {
      keys: quantizeNuqChannels(
        keys,
        bits,
        this.#keyCodebook,
        this.calibration.keyRanges,
        outlierFraction > 0,
      ),
      values: quantizeNuqRows(values, bits, this.#valueCodebook, outlierFraction),
    };
    if (sink === 0) return sealed;
    return {
      sinkKeys: storeMatrix(rowRange(rows.keys, 0, sink), 'f16', this.place('keys')),
      sinkValues: storeMatrix(rowRange(rows.values, 0, sink), 'f16', this.place('values')),
      ...sealed,
    };
  }

  protected readBlock(sealed: SealedBlock): KeysAndValues {
    if (this.options.quantizer === 'identity') {
      return { keys: loadMatrix(sealed.keys), values: loadMatrix(sealed.values) };
    }
    const keys = dequantizeNuq(sealed.keys as NuqMatrix, this.#keyCodebook, this.calibration.keyRanges);
    const values = dequantizeNuq(sealed.values as NuqMatrix, this.#valueCodebook);
    if (!sealed.sinkKeys) return { keys, values };
    const { kvDim } = this.projection;
    return {
      keys: concatRows([loadMatrix(sealed.sinkKeys), keys], kvDim),
      values: concatRows([loadMatrix(sealed.sinkValues), values], kvDim),
    };
  }

  protected readWindow({ keys, values }: TokenRows): KeysAndValues {
    return { keys, values };
  }
}

/**
 * The formats of keys and values under the given options.
 *
 * @param options of variant `kvquant`
 */
export function kvquantFormats({ bits, outlierFraction }: CacheOptions): {
  keys: NuqFormat;
  values: NuqFormat;
} {
  assertNuqBits(bits);
  return {
    keys: { bits, outlierFraction, rowRanges: false },
    values: { bits, outlierFraction, rowRanges: true },
  };
}
