/**
 * Attention over one block of tokens with a running softmax: model/attention.ts, a block at a time.
 *
 * Keys come transposed, [kvHeads, headDim, tokens], so that lanes are tokens: a score needs no sum across
 * lanes, and the softmax works on neighbouring scores. In the weighted sum lanes are channels of the values,
 * or of latents, which the query heads then share: `P (X^ Wv) = (P X^) Wv` (docs/engine.md, "One pass").
 */

import { finishHalfKeys, keyLineBytes } from './attend-keys';
import { attendRows, Rows, scoresOf } from './attend-rows';
import { Attend, AttendHalf } from './parameters';

/** Tokens that a row sees: those up to its own position, none if all of them are hidden. */
// @ts-ignore: decorator
@inline
function visibleTokens(tokens: i32, upTo: i32, hidden: i32): i32 {
  const visible = min(tokens, upTo);
  return hidden < visible ? visible : 0;
}

/** Describes row `k` of those that are attended together: row `r` of the queries of a KV head. */
// @ts-ignore: decorator
@inline
function placeRow(rows: Rows, k: i32, p: Attend, head: i32, r: i32): void {
  const grouped = p.heads / p.kvHeads;
  const query = r / grouped;
  const pair = (query * p.heads + head * grouped + r - query * grouped) as usize;
  const seen = p.firstQuery - p.firstKey + 1 + query; // tokens of the block up to the position of the query
  const hidden = p.window ? seen - p.window : 0;
  const at = changetype<usize>(rows) + ((k as usize) << 2);
  store<usize>(at, p.q + ((pair * (p.headDim as usize)) << 2), offsetof<Rows>('q0'));
  store<usize>(at, p.acc + ((pair * (p.width as usize)) << 2), offsetof<Rows>('acc0'));
  store<usize>(at, pair << 2, offsetof<Rows>('pair0'));
  store<i32>(at, visibleTokens(p.tokens, seen, hidden), offsetof<Rows>('visible0'));
  store<i32>(at, hidden, offsetof<Rows>('hidden0'));
}

/** One block of one KV head into the running softmax of many queries. */
// @ts-ignore: decorator
@inline
function attendHead(f16: bool, p: Attend, head: i32, keysT: usize, values: usize): void {
  const rows = changetype<Rows>(p.scratch);
  const grouped = p.heads / p.kvHeads;
  rows.lineBytes = keyLineBytes(p.tokens);
  rows.valueBytes = (p.valueStride as usize) << (f16 ? 1 : 2);
  const last = p.queryEnd * grouped;
  for (let r = p.queryStart * grouped; r < last; r += 4) {
    const count = min(4, last - r);
    for (let k = 0; k < count; k++) placeRow(rows, k, p, head, r + k);
    if (count == 4) attendRows(4, f16, rows, p, keysT, values);
    else if (count == 3) attendRows(3, f16, rows, p, keysT, values);
    else if (count == 2) attendRows(2, f16, rows, p, keysT, values);
    else attendRows(1, f16, rows, p, keysT, values);
  }
}

/** One block into the running softmax of many queries. */
export function attendBlock(p: Attend): void {
  const headBytes = (p.headDim as usize) * keyLineBytes(p.tokens);
  for (let g = p.headStart; g < p.headEnd; g++) {
    const keys = p.keys + (g as usize) * headBytes;
    attendHead(false, p, g, keys, p.values + (((g * p.valueHeadStride) as usize) << 2));
  }
}

/**
 * One block of f16 keys and values as `kv` stores them, head by head, so that what is between fits in the nearest
 * cache: `decodeFloat16`, `finishKeys`, `attendBlock`, with the same bits.
 */
export function attendHalfBlock(p: AttendHalf): void {
  const headBytes = (p.headDim as usize) << 1;
  const rowBytes = (p.valueStride as usize) << 1;
  const line = scoresOf(changetype<Rows>(p.scratch)) + 4 * keyLineBytes(p.tokens); // one key
  const keysT = line + (headBytes << 1);
  // What follows jumps from row to row, which memory is slow at; in this order it is fast.
  const bytes = (p.tokens as usize) * rowBytes;
  store<i32>(p.scratch, touchLines(p.keys, bytes) | touchLines(p.values, bytes));
  for (let g = p.headStart; g < p.headEnd; g++) {
    const at = (g as usize) * headBytes;
    finishHalfKeys(p, p.keys + at, rowBytes, line, keysT);
    attendHead(true, p, g, keysT, p.values + at);
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
