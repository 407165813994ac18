/**
 * XQuant-CL: store only the quantized difference from layer to layer (XQuant §3.2, §4.3).
 *
 *     layers 0 .. baseLayers-1    store Q(X_i) at baseBits; the last of them starts the sum:  A := X^_i
 *     layer i above               store D_i = Q(X_i - A)      then  A := A + dequantize(D_i)
 *     read                        X^_i = A                    K = X^_i Wk,  V = X^_i Wv
 *
 * The inputs of neighbouring layers differ little, because each layer only adds to the residual stream; a
 * difference needs fewer bits than the thing itself. It is taken against the *reconstruction* below, which
 * already contains that layer's rounding error, so that errors do not add up over layers (a closed loop).
 *
 * An option (`deltaSpace`) says which X: X with its gain, as the paper says; the normalized stream, with
 * the gain folded into the weights, since a gain that changes from layer to layer would make a difference
 * where there is none; or the residual stream before the norm.
 *
 * @module
 */

import { rotateRows } from '../numerics/hadamard.js';
import { add, type Matrix, subtract } from '../numerics/matrix.js';
import type { AccumulatingLayer, Accumulator } from './accumulator.js';
import { BlockCache, type TokenRows } from './block.js';
import type { KeysAndValues, LayerInput } from './contract.js';
import { type FoldedProjection, foldProjection, normalizeInput, project } from './fold.js';
import type { LayoutOf } from './layout.js';
import type { CacheOptions } from './options.js';
import type { KeyValueProjection } from './projection.js';
import type { LayerState, SealedBlock } from './state.js';
import { loadMatrix, storeMatrix } from './stored-matrix.js';

/** The common part of both cross-layer forms: the space of X, and reading it back as keys and values. */
export abstract class CrossLayerCache<Layout extends LayoutOf<'baseX' | 'delta' | 'latentDelta'>>
  extends BlockCache<Layout>
  implements AccumulatingLayer
{
  protected readonly accumulator: Accumulator;
  /** Wk and Wv in the space in which the accumulator lives. */
  readonly #weights: FoldedProjection;

  constructor(
    options: CacheOptions,
    projection: KeyValueProjection,
    layout: Layout,
    accumulator: Accumulator,
  ) {
    super(options, projection, layout);
    this.accumulator = accumulator;
    this.#weights = foldProjection(projection, options.deltaSpace !== 'x', options.rotation);
    accumulator.register(projection.layer, this);
  }

  /** The tensor that the difference is taken of. */
  protected storedRows(input: LayerInput): TokenRows {
    return { x: input[this.options.deltaSpace] };
  }

  /** Rows in the space of the accumulator: rotated, if the cache rotates. */
  protected rotated({ x }: TokenRows): Matrix {
    return rotateRows(x, this.options.rotation);
  }

  protected readWindow(rows: TokenRows): KeysAndValues {
    return this.projectRows(this.rotated(rows));
  }

  /**
   * Keys and values of rows in the space of the accumulator. The norm, where it still has to be applied,
   * does not mind the rotation: a rotated vector has the same length.
   */
  protected projectRows(rows: Matrix): KeysAndValues {
    const normalized = this.options.deltaSpace === 'stream' ? normalizeInput(rows, this.projection) : rows;
    return project(normalized, normalized, this.#weights, this.projection);
  }

  abstract increment(block: number): Matrix;

  override restore(state: LayerState): void {
    super.restore(state);
    this.accumulator.truncate(0); // the next pass starts it again
  }

  override trim(length: number): void {
    super.trim(length);
    this.accumulator.truncate(this.blocks.length);
  }
}

/** A layer whose X is stored directly. The last such layer starts the accumulator. */
export class CrossLayerBaseCache extends CrossLayerCache<LayoutOf<'baseX'>> {
  protected seal(rows: TokenRows, block: number): SealedBlock {
    const [{ format }] = this.layout.sealed;
    const sealed = { x: storeMatrix(this.rotated(rows), format, this.place('x')) };
    if (this.layout.sum === 'starts')
      this.accumulator.advance(this.projection.layer, block, loadMatrix(sealed.x));
    return sealed;
  }

  protected readBlock(sealed: SealedBlock, block: number): KeysAndValues {
    if (this.layout.sum === 'none') return this.projectRows(loadMatrix(sealed.x));
    return this.projectRows(this.accumulator.through(this.projection.layer, block));
  }

  increment(block: number): Matrix {
    return loadMatrix(this.blocks[block].x);
  }
}

/** A layer that stores a difference in full width: `bits + 32 / groupSize` bits per channel of X. */
export class CrossLayerDeltaCache extends CrossLayerCache<LayoutOf<'delta'>> {
  protected seal(rows: TokenRows, block: number): SealedBlock {
    const { layer } = this.projection;
    const [{ format }] = this.layout.sealed;
    const below = this.accumulator.below(layer, block);
    const delta = storeMatrix(subtract(this.rotated(rows), below), format, this.place('delta'));
    this.accumulator.advance(layer, block, add(below, loadMatrix(delta)));
    return { delta };
  }

  protected readBlock(_sealed: SealedBlock, block: number): KeysAndValues {
    return this.projectRows(this.accumulator.through(this.projection.layer, block));
  }

  increment(block: number): Matrix {
    return loadMatrix(this.blocks[block].delta);
  }
}
