/**
 * Levels for vectors whose channels look alike: a norm, and for every channel the nearest of the levels that are best
 * for a normal variable (Max 1960, Lloyd 1982).
 *
 *     x ~ norm / sqrt(n) * level[code]
 *
 * A rotated vector has such channels whatever it was before, so that nothing needs to be learned and one f16 number is
 * all that is stored besides the codes. This is the idea of TurboQuant (arXiv 2504.19874), less its second stage.
 *
 * @module
 */

import { fromFloat16Bits, toFloat16Bits } from '../numerics/float16.js';
import { nearestLevel } from './nuq.js';

const fround = Math.fround;

/** Standard deviations beyond which a normal variable has no mass that a number of 53 bits could show. */
const FAR = 9;

/** Intervals of Simpson's rule in a cell. */
const INTERVALS = 512;

/** Levels may move by as much in the last step. */
const TOLERANCE = 1e-10;

/**
 * The `2^bits` levels with the least mean squared error for a unit normal variable.
 *
 * Two conditions hold at the optimum: a cell ends in the middle between two levels, and a level is the mean of its cell.
 * They are applied in turn until nothing moves; the density is log-concave, so there is one optimum only.
 *
 * @param bits 1 to 4: with more, it takes long until nothing moves
 * @returns ascending, in f64, [2^bits]
 */
export function lloydMaxLevels(bits: number): Float64Array {
  const count = 2 ** bits;
  let levels = Float64Array.from({ length: count }, (_, i) => (4 * (i + 0.5)) / count - 2);
  for (;;) {
    const end = (i: number) => {
      if (i === 0) return -FAR;
      return i === count ? FAR : (levels[i - 1] + levels[i]) / 2;
    };
    const means = levels.map((_, i) => normalMean(end(i), end(i + 1)));
    const moved = Math.max(...means.map((mean, i) => Math.abs(mean - levels[i])));
    levels = means;
    if (moved < TOLERANCE) return levels;
  }
}

/** Mean of a unit normal variable between two ends: the first moment has a closed form, the mass is summed up. */
function normalMean(from: number, to: number): number {
  return (density(from) - density(to)) / normalMass(from, to);
}

/** Probability that a unit normal variable lies between two ends, by Simpson's rule. */
function normalMass(from: number, to: number): number {
  const step = (to - from) / INTERVALS;
  let sum = density(from) + density(to);
  for (let i = 1; i < INTERVALS; i++) sum += (i % 2 === 1 ? 4 : 2) * density(from + i * step);
  return (sum * step) / 3;
}

function density(x: number): number {
  return Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
}

/**
 * Replaces a vector by what its norm and codes give back.
 *
 * @param vector [n], overwritten
 * @param levels ascending, in f32
 */
export function roundTripLloydMax(vector: Float32Array, levels: Float32Array): void {
  let squares = 0;
  for (const value of vector) squares += value * value;
  const norm = fromFloat16Bits(toFloat16Bits(fround(Math.sqrt(squares))));
  const scale = fround(norm * fround(1 / Math.sqrt(vector.length)));
  for (let i = 0; i < vector.length; i++) {
    const code = scale === 0 ? 0 : nearestLevel(levels, fround(vector[i] / scale));
    vector[i] = levels[code] * scale;
  }
}
