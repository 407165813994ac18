/** The plain tile products that the benchmark measures everything else against: integers in, integers out, no scales. */

import { addPairs, PAIR_STEPS, widen } from './lanes';

function plainWide(panels: usize, x: usize, tokens: i32, rows: i32, columns: i32, out: usize): void {
  const rowBytes = (columns as usize) << 1;
  const stride = (rows as usize) << 2;
  for (let j = 0; j < rows; j += 8) {
    const panel = panels + ((j * columns) as usize << 1);
    let target = out + ((j as usize) << 2);
    for (let t = 0; t < tokens; t += 4) {
      let x0 = x + (t as usize) * rowBytes;
      let x1 = x0 + rowBytes;
      let x2 = x1 + rowBytes;
      let x3 = x2 + rowBytes;
      const end = x0 + rowBytes;
      let w = panel;
      let i00 = i32x4.splat(0);
      let i01 = i00;
      let i10 = i00;
      let i11 = i00;
      let i20 = i00;
      let i21 = i00;
      let i30 = i00;
      let i31 = i00;
      do {
        const w0 = v128.load(w);
        const w1 = v128.load(w, 16);
        let a = v128.load32_splat(x0);
        i00 = i32x4.add(i00, i32x4.dot_i16x8_s(w0, a));
        i01 = i32x4.add(i01, i32x4.dot_i16x8_s(w1, a));
        a = v128.load32_splat(x1);
        i10 = i32x4.add(i10, i32x4.dot_i16x8_s(w0, a));
        i11 = i32x4.add(i11, i32x4.dot_i16x8_s(w1, a));
        a = v128.load32_splat(x2);
        i20 = i32x4.add(i20, i32x4.dot_i16x8_s(w0, a));
        i21 = i32x4.add(i21, i32x4.dot_i16x8_s(w1, a));
        a = v128.load32_splat(x3);
        i30 = i32x4.add(i30, i32x4.dot_i16x8_s(w0, a));
        i31 = i32x4.add(i31, i32x4.dot_i16x8_s(w1, a));
        w += 32;
        x0 += 4;
        x1 += 4;
        x2 += 4;
        x3 += 4;
      } while (x0 < end);
      v128.store(target, i00);
      v128.store(target, i01, 16);
      v128.store(target + stride, i10);
      v128.store(target + stride, i11, 16);
      v128.store(target + 2 * stride, i20);
      v128.store(target + 2 * stride, i21, 16);
      v128.store(target + 3 * stride, i30);
      v128.store(target + 3 * stride, i31, 16);
      target += 4 * stride;
    }
  }
}

function plainBytes(panels: usize, x: usize, tokens: i32, rows: i32, columns: i32, out: usize): void {
  const rowBytes = columns as usize;
  const stride = (rows as usize) << 2;
  for (let j = 0; j < rows; j += 8) {
    const panel = panels + ((j * columns) as usize);
    let target = out + ((j as usize) << 2);
    for (let t = 0; t < tokens; t += 4) {
      let x0 = x + (t as usize) * rowBytes;
      let x1 = x0 + rowBytes;
      let x2 = x1 + rowBytes;
      let x3 = x2 + rowBytes;
      const end = x0 + rowBytes;
      let w = panel;
      let i00 = i32x4.splat(0);
      let i01 = i00;
      let i10 = i00;
      let i11 = i00;
      let i20 = i00;
      let i21 = i00;
      let i30 = i00;
      let i31 = i00;
      while (x0 < end) {
        let p00 = i16x8.splat(0);
        let p01 = p00;
        let p10 = p00;
        let p11 = p00;
        let p20 = p00;
        let p21 = p00;
        let p30 = p00;
        let p31 = p00;
        const pause = min(x0 + 4 * PAIR_STEPS, end);
        do {
          const w0 = v128.load(w);
          const w1 = v128.load(w, 16);
          let a = v128.load32_splat(x0);
          p00 = addPairs(p00, w0, a);
          p01 = addPairs(p01, w1, a);
          a = v128.load32_splat(x1);
          p10 = addPairs(p10, w0, a);
          p11 = addPairs(p11, w1, a);
          a = v128.load32_splat(x2);
          p20 = addPairs(p20, w0, a);
          p21 = addPairs(p21, w1, a);
          a = v128.load32_splat(x3);
          p30 = addPairs(p30, w0, a);
          p31 = addPairs(p31, w1, a);
          w += 32;
          x0 += 4;
          x1 += 4;
          x2 += 4;
          x3 += 4;
        } while (x0 < pause);
        i00 = widen(i00, p00);
        i01 = widen(i01, p01);
        i10 = widen(i10, p10);
        i11 = widen(i11, p11);
        i20 = widen(i20, p20);
        i21 = widen(i21, p21);
        i30 = widen(i30, p30);
        i31 = widen(i31, p31);
      }
      v128.store(target, i00);
      v128.store(target, i01, 16);
      v128.store(target + stride, i10);
      v128.store(target + stride, i11, 16);
      v128.store(target + 2 * stride, i20);
      v128.store(target + 2 * stride, i21, 16);
      v128.store(target + 3 * stride, i30);
      v128.store(target + 3 * stride, i31, 16);
      target += 4 * stride;
    }
  }
}

/** i16 panels times i16 rows; tokens a multiple of 4, columns of 8. */
export function plainTileInt16(panels: usize, x: usize, tokens: i32, rows: i32, columns: i32, out: usize): void {
  plainWide(panels, x, tokens, rows, columns, out);
}

/** i8 panels times codes of up to 4 bits in relaxed builds; as `plainTileInt16` in plain ones. */
export function plainTileInt8(panels: usize, x: usize, tokens: i32, rows: i32, columns: i32, out: usize): void {
  if (ASC_FEATURE_RELAXED_SIMD) plainBytes(panels, x, tokens, rows, columns, out);
  else plainWide(panels, x, tokens, rows, columns, out);
}
