/**
 * Calibrated caches: layer inputs in a basis learned from activations, with bits where they matter, each layer predicted
 * from those below it by a learned matrix.
 *
 *     carrier    c_i = X_i [Wk | Wv], or X_i where that is narrower                    n channels
 *     predict    p_i = t_i + sum over p of y_(i-p) M_(i,p)                             xquant: p_i = t_i
 *     write      z_i = c_i E_i - p_i         store Q(z_i), per channel, channels of 0 bits not at all
 *     read       y_i = p_i + z^_i            c^_i = y_i D_i          [K | V] = c^_i or c^_i [Wk | Wv]
 *
 * E_i whitens what prediction leaves, weighted with how much an error of each direction matters; D_i is its inverse. Where
 * XQuant §3.2 assumes that a layer equals the one below, M_i says what it is expected to be. It is applied to the
 * *reconstruction* y of the layers below, so that their errors do not add up. y lives in the coordinates of its layer, which
 * makes prediction and change of basis one product.
 *
 * Matrices and bits come from a calibration (cache/calibration.ts) and belong to the model. Window and sinks hold the
 * carrier in f16.
 *
 * @module
 */

import { linearTiled } from '../numerics/linear-tiled.js';
import { add, concatRows, type Matrix, matrix, subtract } from '../numerics/matrix.js';
import {
  dequantizeSymmetric,
  quantizeSymmetric,
  type SymmetricFormat,
  type SymmetricMatrix,
} from '../quant/symmetric.js';
import { BlockCache, type TokenRows } from './block.js';
import { type CalibrationSet, carrierOf } from './calibration.js';
import type { KeysAndValues, LayerInput } from './contract.js';
import type { Coordinates } from './coordinates.js';
import { finishKeys, project } from './fold.js';
import type { LayoutOf } from './layout.js';
import type { CacheOptions } from './options.js';
import type { KeyValueProjection } from './projection.js';
import type { LayerState, SealedBlock, StoredMatrix } from './state.js';
import { loadMatrix, storeMatrix } from './stored-matrix.js';
import { Transform } from './transform.js';

/** One layer of either calibrated variant. */
export class CalibratedCache extends BlockCache<LayoutOf<'calibrated'>> {
  readonly #transform: Transform;
  /** [Wk | Wv]^T, if the carrier is keys and values. [2 kvDim, hiddenSize] */
  readonly #carrierWeights: Matrix | undefined;
  /** Coordinates that layers pass on to the layers predicted from them. */
  readonly #coordinates: Coordinates;

  /** @param coordinates shared by all layers of a sequence */
  constructor(
    options: CacheOptions,
    projection: KeyValueProjection,
    layout: LayoutOf<'calibrated'>,
    set: CalibrationSet,
    coordinates: Coordinates,
  ) {
    super(options, projection, layout);
    const { layer, wK, wV, hiddenSize } = projection;
    this.#transform = Transform.of(set.layers[layer]);
    this.#carrierWeights = carrierOf(projection) === 'x' ? undefined : concatRows([wK, wV], hiddenSize);
    this.#coordinates = coordinates;
  }

  protected storedRows({ x }: LayerInput): TokenRows {
    return { carrier: this.#carrierWeights ? linearTiled(x, this.#carrierWeights) : x };
  }

  protected seal({ carrier }: TokenRows, block: number): SealedBlock {
    const predicted = this.#predict(block, carrier.rows);
    const delta = this.#store(subtract(this.#transform.encode(carrier), predicted));
    this.#coordinates.advance(this.projection.layer, block, add(predicted, this.#load(delta)));
    return { delta };
  }

  protected readBlock({ delta }: SealedBlock, block: number): KeysAndValues {
    return this.#keysAndValues(this.#transform.decode(this.#read(delta, block)));
  }

  protected readWindow({ carrier }: TokenRows): KeysAndValues {
    return this.#keysAndValues(carrier);
  }

  override restore(state: LayerState): void {
    super.restore(state);
    this.#coordinates.truncate(0); // the next pass starts from the lowest layer
  }

  override trim(length: number): void {
    super.trim(length);
    this.#coordinates.truncate(this.blocks.length);
  }

  /** y = p + z^, or what this pass has already made of it. */
  #read(delta: StoredMatrix, block: number): Matrix {
    const { layer } = this.projection;
    const known = this.#coordinates.at(layer, block);
    if (known) return known;
    const y = add(this.#predict(block, delta.rows), this.#load(delta));
    this.#coordinates.advance(layer, block, y);
    return y;
  }

  #predict(block: number, tokens: number): Matrix {
    return this.#transform.predict(this.#coordinates.below(this.projection.layer, block), tokens);
  }

  #store(z: Matrix): StoredMatrix {
    const place = this.place('delta');
    const format = this.#format;
    return format === 'f32' ? storeMatrix(z, format, place) : quantizeSymmetric(z, format, place);
  }

  #load(delta: StoredMatrix): Matrix {
    const format = this.#format;
    return format === 'f32'
      ? loadMatrix(delta)
      : dequantizeSymmetric(delta as SymmetricMatrix, format.channelBits);
  }

  get #format(): SymmetricFormat | 'f32' {
    const [{ format }] = this.layout.sealed;
    if (typeof format === 'object' && 'tokenBits' in format) throw new TypeError('a layout without a plan');
    return format;
  }

  #keysAndValues(carrier: Matrix): KeysAndValues {
    const { projection } = this;
    if (!this.#carrierWeights) return project(carrier, carrier, projection, projection);
    const { kvDim, bK, bV } = projection;
    return {
      keys: finishKeys(columnsOf(carrier, 0, kvDim, bK), projection),
      values: columnsOf(carrier, kvDim, kvDim, bV),
    };
  }
}

/** `count` columns from `first` on, with a bias added to them; fresh. */
function columnsOf(source: Matrix, first: number, count: number, bias?: Float32Array): Matrix {
  const result = matrix(source.rows, count);
  for (let r = 0; r < source.rows; r++) {
    const from = r * source.columns + first;
    for (let c = 0; c < count; c++) result.data[r * count + c] = source.data[from + c] + (bias?.[c] ?? 0);
  }
  return result;
}
