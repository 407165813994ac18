/**
 * KVQuant (arXiv 2401.18079), the stronger baseline of the paper (XQuant §4): non-uniform levels fitted
 * offline, and about 1 % of the values kept exactly.
 *
 *     keys      before RoPE, per channel, ranges calibrated offline     outliers: beyond them
 *     values    per token, the whole row of all KV heads                outliers: its largest and smallest
 *
 * Needs a calibration of the model; see `golden/generate/calibrate_kvquant.py`. Like the SVD factors of the
 * latent forms, ranges and levels belong to the model and are not counted with a cache (for keys, 32 bits a
 * channel: 32 / length bits an element).
 *
 * @module
 */

import { ConfigError } from '../errors.js';
import {
  assertNuqBits,
  dequantizeNuq,
  type NuqCodebook,
  type NuqMatrix,
  nuqCodebook,
  quantizeNuqChannels,
  quantizeNuqRows,
} from '../quant/nuq.js';
import { BlockCache, type TokenRows } from './block.js';
import type { KeysAndValues, LayerInput } from './contract.js';
import { project } from './fold.js';
import type { CalibratedLevels, KvquantLayerCalibration } from './kvquant-calibration.js';
import type { LayoutOf } from './layout.js';
import type { CacheOptions } from './options.js';
import type { FactorSource, KeyValueProjection } from './projection.js';
import type { SealedBlock } from './state.js';

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
  const calibration = source.calibration?.('kvquant', path);
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
export class KvquantCache extends BlockCache<LayoutOf<'nonUniform'>> {
  /** Ranges and levels with which stored rows are read. */
  readonly calibration: KvquantLayerCalibration;
  readonly #keyCodebook: NuqCodebook;
  readonly #valueCodebook: NuqCodebook;

  /**
   * @param source asked for the calibration
   * @throws {ConfigError} if there is none for these options
   */
  constructor(
    options: CacheOptions,
    projection: KeyValueProjection,
    layout: LayoutOf<'nonUniform'>,
    source: FactorSource,
  ) {
    super(options, projection, layout);
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

  protected seal(rows: TokenRows): SealedBlock {
    const [{ format }] = this.layout.sealed;
    const { bits, outlierFraction } = format;
    const { keyRanges } = this.calibration;
    return {
      keys: quantizeNuqChannels(rows.keys, bits, this.#keyCodebook, keyRanges, outlierFraction > 0),
      values: quantizeNuqRows(rows.values, bits, this.#valueCodebook, outlierFraction),
    };
  }

  protected readBlock(sealed: SealedBlock): KeysAndValues {
    return {
      keys: dequantizeNuq(sealed.keys as NuqMatrix, this.#keyCodebook, this.calibration.keyRanges),
      values: dequantizeNuq(sealed.values as NuqMatrix, this.#valueCodebook),
    };
  }

  protected readWindow({ keys, values }: TokenRows): KeysAndValues {
    return { keys, values };
  }
}
