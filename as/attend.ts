/**
 * Attention over one block of tokens with a running softmax: model/attention.ts, a block at a time.
 *
 * Keys come transposed, [kvHeads, headDim, tokens], so that lanes are tokens: a score needs no sum across
 * lanes, and the softmax works on neighbouring scores. In the weighted sum lanes are channels of the values,
 * or of latents, which the query heads then share (`P (X^ Wv) = (P X^) Wv`, docs/engine.md, "One pass").
 *
 * Up to four (query, head) rows share every load of keys and values. All of them do the same operations in the
 * same order, so a row's result does not depend on its neighbours.
 */

import { ropeHead, rmsNorm } from './elementwise';
import { exponential, exponentialScalar } from './exponential';
import { halfToFloatScalar, loadHalf4, madd, maxLanes, sumLanes } from './lanes';
import { transpose4 } from './quantize';

/** Bias, norm of heads, RoPE, transpose. */
export function finishKeys(
  keys: usize,
  tokens: i32,
  kvHeads: i32,
  headDim: i32,
  bias: usize,
  gain: usize,
  eps: f64,
  cos: usize,
  sin: usize,
  layout: i32,
  keysT: usize,
  headStart: i32,
  headEnd: i32,
): void {
  const headBytes = (headDim as usize) << 2;
  const rowBytes = (kvHeads as usize) * headBytes;
  const tableBytes = (headDim as usize) << 1;
  const padded = (tokens + 7) & ~7;
  const lineBytes = (padded as usize) << 2;
  for (let h = headStart; h < headEnd; h++) {
    const head = keys + (h as usize) * headBytes;
    const target = keysT + (h as usize) * (headDim as usize) * lineBytes;
    if (padded != tokens) memory.fill(target, 0, (headDim as usize) * lineBytes);
    if (bias || gain) {
      for (let t = 0; t < tokens; t++) {
        const key = head + (t as usize) * rowBytes;
        if (bias) {
          const b = bias + (h as usize) * headBytes;
          for (let i: usize = 0; i < headBytes; i += 16) {
            v128.store(key + i, f32x4.add(v128.load(key + i), v128.load(b + i)));
          }
        }
        if (gain) rmsNorm(key, 1, headDim, gain, eps, 0, key);
      }
    }
    let t = 0;
    for (; t + 4 <= tokens; t += 4) {
      const key = head + (t as usize) * rowBytes;
      const c = cos + (t as usize) * tableBytes;
      const s = sin + (t as usize) * tableBytes;
      const column = target + ((t as usize) << 2);
      if ((headDim & 7) == 0) {
        turnFour(false, layout, key, rowBytes, c, s, tableBytes, column, lineBytes);
        continue;
      }
      for (let j: usize = 0; j < 4; j++) {
        ropeHead(key + j * rowBytes, headDim, c + j * tableBytes, s + j * tableBytes, layout);
      }
      for (let i: usize = 0; i < headBytes; i += 16) {
        const p = key + i;
        transpose4(
          v128.load(p),
          v128.load(p + rowBytes),
          v128.load(p + 2 * rowBytes),
          v128.load(p + 3 * rowBytes),
          column + (i >> 2) * lineBytes,
          lineBytes,
        );
      }
    }
    for (; t < tokens; t++) {
      const key = head + (t as usize) * rowBytes;
      ropeHead(key, headDim, cos + (t as usize) * tableBytes, sin + (t as usize) * tableBytes, layout);
      for (let d: usize = 0; d < (headDim as usize); d++) {
        store<f32>(target + d * lineBytes + ((t as usize) << 2), load<f32>(key + (d << 2)));
      }
    }
  }
}

/** Two pairs x0 y0 x1 y1, turned by the angles of lanes `pair` and `pair + 1` of cos and sin. */
// @ts-ignore: decorator
@inline
function turnPairs(v: v128, c: v128, s: v128, high: bool): v128 {
  const cc = high ? i32x4.shuffle(c, c, 2, 2, 3, 3) : i32x4.shuffle(c, c, 0, 0, 1, 1);
  const ss = high ? i32x4.shuffle(s, s, 2, 2, 3, 3) : i32x4.shuffle(s, s, 0, 0, 1, 1);
  const signs = i32x4(<i32>0x80000000, 0, <i32>0x80000000, 0);
  return f32x4.add(f32x4.mul(v, cc), f32x4.mul(i32x4.shuffle(v, v, 1, 0, 3, 2), v128.xor(ss, signs)));
}

/** RoPE (layout `interleaved`) and transpose of one head of four tokens, eight channels at a time. */
// @ts-ignore: decorator
@inline
function turnFourInterleaved(
  f16: bool,
  key: usize,
  rowBytes: usize,
  cos: usize,
  sin: usize,
  tableBytes: usize,
  column: usize,
  lineBytes: usize,
): void {
  const end = cos + tableBytes;
  const next: usize = f16 ? 8 : 16; // bytes of four channels
  while (cos < end) {
    const c0 = v128.load(cos);
    const c1 = v128.load(cos + tableBytes);
    const c2 = v128.load(cos + 2 * tableBytes);
    const c3 = v128.load(cos + 3 * tableBytes);
    const s0 = v128.load(sin);
    const s1 = v128.load(sin + tableBytes);
    const s2 = v128.load(sin + 2 * tableBytes);
    const s3 = v128.load(sin + 3 * tableBytes);
    transpose4(
      turnPairs(loadFour(key, f16), c0, s0, false),
      turnPairs(loadFour(key + rowBytes, f16), c1, s1, false),
      turnPairs(loadFour(key + 2 * rowBytes, f16), c2, s2, false),
      turnPairs(loadFour(key + 3 * rowBytes, f16), c3, s3, false),
      column,
      lineBytes,
    );
    key += next;
    column += 4 * lineBytes;
    transpose4(
      turnPairs(loadFour(key, f16), c0, s0, true),
      turnPairs(loadFour(key + rowBytes, f16), c1, s1, true),
      turnPairs(loadFour(key + 2 * rowBytes, f16), c2, s2, true),
      turnPairs(loadFour(key + 3 * rowBytes, f16), c3, s3, true),
      column,
      lineBytes,
    );
    key += next;
    column += 4 * lineBytes;
    cos += 16;
    sin += 16;
  }
}

/** RoPE and transpose of one head of four tokens; headDim is a multiple of 8. */
// @ts-ignore: decorator
@inline
function turnFour(
  f16: bool,
  layout: i32,
  key: usize,
  rowBytes: usize,
  cos: usize,
  sin: usize,
  tableBytes: usize,
  column: usize,
  lineBytes: usize,
): void {
  if (layout == 0) turnFourHalf(f16, key, rowBytes, cos, sin, tableBytes, column, lineBytes);
  else turnFourInterleaved(f16, key, rowBytes, cos, sin, tableBytes, column, lineBytes);
}

/** Four numbers of a row, f16 or f32. */
// @ts-ignore: decorator
@inline
function loadFour(p: usize, f16: bool): v128 {
  return f16 ? loadHalf4(p) : v128.load(p);
}

/**
 * RoPE (layout `half`) and transpose of one head of four tokens: four channels a and their partners b half a head
 * further on are turned, and go to four lines each of the transposed keys.
 */
// @ts-ignore: decorator
@inline
function turnFourHalf(
  f16: bool,
  key: usize,
  rowBytes: usize,
  cos: usize,
  sin: usize,
  tableBytes: usize,
  column: usize,
  lineBytes: usize,
): void {
  const end = cos + tableBytes;
  const half = f16 ? tableBytes >> 1 : tableBytes; // bytes of half a head
  const partner = (tableBytes >> 2) * lineBytes;
  while (cos < end) {
    let p = key;
    let a = loadFour(p, f16);
    let b = loadFour(p + half, f16);
    let c = v128.load(cos);
    let s = v128.load(sin);
    const a0 = f32x4.sub(f32x4.mul(a, c), f32x4.mul(b, s));
    const b0 = f32x4.add(f32x4.mul(b, c), f32x4.mul(a, s));
    p += rowBytes;
    a = loadFour(p, f16);
    b = loadFour(p + half, f16);
    c = v128.load(cos + tableBytes);
    s = v128.load(sin + tableBytes);
    const a1 = f32x4.sub(f32x4.mul(a, c), f32x4.mul(b, s));
    const b1 = f32x4.add(f32x4.mul(b, c), f32x4.mul(a, s));
    p += rowBytes;
    a = loadFour(p, f16);
    b = loadFour(p + half, f16);
    c = v128.load(cos + 2 * tableBytes);
    s = v128.load(sin + 2 * tableBytes);
    const a2 = f32x4.sub(f32x4.mul(a, c), f32x4.mul(b, s));
    const b2 = f32x4.add(f32x4.mul(b, c), f32x4.mul(a, s));
    p += rowBytes;
    a = loadFour(p, f16);
    b = loadFour(p + half, f16);
    c = v128.load(cos + 3 * tableBytes);
    s = v128.load(sin + 3 * tableBytes);
    const a3 = f32x4.sub(f32x4.mul(a, c), f32x4.mul(b, s));
    const b3 = f32x4.add(f32x4.mul(b, c), f32x4.mul(a, s));
    transpose4(a0, a1, a2, a3, column, lineBytes);
    transpose4(b0, b1, b2, b3, column + partner, lineBytes);
    key += f16 ? 8 : 16;
    cos += 16;
    sin += 16;
    column += 4 * lineBytes;
  }
}

/** An empty running softmax. */
export function attendBegin(maxima: usize, sums: usize, acc: usize, count: i32, width: i32): void {
  for (let i: usize = 0; i < (count as usize); i++) {
    store<f32>(maxima + (i << 2), -Infinity);
    store<f32>(sums + (i << 2), 0);
  }
  memory.fill(acc, 0, ((count * width) as usize) << 2);
}

/** Scores of R rows (q0, q1, ...) against V vectors of four tokens, into lines of `lineBytes`. */
// @ts-ignore: decorator
@inline
function scoreTokens(
  R: i32,
  V: i32,
  q0: usize,
  q1: usize,
  q2: usize,
  q3: usize,
  headBytes: usize,
  k: usize,
  lineBytes: usize,
  factor: v128,
  scores: usize,
): void {
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
function scoreRows(
  R: i32,
  q0: usize,
  q1: usize,
  q2: usize,
  q3: usize,
  headDim: i32,
  keysT: usize,
  lineBytes: usize,
  padded: i32,
  scale: f32,
  scores: usize,
): void {
  const factor = f32x4.splat(scale);
  const headBytes = (headDim as usize) << 2;
  const stop = keysT + ((padded as usize) << 2);
  if (R == 1) {
    for (; keysT + 128 <= stop; keysT += 128) {
      scoreTokens(1, 8, q0, q0, q0, q0, headBytes, keysT, lineBytes, factor, scores);
      scores += 128;
    }
  } else if (R == 2) {
    for (; keysT + 64 <= stop; keysT += 64) {
      scoreTokens(2, 4, q0, q1, q0, q0, headBytes, keysT, lineBytes, factor, scores);
      scores += 64;
    }
  }
  for (; keysT < stop; keysT += 32) {
    scoreTokens(R, 2, q0, q1, q2, q3, headBytes, keysT, lineBytes, factor, scores);
    scores += 32;
  }
}

/**
 * One row of scores to unnormalized probabilities, times `weight`, a power of two; zeros from `visible` on up to
 * `padded`; brings maximum and sum up to date.
 *
 * @returns what the sums so far must be multiplied by
 */
function softmaxStep(scores: usize, visible: i32, padded: i32, maximum: usize, sum: usize, weight: f32): f32 {
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
 */
// @ts-ignore: decorator
@inline
function averageRows(
  R: i32,
  V: i32,
  f16: bool,
  probabilities: usize,
  lineBytes: usize,
  tokens: i32,
  values: usize,
  valueStride: usize,
  acc0: usize,
  acc1: usize,
  acc2: usize,
  acc3: usize,
  f0: f32,
  f1: f32,
  f2: f32,
  f3: f32,
): void {
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
  let p0 = probabilities;
  let p1 = p0 + lineBytes;
  let p2 = p1 + lineBytes;
  let p3 = p2 + lineBytes;
  for (const stop = p0 + ((tokens as usize) << 2); p0 < stop; p0 += 4) {
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

// @ts-ignore: decorator
@inline
function attendRows(
  R: i32,
  f16: bool,
  q: usize,
  headDim: i32,
  keysT: usize,
  lineBytes: usize,
  values: usize,
  valueStride: usize,
  width: i32,
  scale: f32,
  i0: usize,
  i1: usize,
  i2: usize,
  i3: usize,
  visible0: i32,
  visible1: i32,
  visible2: i32,
  visible3: i32,
  hidden0: i32,
  hidden1: i32,
  hidden2: i32,
  hidden3: i32,
  maxima: usize,
  sums: usize,
  acc: usize,
  scratch: usize,
): void {
  let visible = visible0;
  if (R > 1) visible = max(visible, visible1);
  if (R > 2) visible = max(visible, visible2);
  if (R > 3) visible = max(visible, visible3);
  if (visible <= 0) return;
  const padded = (visible + 7) & ~7;
  const headBytes = (headDim as usize) << 2;
  scoreRows(
    R,
    q + i0 * headBytes,
    q + i1 * headBytes,
    q + i2 * headBytes,
    q + i3 * headBytes,
    headDim,
    keysT,
    lineBytes,
    padded,
    scale,
    scratch,
  );
  hideTokens(scratch, hidden0);
  if (R > 1) hideTokens(scratch + lineBytes, hidden1);
  if (R > 2) hideTokens(scratch + 2 * lineBytes, hidden2);
  if (R > 3) hideTokens(scratch + 3 * lineBytes, hidden3);
  const weight: f32 = f16 ? HALF_WEIGHT : 1;
  const f0 = softmaxStep(scratch, visible0, padded, maxima + (i0 << 2), sums + (i0 << 2), weight);
  let f1: f32 = 1;
  let f2: f32 = 1;
  let f3: f32 = 1;
  if (R > 1) f1 = softmaxStep(scratch + lineBytes, visible1, padded, maxima + (i1 << 2), sums + (i1 << 2), weight);
  if (R > 2) f2 = softmaxStep(scratch + 2 * lineBytes, visible2, padded, maxima + (i2 << 2), sums + (i2 << 2), weight);
  if (R > 3) f3 = softmaxStep(scratch + 3 * lineBytes, visible3, padded, maxima + (i3 << 2), sums + (i3 << 2), weight);
  const bytes = (width as usize) << 2;
  let a0 = acc + i0 * bytes;
  let a1 = acc + i1 * bytes;
  let a2 = acc + i2 * bytes;
  let a3 = acc + i3 * bytes;
  const stop = a0 + bytes;
  if (R == 1 && !f16) {
    for (; a0 + 128 <= stop; a0 += 128) {
      averageRows(1, 8, false, scratch, lineBytes, visible, values, valueStride, a0, a0, a0, a0, f0, f0, f0, f0);
      values += 128;
    }
    for (; a0 + 64 <= stop; a0 += 64) {
      averageRows(1, 4, false, scratch, lineBytes, visible, values, valueStride, a0, a0, a0, a0, f0, f0, f0, f0);
      values += 64;
    }
  }
  for (; a0 + 32 <= stop; a0 += 32) {
    averageRows(R, 2, f16, scratch, lineBytes, visible, values, valueStride, a0, a1, a2, a3, f0, f1, f2, f3);
    a1 += 32;
    a2 += 32;
    a3 += 32;
    values += f16 ? 16 : 32;
  }
  if (a0 < stop) averageRows(R, 1, f16, scratch, lineBytes, visible, values, valueStride, a0, a1, a2, a3, f0, f1, f2, f3);
}

/** Tokens before a sliding window get no weight. */
// @ts-ignore: decorator
@inline
function hideTokens(scores: usize, hidden: i32): void {
  for (let t = 0; t < hidden; t++) store<f32>(scores + ((t as usize) << 2), -Infinity);
}

/** Tokens that a row sees: those up to its own position, none if all of them are hidden. */
// @ts-ignore: decorator
@inline
function visibleTokens(tokens: i32, upTo: i32, hidden: i32): i32 {
  const visible = min(tokens, upTo);
  return hidden < visible ? visible : 0;
}

/** One block of one kv head into the running softmax of many queries. */
// @ts-ignore: decorator
@inline
function attendHead(
  f16: bool,
  q: usize,
  heads: i32,
  grouped: i32,
  headDim: i32,
  keysT: usize,
  lineBytes: usize,
  tokens: i32,
  values: usize,
  strideBytes: usize,
  width: i32,
  scale: f32,
  ahead: i32,
  window: i32,
  maxima: usize,
  sums: usize,
  acc: usize,
  head: i32,
  queryStart: i32,
  queryEnd: i32,
  scratch: usize,
): void {
  // row r of this kv head: query r / grouped, head g * grouped + r % grouped
  const first = queryStart * grouped;
  const last = queryEnd * grouped;
  const base = head * grouped;
  for (let r = first; r < last; r += 4) {
    const n = min(4, last - r);
    const q0 = r / grouped;
    const q1 = (r + 1) / grouped;
    const q2 = (r + 2) / grouped;
    const q3 = (r + 3) / grouped;
    const i0 = (q0 * heads + base + r - q0 * grouped) as usize;
    const i1 = (q1 * heads + base + r + 1 - q1 * grouped) as usize;
    const i2 = (q2 * heads + base + r + 2 - q2 * grouped) as usize;
    const i3 = (q3 * heads + base + r + 3 - q3 * grouped) as usize;
    const h0 = window ? ahead + q0 - window : 0;
    const h1 = window ? ahead + q1 - window : 0;
    const h2 = window ? ahead + q2 - window : 0;
    const h3 = window ? ahead + q3 - window : 0;
    const v0 = visibleTokens(tokens, ahead + q0, h0);
    const v1 = visibleTokens(tokens, ahead + q1, h1);
    const v2 = visibleTokens(tokens, ahead + q2, h2);
    const v3 = visibleTokens(tokens, ahead + q3, h3);
    if (n == 4) {
      attendRows(4, f16, q, headDim, keysT, lineBytes, values, strideBytes, width, scale, i0, i1, i2, i3, v0, v1, v2, v3, h0, h1, h2, h3, maxima, sums, acc, scratch);
    } else if (n == 3) {
      attendRows(3, f16, q, headDim, keysT, lineBytes, values, strideBytes, width, scale, i0, i1, i2, i0, v0, v1, v2, v0, h0, h1, h2, h0, maxima, sums, acc, scratch);
    } else if (n == 2) {
      attendRows(2, f16, q, headDim, keysT, lineBytes, values, strideBytes, width, scale, i0, i1, i0, i0, v0, v1, v0, v0, h0, h1, h0, h0, maxima, sums, acc, scratch);
    } else {
      attendRows(1, f16, q, headDim, keysT, lineBytes, values, strideBytes, width, scale, i0, i0, i0, i0, v0, v0, v0, v0, h0, h0, h0, h0, maxima, sums, acc, scratch);
    }
  }
}

/** One block into the running softmax of many queries. */
export function attendBlock(
  q: usize,
  queries: i32,
  heads: i32,
  kvHeads: i32,
  headDim: i32,
  keysT: usize,
  tokens: i32,
  values: usize,
  valueStride: i32,
  valueHeadStride: i32,
  width: i32,
  scale: f32,
  firstQuery: i32,
  firstKey: i32,
  maxima: usize,
  sums: usize,
  acc: usize,
  headStart: i32,
  headEnd: i32,
  queryStart: i32,
  queryEnd: i32,
  window: i32,
  scratch: usize,
): void {
  const lineBytes = (((tokens + 7) & ~7) as usize) << 2;
  const grouped = heads / kvHeads;
  const strideBytes = (valueStride as usize) << 2;
  const ahead = firstQuery - firstKey + 1;
  for (let g = headStart; g < headEnd; g++) {
    const keys = keysT + (g as usize) * (headDim as usize) * lineBytes;
    const source = values + ((g as usize) * (valueHeadStride as usize) << 2);
    attendHead(false, q, heads, grouped, headDim, keys, lineBytes, tokens, source, strideBytes, width, scale, ahead, window, maxima, sums, acc, g, queryStart, queryEnd, scratch);
  }
}

/**
 * One block of f16 keys and values as `kv` stores them, head by head, so that what is between fits in the nearest
 * cache: `decodeFloat16`, `finishKeys`, `attendBlock`, with the same bits.
 */
export function attendHalfBlock(
  q: usize,
  queries: i32,
  heads: i32,
  kvHeads: i32,
  headDim: i32,
  keys: usize,
  values: usize,
  tokens: i32,
  cos: usize,
  sin: usize,
  layout: i32,
  scale: f32,
  firstQuery: i32,
  firstKey: i32,
  maxima: usize,
  sums: usize,
  acc: usize,
  window: i32,
  scratch: usize,
): void {
  const padded = (tokens + 7) & ~7;
  const lineBytes = (padded as usize) << 2;
  const grouped = heads / kvHeads;
  const headBytes = (headDim as usize) << 1;
  const rowBytes = (kvHeads as usize) * headBytes;
  const ahead = firstQuery - firstKey + 1;
  const line = scratch + 4 * lineBytes; // one key
  const keysT = line + (headBytes << 1);
  // What follows jumps from row to row, which memory is slow at; in this order it is fast.
  const bytes = (tokens as usize) * rowBytes;
  store<i32>(scratch, touchLines(keys, bytes) | touchLines(values, bytes));
  for (let g = 0; g < kvHeads; g++) {
    finishHalfKeys(keys, rowBytes, tokens, headDim, cos, sin, layout, line, keysT, lineBytes);
    attendHead(true, q, heads, grouped, headDim, keysT, lineBytes, tokens, values, rowBytes, headDim, scale, ahead, window, maxima, sums, acc, g, 0, queries, scratch);
    keys += headBytes;
    values += headBytes;
  }
}

/** Reads one number of every line of 64 bytes. */
// @ts-ignore: decorator
@inline
function touchLines(p: usize, bytes: usize): i32 {
  let touched = 0;
  for (const end = p + bytes; p < end; p += 64) touched |= load<i32>(p);
  return touched;
}

/** `finishKeys` of one head of f16 keys that have bias and norm. */
function finishHalfKeys(
  key: usize,
  rowBytes: usize,
  tokens: i32,
  headDim: i32,
  cos: usize,
  sin: usize,
  layout: i32,
  line: usize,
  keysT: usize,
  lineBytes: usize,
): void {
  const tableBytes = (headDim as usize) << 1;
  if ((tokens & 7) != 0) memory.fill(keysT, 0, (headDim as usize) * lineBytes);
  let t = 0;
  if ((headDim & 7) == 0) {
    for (; t + 4 <= tokens; t += 4) {
      turnFour(true, layout, key, rowBytes, cos, sin, tableBytes, keysT + ((t as usize) << 2), lineBytes);
      key += 4 * rowBytes;
      cos += 4 * tableBytes;
      sin += 4 * tableBytes;
    }
  }
  for (; t < tokens; t++) {
    for (let d: usize = 0; d < (headDim as usize); d++) {
      store<f32>(line + (d << 2), halfToFloatScalar(load<u16>(key + (d << 1))));
    }
    ropeHead(line, headDim, cos, sin, layout);
    for (let d: usize = 0; d < (headDim as usize); d++) {
      store<f32>(keysT + d * lineBytes + ((t as usize) << 2), load<f32>(line + (d << 2)));
    }
    key += rowBytes;
    cos += tableBytes;
    sin += tableBytes;
  }
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
