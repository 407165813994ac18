/**
 * Factors for the latent caches of a model with random weights: any orthonormal ones will do, and a decomposition
 * takes minutes.
 *
 * @module
 */

import type { FactoredMatrix } from '../src/cache/projection.js';
import type { WasmModel } from '../src/engine/wasm-model.js';
import { derivedSizes } from '../src/model/config.js';
import { dot, type Matrix, matrix, row } from '../src/numerics/matrix.js';

/** Presets random factors of the right shapes for every layer. */
export function randomFactors(model: Pick<WasmModel, 'config' | 'factors'>): void {
  const { hiddenSize, numHiddenLayers } = model.config;
  const { kvDim } = derivedSizes(model.config);
  const random = (rows: number, columns: number) => {
    const scale = 2 * Math.sqrt(3 / columns);
    const data = Float32Array.from({ length: rows * columns }, () => (Math.random() - 0.5) * scale);
    return matrix(rows, columns, data);
  };
  const widths: [FactoredMatrix, number][] = [
    ['key', kvDim],
    ['value', kvDim],
    ['keyValue', 2 * kvDim],
    ['keyValueWithGain', 2 * kvDim],
  ];
  for (const [name, width] of widths) {
    if (width > hiddenSize) continue;
    // Shared by all layers: they are read, never changed.
    const downProjection = orthonormal(random(width, hiddenSize));
    const factors = { downProjection, upProjection: random(width, width) };
    for (let layer = 0; layer < numHiddenLayers; layer++) model.factors.preset(layer, name, factors);
  }
}

/** Makes the rows orthonormal, in place (Gram-Schmidt). */
function orthonormal(source: Matrix): Matrix {
  for (let r = 0; r < source.rows; r++) {
    const own = row(source, r);
    for (let other = 0; other < r; other++) {
      const earlier = row(source, other);
      const along = dot(own, earlier);
      for (let c = 0; c < own.length; c++) own[c] -= along * earlier[c];
    }
    const length = Math.sqrt(dot(own, own));
    for (let c = 0; c < own.length; c++) own[c] /= length;
  }
  return source;
}
