/** Rows of a file in the block formats of GGUF to panels, without loss (weight-panels.ts). */

import { PANEL } from './tile';
import {
  blockAt,
  codeBytes,
  hasSuperBlocks,
  headAt,
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

/** Stores code `q` of output `j` at column `i` of a block. */
// @ts-ignore: decorator
@inline
function putCode(block: usize, j: i32, i: i32, q: i32): void {
  store<u8>(block + (((i >> 1) << 4) as usize) + (((j << 1) | (i & 1)) as usize), q as u8);
}

/** The same for 4-bit codes; the block starts as zeros. */
// @ts-ignore: decorator
@inline
function putNibble(block: usize, j: i32, i: i32, q: i32): void {
  const pair = i >> 1;
  const p = block + (((pair & 7) << 4) as usize) + (((j << 1) | (i & 1)) as usize);
  store<u8>(p, load<u8>(p) | ((q << ((pair >> 3) << 2)) as u8));
}

/** Scale `i` (0 to 7) of a Q4_K or Q5_K super-block: six bits, spread over twelve bytes. */
// @ts-ignore: decorator
@inline
function scaleOf(packed: usize, i: i32): u32 {
  if (i < 4) return (load<u8>(packed + (i as usize)) as u32) & 63;
  const high = ((load<u8>(packed + ((i - 4) as usize)) as u32) >> 6) << 4;
  return ((load<u8>(packed + ((i + 4) as usize)) as u32) & 15) | high;
}

/** Minimum `i` of a Q4_K or Q5_K super-block. */
// @ts-ignore: decorator
@inline
function minOf(packed: usize, i: i32): u32 {
  if (i < 4) return (load<u8>(packed + ((i + 4) as usize)) as u32) & 63;
  const high = ((load<u8>(packed + (i as usize)) as u32) >> 6) << 4;
  return ((load<u8>(packed + ((i + 4) as usize)) as u32) >> 4) | high;
}

// @ts-ignore: decorator
@inline
function repackBlocks(kind: i32, source: usize, rows: i32, columns: i32, target: usize): void {
  const bytes = panelBytes(kind, columns);
  const blocks = columns >> 5;
  for (let first = 0; first < rows; first += PANEL) {
    const panel = target + ((first >> 3) as usize) * bytes;
    memory.fill(panel, 0, bytes);
    for (let j = 0; j < min(PANEL, rows - first); j++) {
      if (!hasSuperBlocks(kind)) {
        for (let b = 0; b < blocks; b++) {
          const block = blockAt(kind, panel, b);
          const at = block + codeBytes(kind) + ((j << 1) as usize);
          store<u16>(at, load<u16>(source));
          source += 2;
          if (kind == Q4_1 || kind == Q5_1) {
            store<u16>(at, load<u16>(source), 16);
            source += 2;
          }
          if (kind == Q8_0) {
            for (let i = 0; i < 32; i++) putCode(block, j, i, load<u8>(source + (i as usize)));
            source += 32;
          } else if (kind == Q5_1) {
            // 32 fifth bits, then 16 bytes as below
            const fifth = load<u32>(source);
            for (let i = 0; i < 16; i++) {
              const byte: i32 = load<u8>(source + 4 + (i as usize));
              putCode(block, j, i, (byte & 15) | (((fifth >> i) & 1) << 4));
              putCode(block, j, i + 16, (byte >> 4) | (((fifth >> (i + 16)) & 1) << 4));
            }
            source += 20;
          } else {
            // byte i: element i in the low nibble, element i + 16 in the high one
            for (let i = 0; i < 16; i++) {
              const byte: i32 = load<u8>(source + (i as usize));
              putNibble(block, j, i, byte & 15);
              putNibble(block, j, i + 16, byte >> 4);
            }
            source += 16;
          }
        }
        continue;
      }
      for (let b = 0; b < blocks; b += 8) {
        const at = headAt(kind, panel, b) + ((j << 1) as usize);
        if (kind == Q6_K) {
          store<u16>(at, load<u16>(source, 208));
          // 128 low-nibble bytes, 64 bytes of high bit pairs, 16 scales, d
          for (let i = 0; i < 256; i++) {
            const half = i >> 7;
            const quarter = (i >> 5) & 3;
            const lane = i & 31;
            const lowByte: i32 = load<u8>(source + (((half << 6) + ((quarter & 1) << 5) + lane) as usize));
            const low = quarter & 2 ? lowByte >> 4 : lowByte & 15;
            const high = ((load<u8>(source + 128 + (((half << 5) + lane) as usize)) as i32) >> (quarter << 1)) & 3;
            putCode(blockAt(kind, panel, b + (i >> 5)), j, lane, (low | (high << 4)) - 32);
          }
          for (let i = 0; i < 16; i++) {
            const p = blockAt(kind, panel, b + (i >> 1)) + codeBytes(kind) + ((((i & 1) << 3) + j) as usize);
            store<u8>(p, load<u8>(source + 192 + (i as usize)));
          }
          source += 210;
          continue;
        }
        if (kind == Q2_K) {
          // 16 bytes of scale and minimum, 64 bytes of codes (element 128 h + 32 r + i in bits 2r of byte 32 h + i), d, dmin
          store<u16>(at, load<u16>(source, 80));
          store<u16>(at, load<u16>(source, 82), 16);
          for (let i = 0; i < 16; i++) {
            const p = blockAt(kind, panel, b + (i >> 1)) + codeBytes(kind) + ((((i & 1) << 3) + j) as usize);
            const pair: i32 = load<u8>(source + (i as usize));
            store<u8>(p, (pair & 15) as u8);
            store<u8>(p, (pair >> 4) as u8, 16);
          }
          for (let i = 0; i < 256; i++) {
            const byte: i32 = load<u8>(source + 16 + ((((i >> 7) << 5) + (i & 31)) as usize));
            putNibble(blockAt(kind, panel, b + (i >> 5)), j, i & 31, (byte >> (((i >> 5) & 3) << 1)) & 3);
          }
          source += 84;
          continue;
        }
        store<u16>(at, load<u16>(source));
        store<u16>(at, load<u16>(source, 2), 16);
        for (let i = 0; i < 8; i++) {
          const p = blockAt(kind, panel, b + i) + codeBytes(kind) + (j as usize);
          store<u8>(p, scaleOf(source + 4, i) as u8);
          store<u8>(p, minOf(source + 4, i) as u8, 8);
        }
        // 64 elements to 32 bytes: the first 32 in the low nibbles, the next 32 in the high ones
        const highBits = source + 16;
        const low = source + (kind == Q4_K ? 16 : 48);
        for (let i = 0; i < 256; i++) {
          const byte: i32 = load<u8>(low + ((((i >> 6) << 5) + (i & 31)) as usize));
          const nibble = i & 32 ? byte >> 4 : byte & 15;
          const block = blockAt(kind, panel, b + (i >> 5));
          if (kind == Q4_K) {
            putNibble(block, j, i & 31, nibble);
          } else {
            const bit = ((load<u8>(highBits + ((i & 31) as usize)) as i32) >> (i >> 5)) & 1;
            putCode(block, j, i & 31, nibble | (bit << 4));
          }
        }
        source += kind == Q4_K ? 144 : 176;
      }
    }
  }
}

/** The 16 levels of IQ4_NL and IQ4_XS (quant/weight-formats.ts), a byte each. */
const LEVELS_BELOW_ZERO: u64 = 0xf6eaddcfbfad9881;
const LEVELS_ABOVE_ZERO: u64 = 0x7159453526190d01;

/** IQ4_XS rows of a file to panels of Q6_K: codes become levels, and both halves of a block have its scale. */
export function repackIQ4_XS(source: usize, rows: i32, columns: i32, target: usize): void {
  const bytes = panelBytes(Q6_K, columns);
  const blocks = columns >> 5;
  for (let first = 0; first < rows; first += PANEL) {
    const panel = target + ((first >> 3) as usize) * bytes;
    memory.fill(panel, 0, bytes);
    for (let j = 0; j < min(PANEL, rows - first); j++) {
      for (let b = 0; b < blocks; b += 8) {
        // d, 8 upper pairs of bits of scales, 8 lower nibbles of scales, 128 bytes of codes
        store<u16>(headAt(Q6_K, panel, b) + ((j << 1) as usize), load<u16>(source));
        const upper: i32 = load<u16>(source, 2);
        for (let s = 0; s < 8; s++) {
          const lower = ((load<u8>(source + 4 + ((s >> 1) as usize)) as i32) >> ((s & 1) << 2)) & 15;
          const scale = (lower | (((upper >> (s << 1)) & 3) << 4)) - 32;
          const block = blockAt(Q6_K, panel, b + s);
          const params = block + codeBytes(Q6_K) + (j as usize);
          store<u8>(params, scale as u8);
          store<u8>(params, scale as u8, 8);
          for (let i = 0; i < 32; i++) {
            const byte: i32 = load<u8>(source + 8 + (((s << 4) + (i & 15)) as usize));
            const code = i & 16 ? byte >> 4 : byte & 15;
            const levels = code & 8 ? LEVELS_ABOVE_ZERO : LEVELS_BELOW_ZERO;
            putCode(block, j, i, (levels >> (((code & 7) << 3) as u64)) as i32);
          }
        }
        source += 136;
      }
    }
  }
}

/** Q8_0 rows of a file to panels. */
export function repackQ8_0(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q8_0, source, rows, columns, target);
}

/** Q4_0 rows of a file to panels. */
export function repackQ4_0(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q4_0, source, rows, columns, target);
}

/** Q4_1 rows of a file to panels. */
export function repackQ4_1(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q4_1, source, rows, columns, target);
}

/** Q5_1 rows of a file to panels. */
export function repackQ5_1(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q5_1, source, rows, columns, target);
}

/** Q2_K rows of a file to panels. */
export function repackQ2_K(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q2_K, source, rows, columns, target);
}

/** Q4_K rows of a file to panels. */
export function repackQ4_K(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q4_K, source, rows, columns, target);
}

/** Q5_K rows of a file to panels. */
export function repackQ5_K(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q5_K, source, rows, columns, target);
}

/** Q6_K rows of a file to panels. */
export function repackQ6_K(source: usize, rows: i32, columns: i32, target: usize): void {
  repackBlocks(Q6_K, source, rows, columns, target);
}
