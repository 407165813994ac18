/**
 * What KVQuant does to new keys and values, for key-value-simulation.ts.
 *
 * @module
 */

import { kvquantLayer } from '../cache/kvquant.js';
import type { CacheOptions } from '../cache/options.js';
import type { FactorSource } from '../cache/projection.js';
import { derivedSizes, type ModelConfig } from '../model/config.js';
import { decodeFloat16, encodeFloat16 } from '../numerics/float16.js';
import { rowRange } from '../numerics/matrix.js';
import {
  dequantizeNuq,
  type NuqBits,
  type NuqMatrix,
  nuqBytes,
  nuqCodebook,
  quantizeNuqChannels,
  quantizeNuqRows,
} from '../quant/nuq.js';
import type { RoundTrip } from './round-trip.js';

/**
 * @param options resolved for the model
 * @param source asked for the calibration
 * @throws {ConfigError} if there is none for these options
 */
export function kvquantRoundTrip(
  config: ModelConfig,
  options: CacheOptions,
  source: FactorSource,
  layer: number,
): RoundTrip {
  const { keyRanges, keys, values } = kvquantLayer(options, source, layer);
  const { outlierFraction, qNorm, residualWindow } = options;
  const bits = options.bits as NuqBits;
  const codebooks = [keys, values].map((each) =>
    nuqCodebook(each.levels, qNorm === 'on' ? each.qNorm : undefined),
  );
  const { kvDim } = derivedSizes(config);
  return (fresh, position, bytes) => {
    const tokens = fresh.keys.rows;
    const sealed = tokens - (tokens % residualWindow);
    const sink = position === 0 && sealed > 0 ? options.sinks : 0;
    bytes.outliers += 2 * 2 * sink * kvDim;
    bytes.window += 2 * 2 * (tokens - sealed) * kvDim;
    for (const [which, source] of [fresh.keys, fresh.values].entries()) {
      // Every row passes through the f16 of the window.
      source.data.set(decodeFloat16(encodeFloat16(source.data)));
      const rows = rowRange(source, Math.min(sink, sealed), sealed);
      const stored: NuqMatrix =
        which === 0
          ? quantizeNuqChannels(rows, bits, codebooks[0], keyRanges, outlierFraction > 0)
          : quantizeNuqRows(rows, bits, codebooks[1], outlierFraction);
      rows.data.set(dequantizeNuq(stored, codebooks[which], which === 0 ? keyRanges : undefined).data);
      const parts = nuqBytes(stored);
      bytes.codes += parts.codes;
      bytes.scales += parts.scales;
      bytes.mins += parts.mins;
      bytes.outliers += parts.outliers;
    }
  };
}
