/**
 * How far a correct kernel may be from the reference: bounds that follow from f32 arithmetic.
 *
 * Not one of these numbers was chosen to make something pass. With u = 2^-24, the unit roundoff of f32:
 *
 *     sum of n products    |error| <= n u sum |x_k| |w_k|      in any order, with or without FMA
 *                                  <= n u |x| |w|              (Cauchy-Schwarz; what we use, two norms per element)
 *
 * (Higham, Accuracy and Stability of Numerical Algorithms, §3.1.) The reference sums in f64 and rounds once,
 * which costs another u of the result. docs/numerics.md derives every bound.
 *
 * @module
 */

import { type Matrix, row } from '../../numerics/matrix.js';

/** Unit roundoff of f32. */
export const F32_ROUNDOFF = 2 ** -24;

/** The smallest f32 step: what any rounding can cost near zero. */
export const F32_TINY = 2 ** -149;

/**
 * Euclidean length of every row.
 *
 * @param source [rows, columns]
 * @returns fresh, [rows]
 */
export function rowNorms(source: Matrix): Float64Array {
  const norms = new Float64Array(source.rows);
  for (let r = 0; r < source.rows; r++) {
    let squares = 0;
    for (const value of row(source, r)) squares += value * value;
    norms[r] = Math.sqrt(squares);
  }
  return norms;
}

/**
 * Bound of every element of `x W^T` computed in f32, and of a correct kernel that is given `x` with an error.
 *
 * @param x [tokens, inner]
 * @param w [outChannels, inner]
 * @param inputError Euclidean length of the error that row t of x may have; 0 if x is exact
 * @returns bound of element t * outChannels + j
 */
export function productBound(
  x: Matrix,
  w: Matrix,
  inputError: (token: number) => number = () => 0,
): (index: number) => number {
  const xNorms = rowNorms(x);
  const wNorms = rowNorms(w);
  // One roundoff more than the n of the sum: the reference's own rounding.
  const factor = (x.columns + 1) * F32_ROUNDOFF;
  return (index) => {
    const token = Math.floor(index / w.rows);
    return (factor * xNorms[token] + inputError(token)) * wNorms[index % w.rows] + F32_TINY;
  };
}

/**
 * Bound of RoPE in f32. The frequency `theta^(-2i/d)` is a power with an exponent rounded to f32, which costs
 * `(2i/d) ln(theta)` roundoffs, and the power, the division and the product with the position one or two
 * more each: the angle is off by `angle * ((2i/d) ln(theta) + 4) u`. Rotating by a wrong angle moves a pair by its
 * length times that; cosine, sine, two products and a sum add 4 u of the length.
 *
 * @param pairLength Euclidean length of the pair that is rotated
 * @param position absolute position
 * @param frequency radians per position
 * @param exponent 2i/headDim
 */
export function ropeBound(
  pairLength: number,
  position: number,
  frequency: number,
  exponent: number,
  theta: number,
): number {
  const angleError = position * frequency * (exponent * Math.log(theta) + 4) * F32_ROUNDOFF;
  return pairLength * (angleError + 4 * F32_ROUNDOFF) + F32_TINY;
}

/**
 * Whether a level is so near the middle of two codes that the rounding of one subtraction and one division
 * (or of a product with a rounded reciprocal) decides: within 4 roundoffs of its size.
 *
 * @param level (value - min) / scale, before rounding
 * @param noise what the value may be off besides, in levels; 0 for a value that is given
 */
export function isNearTie(level: number, noise = 0): boolean {
  const distance = Math.abs(level - Math.floor(level) - 0.5);
  return distance <= 4 * F32_ROUNDOFF * Math.max(1, Math.abs(level)) + noise;
}

/**
 * Bounds of singular values and vectors computed in f32. A backward stable algorithm gives the exact factors
 * of a matrix that differs by at most `p u s_1`, with p a small multiple of the larger size; we take the size
 * itself. Singular values move by no more than that (Weyl), singular vectors by that over the distance to the
 * nearest other singular value (Wedin). Where this exceeds 1 the vector is not determined.
 *
 * @param s [rank], descending
 * @param size the larger of the matrix's sizes
 */
export function svdBounds(s: Float32Array, size: number): { value: number; vectors: Float64Array } {
  const backward = size * F32_ROUNDOFF * (s[0] ?? 0);
  const vectors = new Float64Array(s.length);
  for (let k = 0; k < s.length; k++) {
    const above = k > 0 ? s[k - 1] - s[k] : Number.POSITIVE_INFINITY;
    const below = k + 1 < s.length ? s[k] - s[k + 1] : s[k];
    const gap = Math.min(above, below);
    vectors[k] = gap > 0 ? Math.SQRT2 * (backward / gap) + F32_ROUNDOFF : Number.POSITIVE_INFINITY;
  }
  return { value: backward + F32_TINY, vectors };
}

/**
 * Sensitivity of a computation of many steps, by the backward view: a dot product of length n in f32 is the
 * exact dot product of inputs that are off by at most `n u` each. So a correct kernel's result is the exact
 * result for slightly other inputs, and what the reference does under such changes is what a kernel may do.
 *
 * @param baseline [elements], the reference's result
 * @param perturbed results of the reference for inputs perturbed within the backward error
 * @param width elements of one row; a row shares its largest spread, since few samples see every element move
 * @returns bound per element
 */
export function spreadBound(
  baseline: Float32Array,
  perturbed: readonly Float32Array[],
  width: number,
): (index: number) => number {
  const rows = Math.ceil(baseline.length / width);
  const spread = new Float64Array(rows);
  for (const result of perturbed) {
    for (let i = 0; i < baseline.length; i++) {
      const r = Math.floor(i / width);
      spread[r] = Math.max(spread[r], Math.abs(result[i] - baseline[i]));
    }
  }
  return (index) => spread[Math.floor(index / width)] + F32_ROUNDOFF * Math.abs(baseline[index]) + F32_TINY;
}
