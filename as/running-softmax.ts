/** The running softmax: a maximum, a sum of exponentials and a weighted sum for each (query, head) pair. */

import { exponential, exponentialScalar } from './exponential';
import { maxLanes, sumLanes } from './lanes';

/** An empty running softmax. */
export function attendBegin(maxima: usize, sums: usize, acc: usize, count: i32, width: i32): void {
  for (let i: usize = 0; i < (count as usize); i++) {
    store<f32>(maxima + (i << 2), -Infinity);
    store<f32>(sums + (i << 2), 0);
  }
  memory.fill(acc, 0, ((count * width) as usize) << 2);
}

/**
 * One row of scores to unnormalized probabilities, times `weight`, a power of two; zeros from `visible` on up to
 * `padded`; brings maximum and sum up to date.
 *
 * @returns what the sums so far must be multiplied by
 */
export function softmaxStep(scores: usize, visible: i32, padded: i32, maximum: usize, sum: usize, weight: f32): f32 {
  const before = load<f32>(maximum);
  if (visible <= 0) {
    memory.fill(scores, 0, (padded as usize) << 2);
    return 1;
  }
  const count = i32x4.splat(visible);
  const lowest = f32x4.splat(-Infinity);
  const stop = scores + ((padded as usize) << 2);
  const whole = scores + (((visible & ~3) as usize) << 2);
  let largest = lowest;
  let p = scores;
  for (; p < whole; p += 16) largest = f32x4.pmax(largest, v128.load(p));
  // the lanes of the vector in which the visible tokens end
  const seen = i32x4.lt_s(i32x4.add(i32x4.splat(visible & ~3), i32x4(0, 1, 2, 3)), count);
  if (p < stop) largest = f32x4.pmax(largest, v128.bitselect(v128.load(p), lowest, seen));
  const blockMaximum = maxLanes(largest);
  const now = blockMaximum > before ? blockMaximum : before;
  const top = f32x4.splat(now);
  const factor = f32x4.splat(weight);
  let total = f32x4.splat(0);
  for (p = scores; p < whole; p += 16) {
    const e = exponential(f32x4.sub(v128.load(p), top));
    total = f32x4.add(total, e);
    v128.store(p, f32x4.mul(e, factor));
  }
  if (p < stop) {
    const e = v128.and(exponential(f32x4.sub(v128.load(p), top)), seen);
    total = f32x4.add(total, e);
    v128.store(p, f32x4.mul(e, factor));
    p += 16;
  }
  for (; p < stop; p += 16) v128.store(p, f32x4.splat(0));
  const shrink = exponentialScalar(before - now);
  store<f32>(maximum, now);
  store<f32>(sum, load<f32>(sum) * shrink + sumLanes(total));
  return shrink;
}

/** Brings two running softmaxes to one maximum and adds them. */
export function attendMerge(
  maxima: usize,
  sums: usize,
  acc: usize,
  otherMaxima: usize,
  otherSums: usize,
  otherAcc: usize,
  count: i32,
  width: i32,
): void {
  const bytes = (width as usize) << 2;
  for (let n: usize = 0; n < (count as usize); n++) {
    const otherSum = load<f32>(otherSums + (n << 2));
    if (otherSum != 0) {
      const a = load<f32>(maxima + (n << 2));
      const b = load<f32>(otherMaxima + (n << 2));
      const top = a > b ? a : b;
      const f = exponentialScalar(a - top);
      const g = exponentialScalar(b - top);
      store<f32>(maxima + (n << 2), top);
      store<f32>(sums + (n << 2), load<f32>(sums + (n << 2)) * f + otherSum * g);
      const p = acc + n * bytes;
      const o = otherAcc + n * bytes;
      for (let i: usize = 0; i < bytes; i += 16) {
        v128.store(
          p + i,
          f32x4.add(f32x4.mul(v128.load(p + i), f32x4.splat(f)), f32x4.mul(v128.load(o + i), f32x4.splat(g))),
        );
      }
    }
  }
}

/** Divides by the sums. */
export function attendFinish(sums: usize, acc: usize, count: i32, width: i32): void {
  const bytes = (width as usize) << 2;
  for (let n: usize = 0; n < (count as usize); n++) {
    const sum = f32x4.splat(load<f32>(sums + (n << 2)));
    for (let i: usize = 0; i < bytes; i += 16) v128.store(acc + i, f32x4.div(v128.load(acc + i), sum));
    acc += bytes;
  }
}
