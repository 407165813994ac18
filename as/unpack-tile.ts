/**
 * Codes of a sealed block to a tile (tile.ts): one operand of the products that rematerialize keys and values
 * (pack-weights.ts has the algebra).
 */

import { align16, halfToFloatScalar } from './lanes';
import { groupBytes, unpackCodes } from './pack';
import { UnpackTile } from './parameters';
import { blockCount, padColumns, tileOffsets, tileScales } from './tile';

/** `count` bytes to i16 (wide) or bytes, then `padding` zeros. Returns the end. */
// @ts-ignore: decorator
@inline
function spreadCodes(codes: usize, count: i32, padding: i32, target: usize, wide: bool): usize {
  let i = 0;
  if (wide) {
    for (; i + 16 <= count; i += 16) {
      const v = v128.load(codes + (i as usize));
      v128.store(target, i16x8.extend_low_i8x16_u(v));
      v128.store(target, i16x8.extend_high_i8x16_u(v), 16);
      target += 32;
    }
    for (; i < count; i++) {
      store<u16>(target, load<u8>(codes + (i as usize)));
      target += 2;
    }
    memory.fill(target, 0, (padding as usize) << 1);
    return target + ((padding as usize) << 1);
  }
  memory.copy(target, codes, count as usize);
  memory.fill(target + (count as usize), 0, padding as usize);
  return target + ((count + padding) as usize);
}

// @ts-ignore: decorator
@inline
function unpackAny(p: UnpackTile, wide: bool): void {
  const rows = p.rows;
  const columns = p.columns;
  const bits = p.bits;
  const block = p.block;
  const scratch = p.scratch;
  let tile = p.tile;
  const padded = padColumns(columns);
  const blocks = blockCount(columns, block);
  let scale = tileScales(tile, rows, columns);
  let offset = tileOffsets(scale, rows, blocks);
  if (p.perChannel) {
    const one = f32x4.splat(1);
    for (const end = align16(scale + (((rows * blocks) as usize) << 2)); scale < end; scale += 16) {
      v128.store(scale, one);
      v128.store(offset, one);
      offset += 16;
    }
    unpackTurned(p, padded, wide);
    return;
  }
  const groupSize = p.groupSize;
  let packed = p.packed;
  let scales = p.scales;
  let mins = p.mins;
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c += groupSize) {
      const count = min(groupSize, columns - c);
      const padding = c + count == columns ? padded - columns : 0;
      if (wide) {
        unpackCodes(packed, count, bits, scratch);
        tile = spreadCodes(scratch, count, padding, tile, wide);
      } else {
        unpackCodes(packed, count, bits, tile);
        memory.fill(tile + (count as usize), 0, padding as usize);
        tile += (count + padding) as usize;
      }
      const s = halfToFloatScalar(load<u16>(scales));
      const m = halfToFloatScalar(load<u16>(mins));
      for (let b = 0; b < count; b += block) {
        store<f32>(scale, s);
        store<f32>(offset, m);
        scale += 4;
        offset += 4;
      }
      packed += groupBytes(count, bits) as usize;
      scales += 2;
      mins += 2;
    }
  }
}

/** Per-channel codes of one block of tokens, turned into rows of tokens: eight channels at a time. */
// @ts-ignore: decorator
@inline
function unpackTurned(p: UnpackTile, padded: i32, wide: bool): void {
  const rows = p.rows;
  const columns = p.columns;
  const bits = p.bits;
  const tile = p.tile;
  const scratch = p.scratch;
  let packed = p.packed;
  const bytes = groupBytes(rows, bits) as usize;
  const stride = ((rows + 15) & ~15) as usize;
  const shift: usize = wide ? 1 : 0;
  const rowBytes = (padded as usize) << shift;
  for (let c = 0; c < padded; c += 8) {
    for (let j = 0; j < 8; j++) {
      const channel = scratch + (j as usize) * stride;
      if (c + j < columns) {
        unpackCodes(packed, rows, bits, channel);
        packed += bytes;
      } else {
        memory.fill(channel, 0, stride);
      }
    }
    let target = tile + ((c as usize) << shift);
    for (let r = 0; r < rows; r += 4) {
      // four codes of each of eight channels -> eight codes of each of four tokens
      const at = scratch + (r as usize);
      const low = i32x4(load<i32>(at), load<i32>(at + stride), load<i32>(at + 2 * stride), load<i32>(at + 3 * stride));
      const q = at + 4 * stride;
      const high = i32x4(load<i32>(q), load<i32>(q + stride), load<i32>(q + 2 * stride), load<i32>(q + 3 * stride));
      const t01 = i8x16.shuffle(low, high, 0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
      const t23 = i8x16.shuffle(low, high, 2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31);
      const count = min(4, rows - r);
      if (wide) {
        v128.store(target, i16x8.extend_low_i8x16_u(t01));
        if (count > 1) v128.store(target + rowBytes, i16x8.extend_high_i8x16_u(t01));
        if (count > 2) v128.store(target + 2 * rowBytes, i16x8.extend_low_i8x16_u(t23));
        if (count > 3) v128.store(target + 3 * rowBytes, i16x8.extend_high_i8x16_u(t23));
      } else {
        store<i64>(target, i64x2.extract_lane(t01, 0));
        if (count > 1) store<i64>(target + rowBytes, i64x2.extract_lane(t01, 1));
        if (count > 2) store<i64>(target + 2 * rowBytes, i64x2.extract_lane(t23, 0));
        if (count > 3) store<i64>(target + 3 * rowBytes, i64x2.extract_lane(t23, 1));
      }
      target += 4 * rowBytes;
    }
  }
}

/** Codes of a sealed block to a tile of i16. */
export function unpackTile(p: UnpackTile): void {
  unpackAny(p, true);
}

/** The same for `matmulTileInt8`: bytes in relaxed builds. */
export function unpackTileInt8(p: UnpackTile): void {
  if (ASC_FEATURE_RELAXED_SIMD) unpackAny(p, false);
  else unpackAny(p, true);
}
