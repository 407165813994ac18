/**
 * Codes to bytes and back: quant/pack.ts, whose drawings of the bytes hold here.
 *
 * Inside a kernel codes are one byte each. The vector loops do whole runs of codes and never touch a byte
 * outside the group; what is left over at the end of a short group is done code by code.
 */

/** `packedBytes`. */
// @ts-ignore: decorator
@inline
export function groupBytes(count: i32, bits: i32): i32 {
  if (bits == 3) return ((count + 3) >> 2) + ((count + 7) >> 3);
  return (count * bits + 7) >> 3;
}

/**
 * Neighbouring bytes to nibbles: u16 lanes [c0 | c1 << 8] -> c0 | c1 << 4 in the low byte.
 */
// @ts-ignore: decorator
@inline
function joinNibbles(v: v128): v128 {
  return v128.and(v128.or(v, i16x8.shr_u(v, 4)), i16x8.splat(0xff));
}

/** Neighbouring 2-bit codes, one per byte: u16 lanes [c0 | c1 << 8] -> c0 | c1 << 2 in the low byte. */
// @ts-ignore: decorator
@inline
function joinPairs(v: v128): v128 {
  return v128.and(v128.or(v, i16x8.shr_u(v, 6)), i16x8.splat(0xff));
}

/** 2-bit stream of the low two bits of each code. */
function pack2(codes: usize, count: i32, packed: usize): void {
  const mask = i8x16.splat(3);
  let i = 0;
  // 64 codes -> 32 nibbles -> 16 bytes
  for (; i + 64 <= count; i += 64) {
    const p = codes + (i as usize);
    const a = i8x16.narrow_i16x8_u(joinPairs(v128.and(v128.load(p), mask)), joinPairs(v128.and(v128.load(p, 16), mask)));
    const b = i8x16.narrow_i16x8_u(
      joinPairs(v128.and(v128.load(p, 32), mask)),
      joinPairs(v128.and(v128.load(p, 48), mask)),
    );
    v128.store(packed + ((i as usize) >> 2), i8x16.narrow_i16x8_u(joinNibbles(a), joinNibbles(b)));
  }
  for (; i < count; i += 4) {
    let byte: u32 = 0;
    for (let j = i; j < min(i + 4, count); j++) {
      byte |= ((load<u8>(codes + (j as usize)) as u32) & 3) << (((j - i) << 1) as u32);
    }
    store<u8>(packed + ((i as usize) >> 2), byte as u8);
  }
}

/** 1-bit stream of bit `bit` of each code. */
// @ts-ignore: decorator
@inline
function pack1(codes: usize, count: i32, bit: i32, packed: usize): void {
  let i = 0;
  // bitmask gathers the sign bits of 16 bytes, lowest lane first
  for (; i + 16 <= count; i += 16) {
    const v = i16x8.shl(v128.load(codes + (i as usize)), 7 - bit);
    store<u16>(packed + ((i as usize) >> 3), i8x16.bitmask(v) as u16);
  }
  for (; i < count; i += 8) {
    let byte: u32 = 0;
    for (let j = i; j < min(i + 8, count); j++) {
      byte |= (((load<u8>(codes + (j as usize)) as u32) >> (bit as u32)) & 1) << ((j - i) as u32);
    }
    store<u8>(packed + ((i as usize) >> 3), byte as u8);
  }
}

function pack4(codes: usize, count: i32, packed: usize): void {
  let i = 0;
  for (; i + 32 <= count; i += 32) {
    const a = joinNibbles(v128.load(codes + (i as usize)));
    const b = joinNibbles(v128.load(codes + (i as usize), 16));
    v128.store(packed + ((i as usize) >> 1), i8x16.narrow_i16x8_u(a, b));
  }
  for (; i < count; i += 2) {
    let byte: u32 = load<u8>(codes + (i as usize));
    if (i + 1 < count) byte |= (load<u8>(codes + (i as usize), 1) as u32) << 4;
    store<u8>(packed + ((i as usize) >> 1), byte as u8);
  }
}

/** `packCodes`: `count` codes (one byte each) of one group. */
export function packCodes(codes: usize, count: i32, bits: i32, packed: usize): void {
  if (bits == 2) pack2(codes, count, packed);
  else if (bits == 4) pack4(codes, count, packed);
  else if (bits == 8) memory.copy(packed, codes, count as usize);
  else if (bits == 1) pack1(codes, count, 0, packed);
  else {
    pack2(codes, count, packed);
    pack1(codes, count, 2, packed + (((count + 3) >> 2) as usize));
  }
}

/**
 * 16 bytes of a 1-bit stream's two bytes at `ptr`: lane i holds bit i, as 0 or 1.
 */
// @ts-ignore: decorator
@inline
function spreadBits(ptr: usize): v128 {
  const pair = v128.load16_splat(ptr);
  // byte 0 to lanes 0..7, byte 1 to lanes 8..15, then each lane keeps its own bit
  const bytes = i8x16.shuffle(pair, pair, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  const own = i8x16(1, 2, 4, 8, 16, 32, 64, -128, 1, 2, 4, 8, 16, 32, 64, -128);
  return v128.and(i8x16.eq(v128.and(bytes, own), own), i8x16.splat(1));
}

/** Low nibbles and high nibbles of 16 bytes in stream order: the first 16 codes. */
// @ts-ignore: decorator
@inline
function interleaveLow(low: v128, high: v128): v128 {
  return i8x16.shuffle(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}

// @ts-ignore: decorator
@inline
function interleaveHigh(low: v128, high: v128): v128 {
  return i8x16.shuffle(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

function unpack4(packed: usize, count: i32, codes: usize): void {
  const mask = i8x16.splat(15);
  let i = 0;
  for (; i + 32 <= count; i += 32) {
    const v = v128.load(packed + ((i as usize) >> 1));
    const low = v128.and(v, mask);
    const high = v128.and(i16x8.shr_u(v, 4), mask);
    v128.store(codes + (i as usize), interleaveLow(low, high));
    v128.store(codes + (i as usize), interleaveHigh(low, high), 16);
  }
  for (; i < count; i++) {
    const byte: u32 = load<u8>(packed + ((i as usize) >> 1));
    store<u8>(codes + (i as usize), ((byte >> (((i & 1) << 2) as u32)) & 15) as u8);
  }
}

/** Four 2-bit codes a byte: first to nibbles, each holding two codes, then to codes. */
function unpack2(packed: usize, count: i32, codes: usize): void {
  const nibbles = i8x16.splat(15);
  const mask = i8x16.splat(3);
  let i = 0;
  for (; i + 64 <= count; i += 64) {
    const v = v128.load(packed + ((i as usize) >> 2));
    const low = v128.and(v, nibbles);
    const high = v128.and(i16x8.shr_u(v, 4), nibbles);
    const a = interleaveLow(low, high);
    const b = interleaveHigh(low, high);
    const a0 = v128.and(a, mask);
    const a1 = i16x8.shr_u(v128.xor(a, a0), 2);
    const b0 = v128.and(b, mask);
    const b1 = i16x8.shr_u(v128.xor(b, b0), 2);
    const p = codes + (i as usize);
    v128.store(p, interleaveLow(a0, a1));
    v128.store(p, interleaveHigh(a0, a1), 16);
    v128.store(p, interleaveLow(b0, b1), 32);
    v128.store(p, interleaveHigh(b0, b1), 48);
  }
  for (; i < count; i++) {
    const byte: u32 = load<u8>(packed + ((i as usize) >> 2));
    store<u8>(codes + (i as usize), ((byte >> (((i & 3) << 1) as u32)) & 3) as u8);
  }
}

function unpack1(packed: usize, count: i32, codes: usize): void {
  let i = 0;
  for (; i + 16 <= count; i += 16) v128.store(codes + (i as usize), spreadBits(packed + ((i as usize) >> 3)));
  for (; i < count; i++) {
    const byte: u32 = load<u8>(packed + ((i as usize) >> 3));
    store<u8>(codes + (i as usize), ((byte >> ((i & 7) as u32)) & 1) as u8);
  }
}

/** Adds the high-bit plane of 3-bit codes to their low two bits. */
function addHighBits(plane: usize, count: i32, codes: usize): void {
  let i = 0;
  for (; i + 16 <= count; i += 16) {
    const p = codes + (i as usize);
    v128.store(p, v128.or(v128.load(p), i16x8.shl(spreadBits(plane + ((i as usize) >> 3)), 2)));
  }
  for (; i < count; i++) {
    const byte: u32 = load<u8>(plane + ((i as usize) >> 3));
    const p = codes + (i as usize);
    store<u8>(p, (load<u8>(p) as u32) | (((byte >> ((i & 7) as u32)) & 1) << 2));
  }
}

/** `unpackCodes`: one group to `count` codes, one byte each. */
export function unpackCodes(packed: usize, count: i32, bits: i32, codes: usize): void {
  if (bits == 2) unpack2(packed, count, codes);
  else if (bits == 4) unpack4(packed, count, codes);
  else if (bits == 8) memory.copy(codes, packed, count as usize);
  else if (bits == 1) unpack1(packed, count, codes);
  else {
    unpack2(packed, count, codes);
    addHighBits(packed + (((count + 3) >> 2) as usize), count, codes);
  }
}
