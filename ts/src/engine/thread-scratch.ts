/**
 * The scratch memory of a thread while it works on one block of tokens.
 *
 * @module
 */

import type { CacheOptions } from '../cache/options.js';
import type { ModelConfig } from '../model/config.js';
import { derivedSizes } from '../model/config.js';
import {
  attendHalfScratchBytes,
  matmulScratchBytes,
  packedWeightsBytes,
  quantizeScratchBytes,
  symmetricPanelBytes,
  tileBytes,
} from './kernels.js';
import { THREAD_SCRATCH } from './stages.js';

/** Offsets from THREAD_SCRATCH, as kernel arguments. W = residualWindow, C = widest stored row. */
export interface ThreadScratch {
  /** For products with a file's weights; also what tasks outside attention use. */
  readonly matmul: number;
  /** For kernels that quantize or unpack, {@link quantizeScratchBytes} and room for one row. */
  readonly quantize: number;
  /** {@link attendHalfScratchBytes} */
  readonly attend: number;
  /** A tile of [W, C] in blocks of 32. */
  readonly tile: number;
  /** f32 [W, kvDim] */
  readonly keys: number;
  /** f32 [kvDim, W rounded up to a multiple of 8] */
  readonly keysT: number;
  /** f32 [W, max(C, kvDim)] */
  readonly values: number;
  /** f32 [W, C] */
  readonly rows: number;
  /** f32 [W, C] */
  readonly otherRows: number;
  /** The window's tensors, for a block that arrives whole. */
  readonly window: number;
  /** Weights scaled for one per-channel block, or eight outputs of them. */
  readonly weights: number;
  /** f32 [heads, headDim], with room for kvDim numbers before it. */
  readonly projected: number;
  readonly bytes: number;
}

/** Scratch for the caches of one set of options. */
export function threadScratch(
  config: ModelConfig,
  options: CacheOptions,
  windowBytes: number,
): ThreadScratch {
  const { kvDim, queryDim, groupedHeads } = derivedSizes(config);
  const { hiddenSize, intermediateSize, headDim } = config;
  // Rows of a tile are tokens of a block, or the heads of a group.
  const tokens = Math.ceil(Math.max(options.residualWindow, groupedHeads) / 8) * 8;
  const columns = Math.max(hiddenSize, 2 * kvDim);
  const groupSize = Math.max(options.groupSize, 128);
  let bytes = 0;
  const take = (size: number): number => {
    const at = THREAD_SCRATCH + bytes;
    bytes += Math.ceil(size / 64) * 64;
    return at;
  };
  const places = {
    matmul: take(matmulScratchBytes(Math.max(hiddenSize, intermediateSize, queryDim))),
    quantize: take(Math.max(quantizeScratchBytes(groupSize), columns * 4 + 1024)),
    attend: take(attendHalfScratchBytes(tokens, headDim)),
    tile: take(tileBytes(tokens, columns, 32)),
    keys: take(tokens * kvDim * 4),
    keysT: take(tokens * kvDim * 4),
    values: take(tokens * columns * 4),
    rows: take(tokens * columns * 4),
    otherRows: take(tokens * columns * 4),
    window: take(windowBytes),
    weights: take(Math.max(packedWeightsBytes(kvDim, columns, 32), symmetricPanelBytes(tokens, columns))),
    projected: take(kvDim * 4) + kvDim * 4,
  };
  take(queryDim * 4);
  return { ...places, bytes };
}
