/**
 * The WebAssembly kernels, typed: what each takes, what it leaves in memory, and which TypeScript function says
 * what it computes.
 *
 * Kernels are stateless, allocate nothing and check nothing; the caller validates. Rules that hold for all:
 *
 * - A pointer is a byte offset into the linear memory, a multiple of 16 unless said otherwise. Counts are
 *   elements, strides are elements too where named `...Stride`, and bytes only where the docstring says so.
 * - Matrices are row-major and dense. f32 unless said otherwise; "f16" means 16 bits an element.
 * - Outputs may not overlap inputs unless said otherwise. Nothing outside the stated sizes is read or written.
 * - Float inputs are finite. Integer results and stored bytes are exact; float results stay within the bounds that
 *   ts/test/unit/engine/kernels derives.
 * - Products take `[rowStart, rowEnd)` output rows, `rowStart` a multiple of 8: threads split there, and neither
 *   the split nor the number of tokens computed together changes one bit of a result.
 *
 * Three formats exist only between kernels. Their layout is drawn in as/, their sizes come from functions below.
 *
 * - **panels**: weights of a file, repacked without loss, eight output rows side by side ({@link panelBytes});
 * - **tile**: rows of 16-bit integers with a scale and an offset per block ({@link tileBytes}): activations cut to
 *   integers, or codes of a sealed block;
 * - **key weights**: a small f32 matrix cut to integers for the product with a tile ({@link packedWeightsBytes}).
 *   A module reads only what a module of the same build wrote.
 *
 * @module
 */

import { KernelError } from '../errors.js';
import type { ProductType } from '../quant/weight-types.js';

/** A byte offset into linear memory. */
export type Pointer = number;

/** Range rules as the quantizer kernels take them. */
export const RANGE_CODES = { minmax: 0, mse: 1 } as const;

/** RoPE layouts as the kernels take them. */
export const ROPE_CODES = { half: 0, interleaved: 1 } as const;

/** Output rows side by side in a panel. `rowStart` is a multiple of it. */
export const PANEL_ROWS = 8;

/** Block and integer limit of activations that meet the weights of a file. */
export const ACTIVATION_TILE = { block: 32, limit: 16383 } as const;

/**
 * Limits of the integers of an f32 tile and of the weights it meets, per pair, so that no sum leaves 32 bits:
 * `tile * weights * block < 2^31`. Codes (up to 255) meet `codes`; an f32 tile (an accumulator) meets `float`.
 */
export const INTEGER_LIMITS = {
  /** `packWeights` limit for weights that meet codes in blocks of up to 256: keys exact to 2^-16 of a block's maximum. */
  codes: 32767,
  /** `packWeights` and `quantizeTile` limit for f32 rows in blocks of 32. */
  float: 8191,
  /** `packWeights` limit of `keyWeights: 'int8'`. An f32 tile in blocks of up to 128 may then use 32767. */
  int8: 127,
} as const;

/** `linear(x, dequantizeWeights(w))` for one weight type. */
export type MatmulKernel = (
  /** Panels. */
  weights: Pointer,
  /**
   * Q types: a tile of `quantizeTile(x, tokens, columns, 32, 16383)`. F types: x itself, f32 [tokens, columns].
   * Sum order and result do not depend on `tokens`.
   */
  x: Pointer,
  tokens: number,
  /** Output rows of the whole matrix. */
  rows: number,
  /** A multiple of 32 for blocks of 32, of 256 for K types. */
  columns: number,
  rowStart: number,
  rowEnd: number,
  /** f32, element (token, row) at `token * outStride + row`: overwritten for rows [rowStart, rowEnd). */
  out: Pointer,
  outStride: number,
  /** {@link matmulScratchBytes}; one per thread. */
  scratch: Pointer,
) => void;

/** A tile times key weights; both were made with the same `columns` and `block`. */
export type TileProductKernel = (
  packedWeights: Pointer,
  tile: Pointer,
  tokens: number,
  /** Output rows of the whole matrix. */
  rows: number,
  columns: number,
  block: number,
  rowStart: number,
  rowEnd: number,
  /** f32, element (token, row) at `token * outStride + row`. */
  out: Pointer,
  outStride: number,
  /** 1 adds to what is there, 0 overwrites. */
  accumulate: number,
) => void;

/** Rows of a file to panels. `source` as in the file (any alignment), `target`: {@link panelBytes}. */
export type RepackKernel = (source: Pointer, rows: number, columns: number, target: Pointer) => void;

/** Row `index` of panels, dequantized to f32 [columns]: bit for bit a row of `dequantizeWeights`. */
export type EmbedKernel = (
  weights: Pointer,
  rows: number,
  columns: number,
  index: number,
  out: Pointer,
) => void;

/** Writes f32 [rows, columns] from stored codes; `scratch` as for {@link Kernels.quantizeRows} or `quantizeColumns`. */
export type DequantizeKernel = (
  packed: Pointer,
  scales: Pointer,
  mins: Pointer,
  rows: number,
  columns: number,
  bits: number,
  groupSize: number,
  target: Pointer,
  scratch: Pointer,
) => void;

/** Quantizes f32 [rows, columns]; returns -1, or the number of the first group that cannot be stored. */
export type QuantizeKernel = (
  source: Pointer,
  rows: number,
  columns: number,
  bits: number,
  groupSize: number,
  /** {@link RANGE_CODES} */
  range: number,
  /** Any alignment, as are `scales` and `mins` (of 2). */
  packed: Pointer,
  scales: Pointer,
  mins: Pointer,
  scratch: Pointer,
) => number;

/** Everything a build exports. */
export interface Kernels {
  // ---- f16 (numerics/float16.ts) ----------------------------------------------------------------------------

  /**
   * `encodeFloat16`. Any alignment of 4 and 2.
   *
   * @returns -1, or the index of the first value that f16 cannot hold (|v| >= 65520 or NaN); all are written anyway
   */
  encodeFloat16(source: Pointer, target: Pointer, count: number): number;
  /** `decodeFloat16`. */
  decodeFloat16(source: Pointer, target: Pointer, count: number): void;
  /** `decodeBfloat16`. */
  decodeBfloat16(source: Pointer, target: Pointer, count: number): void;

  // ---- the quantizer (quant/) -------------------------------------------------------------------------------

  /** `packCodes` of one group: u8 [count] to bytes. */
  packCodes(codes: Pointer, count: number, bits: number, packed: Pointer): void;
  /** `unpackCodes` of one group. */
  unpackCodes(packed: Pointer, count: number, bits: number, codes: Pointer): void;
  /** `quantizeMatrix` with grouping `perToken`, exact. `scratch`: {@link quantizeScratchBytes}. */
  quantizeRows: QuantizeKernel;
  /** `quantizeMatrix` with grouping `perChannel`, exact. `scratch`: {@link quantizeScratchBytes}. */
  quantizeColumns: QuantizeKernel;
  /** `dequantizeMatrix`, `perToken`, exact. */
  dequantizeRows: DequantizeKernel;
  /** `dequantizeMatrix`, `perChannel`, exact. */
  dequantizeColumns: DequantizeKernel;
  /** `add(target, dequantizeMatrix(...))` in place, `perToken`, exact: the next layer's accumulator. */
  dequantizeAddRows: DequantizeKernel;
  /** `add(target, dequantizeMatrix(...))` in place, `perChannel`, exact. */
  dequantizeAddColumns: DequantizeKernel;
  /**
   * `quantizeSymmetric` of neighbouring channels with the same bits and of one block of tokens, exact: one group each.
   * `source`: f32, element (token, channel) at `token * stride + channel`, of any alignment, as are `packed` and `scales`
   * (of 2). `scratch`: {@link quantizeScratchBytes}.
   *
   * @returns -1, or the first channel that cannot be stored
   */
  quantizeSymmetric(
    source: Pointer,
    tokens: number,
    stride: number,
    channels: number,
    bits: number,
    packed: Pointer,
    scales: Pointer,
    scratch: Pointer,
  ): number;
  /**
   * `dequantizeSymmetric` of the same channels, exact: added to `offsets` (f32 [channels]) and written, or added to what
   * `target` holds if `offsets` is 0. `target` as `source` there.
   */
  dequantizeSymmetric(
    packed: Pointer,
    scales: Pointer,
    offsets: Pointer,
    tokens: number,
    stride: number,
    channels: number,
    bits: number,
    target: Pointer,
    scratch: Pointer,
  ): void;
  /**
   * `linear(dequantizeSymmetric(...), weights, offsets)` of one block of tokens of neighbouring channels with bits of
   * their own, from the codes: element (token, row) at `token * outStride + row`. Weights are cut to 15 bits of the
   * largest product with a scale of up to 256 channels.
   */
  multiplySymmetric(
    packed: Pointer,
    /** u8 [channels], none of them 0. */
    bits: Pointer,
    /** f16 [channels] */
    scales: Pointer,
    tokens: number,
    channels: number,
    /** f32 [rows, channels rounded up to a multiple of 8], half of the weights; zeros behind the last channel. */
    weights: Pointer,
    /** f32 [rows], added to every token. */
    offsets: Pointer,
    rows: number,
    out: Pointer,
    outStride: number,
    /** i16 [tokens, channels rounded up to a multiple of 8] */
    tile: Pointer,
    /** {@link symmetricPanelBytes} */
    panel: Pointer,
    /** {@link quantizeScratchBytes} */
    scratch: Pointer,
  ): void;
  /** `unpackMatrix`, `perToken`: u8 [rows, columns]. */
  unpackRows(
    packed: Pointer,
    rows: number,
    columns: number,
    bits: number,
    groupSize: number,
    codes: Pointer,
  ): void;
  /** `unpackMatrix`, `perChannel`. `scratch`: {@link quantizeScratchBytes}. */
  unpackColumns(
    packed: Pointer,
    rows: number,
    columns: number,
    bits: number,
    groupSize: number,
    codes: Pointer,
    scratch: Pointer,
  ): void;
  /** `hadamardInto` of each row of x [rows, columns], in place, exact. */
  hadamardRows(x: Pointer, rows: number, columns: number): void;

  // ---- products with the weights of a file ------------------------------------------------------------------

  /**
   * f32 [rows, columns] to a tile: integers of at most `limit`, one scale (maximum / limit) per `block` columns of
   * a row, and the block's sum as the offset. `block`: a multiple of 8, or at least `columns`. `tile`:
   * {@link tileBytes}.
   */
  quantizeTile(x: Pointer, rows: number, columns: number, block: number, limit: number, tile: Pointer): void;
  matmulF32: MatmulKernel;
  matmulF16: MatmulKernel;
  matmulBF16: MatmulKernel;
  matmulQ8_0: MatmulKernel;
  matmulQ4_0: MatmulKernel;
  matmulQ4_1: MatmulKernel;
  matmulQ5_1: MatmulKernel;
  matmulQ2_K: MatmulKernel;
  matmulQ4_K: MatmulKernel;
  matmulQ5_K: MatmulKernel;
  matmulQ6_K: MatmulKernel;
  repackF32: RepackKernel;
  /** F16 and BF16. */
  repackF16: RepackKernel;
  repackQ8_0: RepackKernel;
  repackQ4_0: RepackKernel;
  repackQ4_1: RepackKernel;
  repackQ5_1: RepackKernel;
  repackQ2_K: RepackKernel;
  repackQ4_K: RepackKernel;
  repackQ5_K: RepackKernel;
  repackQ6_K: RepackKernel;
  /** To panels of Q6_K. */
  repackIQ4_XS: RepackKernel;
  embedF32: EmbedKernel;
  embedF16: EmbedKernel;
  embedBF16: EmbedKernel;
  embedQ8_0: EmbedKernel;
  embedQ4_0: EmbedKernel;
  embedQ4_1: EmbedKernel;
  embedQ5_1: EmbedKernel;
  embedQ2_K: EmbedKernel;
  embedQ4_K: EmbedKernel;
  embedQ5_K: EmbedKernel;
  embedQ6_K: EmbedKernel;

  // ---- rematerialization: sealed codes times key (or value) weights (cache/fold.ts `project`) ----------------

  /**
   * Codes of a sealed block to a tile: the integers are the codes. `perToken` (perChannel = 0): scale and offset of
   * a block are scale and minimum of its group, and `block` divides `groupSize` (or both reach `columns`);
   * `groupSize` is a multiple of 8. `perChannel` (1), for at most one group of tokens (rows <= groupSize): scale
   * and offset are 1, and scales and minima go into {@link Kernels.packWeights} instead; `scales` and `mins` are
   * not read. `block` at most 256. `scratch`: {@link quantizeScratchBytes}.
   */
  unpackTile(
    packed: Pointer,
    scales: Pointer,
    mins: Pointer,
    rows: number,
    columns: number,
    bits: number,
    groupSize: number,
    perChannel: number,
    block: number,
    tile: Pointer,
    scratch: Pointer,
  ): void;
  /**
   * f32 weights [rows, columns] to key weights: integers of at most `limit`, one scale per `block` columns and row.
   * With `channelScales` and `channelMins` (f16 [columns]; 0 for none) the columns are multiplied by the scales
   * first and the minima become the offsets: weights for the per-channel codes of one block. `target`:
   * {@link packedWeightsBytes}. 8 outputs at a time; cheap next to the product (about 2 % at 128 tokens).
   */
  packWeights(
    weights: Pointer,
    rows: number,
    columns: number,
    block: number,
    limit: number,
    channelScales: Pointer,
    channelMins: Pointer,
    target: Pointer,
  ): void;
  /**
   * `linear(dequantizeMatrix(codes), weights)`, codes from {@link Kernels.unpackTile}: [tokens, rows] into out, element
   * (token, row) at `token * outStride + row`; `accumulate` = 1 adds to what is there. `block` as given to both operands.
   */
  matmulTile: TileProductKernel;
  /**
   * `linear(x, weights)` of f32 rows, tile from {@link Kernels.quantizeTile}, weights from {@link Kernels.packWeights}
   * without channel scales; otherwise as {@link Kernels.matmulTile}. Limits: {@link INTEGER_LIMITS}.
   */
  matmulTileFloat: TileProductKernel;
  /**
   * `unpackTile`, `packWeights` and `matmulTile` for `keyWeights: 'int8'` and codes of 1 to 4 bits. Relaxed builds keep bytes and use the 8-bit
   * multiply-add; plain builds do what the 16-bit kernels do with limit 127. Same results, to a rounding.
   */
  unpackTileInt8(
    packed: Pointer,
    scales: Pointer,
    mins: Pointer,
    rows: number,
    columns: number,
    bits: number,
    groupSize: number,
    perChannel: number,
    block: number,
    tile: Pointer,
    scratch: Pointer,
  ): void;
  packWeightsInt8(
    weights: Pointer,
    rows: number,
    columns: number,
    block: number,
    channelScales: Pointer,
    channelMins: Pointer,
    target: Pointer,
  ): void;
  matmulTileInt8: TileProductKernel;

  // ---- the cross-layer path (cache/accumulator.ts, cache/xquant-cl.ts) ---------------------------------------

  /**
   * Seals one block of `CrossLayerDeltaCache`, exact: difference = x - accumulator, quantize, pack, accumulator +=
   * dequantize. `x` is already rotated (`hadamardRows`), and overwritten by the difference. `accumulator`: f32
   * [rows, columns], updated in place (policies `f32`, and `recompute` on a scratch sum). `perChannel` 0 or 1.
   * `scratch`: {@link quantizeScratchBytes}.
   *
   * @returns -1, or the first group that cannot be stored; the accumulator is then unchanged
   */
  crossLayerEncode(
    x: Pointer,
    accumulator: Pointer,
    rows: number,
    columns: number,
    bits: number,
    groupSize: number,
    perChannel: number,
    range: number,
    packed: Pointer,
    scales: Pointer,
    mins: Pointer,
    scratch: Pointer,
  ): number;
  /**
   * One layer up with policy `int8`, exact, in one pass over memory: the stored accumulator (8 bits, `perToken`,
   * groups of 128, minmax) is dequantized, the block's delta (`perToken`) added, and the sum stored again.
   * `scratch`: columns * 4 + 1024 bytes.
   *
   * @returns -1, or the first accumulator group that cannot be stored
   */
  crossLayerAdvanceInt8(
    packed: Pointer,
    scales: Pointer,
    mins: Pointer,
    rows: number,
    columns: number,
    bits: number,
    groupSize: number,
    accumulatorCodes: Pointer,
    accumulatorScales: Pointer,
    accumulatorMins: Pointer,
    scratch: Pointer,
  ): number;

  // ---- attention (model/attention.ts) ------------------------------------------------------------------------

  /**
   * RoPE in place on x [tokens, heads, headDim] with tables of the tokens' positions, f32 [tokens, headDim / 2]
   * each. `layout`: {@link ROPE_CODES}. headDim: a multiple of 8 (`half`) or 4 (`interleaved`).
   */
  rope(
    x: Pointer,
    tokens: number,
    heads: number,
    headDim: number,
    cos: Pointer,
    sin: Pointer,
    layout: number,
  ): void;
  /**
   * Keys before RoPE, f32 [tokens, kvHeads * headDim], to what `attendBlock` scores: bias ([kvHeads * headDim] or
   * 0), norm of each head (gain [headDim] or 0, with `eps`), RoPE, and transposed to
   * keysT [kvHeads, headDim, padded], padded = tokens rounded up to a multiple of 8, the rest zero. Overwrites
   * `keys`. Only kv heads [headStart, headEnd).
   */
  finishKeys(
    keys: Pointer,
    tokens: number,
    kvHeads: number,
    headDim: number,
    bias: Pointer,
    gain: Pointer,
    eps: number,
    cos: Pointer,
    sin: Pointer,
    layout: number,
    keysT: Pointer,
    headStart: number,
    headEnd: number,
  ): void;
  /**
   * Empties the running softmax of `count` (query, head) pairs: maxima -infinity, sums 0, acc [count, width] 0.
   */
  attendBegin(maxima: Pointer, sums: Pointer, acc: Pointer, count: number, width: number): void;
  /**
   * One block of keys and values into the running softmax of many queries.
   *
   * For query i (position `firstQuery + i`), head h of kv head g = floor(h / (heads / kvHeads)), and the block's
   * tokens t with `firstKey + t <= firstQuery + i`, the last `window` of them: scores `scale * q . k`, then maximum, sum of exponentials and the
   * weighted sum of values are brought up to date. `values` hold `width` numbers of token t for kv head g at element
   * `t * valueStride + g * valueHeadStride`: plain values [tokens, kvHeads, headDim] with valueHeadStride = headDim,
   * or latents (or X^) [tokens, width] shared by all heads with valueHeadStride = 0 (docs/engine.md, "One pass").
   * `width`: a multiple of 4. `scratch`: {@link attendScratchBytes}.
   */
  attendBlock(
    /** f32 [queries, heads, headDim], after RoPE. */
    q: Pointer,
    queries: number,
    heads: number,
    kvHeads: number,
    headDim: number,
    /** From `finishKeys`. */
    keysT: Pointer,
    tokens: number,
    values: Pointer,
    valueStride: number,
    valueHeadStride: number,
    width: number,
    scale: number,
    firstQuery: number,
    firstKey: number,
    /** f32 [queries, heads] */
    maxima: Pointer,
    /** f32 [queries, heads] */
    sums: Pointer,
    /** f32 [queries, heads, width] */
    acc: Pointer,
    headStart: number,
    headEnd: number,
    queryStart: number,
    queryEnd: number,
    /** Tokens that a query sees, its own included; 0 for all. */
    window: number,
    scratch: Pointer,
  ): void;
  /**
   * One sealed block of `kv`, all heads of all queries: `decodeFloat16` of keys and values [tokens, kvHeads, headDim],
   * `finishKeys` without bias and norm, and `attendBlock` with values, bit for bit. All values are finite.
   * `scratch`: {@link attendHalfScratchBytes}.
   */
  attendHalfBlock(
    /** f32 [queries, heads, headDim], after RoPE. */
    q: Pointer,
    queries: number,
    heads: number,
    kvHeads: number,
    headDim: number,
    keys: Pointer,
    values: Pointer,
    tokens: number,
    cos: Pointer,
    sin: Pointer,
    layout: number,
    scale: number,
    firstQuery: number,
    firstKey: number,
    /** f32 [queries, heads] */
    maxima: Pointer,
    /** f32 [queries, heads] */
    sums: Pointer,
    /** f32 [queries, heads, headDim] */
    acc: Pointer,
    /** Tokens that a query sees, its own included; 0 for all. */
    window: number,
    scratch: Pointer,
  ): void;
  /** Merges a second running softmax (of other blocks) into the first; `count` pairs. */
  attendMerge(
    maxima: Pointer,
    sums: Pointer,
    acc: Pointer,
    otherMaxima: Pointer,
    otherSums: Pointer,
    otherAcc: Pointer,
    count: number,
    width: number,
  ): void;
  /** Divides acc [count, width] by the sums. */
  attendFinish(sums: Pointer, acc: Pointer, count: number, width: number): void;

  // ---- the rest of a layer (model/) ----------------------------------------------------------------------------

  /**
   * RMSNorm of each row of x [rows, columns]: `normalized` = x / rms (before the gain), `out` = normalized * gain.
   * Either target may be 0 (not written) or x itself. The mean square is summed in f64. Also the norm of heads: rows
   * = tokens * heads, columns = headDim.
   */
  rmsNorm(
    x: Pointer,
    rows: number,
    columns: number,
    gain: Pointer,
    eps: number,
    normalized: Pointer,
    out: Pointer,
  ): void;
  /** out = silu(gate) * up, `count` elements; `out` may be either input. */
  siluGate(gate: Pointer, up: Pointer, out: Pointer, count: number): void;
  /** `geluTanh(gate) * up`; `out` may be `gate`. */
  geluGate(gate: Pointer, up: Pointer, out: Pointer, count: number): void;
  /** a += b, `count` elements. */
  addInto(a: Pointer, b: Pointer, count: number): void;
  /** x *= factor, in place. */
  scaleBy(x: Pointer, factor: number, count: number): void;
  /** Adds bias [columns] to every row of x. */
  addBias(x: Pointer, bias: Pointer, rows: number, columns: number): void;
  /** Softmax of each row of x [rows, columns], in place. */
  softmaxRows(x: Pointer, rows: number, columns: number): void;
  /** Index of the largest of `count` f32; the first of equals. */
  argmax(x: Pointer, count: number): number;
  /** Index of the first NaN or infinity of `count` f32, or -1. */
  findNonFinite(x: Pointer, count: number): number;

  // ---- what the benchmark compares with -----------------------------------------------------------------------

  /**
   * The plain tile product of this instruction set, without scales: `panels` i16 [rows / 8][columns / 2][8][2], `x`
   * i16 [tokens, columns], out i32 [tokens, rows].
   */
  plainTileInt16(
    panels: Pointer,
    x: Pointer,
    tokens: number,
    rows: number,
    columns: number,
    out: Pointer,
  ): void;
  /**
   * The same on bytes where the build multiplies bytes (relaxed: i8 [rows / 8][columns / 4][8][4] times u8 codes
   * of up to 4 bits); in plain builds the same as {@link Kernels.plainTileInt16}.
   */
  plainTileInt8(
    panels: Pointer,
    x: Pointer,
    tokens: number,
    rows: number,
    columns: number,
    out: Pointer,
  ): void;
}

/** Exports of an instance, checked. */
const KERNEL_NAMES = [
  'encodeFloat16',
  'decodeFloat16',
  'decodeBfloat16',
  'packCodes',
  'unpackCodes',
  'quantizeRows',
  'quantizeColumns',
  'dequantizeRows',
  'dequantizeColumns',
  'dequantizeAddRows',
  'dequantizeAddColumns',
  'quantizeSymmetric',
  'dequantizeSymmetric',
  'multiplySymmetric',
  'unpackRows',
  'unpackColumns',
  'hadamardRows',
  'quantizeTile',
  'matmulF32',
  'matmulF16',
  'matmulBF16',
  'matmulQ8_0',
  'matmulQ4_0',
  'matmulQ4_1',
  'matmulQ5_1',
  'matmulQ2_K',
  'matmulQ4_K',
  'matmulQ5_K',
  'matmulQ6_K',
  'repackF32',
  'repackF16',
  'repackQ8_0',
  'repackQ4_0',
  'repackQ4_1',
  'repackQ5_1',
  'repackQ2_K',
  'repackQ4_K',
  'repackQ5_K',
  'repackQ6_K',
  'repackIQ4_XS',
  'embedF32',
  'embedF16',
  'embedBF16',
  'embedQ8_0',
  'embedQ4_0',
  'embedQ4_1',
  'embedQ5_1',
  'embedQ2_K',
  'embedQ4_K',
  'embedQ5_K',
  'embedQ6_K',
  'unpackTile',
  'packWeights',
  'matmulTile',
  'matmulTileFloat',
  'unpackTileInt8',
  'packWeightsInt8',
  'matmulTileInt8',
  'crossLayerEncode',
  'crossLayerAdvanceInt8',
  'rope',
  'finishKeys',
  'attendBegin',
  'attendBlock',
  'attendHalfBlock',
  'attendMerge',
  'attendFinish',
  'rmsNorm',
  'siluGate',
  'geluGate',
  'addInto',
  'scaleBy',
  'addBias',
  'softmaxRows',
  'argmax',
  'findNonFinite',
  'plainTileInt16',
  'plainTileInt8',
] as const satisfies readonly (keyof Kernels)[];

/**
 * Types the exports of an instance.
 *
 * @param build named in errors
 * @throws {KernelError} if one is missing
 */
export function bindKernels(exports: WebAssembly.Exports, build: string): Kernels {
  for (const name of KERNEL_NAMES) {
    if (typeof exports[name] !== 'function') {
      throw new KernelError(build, `the module does not export the kernel "${name}"`);
    }
  }
  return exports as unknown as Kernels;
}

/** The kernels of one weight type. */
export interface WeightKernels {
  readonly matmul: MatmulKernel;
  readonly repack: RepackKernel;
  readonly embed: EmbedKernel;
  /** Whether the product takes a tile (`quantizeTile`) or f32 rows. */
  readonly takesTile: boolean;
}

/** Looks up the kernels of a weight type. */
export function weightKernels(kernels: Kernels, type: ProductType): WeightKernels {
  return {
    matmul: kernels[`matmul${type}`],
    repack: type === 'BF16' ? kernels.repackF16 : kernels[`repack${type}`],
    embed: kernels[`embed${type}`],
    takesTile: type.startsWith('Q'),
  };
}

const align16 = (bytes: number): number => Math.ceil(bytes / 16) * 16;
const padTo8 = (count: number): number => Math.ceil(count / 8) * 8;

/**
 * Bytes of a weight matrix as panels. As many as in the file for F32, F16, BF16, Q8_0, Q4_0 and Q4_1; Q4_K takes 148
 * for 144 bytes. Codes of other widths become whole bytes or, in Q2_K, halves: Q5_1 takes 36 bytes for 24, Q2_K 164
 * for 84, Q5_K 276 for 176 and Q6_K 274 for 210. Rows are padded to a multiple of 8.
 */
export function panelBytes(type: ProductType, rows: number, columns: number): number {
  const perRow = {
    F32: columns * 4,
    F16: columns * 2,
    BF16: columns * 2,
    Q8_0: columns + columns / 16,
    Q4_0: columns / 2 + columns / 16,
    Q4_1: columns / 2 + columns / 8,
    Q5_1: columns + columns / 8,
    Q2_K: columns / 2 + columns / 8 + columns / 64,
    Q4_K: columns / 2 + columns / 16 + columns / 64,
    Q5_K: columns + columns / 16 + columns / 64,
    Q6_K: columns + columns / 16 + columns / 128,
  }[type];
  return padTo8(rows) * perRow;
}

/** Bytes of a tile of `rows` rows. */
export function tileBytes(rows: number, columns: number, block: number): number {
  const blocks = Math.ceil(columns / block);
  const scales = align16(rows * blocks * 4);
  return align16(rows * padTo8(columns) * 2) + 2 * scales;
}

/** Bytes of key weights. */
export function packedWeightsBytes(rows: number, columns: number, block: number): number {
  const blocks = Math.ceil(columns / block);
  return padTo8(rows) * (padTo8(columns) * 2 + blocks * 8);
}

/** Bytes of scratch for eight outputs of {@link Kernels.multiplySymmetric}. */
export function symmetricPanelBytes(tokens: number, channels: number): number {
  return 256 * 8 * 2 + 64 + padTo8(channels) * 4 + tokens * 4;
}

/** Bytes of scratch of a product with a file's weights. */
export function matmulScratchBytes(columns: number): number {
  return columns * 32 + 64;
}

/** Bytes of scratch of everything that quantizes or unpacks groups. */
export function quantizeScratchBytes(groupSize: number): number {
  return 17 * (Math.ceil(groupSize / 16) * 16) + 64;
}

/** Bytes of scratch of `attendBlock`. */
export function attendScratchBytes(tokens: number): number {
  return 4 * padTo8(tokens) * 4;
}

/** Bytes of scratch of `attendHalfBlock`. */
export function attendHalfScratchBytes(tokens: number, headDim: number): number {
  return attendScratchBytes(tokens) + headDim * 4 + headDim * padTo8(tokens) * 4;
}
