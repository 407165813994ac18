/**
 * XQuant for multi-head attention: store the layer input, rebuild keys and values (XQuant §3.1).
 *
 *     write   X -> Q(X)
 *     read    X^ = dequantize(Q(X))      K = X^ Wk      V = X^ Wv
 *
 * One tensor of hiddenSize is stored instead of two of kvDim. With as many KV heads as query heads
 * (kvDim = hiddenSize) that is half of a quantized KV cache at the same number of bits.
 *
 * @module
 */

import { rotateRows } from '../numerics/hadamard.js';
import { BlockCache, type TokenRows } from './block.js';
import type { KeysAndValues, LayerInput } from './contract.js';
import { type FoldedProjection, foldProjection, project } from './fold.js';
import type { LayoutOf } from './layout.js';
import type { CacheOptions } from './options.js';
import type { KeyValueProjection } from './projection.js';
import type { SealedBlock } from './state.js';
import { loadMatrix, storeMatrix } from './stored-matrix.js';

/** Quantized X: `bits + 32 / groupSize` bits per channel of the layer input. */
export class XQuantCache extends BlockCache<LayoutOf<'x'>> {
  /** Wk and Wv in the (rotated) space in which X is stored. */
  readonly #weights: FoldedProjection;

  constructor(options: CacheOptions, projection: KeyValueProjection, layout: LayoutOf<'x'>) {
    super(options, projection, layout);
    this.#weights = foldProjection(projection, false, options.rotation);
  }

  protected storedRows({ x }: LayerInput): TokenRows {
    return { x };
  }

  protected seal({ x }: TokenRows): SealedBlock {
    const [{ format }] = this.layout.sealed;
    return { x: storeMatrix(rotateRows(x, this.options.rotation), format, this.place('x')) };
  }

  protected readBlock(sealed: SealedBlock): KeysAndValues {
    const xHat = loadMatrix(sealed.x);
    return project(xHat, xHat, this.#weights, this.projection);
  }

  protected readWindow({ x }: TokenRows): KeysAndValues {
    return project(x, x, this.projection, this.projection);
  }
}
