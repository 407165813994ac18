/**
 * XQuant for grouped-query attention: store X projected on the singular vectors of Wk and Wv (XQuant §3.3.1).
 *
 *     offline   Wk = Uk Sk Bk^T          Wv = Uv Sv Bv^T          U: [hiddenSize, kvDim], orthonormal columns
 *     write     Q(X Uk) per channel      Q(X Uv) per token
 *     read      K = (X Uk)^ (Sk Bk^T)    V = (X Uv)^ (Sv Bv^T)
 *
 * With fewer KV heads than query heads, X itself is wider than keys and values together. Its projections
 * are as wide as keys and values, lose nothing, and quantize better than those: all outliers of X Uk
 * gather in channel 0, the direction of the largest singular value (XQuant App. B).
 *
 * @module
 */

import { ShapeError } from '../errors.js';
import { rotateRows } from '../numerics/hadamard.js';
import { linearTiled } from '../numerics/linear-tiled.js';
import { type Matrix, matrix, transpose } from '../numerics/matrix.js';
import { BlockCache, type TokenRows } from './block.js';
import type { KeysAndValues, LayerInput } from './contract.js';
import { type FoldedProjection, project } from './fold.js';
import type { LayoutOf, TensorLayout } from './layout.js';
import type { CacheOptions } from './options.js';
import type { FactorSource, KeyValueProjection, LatentFactors } from './projection.js';
import type { SealedBlock } from './state.js';
import { loadMatrix, storeMatrix } from './stored-matrix.js';

/** Quantized X Uk and X Uv: `bits + 32 / groupSize` bits per latent channel, 2 kvDim channels a token. */
export class XQuantLatentCache extends BlockCache<LayoutOf<'latents'>> {
  /** Uk^T and Uv^T, the rotation inside the latent folded in. [latentRank, hiddenSize] */
  readonly #downKeys: Matrix;
  readonly #downValues: Matrix;
  /** (Sk Bk^T)^T and (Sv Bv^T)^T, the same rotation folded in. [kvDim, latentRank] */
  readonly #up: FoldedProjection;

  constructor(
    options: CacheOptions,
    projection: KeyValueProjection,
    layout: LayoutOf<'latents'>,
    source: FactorSource,
  ) {
    super(options, projection, layout);
    const keys = rotateLatent(source.factors(projection.layer, 'key'), options);
    const values = rotateLatent(source.factors(projection.layer, 'value'), options);
    this.#downKeys = keys.downProjection;
    this.#downValues = values.downProjection;
    this.#up = { wK: keys.upProjection, wV: values.upProjection };
  }

  protected storedRows({ x }: LayerInput): TokenRows {
    return { keyLatent: linearTiled(x, this.#downKeys), valueLatent: linearTiled(x, this.#downValues) };
  }

  protected seal(rows: TokenRows): SealedBlock {
    const store = (source: Matrix, { name, format }: TensorLayout) =>
      storeMatrix(source, format, this.place(name));
    const { sealed } = this.layout;
    if (sealed.length === 2) {
      const [keys, values] = sealed;
      return { keyLatent: store(rows.keyLatent, keys), valueLatent: store(rows.valueLatent, values) };
    }
    const [outlier, keys, values] = sealed;
    const [first, rest] = splitFirstColumn(rows.keyLatent);
    return {
      keyOutlier: store(first, outlier),
      keyLatent: store(rest, keys),
      valueLatent: store(rows.valueLatent, values),
    };
  }

  protected readBlock(sealed: SealedBlock): KeysAndValues {
    let keyLatent = loadMatrix(sealed.keyLatent);
    if (sealed.keyOutlier) keyLatent = joinFirstColumn(loadMatrix(sealed.keyOutlier), keyLatent);
    return project(keyLatent, loadMatrix(sealed.valueLatent), this.#up, this.projection);
  }

  protected readWindow({ keyLatent, valueLatent }: TokenRows): KeysAndValues {
    return project(keyLatent, valueLatent, this.#up, this.projection);
  }
}

/**
 * Rotates inside the latent: with U' = U H and B'^T = H^T (S B^T) the product is the same and the stored
 * latent X U' = (X U) H is a rotated one.
 */
export function rotateLatent(factors: LatentFactors, options: CacheOptions): LatentFactors {
  const { downProjection, upProjection } = factors;
  if (downProjection.rows !== upProjection.columns) {
    const actual = [upProjection.rows, upProjection.columns];
    throw new ShapeError('rotateLatent', 'upProjection', ['*', downProjection.rows], actual);
  }
  if (options.rotation === 'none') return factors;
  return {
    downProjection: rotateColumns(downProjection, options),
    upProjection: rotateRows(upProjection, options.rotation),
  };
}

/** Rotates every column: the transform runs over the latent channels of one input channel. */
function rotateColumns(down: Matrix, options: CacheOptions): Matrix {
  return transpose(rotateRows(transpose(down), options.rotation));
}

function splitFirstColumn(source: Matrix): [first: Matrix, rest: Matrix] {
  const first = matrix(source.rows, 1);
  const rest = matrix(source.rows, source.columns - 1);
  for (let r = 0; r < source.rows; r++) {
    const from = r * source.columns;
    first.data[r] = source.data[from];
    rest.data.set(source.data.subarray(from + 1, from + source.columns), r * rest.columns);
  }
  return [first, rest];
}

function joinFirstColumn(first: Matrix, rest: Matrix): Matrix {
  const result = matrix(rest.rows, rest.columns + 1);
  for (let r = 0; r < rest.rows; r++) {
    result.data[r * result.columns] = first.data[r];
    result.data.set(rest.data.subarray(r * rest.columns, (r + 1) * rest.columns), r * result.columns + 1);
  }
  return result;
}
