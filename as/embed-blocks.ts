/** Single rows of panels, dequantized: bit for bit those of `dequantizeWeights` (quant/weight-formats.ts). */

import { loadHalf4 } from './lanes';
import {
  blockAt,
  blockOffset,
  blockScale,
  codeBytes,
  headAt,
  isNibbles,
  panelBytes,
  Q2_K,
  Q4_0,
  Q4_1,
  Q4_K,
  Q5_1,
  Q5_K,
  Q6_K,
  Q8_0,
} from './weight-panels';

/** Row `index` of the panels, dequantized: `dequantizeWeights` of one row. */
// @ts-ignore: decorator
@inline
function embedBlocks(kind: i32, w: usize, columns: i32, index: i32, out: usize): void {
  const panel = w + ((index >> 3) as usize) * panelBytes(kind, columns);
  const j = index & 7;
  const half: usize = j & 4;
  const blocks = columns >> 5;
  for (let b = 0; b < blocks; b++) {
    const head = headAt(kind, panel, b);
    const block = blockAt(kind, panel, b);
    const params = block + codeBytes(kind);
    const scales = blockScale(kind, params, head, half);
    const scale = pick(scales, j & 3);
    const offset: f32 = kind == Q4_1 || kind == Q5_1 || kind == Q4_K || kind == Q5_K ? pick(blockOffset(kind, params, head, half, scales), j & 3) : 0;
    for (let i = 0; i < 32; i++) {
      const pair = i >> 1;
      const lane = ((j << 1) | (i & 1)) as usize;
      let q: i32;
      if (isNibbles(kind)) {
        q = ((load<u8>(block + (((pair & 7) << 4) as usize) + lane) as i32) >> ((pair >> 3) << 2)) & 15;
        if (kind == Q4_0) q -= 8;
      } else {
        q = load<i8>(block + ((pair << 4) as usize) + lane);
      }
      if (kind == Q2_K) {
        const part = params + (((i >> 4) << 3) as usize) + (j as usize);
        const min = pick(loadHalf4(head + 16 + (half << 1)), j & 3) * (load<u8>(part, 16) as f32);
        store<f32>(out, scale * (load<u8>(part) as f32) * (q as f32) - min);
        out += 4;
        continue;
      }
      // Q6_K: d * scale first, then times the code
      const s: f32 = kind == Q6_K ? scale * (load<i8>(params + (((i >> 4) << 3) as usize) + (j as usize)) as f32) : scale;
      store<f32>(out, s * (q as f32) + offset);
      out += 4;
    }
  }
}

// @ts-ignore: decorator
@inline
function pick(v: v128, lane: i32): f32 {
  if (lane == 0) return f32x4.extract_lane(v, 0);
  if (lane == 1) return f32x4.extract_lane(v, 1);
  if (lane == 2) return f32x4.extract_lane(v, 2);
  return f32x4.extract_lane(v, 3);
}

/** Row `index` of Q8_0 panels. */
export function embedQ8_0(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q8_0, w, columns, index, out);
}

/** Row `index` of Q4_0 panels. */
export function embedQ4_0(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q4_0, w, columns, index, out);
}

/** Row `index` of Q4_1 panels. */
export function embedQ4_1(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q4_1, w, columns, index, out);
}

/** Row `index` of Q5_1 panels. */
export function embedQ5_1(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q5_1, w, columns, index, out);
}

/** Row `index` of Q2_K panels. */
export function embedQ2_K(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q2_K, w, columns, index, out);
}

/** Row `index` of Q4_K panels. */
export function embedQ4_K(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q4_K, w, columns, index, out);
}

/** Row `index` of Q5_K panels. */
export function embedQ5_K(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q5_K, w, columns, index, out);
}

/** Row `index` of Q6_K panels. */
export function embedQ6_K(w: usize, rows: i32, columns: i32, index: i32, out: usize): void {
  embedBlocks(Q6_K, w, columns, index, out);
}
