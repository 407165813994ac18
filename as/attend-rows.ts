/**
 * Attention of up to four (query, head) pairs of one KV head, which share every load of keys and values. All of them do
 * the same operations in the same order, so the result of a row does not depend on its neighbours.
 */

import { madd } from './lanes';
import { Attend } from './parameters';
import { softmaxStep } from './running-softmax';

/** The rows. Of fewer than four, the fields of the others are neither written nor read. */
@unmanaged
export class Rows {
  /** Queries, f32 [headDim]. */
  q0: usize;
  q1: usize;
  q2: usize;
  q3: usize;
  /** Weighted sums, f32 [width]. */
  acc0: usize;
  acc1: usize;
  acc2: usize;
  acc3: usize;
  /** Bytes from the first maximum (or sum) to that of the row. */
  pair0: usize;
  pair1: usize;
  pair2: usize;
  pair3: usize;
  /** Tokens of the block up to the row's position, or 0 where a sliding window hides them all. */
  visible0: i32;
  visible1: i32;
  visible2: i32;
  visible3: i32;
  /** Tokens before a sliding window. */
  hidden0: i32;
  hidden1: i32;
  hidden2: i32;
  hidden3: i32;
  /** Factors of the weighted sums so far. */
  factor0: f32;
  factor1: f32;
  factor2: f32;
  factor3: f32;
  /** Bytes from channel to channel of the keys, and from row to row of scores. */
  lineBytes: usize;
  /** Bytes from token to token of the values. */
  valueBytes: usize;
  /** The largest of `visible0` and the others. */
  visible: i32;
  unused: i32;
}

/** f32 [4, tokens rounded up to a multiple of 8], which follow the rows in scratch memory. */
// @ts-ignore: decorator
@inline
export function scoresOf(rows: Rows): usize {
  return changetype<usize>(rows) + offsetof<Rows>();
}

/** Scores of R rows against V vectors of four tokens, into lines of `lineBytes`. */
// @ts-ignore: decorator
@inline
function scoreTokens(
  R: i32,
  V: i32,
  rows: Rows,
  headBytes: usize,
  k: usize,
  lineBytes: usize,
  factor: v128,
  scores: usize,
): void {
  let q0 = rows.q0;
  let q1 = R > 1 ? rows.q1 : 0;
  let q2 = R > 2 ? rows.q2 : 0;
  let q3 = R > 3 ? rows.q3 : 0;
  let a0 = f32x4.splat(0);
  let a1 = a0;
  let a2 = a0;
  let a3 = a0;
  let b0 = a0;
  let b1 = a0;
  let b2 = a0;
  let b3 = a0;
  let c0 = a0;
  let c1 = a0;
  let d0 = a0;
  let d1 = a0;
  for (const end = q0 + headBytes; q0 < end; q0 += 4) {
    const k0 = v128.load(k);
    const k1 = v128.load(k, 16);
    let q = v128.load32_splat(q0);
    a0 = madd(k0, q, a0);
    a1 = madd(k1, q, a1);
    if (V > 2) {
      a2 = madd(v128.load(k, 32), q, a2);
      a3 = madd(v128.load(k, 48), q, a3);
    }
    if (V > 4) {
      // one row: b and c take its further tokens
      b0 = madd(v128.load(k, 64), q, b0);
      b1 = madd(v128.load(k, 80), q, b1);
      b2 = madd(v128.load(k, 96), q, b2);
      b3 = madd(v128.load(k, 112), q, b3);
    }
    if (R > 1) {
      q = v128.load32_splat(q1);
      b0 = madd(k0, q, b0);
      b1 = madd(k1, q, b1);
      if (V > 2) {
        b2 = madd(v128.load(k, 32), q, b2);
        b3 = madd(v128.load(k, 48), q, b3);
      }
      q1 += 4;
    }
    if (R > 2) {
      q = v128.load32_splat(q2);
      c0 = madd(k0, q, c0);
      c1 = madd(k1, q, c1);
      q2 += 4;
    }
    if (R > 3) {
      q = v128.load32_splat(q3);
      d0 = madd(k0, q, d0);
      d1 = madd(k1, q, d1);
      q3 += 4;
    }
    k += lineBytes;
  }
  v128.store(scores, f32x4.mul(a0, factor));
  v128.store(scores, f32x4.mul(a1, factor), 16);
  if (V > 2) {
    v128.store(scores, f32x4.mul(a2, factor), 32);
    v128.store(scores, f32x4.mul(a3, factor), 48);
  }
  if (V > 4) {
    v128.store(scores, f32x4.mul(b0, factor), 64);
    v128.store(scores, f32x4.mul(b1, factor), 80);
    v128.store(scores, f32x4.mul(b2, factor), 96);
    v128.store(scores, f32x4.mul(b3, factor), 112);
  }
  if (R > 1) {
    v128.store(scores + lineBytes, f32x4.mul(b0, factor));
    v128.store(scores + lineBytes, f32x4.mul(b1, factor), 16);
    if (V > 2) {
      v128.store(scores + lineBytes, f32x4.mul(b2, factor), 32);
      v128.store(scores + lineBytes, f32x4.mul(b3, factor), 48);
    }
  }
  if (R > 2) {
    v128.store(scores + 2 * lineBytes, f32x4.mul(c0, factor));
    v128.store(scores + 2 * lineBytes, f32x4.mul(c1, factor), 16);
  }
  if (R > 3) {
    v128.store(scores + 3 * lineBytes, f32x4.mul(d0, factor));
    v128.store(scores + 3 * lineBytes, f32x4.mul(d1, factor), 16);
  }
}

/** Scores of R rows against `padded` tokens, with eight sums in flight where there are tokens enough. */
// @ts-ignore: decorator
@inline
function scoreRows(R: i32, rows: Rows, p: Attend, keysT: usize, padded: i32): void {
  const factor = f32x4.splat(p.scale);
  const headBytes = (p.headDim as usize) << 2;
  const lineBytes = rows.lineBytes;
  let scores = scoresOf(rows);
  const stop = keysT + ((padded as usize) << 2);
  if (R == 1) {
    for (; keysT + 128 <= stop; keysT += 128) {
      scoreTokens(1, 8, rows, headBytes, keysT, lineBytes, factor, scores);
      scores += 128;
    }
  } else if (R == 2) {
    for (; keysT + 64 <= stop; keysT += 64) {
      scoreTokens(2, 4, rows, headBytes, keysT, lineBytes, factor, scores);
      scores += 64;
    }
  }
  for (; keysT < stop; keysT += 32) {
    scoreTokens(R, 2, rows, headBytes, keysT, lineBytes, factor, scores);
    scores += 32;
  }
}

/**
 * Vector `i` (0 to 7) of a row of values. Of f16 values, 2^-112 times it: the probabilities are multiplied by 2^112
 * instead (`HALF_WEIGHT`), which saves a product and changes no bit of a sum.
 */
// @ts-ignore: decorator
@inline
function valueAt(values: usize, i: i32, f16: bool): v128 {
  if (f16) {
    const v = i == 0 ? v128.load16x4_s(values) : v128.load16x4_s(values, 8);
    return v128.and(i32x4.shl(v, 13), i32x4.splat(0x8fffffff));
  }
  return i == 0 ? v128.load(values) : v128.load(values, 16);
}

/** 2^112, see `halfToFloat`. */
// @ts-ignore: decorator
@inline
const HALF_WEIGHT: f32 = reinterpret<f32>(0x77800000);

/**
 * acc = acc * shrink + sum over t of probability[t] * value[t], for V vectors of four channels of R rows. With one row
 * and eight vectors, b, c and d hold further channels of it.
 *
 * @param channel bytes from the first channel
 * @param values of that channel
 */
// @ts-ignore: decorator
@inline
function averageRows(R: i32, V: i32, f16: bool, rows: Rows, channel: usize, values: usize): void {
  const acc0 = rows.acc0 + channel;
  const acc1 = R > 1 ? rows.acc1 + channel : 0;
  const acc2 = R > 2 ? rows.acc2 + channel : 0;
  const acc3 = R > 3 ? rows.acc3 + channel : 0;
  const f0 = rows.factor0;
  const f1 = R > 1 ? rows.factor1 : 1;
  const f2 = R > 2 ? rows.factor2 : 1;
  const f3 = R > 3 ? rows.factor3 : 1;
  const lineBytes = rows.lineBytes;
  const valueStride = rows.valueBytes;
  let a0 = f32x4.mul(v128.load(acc0), f32x4.splat(f0));
  let a1 = a0;
  let a2 = a0;
  let a3 = a0;
  let b0 = a0;
  let b1 = a0;
  let c0 = a0;
  let c1 = a0;
  let d0 = a0;
  let d1 = a0;
  if (V > 1) a1 = f32x4.mul(v128.load(acc0, 16), f32x4.splat(f0));
  if (V > 2) a2 = f32x4.mul(v128.load(acc0, 32), f32x4.splat(f0));
  if (V > 3) a3 = f32x4.mul(v128.load(acc0, 48), f32x4.splat(f0));
  if (V > 4) {
    b0 = f32x4.mul(v128.load(acc0, 64), f32x4.splat(f0));
    b1 = f32x4.mul(v128.load(acc0, 80), f32x4.splat(f0));
    c0 = f32x4.mul(v128.load(acc0, 96), f32x4.splat(f0));
    c1 = f32x4.mul(v128.load(acc0, 112), f32x4.splat(f0));
  }
  if (R > 1) {
    b0 = f32x4.mul(v128.load(acc1), f32x4.splat(f1));
    if (V > 1) b1 = f32x4.mul(v128.load(acc1, 16), f32x4.splat(f1));
  }
  if (R > 2) {
    c0 = f32x4.mul(v128.load(acc2), f32x4.splat(f2));
    if (V > 1) c1 = f32x4.mul(v128.load(acc2, 16), f32x4.splat(f2));
  }
  if (R > 3) {
    d0 = f32x4.mul(v128.load(acc3), f32x4.splat(f3));
    if (V > 1) d1 = f32x4.mul(v128.load(acc3, 16), f32x4.splat(f3));
  }
  let p0 = scoresOf(rows);
  let p1 = p0 + lineBytes;
  let p2 = p1 + lineBytes;
  let p3 = p2 + lineBytes;
  for (const stop = p0 + ((rows.visible as usize) << 2); p0 < stop; p0 += 4) {
    const v0 = valueAt(values, 0, f16);
    const v1 = V > 1 ? valueAt(values, 1, f16) : v0;
    let p = v128.load32_splat(p0);
    a0 = madd(v0, p, a0);
    if (V > 1) a1 = madd(v1, p, a1);
    if (V > 2) a2 = madd(v128.load(values, 32), p, a2);
    if (V > 3) a3 = madd(v128.load(values, 48), p, a3);
    if (V > 4) {
      b0 = madd(v128.load(values, 64), p, b0);
      b1 = madd(v128.load(values, 80), p, b1);
      c0 = madd(v128.load(values, 96), p, c0);
      c1 = madd(v128.load(values, 112), p, c1);
    }
    if (R > 1) {
      p = v128.load32_splat(p1);
      b0 = madd(v0, p, b0);
      if (V > 1) b1 = madd(v1, p, b1);
      p1 += 4;
    }
    if (R > 2) {
      p = v128.load32_splat(p2);
      c0 = madd(v0, p, c0);
      if (V > 1) c1 = madd(v1, p, c1);
      p2 += 4;
    }
    if (R > 3) {
      p = v128.load32_splat(p3);
      d0 = madd(v0, p, d0);
      if (V > 1) d1 = madd(v1, p, d1);
      p3 += 4;
    }
    values += valueStride;
  }
  v128.store(acc0, a0);
  if (V > 1) v128.store(acc0, a1, 16);
  if (V > 2) v128.store(acc0, a2, 32);
  if (V > 3) v128.store(acc0, a3, 48);
  if (V > 4) {
    v128.store(acc0, b0, 64);
    v128.store(acc0, b1, 80);
    v128.store(acc0, c0, 96);
    v128.store(acc0, c1, 112);
  }
  if (R > 1) {
    v128.store(acc1, b0);
    if (V > 1) v128.store(acc1, b1, 16);
  }
  if (R > 2) {
    v128.store(acc2, c0);
    if (V > 1) v128.store(acc2, c1, 16);
  }
  if (R > 3) {
    v128.store(acc3, d0);
    if (V > 1) v128.store(acc3, d1, 16);
  }
}

/** Tokens before a sliding window get no weight. */
// @ts-ignore: decorator
@inline
function hideTokens(scores: usize, hidden: i32): void {
  for (let t = 0; t < hidden; t++) store<f32>(scores + ((t as usize) << 2), -Infinity);
}

/** R rows and one block of keys and values of a KV head. */
// @ts-ignore: decorator
@inline
export function attendRows(R: i32, f16: bool, rows: Rows, p: Attend, keysT: usize, values: usize): void {
  let visible = rows.visible0;
  if (R > 1) visible = max(visible, rows.visible1);
  if (R > 2) visible = max(visible, rows.visible2);
  if (R > 3) visible = max(visible, rows.visible3);
  if (visible <= 0) return;
  rows.visible = visible;
  const padded = (visible + 7) & ~7;
  scoreRows(R, rows, p, keysT, padded);
  const weight: f32 = f16 ? HALF_WEIGHT : 1;
  const lineBytes = rows.lineBytes;
  const maxima = p.maxima;
  const sums = p.sums;
  let scores = scoresOf(rows);
  hideTokens(scores, rows.hidden0);
  rows.factor0 = softmaxStep(scores, rows.visible0, padded, maxima + rows.pair0, sums + rows.pair0, weight);
  if (R > 1) {
    scores += lineBytes;
    hideTokens(scores, rows.hidden1);
    rows.factor1 = softmaxStep(scores, rows.visible1, padded, maxima + rows.pair1, sums + rows.pair1, weight);
  }
  if (R > 2) {
    scores += lineBytes;
    hideTokens(scores, rows.hidden2);
    rows.factor2 = softmaxStep(scores, rows.visible2, padded, maxima + rows.pair2, sums + rows.pair2, weight);
  }
  if (R > 3) {
    scores += lineBytes;
    hideTokens(scores, rows.hidden3);
    rows.factor3 = softmaxStep(scores, rows.visible3, padded, maxima + rows.pair3, sums + rows.pair3, weight);
  }
  const bytes = (p.width as usize) << 2;
  let channel: usize = 0;
  if (R == 1 && !f16) {
    for (; channel + 128 <= bytes; channel += 128) averageRows(1, 8, false, rows, channel, values + channel);
    for (; channel + 64 <= bytes; channel += 64) averageRows(1, 4, false, rows, channel, values + channel);
  }
  const shift: usize = f16 ? 1 : 0;
  for (; channel + 32 <= bytes; channel += 32) averageRows(R, 2, f16, rows, channel, values + (channel >> shift));
  if (channel < bytes) averageRows(R, 1, f16, rows, channel, values + (channel >> shift));
}
