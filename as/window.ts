/** Moving and comparing rows: what lets the residual window grow without being redone. */

/**
 * Copies finished keys of some tokens, [channels, padded] with padded = tokens rounded up to a multiple of 8, to
 * column `column` and following of target [channels, stride].
 */
export function placeKeys(source: usize, channels: i32, tokens: i32, target: usize, stride: i32, column: i32): void {
  const padded = ((tokens + 7) & ~7) as usize;
  const count = (tokens as usize) << 2;
  target += (column as usize) << 2;
  for (let c = 0; c < channels; c++) {
    for (let i: usize = 0; i < count; i += 4) store<f32>(target + i, load<f32>(source + i));
    source += padded << 2;
    target += (stride as usize) << 2;
  }
}

/** Copies bytes; the two may not overlap. */
export function copyBytes(source: usize, target: usize, bytes: i32): void {
  memory.copy(target, source, bytes as usize);
}

/** Copies `columns` f32 of each of `rows` rows; strides in elements. */
export function copyRows(source: usize, sourceStride: i32, target: usize, targetStride: i32, rows: i32, columns: i32): void {
  for (let r = 0; r < rows; r++) {
    memory.copy(target, source, (columns as usize) << 2);
    source += (sourceStride as usize) << 2;
    target += (targetStride as usize) << 2;
  }
}

/** a -= b, each difference rounded to f32. */
export function subtractInto(a: usize, b: usize, count: i32): void {
  const bytes = (count as usize) << 2;
  let i: usize = 0;
  for (; i + 16 <= bytes; i += 16) v128.store(a + i, f32x4.sub(v128.load(a + i), v128.load(b + i)));
  for (; i < bytes; i += 4) store<f32>(a + i, load<f32>(a + i) - load<f32>(b + i));
}

/** Multiplies every row by a gain: x[r, c] *= gain[c], each product rounded to f32. */
export function multiplyRows(x: usize, gain: usize, rows: i32, columns: i32): void {
  const bytes = (columns as usize) << 2;
  for (let r = 0; r < rows; r++) {
    let i: usize = 0;
    for (; i + 16 <= bytes; i += 16) v128.store(x + i, f32x4.mul(v128.load(x + i), v128.load(gain + i)));
    for (; i < bytes; i += 4) store<f32>(x + i, load<f32>(x + i) * load<f32>(gain + i));
    x += bytes;
  }
}
