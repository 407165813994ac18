/**
 * Products of plain f32 matrices on the kernels, for statistics that read many tokens: covariances, changes of basis.
 *
 * The kernel is the one for weights of type F32 (docs/benchmarks.md has its speed, about forty times that of loops in
 * JavaScript); a matrix takes the place of the weights, in the layout that it reads:
 *
 *     panel p of B [inner, columns]      f32 [inner, 8]: B[k][8p .. 8p + 7] for every k
 *
 * One thread. The memory is its own, so that it can be used while a model runs a pass.
 *
 * @module
 */

import { ShapeError } from '../errors.js';
import { type Matrix, matrix } from '../numerics/matrix.js';
import { type Kernels, PANEL_ROWS } from './kernels.js';
import { compileKernels, instantiateKernels, type LoadOptions } from './load-wasm.js';
import { LinearMemory } from './memory.js';

/** Columns that are turned together, so that what is written to stays in the first cache. */
const TURNED = 16;

/** See the module. */
export class FloatProducts {
  readonly #memory: LinearMemory;
  readonly #kernels: Kernels;

  private constructor(memory: LinearMemory, kernels: Kernels) {
    this.#memory = memory;
    this.#kernels = kernels;
  }

  /**
   * Compiles the kernels.
   *
   * @throws {KernelError} if the runtime lacks a feature, or a binary is missing or damaged
   */
  static async create(options: Pick<LoadOptions, 'kernel' | 'binary'> = {}): Promise<FloatProducts> {
    const compiled = await compileKernels({ ...options, shared: false });
    // The first page holds the constants of the kernels.
    const memory = new LinearMemory({ shared: false, reservedBytes: 65536 });
    return new FloatProducts(memory, instantiateKernels(compiled, memory.memory));
  }

  /**
   * A B, sums in f32 in index order.
   *
   * @param a [rows, inner], finite
   * @param b [inner, columns], finite
   * @returns fresh, [rows, columns]
   * @throws {ShapeError} if the inner sizes differ
   * @throws {MemoryError} if there is no room for both
   */
  multiply(a: Matrix, b: Matrix): Matrix {
    if (a.columns !== b.rows)
      throw new ShapeError('multiply', 'b', [a.columns, b.columns], [b.rows, b.columns]);
    return this.#product(a.rows, b, (target) => target.set(a.data));
  }

  /**
   * A^T B: with rows of tokens, the sum over tokens of the products of channels.
   *
   * @param a [tokens, rows], finite
   * @param b [tokens, columns], finite
   * @returns fresh, [rows, columns]
   * @throws as {@link multiply}
   */
  multiplyTransposed(a: Matrix, b: Matrix): Matrix {
    if (a.rows !== b.rows) {
      throw new ShapeError('multiplyTransposed', 'b', [a.rows, b.columns], [b.rows, b.columns]);
    }
    return this.#product(a.columns, b, (target) => transposeInto(a, target));
  }

  #product(rows: number, b: Matrix, writeLeft: (target: Float32Array) => void): Matrix {
    const memory = this.#memory;
    const { rows: inner, columns } = b;
    const padded = Math.ceil(columns / PANEL_ROWS) * PANEL_ROWS;
    const owned: number[] = [];
    const take = (floats: number) => {
      const pointer = memory.allocate(floats * 4, 'product');
      owned.push(pointer);
      return pointer;
    };
    try {
      const panels = take(padded * inner);
      const left = take(rows * inner);
      const out = take(rows * columns);
      writePanels(b, memory.f32.subarray(panels / 4, panels / 4 + padded * inner));
      writeLeft(memory.f32.subarray(left / 4, left / 4 + rows * inner));
      this.#kernels.matmulF32(panels, left, rows, inner, columns, out, columns, 0);
      return matrix(rows, columns, memory.readFloats(out, rows * columns));
    } finally {
      for (const pointer of owned) memory.free(pointer);
    }
  }
}

function writePanels({ rows: inner, columns, data }: Matrix, target: Float32Array): void {
  for (let first = 0; first < columns; first += PANEL_ROWS) {
    const count = Math.min(PANEL_ROWS, columns - first);
    let to = first * inner;
    for (let k = 0; k < inner; k++, to += PANEL_ROWS) {
      const from = k * columns + first;
      for (let i = 0; i < PANEL_ROWS; i++) target[to + i] = i < count ? data[from + i] : 0;
    }
  }
}

function transposeInto({ rows, columns, data }: Matrix, target: Float32Array): void {
  for (let first = 0; first < columns; first += TURNED) {
    const end = Math.min(first + TURNED, columns);
    for (let r = 0; r < rows; r++) {
      for (let c = first; c < end; c++) target[c * rows + r] = data[r * columns + c];
    }
  }
}
