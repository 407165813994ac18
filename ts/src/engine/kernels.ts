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
 * - A product computes the outputs of the panels from `weights` on: threads split there, at multiples of 8 outputs, and
 *   neither the split nor the number of tokens computed together changes one bit of a result.
 * - A kernel has at most eight parameters. One that needs more takes the address of a block of them; the fields are in
 *   parameter-blocks.ts.
 *
 * Three formats exist only between kernels. Their layout is drawn in as/, their sizes are in kernel-sizes.ts.
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
import type { Pointer, ProductKernels } from './product-kernels.js';

export * from './kernel-sizes.js';
export * from './product-kernels.js';

/** Range rules as the quantizer kernels take them. */
export const RANGE_CODES = { minmax: 0, mse: 1 } as const;

/** RoPE layouts as the kernels take them. */
export const ROPE_CODES = { half: 0, interleaved: 1 } as const;

/** Everything a build exports. */
export interface Kernels extends ProductKernels {
  // ---- f16 (numerics/float16.ts) ----------------------------------------------------------------------------

  /**
   * `encodeFloat16`. Any alignment of 4 and 2.
   *
   * @returns -1, or the index of the first value that f16 cannot hold (|v| >= 65520 or NaN); all are written anyway
   */
  encodeFloat16(source: Pointer, target: Pointer, count: number): number;
  /** `decodeFloat16`. */
  decodeFloat16(source: Pointer, target: Pointer, count: number): void;

  // ---- the quantizer (quant/) -------------------------------------------------------------------------------

  /** `quantizeMatrix` with grouping `perToken`, exact; returns -1, or the number of the first group that cannot be stored. */
  quantizeRows(block: Pointer): number;
  /** The same with grouping `perChannel`. */
  quantizeColumns(block: Pointer): number;
  /** `dequantizeMatrix`, `perToken`, exact. */
  dequantizeRows(block: Pointer): void;
  /** `dequantizeMatrix`, `perChannel`, exact. */
  dequantizeColumns(block: Pointer): void;
  /** `add(target, dequantizeMatrix(...))` in place, `perToken`, exact: the next layer's accumulator. */
  dequantizeAddRows(block: Pointer): void;
  /** `add(target, dequantizeMatrix(...))` in place, `perChannel`, exact. */
  dequantizeAddColumns(block: Pointer): void;
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
  /** `hadamardInto` of each row of x [rows, columns], in place, exact. */
  hadamardRows(x: Pointer, rows: number, columns: number): void;

  // ---- the cross-layer path (cache/accumulator.ts, cache/xquant-cl.ts) ---------------------------------------

  /**
   * Seals one block of `CrossLayerDeltaCache`, exact: difference = source - accumulator, quantize, pack, accumulator +=
   * dequantize. `source` is already rotated (`hadamardRows`). The accumulator is f32 [rows, columns], updated in place
   * (policies `f32`, and `recompute` on a scratch sum).
   *
   * @returns -1, or the first group that cannot be stored; the accumulator is then unchanged
   */
  crossLayerEncode(block: Pointer): number;

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
   * Keys before RoPE, f32 [tokens, kvHeads * headDim], bias and norm already applied, to keys that `attendBlock` scores:
   * RoPE, and transposed to keysT [kvHeads, headDim, padded], padded = tokens rounded up to a multiple of 8, the rest
   * zero. May overwrite `keys`.
   */
  finishKeys(
    keys: Pointer,
    tokens: number,
    kvHeads: number,
    headDim: number,
    cos: Pointer,
    sin: Pointer,
    layout: number,
    keysT: Pointer,
  ): void;
  /**
   * Empties the running softmax of `count` (query, head) pairs: maxima -infinity, sums 0, acc [count, width] 0.
   */
  attendBegin(maxima: Pointer, sums: Pointer, acc: Pointer, count: number, width: number): void;
  /**
   * One block of keys and values into the running softmax of many queries.
   *
   * For query i (position `firstQuery + i`), head h of KV head g = floor(h / (heads / kvHeads)), and the block's tokens t
   * with `firstKey + t <= firstQuery + i`, the last `window` of them: scores `scale * q . k`; then maximum, sum of
   * exponentials and the weighted sum of values are brought up to date.
   */
  attendBlock(block: Pointer): void;
  /**
   * One sealed block of `kv`: `decodeFloat16` of keys and values, `finishKeys`, and `attendBlock` with values, bit for bit.
   * All values are finite.
   */
  attendHalfBlock(block: Pointer): void;
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
  /** Index of the first NaN or infinity of `count` f32, or -1. */
  findNonFinite(x: Pointer, count: number): number;

  // ---- rows that move, and their differences ------------------------------------------------------------------

  /**
   * Finished keys of some tokens, [channels, tokens rounded up to a multiple of 8], to column `column` and
   * following of target [channels, stride].
   */
  placeKeys(
    source: number,
    channels: number,
    tokens: number,
    target: number,
    stride: number,
    column: number,
  ): void;
  /** Copies bytes; the two may not overlap. */
  copyBytes(source: number, target: number, bytes: number): void;
  /** Copies `columns` f32 of each of `rows` rows; strides in elements. */
  copyRows(
    source: number,
    sourceStride: number,
    target: number,
    targetStride: number,
    rows: number,
    columns: number,
  ): void;
  /** a -= b, each difference rounded to f32. */
  subtractInto(a: number, b: number, count: number): void;
  /** x[r, c] *= gain[c], each product rounded to f32. */
  multiplyRows(x: number, gain: number, rows: number, columns: number): void;
}

/** Exports of an instance, checked. */
const KERNEL_NAMES = [
  'encodeFloat16',
  'decodeFloat16',
  'quantizeRows',
  'quantizeColumns',
  'dequantizeRows',
  'dequantizeColumns',
  'dequantizeAddRows',
  'dequantizeAddColumns',
  'quantizeSymmetric',
  'dequantizeSymmetric',
  'multiplySymmetric',
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
  'matmulTileFloatAdd',
  'unpackTileInt8',
  'packWeightsInt8',
  'matmulTileInt8',
  'crossLayerEncode',
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
  'findNonFinite',
  'placeKeys',
  'copyBytes',
  'copyRows',
  'subtractInto',
  'multiplyRows',
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
