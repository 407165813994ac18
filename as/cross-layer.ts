/**
 * XQuant-CL: sealing a block as a difference, and carrying the accumulator one layer up.
 *
 * cache/xquant-cl.ts and cache/accumulator.ts, bit for bit: difference, quantizer and sum are single f32 operations.
 */

import { dequantizeAddColumns, dequantizeAddRows, dequantizeRows, quantizeColumns, quantizeRows } from './quantize';
import { groupBytes } from './pack';

/** x -= accumulator; codes of x; accumulator += their values. Row by row where a group lies within a row. */
export function crossLayerEncode(
  x: usize,
  accumulator: usize,
  rows: i32,
  columns: i32,
  bits: i32,
  groupSize: i32,
  perChannel: i32,
  range: i32,
  packed: usize,
  scales: usize,
  mins: usize,
  scratch: usize,
): i32 {
  const bytes = ((rows * columns) as usize) << 2;
  let i: usize = 0;
  for (; i + 16 <= bytes; i += 16) v128.store(x + i, f32x4.sub(v128.load(x + i), v128.load(accumulator + i)));
  for (; i < bytes; i += 4) store<f32>(x + i, load<f32>(x + i) - load<f32>(accumulator + i));
  if (perChannel) {
    const failed = quantizeColumns(x, rows, columns, bits, groupSize, range, packed, scales, mins, scratch);
    if (failed >= 0) return failed;
    dequantizeAddColumns(packed, scales, mins, rows, columns, bits, groupSize, accumulator, scratch);
  } else {
    const failed = quantizeRows(x, rows, columns, bits, groupSize, range, packed, scales, mins, scratch);
    if (failed >= 0) return failed;
    dequantizeAddRows(packed, scales, mins, rows, columns, bits, groupSize, accumulator, scratch);
  }
  return -1;
}

/** Bytes of one row of per-token codes. */
// @ts-ignore: decorator
@inline
function rowBytes(columns: i32, bits: i32, groupSize: i32): usize {
  const whole = columns / groupSize;
  const rest = columns - whole * groupSize;
  return (whole * groupBytes(groupSize, bits) + (rest ? groupBytes(rest, bits) : 0)) as usize;
}

/** A stored 8-bit accumulator, plus a delta, stored again: one row at a time, so that the row stays in the cache. */
export function crossLayerAdvanceInt8(
  packed: usize,
  scales: usize,
  mins: usize,
  rows: i32,
  columns: i32,
  bits: i32,
  groupSize: i32,
  accumulatorCodes: usize,
  accumulatorScales: usize,
  accumulatorMins: usize,
  scratch: usize,
): i32 {
  const deltaBytes = rowBytes(columns, bits, groupSize);
  const deltaGroups = ((columns + groupSize - 1) / groupSize) as usize;
  const groups = (columns + 127) >> 7;
  const row = scratch + 1024;
  for (let r = 0; r < rows; r++) {
    dequantizeRows(accumulatorCodes, accumulatorScales, accumulatorMins, 1, columns, 8, 128, row, scratch);
    dequantizeAddRows(packed, scales, mins, 1, columns, bits, groupSize, row, scratch);
    const failed = quantizeRows(
      row,
      1,
      columns,
      8,
      128,
      0,
      accumulatorCodes,
      accumulatorScales,
      accumulatorMins,
      scratch,
    );
    if (failed >= 0) return r * groups + failed;
    packed += deltaBytes;
    scales += deltaGroups << 1;
    mins += deltaGroups << 1;
    accumulatorCodes += columns as usize;
    accumulatorScales += (groups as usize) << 1;
    accumulatorMins += (groups as usize) << 1;
  }
  return -1;
}
