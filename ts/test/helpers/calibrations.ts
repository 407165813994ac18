/**
 * A calibration for layers with random weights: evenly spread levels, ranges from a sample of their keys.
 *
 * @module
 */

import type { LayerInput } from '../../src/cache/contract.js';
import { project } from '../../src/cache/fold.js';
import type { KvquantCalibration, KvquantSetting } from '../../src/cache/kvquant-calibration.js';
import type { KeyValueProjection } from '../../src/cache/projection.js';
import { roundToFloat16 } from '../../src/numerics/float16.js';
import { NUQ_BITS, quantileOfSorted } from '../../src/quant/nuq.js';

/** @param sample inputs of all layers, from which the ranges of the keys are taken */
export function sampleCalibration(
  projections: readonly KeyValueProjection[],
  sample: readonly LayerInput[],
): KvquantCalibration {
  const settings: KvquantSetting[] = NUQ_BITS.flatMap((bits) =>
    [0, 0.01, 0.1].flatMap((outlierFraction) => [0, 1, 5].map((sink) => ({ bits, outlierFraction, sink }))),
  );
  const same = (a: KvquantSetting, b: KvquantSetting) =>
    a.bits === b.bits && a.outlierFraction === b.outlierFraction && a.sink === b.sink;
  const known = settings.map(() => undefined as ReturnType<KvquantCalibration['find']>);
  const compute = ({ bits, outlierFraction }: KvquantSetting) => {
    const levels = Float32Array.from({ length: 2 ** bits }, (_, i) =>
      roundToFloat16(((2 * i + 1) / 2 ** bits - 1) * 0.9),
    );
    return projections.map((projection, layer) => {
      const { keys } = project(sample[layer].x, sample[layer].x, projection, projection);
      const threshold = (fraction: number) =>
        Float32Array.from({ length: keys.columns }, (_, c) => {
          const channel = Float32Array.from({ length: keys.rows }, (_, t) => keys.data[t * keys.columns + c]);
          return roundToFloat16(quantileOfSorted(channel.sort(), fraction));
        });
      const keyRanges = { lower: threshold(outlierFraction / 2), upper: threshold(1 - outlierFraction / 2) };
      const calibrated = { levels, qNorm: { scale: 1.05, shift: -0.01 } };
      return { keyRanges, keys: calibrated, values: calibrated };
    });
  };
  return {
    settings,
    find(setting) {
      const index = settings.findIndex((each) => same(each, setting));
      return index < 0 ? undefined : (known[index] ??= compute(setting));
    },
  };
}
