/** The parts of a layer that touch each number once: norms, gates, RoPE, sums. model/ says what they are. */

import { exponential } from './exponential';

/** Sum of squares in f64: even and odd elements in two lanes, two registers. */
// @ts-ignore: decorator
@inline
function sumOfSquares(x: usize, columns: i32): f64 {
  let low = f64x2.splat(0);
  let high = f64x2.splat(0);
  const whole = x + (((columns & ~3) as usize) << 2);
  const end = x + ((columns as usize) << 2);
  for (; x < whole; x += 16) {
    const v = v128.load(x);
    const a = f64x2.promote_low_f32x4(v);
    const b = f64x2.promote_low_f32x4(i32x4.shuffle(v, v, 2, 3, 2, 3));
    low = f64x2.add(low, f64x2.mul(a, a));
    high = f64x2.add(high, f64x2.mul(b, b));
  }
  const sum = f64x2.add(low, high);
  let total = f64x2.extract_lane(sum, 0) + f64x2.extract_lane(sum, 1);
  for (; x < end; x += 4) {
    const value = load<f32>(x) as f64;
    total += value * value;
  }
  return total;
}

/** `rmsNorm`: normalized = x / rms, out = normalized * gain. */
export function rmsNorm(x: usize, rows: i32, columns: i32, gain: usize, eps: f64, normalized: usize, out: usize): void {
  const rowBytes = (columns as usize) << 2;
  for (let r = 0; r < rows; r++) {
    const inverse = 1.0 / Math.sqrt(sumOfSquares(x, columns) / (columns as f64) + eps);
    const factor = f64x2.splat(inverse);
    let i: usize = 0;
    const whole = rowBytes & ~(15 as usize);
    for (; i < whole; i += 16) {
      // the product in f64, rounded once: the reference's bits, but for the order of the sum of squares
      const v = v128.load(x + i);
      const a = f32x4.demote_f64x2_zero(f64x2.mul(f64x2.promote_low_f32x4(v), factor));
      const b = f32x4.demote_f64x2_zero(f64x2.mul(f64x2.promote_low_f32x4(i32x4.shuffle(v, v, 2, 3, 2, 3)), factor));
      const n = i64x2.shuffle(a, b, 0, 2);
      if (normalized) v128.store(normalized + i, n);
      if (out) v128.store(out + i, f32x4.mul(n, v128.load(gain + i)));
    }
    for (; i < rowBytes; i += 4) {
      const n = ((load<f32>(x + i) as f64) * inverse) as f32;
      if (normalized) store<f32>(normalized + i, n);
      if (out) store<f32>(out + i, n * load<f32>(gain + i));
    }
    x += rowBytes;
    if (normalized) normalized += rowBytes;
    if (out) out += rowBytes;
  }
}

/**
 * RoPE of one head in place.
 *
 *     half          lanes: channels i .. i+3 and their partners headDim/2 further on
 *     interleaved   lanes: x0 y0 x1 y1; partners by a shuffle, cos doubled, sin doubled with signs - + - +
 */
// @ts-ignore: decorator
@inline
export function ropeHead(x: usize, headDim: i32, cos: usize, sin: usize, layout: i32): void {
  const halfBytes = (headDim as usize) << 1;
  if (layout == 0) {
    let i: usize = 0;
    for (; i + 16 <= halfBytes; i += 16) {
      const a = v128.load(x + i);
      const b = v128.load(x + i + halfBytes);
      const c = v128.load(cos + i);
      const s = v128.load(sin + i);
      v128.store(x + i, f32x4.sub(f32x4.mul(a, c), f32x4.mul(b, s)));
      v128.store(x + i + halfBytes, f32x4.add(f32x4.mul(b, c), f32x4.mul(a, s)));
    }
    for (; i < halfBytes; i += 4) {
      const a = load<f32>(x + i);
      const b = load<f32>(x + i + halfBytes);
      const c = load<f32>(cos + i);
      const s = load<f32>(sin + i);
      store<f32>(x + i, a * c - b * s);
      store<f32>(x + i + halfBytes, b * c + a * s);
    }
  } else {
    for (let i: usize = 0; i < halfBytes; i += 4) {
      const p = x + 2 * i;
      const a = load<f32>(p);
      const b = load<f32>(p, 4);
      const c = load<f32>(cos + i);
      const s = load<f32>(sin + i);
      store<f32>(p, a * c - b * s);
      store<f32>(p, b * c + a * s, 4);
    }
  }
}

/** `rope` of every head of every token. */
export function rope(x: usize, tokens: i32, heads: i32, headDim: i32, cos: usize, sin: usize, layout: i32): void {
  const headBytes = (headDim as usize) << 2;
  const tableBytes = (headDim as usize) << 1;
  for (let t = 0; t < tokens; t++) {
    for (let h = 0; h < heads; h++) {
      ropeHead(x, headDim, cos, sin, layout);
      x += headBytes;
    }
    cos += tableBytes;
    sin += tableBytes;
  }
}

/**
 * silu(g) * u = g / (1 + e^-g) * u. With e = e^-|g| <= 1 nothing overflows: the factor is 1 / (1 + e) for g >= 0 and
 * e / (1 + e) below.
 */
// @ts-ignore: decorator
@inline
function gate(g: v128, u: v128): v128 {
  const e = exponential(f32x4.neg(f32x4.abs(g)));
  const one = f32x4.splat(1);
  const numerator = v128.bitselect(e, one, f32x4.lt(g, f32x4.splat(0)));
  return f32x4.mul(f32x4.mul(g, f32x4.div(numerator, f32x4.add(one, e))), u);
}

/** out = silu(gate) * up. */
export function siluGate(gates: usize, up: usize, out: usize, count: i32): void {
  let i: usize = 0;
  const bytes = (count as usize) << 2;
  for (; i + 16 <= bytes; i += 16) v128.store(out + i, gate(v128.load(gates + i), v128.load(up + i)));
  for (; i < bytes; i += 4) {
    store<f32>(out + i, f32x4.extract_lane(gate(v128.load32_splat(gates + i), v128.load32_splat(up + i)), 0));
  }
}

/**
 * GELU in its tanh form: (1 + tanh z) / 2 is the logistic function of 2z, so it is the gate above with another slope.
 *
 *     z = sqrt(2 / pi) (g + 0.044715 g^3)
 */
// @ts-ignore: decorator
@inline
function geluTanh(g: v128, u: v128): v128 {
  const cubic = f32x4.mul(f32x4.mul(g, g), f32x4.splat(0.044715));
  const slope = f32x4.mul(f32x4.add(cubic, f32x4.splat(1)), f32x4.splat(1.5957691216057308));
  const e = exponential(f32x4.neg(f32x4.abs(f32x4.mul(g, slope))));
  const one = f32x4.splat(1);
  const numerator = v128.bitselect(e, one, f32x4.lt(g, f32x4.splat(0)));
  return f32x4.mul(f32x4.mul(g, f32x4.div(numerator, f32x4.add(one, e))), u);
}

/** out = geluTanh(gate) * up. */
export function geluGate(gates: usize, up: usize, out: usize, count: i32): void {
  let i: usize = 0;
  const bytes = (count as usize) << 2;
  for (; i + 16 <= bytes; i += 16) v128.store(out + i, geluTanh(v128.load(gates + i), v128.load(up + i)));
  for (; i < bytes; i += 4) {
    store<f32>(out + i, f32x4.extract_lane(geluTanh(v128.load32_splat(gates + i), v128.load32_splat(up + i)), 0));
  }
}

/** x *= factor. */
export function scaleBy(x: usize, factor: f32, count: i32): void {
  for (const end = x + ((count as usize) << 2); x < end; x += 4) store<f32>(x, load<f32>(x) * factor);
}

/** a += b. */
export function addInto(a: usize, b: usize, count: i32): void {
  let i: usize = 0;
  const bytes = (count as usize) << 2;
  for (; i + 16 <= bytes; i += 16) v128.store(a + i, f32x4.add(v128.load(a + i), v128.load(b + i)));
  for (; i < bytes; i += 4) store<f32>(a + i, load<f32>(a + i) + load<f32>(b + i));
}

/** Adds a bias to every row. */
export function addBias(x: usize, bias: usize, rows: i32, columns: i32): void {
  for (let r = 0; r < rows; r++) {
    addInto(x, bias, columns);
    x += (columns as usize) << 2;
  }
}

/** Index of the first NaN or infinity, or -1. */
export function findNonFinite(x: usize, count: i32): i32 {
  let i = 0;
  const exponent = i32x4.splat(0x7f800000);
  for (; i + 8 <= count; i += 8) {
    const p = x + ((i as usize) << 2);
    const a = i32x4.eq(v128.and(v128.load(p), exponent), exponent);
    const b = i32x4.eq(v128.and(v128.load(p, 16), exponent), exponent);
    if (v128.any_true(v128.or(a, b))) break;
  }
  for (; i < count; i++) {
    if ((load<u32>(x + ((i as usize) << 2)) & 0x7f800000) == 0x7f800000) return i;
  }
  return -1;
}
