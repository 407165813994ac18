/**
 * Parameter blocks: what a kernel takes that needs more than eight numbers. The caller writes a block into memory of the
 * running thread and passes its address. ts/src/engine/parameter-blocks.ts has the same fields in the same order, which a
 * test compares, and says what they mean. Every field has four bytes.
 */

/** One block of keys and values, and the rows that attend to it. */
@unmanaged
export class Attend {
  q: usize;
  heads: i32;
  kvHeads: i32;
  headDim: i32;
  keys: usize;
  tokens: i32;
  values: usize;
  valueStride: i32;
  valueHeadStride: i32;
  width: i32;
  scale: f32;
  firstQuery: i32;
  firstKey: i32;
  maxima: usize;
  sums: usize;
  acc: usize;
  headStart: i32;
  headEnd: i32;
  queryStart: i32;
  queryEnd: i32;
  window: i32;
  scratch: usize;
}

/** The same for keys and values in f16, keys before RoPE. */
@unmanaged
export class AttendHalf extends Attend {
  cos: usize;
  sin: usize;
  layout: i32;
}

/** Codes of a matrix and their parameters, grouped. */
@unmanaged
export class Codes {
  packed: usize;
  scales: usize;
  mins: usize;
  rows: i32;
  columns: i32;
  bits: i32;
  groupSize: i32;
  scratch: usize;
}

/** Codes to be made. */
@unmanaged
export class Quantize extends Codes {
  source: usize;
  range: i32;
}

/** Codes of a difference to be made, and the sum that they are a difference to. */
@unmanaged
export class Encode extends Quantize {
  accumulator: usize;
  perChannel: i32;
}

/** Codes to be read. */
@unmanaged
export class Dequantize extends Codes {
  target: usize;
}

/** Codes that become a tile. */
@unmanaged
export class UnpackTile extends Codes {
  perChannel: i32;
  block: i32;
  tile: usize;
}
