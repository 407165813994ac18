/**
 * Keys as attention scores them: RoPE, and transposed to [kvHeads, headDim, tokens rounded up to a multiple of 8], so that
 * lanes are tokens (model/rope.ts).
 */

import { ropeHead } from './elementwise';
import { halfToFloatScalar, loadHalf4 } from './lanes';
import { AttendHalf } from './parameters';
import { transpose4 } from './quantize';

/** Bytes of one channel of the transposed keys of a block. */
// @ts-ignore: decorator
@inline
export function keyLineBytes(tokens: i32): usize {
  return (((tokens + 7) & ~7) as usize) << 2;
}

/** RoPE of f32 keys [tokens, kvHeads, headDim], which are overwritten where a head is no multiple of 8; transpose. */
export function finishKeys(
  keys: usize,
  tokens: i32,
  kvHeads: i32,
  headDim: i32,
  cos: usize,
  sin: usize,
  layout: i32,
  keysT: usize,
): void {
  const headBytes = (headDim as usize) << 2;
  const rowBytes = (kvHeads as usize) * headBytes;
  const tableBytes = (headDim as usize) << 1;
  const lineBytes = keyLineBytes(tokens);
  for (let h = 0; h < kvHeads; h++) {
    const head = keys + (h as usize) * headBytes;
    const target = keysT + (h as usize) * (headDim as usize) * lineBytes;
    if ((tokens & 7) != 0) memory.fill(target, 0, (headDim as usize) * lineBytes);
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

/**
 * `finishKeys` for one head of f16 keys (bias and norm already applied).
 *
 * @param key of the head's first token; `rowBytes` from token to token
 * @param line scratch of f32 [headDim]
 * @param keysT f32 [headDim, tokens rounded up to a multiple of 8]
 */
export function finishHalfKeys(p: AttendHalf, key: usize, rowBytes: usize, line: usize, keysT: usize): void {
  const headDim = p.headDim;
  const tokens = p.tokens;
  const layout = p.layout;
  const tableBytes = (headDim as usize) << 1;
  const lineBytes = keyLineBytes(tokens);
  let cos = p.cos;
  let sin = p.sin;
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
