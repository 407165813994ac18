/**
 * Kernels that multiply: weights of a file, and the small matrices that rematerialize keys and values (the rules of
 * kernels.ts hold).
 *
 * @module
 */

import type { ProductType } from '../quant/weight-types.js';

/** A byte offset into linear memory. */
export type Pointer = number;

/** Output rows side by side in a panel. */
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
  /** Panels of the first output and those after it. */
  weights: Pointer,
  /**
   * Q types: a tile of `quantizeTile(x, tokens, columns, 32, 16383)`. F types: x itself, f32 [tokens, columns].
   * Sum order and result do not depend on `tokens`.
   */
  x: Pointer,
  tokens: number,
  /** A multiple of 32 for blocks of 32, of 256 for K types. */
  columns: number,
  /** Outputs to compute: those of the following panels. */
  outputs: number,
  /** f32, element (token, output) at `token * outStride + output`: overwritten. */
  out: Pointer,
  outStride: number,
  /** {@link matmulScratchBytes}; one per thread. */
  scratch: Pointer,
) => void;

/** A tile times key weights; both were made with the same `columns` and `block`. */
export type TileProductKernel = (
  /** Those of the first output and those after it. */
  packedWeights: Pointer,
  tile: Pointer,
  tokens: number,
  columns: number,
  block: number,
  outputs: number,
  /** f32, element (token, output) at `token * outStride + output`. */
  out: Pointer,
  outStride: number,
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

/** The products of a build, and what makes their operands. */
export interface ProductKernels {
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
   * Codes of a sealed block to a tile: the integers are the codes. `perToken`: scale and offset of
   * a block are scale and minimum of its group; `groupSize` is a multiple of 8. `perChannel`: scale and offset are 1,
   * and scales and minima go into {@link ProductKernels.packWeights} instead; `scales` and `mins` are not read.
   */
  unpackTile(block: Pointer): void;
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
  /** `linear(dequantizeMatrix(codes), weights)`, codes from {@link ProductKernels.unpackTile}. */
  matmulTile: TileProductKernel;
  /**
   * `linear(x, weights)` of f32 rows, tile from {@link ProductKernels.quantizeTile}, weights from
   * {@link ProductKernels.packWeights} without channel scales. Limits: {@link INTEGER_LIMITS}.
   */
  matmulTileFloat: TileProductKernel;
  /** {@link ProductKernels.matmulTileFloat}, added to what is there. */
  matmulTileFloatAdd: TileProductKernel;
  /**
   * `unpackTile`, `packWeights` and `matmulTile` for `keyWeights: 'int8'` and codes of 1 to 4 bits. Relaxed builds keep bytes and use the 8-bit
   * multiply-add; plain builds do what the 16-bit kernels do with limit 127. Same results, to a rounding.
   */
  unpackTileInt8(block: Pointer): void;
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
export function weightKernels(kernels: ProductKernels, type: ProductType): WeightKernels {
  return {
    matmul: kernels[`matmul${type}`],
    repack: type === 'BF16' ? kernels.repackF16 : kernels[`repack${type}`],
    embed: kernels[`embed${type}`],
    takesTile: type.startsWith('Q'),
  };
}
