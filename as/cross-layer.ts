/**
 * XQuant-CL: sealing a block as a difference (cache/xquant-cl.ts), bit for bit: difference, quantizer and sum are single
 * f32 operations.
 */

import { Encode } from './parameters';
import { quantizeColumns, quantizeRows, readColumns, readRows } from './quantize';

/** source -= accumulator; codes of it; accumulator += their values. */
export function crossLayerEncode(p: Encode): i32 {
  const x = p.source;
  const accumulator = p.accumulator;
  const bytes = ((p.rows * p.columns) as usize) << 2;
  let i: usize = 0;
  for (; i + 16 <= bytes; i += 16) v128.store(x + i, f32x4.sub(v128.load(x + i), v128.load(accumulator + i)));
  for (; i < bytes; i += 4) store<f32>(x + i, load<f32>(x + i) - load<f32>(accumulator + i));
  const failed = p.perChannel ? quantizeColumns(p) : quantizeRows(p);
  if (failed >= 0) return failed;
  if (p.perChannel) readColumns(p, accumulator, true);
  else readRows(p, accumulator, true);
  return -1;
}
