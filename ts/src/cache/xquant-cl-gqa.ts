/**
 * XQuant-CL for grouped-query attention: differences in the space that keys and values can see (XQuant §3.3.2).
 *
 *     offline   [Wk | Wv] = U S B^T                       U: [hiddenSize, 2 kvDim], orthonormal columns
 *     write     D_i = Q((X_i - A) U)       then           A := A + dequantize(D_i) U^T
 *     read      [K | V] = A [Wk | Wv]
 *
 * U^T removes from a difference only the part that Wk and Wv ignore, so with an exact quantizer
 * nothing is lost. Layers below the base store latents of their own (XQuant §3.3.1); the base layer has to
 * leave a full-width accumulator and stores X at full width (`baseStore: 'x'`) or in the latent space.
 *
 * @module
 */

import { rotateRows } from '../numerics/hadamard.js';
import { linearTiled } from '../numerics/linear-tiled.js';
import { add, type Matrix, subtract, transpose } from '../numerics/matrix.js';
import type { Accumulator } from './accumulator.js';
import type { TokenRows } from './block.js';
import type { KeysAndValues } from './contract.js';
import type { LayoutOf } from './layout.js';
import type { CacheOptions } from './options.js';
import type { FactorSource, KeyValueProjection } from './projection.js';
import type { SealedBlock } from './state.js';
import { loadMatrix, storeMatrix } from './stored-matrix.js';
import { CrossLayerCache } from './xquant-cl.js';
import { rotateLatent } from './xquant-gqa.js';

/** A layer that stores a difference (or, as the base with `baseStore: 'latent'`, X) in its latent space. */
export class CrossLayerLatentCache extends CrossLayerCache<LayoutOf<'latentDelta'>> {
  /** U^T, in the space of the accumulator on its right and of the rotated latent on its left. [latentRank, hiddenSize] */
  readonly #down: Matrix;
  /** U. [hiddenSize, latentRank] */
  readonly #downTransposed: Matrix;

  constructor(
    options: CacheOptions,
    projection: KeyValueProjection,
    layout: LayoutOf<'latentDelta'>,
    accumulator: Accumulator,
    source: FactorSource,
  ) {
    super(options, projection, layout, accumulator);
    const [name] = layout.factors;
    const factors = rotateLatent(source.factors(projection.layer, name), options);
    this.#down = rotateRows(factors.downProjection, options.rotation);
    this.#downTransposed = transpose(this.#down);
  }

  protected seal(rows: TokenRows, block: number): SealedBlock {
    const { layer } = this.projection;
    const [{ format }] = this.layout.sealed;
    const x = this.rotated(rows);
    const below = this.layout.sum === 'starts' ? undefined : this.accumulator.below(layer, block);
    const latent = linearTiled(below ? subtract(x, below) : x, this.#down);
    const delta = storeMatrix(latent, format, this.place('delta'));
    const increment = linearTiled(loadMatrix(delta), this.#downTransposed);
    this.accumulator.advance(layer, block, below ? add(below, increment) : increment);
    return { delta };
  }

  protected readBlock(_sealed: SealedBlock, block: number): KeysAndValues {
    return this.projectRows(this.accumulator.through(this.projection.layer, block));
  }

  increment(block: number): Matrix {
    return linearTiled(loadMatrix(this.blocks[block].delta), this.#downTransposed);
  }
}
