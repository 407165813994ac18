/**
 * The contents of a cache as data: what snapshots write, and what moves from one backend to another.
 *
 * @module
 */

import type { Matrix } from '../numerics/matrix.js';
import type { QuantizedMatrix } from '../quant/grouped.js';
import type { NuqMatrix } from '../quant/nuq.js';
import type { SymmetricMatrix } from '../quant/symmetric.js';

/** A matrix as a cache keeps it: quantized, or in f16 bits, or (identity quantizer) in f32. */
export type StoredMatrix = QuantizedMatrix | NuqMatrix | SymmetricMatrix | Float16Matrix | Matrix;

/** A row-major matrix of f16 numbers. */
export interface Float16Matrix {
  readonly rows: number;
  readonly columns: number;
  /** [rows, columns], f16 bits. */
  readonly float16: Uint16Array;
}

/** One sealed block of tokens: the tensors that a variant stores, by name, in a fixed order. */
export type SealedBlock = Readonly<Record<string, StoredMatrix>>;

/** Everything a layer cache holds, in a form that can be written to a file or moved to another backend. */
export interface LayerState {
  /** Tokens. */
  readonly length: number;
  /** In order of position; each `residualWindow` tokens. */
  readonly blocks: readonly SealedBlock[];
  /** Tokens after the last sealed block, by the same tensor names or those of the variant's rows. */
  readonly window: Readonly<Record<string, Float16Matrix | Matrix>>;
}
