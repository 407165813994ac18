/**
 * How far a right kernel's sums are off, as a variance and not as a worst case.
 *
 * The worst case of a chain of sums (compare/tolerance.ts) is hundreds of times what kernels show, since rounding
 * errors have random signs. So errors are taken as independent random numbers here: a rounding is off by a number
 * spread evenly over one unit roundoff of what is rounded, with variance u^2 / 3. A sum of n terms in f32 has the variance
 *
 *     u^2/3 (S_1^2 + ... + S_n^2  +  the squares of the terms)      S_k its partial sums; the products are rounded, too
 *
 * (Higham and Mary, A new approach to probabilistic rounding error analysis, 2019.) Partial sums depend on the order. Taken are
 * those of the order of the index or, if these are larger, those of a random order, whose mean is n (S^2 / 3 + Q / 6) with S
 * the sum and Q the squares of the terms. Blocked orders have smaller ones.
 *
 * @module
 */

import { type Matrix, matrix } from '../../numerics/matrix.js';
import { F32_ROUNDOFF } from './tolerance.js';

/** Standard deviations that a right kernel stays within. Of a normal variable one in 1.7 million does not, and these variances are on the large side. */
export const DEVIATIONS = 5;

/** Types that the factors of a product may be rounded to before they are multiplied; sums are in f32 all the same. */
export const COMPUTE_TYPES = ['f32', 'tf32', 'bf16', 'fp16'] as const;

/** What a kernel multiplies in. */
export type ComputeType = (typeof COMPUTE_TYPES)[number];

/** Largest relative error of a factor that is rounded to the type. Tensor cores cut f32 to the 11 bits of TF32 without rounding. */
export const FACTOR_ROUNDOFF: Readonly<Record<ComputeType, number>> = {
  f32: 0,
  tf32: 2 ** -10,
  bf16: 2 ** -8,
  fp16: 2 ** -11,
};

/** Variance of one rounding of a number of size 1. */
export const ROUNDING = F32_ROUNDOFF ** 2 / 3;

/**
 * Variance of a sum, fed term by term in the order of the index.
 *
 * Factors that are rounded to a narrower type move each term by a relative `2 roundoff` at most; where they are cut, all move
 * the same way, and the sum by as much.
 */
export class SumVariance {
  #sum = 0;
  #terms = 0;
  #squares = 0;
  #partial = 0;

  add(term: number): void {
    this.#sum += term;
    this.#terms++;
    this.#squares += term * term;
    this.#partial += this.#sum * this.#sum;
  }

  variance(compute: ComputeType): number {
    const total = this.#sum * this.#sum;
    const partial = Math.max(this.#partial, this.#terms * (total / 3 + this.#squares / 6));
    const factor = FACTOR_ROUNDOFF[compute];
    const cut = compute === 'tf32' ? total : 0;
    return ROUNDING * (partial + this.#squares) + factor ** 2 * ((2 / 3) * this.#squares + cut);
  }
}

/**
 * Variance of every element of `x W^T`.
 *
 * @param x [tokens, inner]
 * @param w [outChannels, inner]
 * @returns fresh, [tokens * outChannels]
 */
export function productVariance(x: Matrix, w: Matrix, compute: ComputeType): Float64Array {
  const result = new Float64Array(x.rows * w.rows);
  const inner = x.columns;
  for (let t = 0; t < x.rows; t++) {
    for (let j = 0; j < w.rows; j++) {
      const sum = new SumVariance();
      for (let k = 0; k < inner; k++) sum.add(x.data[t * inner + k] * w.data[j * inner + k]);
      result[t * w.rows + j] = sum.variance(compute);
    }
  }
  return result;
}

/**
 * {@link productVariance} of stored rows, which a kernel may multiply as codes and minima apart: the larger one of the two ways.
 *
 * @param rows the values
 * @param minima the minimum of the group of every value, of the same shape
 */
export function storedProductVariance(
  rows: Matrix,
  minima: Matrix,
  w: Matrix,
  compute: ComputeType,
): Float64Array {
  const steps = matrix(
    rows.rows,
    rows.columns,
    rows.data.map((value, i) => value - minima.data[i]),
  );
  const whole = productVariance(rows, w, compute);
  const ofSteps = productVariance(steps, w, compute);
  const ofMinima = productVariance(minima, w, compute);
  return whole.map((variance, i) => Math.max(variance, ofSteps[i] + ofMinima[i]));
}
