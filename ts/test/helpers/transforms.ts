/**
 * Calibrations of layers with random weights, from a sample of their inputs: bases of whitened residuals, predictions by
 * least squares. Real in all that a cache relies on; the metric of errors is left out.
 *
 * @module
 */

import {
  type Calibration,
  type CalibrationSet,
  carrierOf,
  type LayerTransform,
} from '../../src/cache/calibration.js';
import type { LayerInput } from '../../src/cache/contract.js';
import type { CacheModelShape } from '../../src/cache/options.js';
import type { KeyValueProjection } from '../../src/cache/projection.js';
import type { Float16Matrix } from '../../src/cache/state.js';
import {
  addScaled,
  type Dense,
  dense,
  diagonal,
  multiply,
  scaleColumns,
  scaleRows,
  solvePositive,
  toDense,
  transposeDense,
} from '../../src/numerics/dense.js';
import { symmetricEigen } from '../../src/numerics/eigen.js';
import { encodeFloat16 } from '../../src/numerics/float16.js';
import { concatRows, linear } from '../../src/numerics/matrix.js';

type SetWish = Pick<CalibrationSet, 'predict' | 'basis' | 'bits'>;

/** Sets that the tests of caches ask for. */
export const SAMPLE_SETS: readonly SetWish[] = [
  { predict: 0, basis: 'joint', bits: null },
  { predict: 1, basis: 'joint', bits: 2.25 },
  { predict: 2, basis: 'joint', bits: 2.25 },
];

/** Those with bases that do not mix, which only models have that store keys and values. */
export const SAMPLE_BLOCK_SETS: readonly SetWish[] = [
  { predict: 0, basis: 'tensor', bits: null },
  { predict: 0, basis: 'head', bits: null },
];

/**
 * @param sample inputs of all layers; more tokens than channels
 * @param withEncode whether the sets have E, too, and not D alone
 */
export function sampleTransforms(
  projections: readonly KeyValueProjection[],
  sample: readonly LayerInput[],
  shape: CacheModelShape,
  withEncode = true,
): Calibration {
  const carriers = projections.map(({ wK, wV, hiddenSize }, layer) => {
    const { x } = sample[layer];
    return toDense(carrierOf(projections[layer]) === 'x' ? x : linear(x, concatRows([wK, wV], hiddenSize)));
  });
  const wishes = carrierOf(projections[0]) === 'x' ? SAMPLE_SETS : [...SAMPLE_SETS, ...SAMPLE_BLOCK_SETS];
  return {
    origin: {
      model: 'random layers',
      texts: [{ name: 'random rows', sha256: '0'.repeat(64), tokens: sample[0].x.rows }],
      windows: 1,
      windowTokens: sample[0].x.rows,
      sensitivityWindows: 0,
      madeBy: 'the tests',
    },
    distortion: { 0: 1, 1: 0.425, 2: 0.15, 3: 0.047, 4: 0.014, 8: 1e-4 },
    sets: wishes.map((wish) => ({
      name: `p${wish.predict}-${wish.basis}`,
      ...wish,
      layers: fitLayers(carriers, wish, shape, withEncode),
    })),
  };
}

function fitLayers(
  carriers: readonly Dense[],
  { predict, basis }: SetWish,
  shape: CacheModelShape,
  withEncode: boolean,
): LayerTransform[] {
  const n = carriers[0].columns;
  const blockSize = { joint: n, tensor: n / 2, head: shape.headDim }[basis];
  const coordinates: Dense[] = [];
  return carriers.map((carrier, layer) => {
    const below = coordinates.slice(Math.max(0, layer - predict), layer).reverse();
    const fit = regress(besideOnes(below, carrier.rows), carrier);
    const residual = addScaled(carrier, multiply(besideOnes(below, carrier.rows), fit), -1);
    const { vectors, values } = blockEigen(covariance(residual), blockSize);
    const deviations = values.map((value) => Math.sqrt(Math.max(value, 1e-12 * Math.max(...values))));
    const encode = scaleColumns(
      vectors,
      deviations.map((each) => 1 / each),
    );
    const decode = float16(scaleRows(transposeDense(vectors), deviations));
    coordinates.push(multiply(carrier, encode));
    const inCoordinates = multiply(fit, encode);
    return {
      decode,
      ...(withEncode ? { encode: float16(encode) } : {}),
      predict: below.map((_, p) => float16(rows(inCoordinates, p * n, n))),
      offset: Float32Array.from(rows(inCoordinates, below.length * n, 1).data),
      importance: Float32Array.from(values, (value) => Math.max(value, 0)),
    };
  });
}

/** Rows of all parts side by side, and a column of ones. */
function besideOnes(parts: readonly Dense[], count: number): Dense {
  const columns = parts.reduce((sum, part) => sum + part.columns, 1);
  const result = dense(count, columns);
  for (let r = 0; r < count; r++) {
    let at = r * columns;
    for (const part of parts) {
      result.data.set(part.data.subarray(r * part.columns, (r + 1) * part.columns), at);
      at += part.columns;
    }
    result.data[at] = 1;
  }
  return result;
}

/** The B that makes |X B - Y| small. */
function regress(x: Dense, y: Dense): Dense {
  const transposed = transposeDense(x);
  const gram = multiply(transposed, x);
  const ridge = diagonal(new Float64Array(gram.rows).fill(1e-3 * gram.data[0]));
  return solvePositive(addScaled(gram, ridge, 1), multiply(transposed, y));
}

function covariance(residual: Dense): Dense {
  const product = multiply(transposeDense(residual), residual);
  return scaleRows(product, new Float64Array(product.rows).fill(1 / residual.rows));
}

/** Eigenvectors of the blocks on the diagonal; descending inside a block. */
function blockEigen(symmetric: Dense, size: number): { vectors: Dense; values: Float64Array } {
  const n = symmetric.rows;
  const vectors = dense(n, n);
  const values = new Float64Array(n);
  for (let from = 0; from < n; from += size) {
    const block = dense(size, size);
    for (let r = 0; r < size; r++) {
      for (let c = 0; c < size; c++) block.data[r * size + c] = symmetric.data[(from + r) * n + from + c];
    }
    const eigen = symmetricEigen(block);
    values.set(eigen.values, from);
    for (let r = 0; r < size; r++) {
      vectors.data.set(eigen.vectors.data.subarray(r * size, (r + 1) * size), (from + r) * n + from);
    }
  }
  return { vectors, values };
}

function rows({ columns, data }: Dense, from: number, count: number): Dense {
  return dense(count, columns, data.slice(from * columns, (from + count) * columns));
}

function float16({ rows: count, columns, data }: Dense): Float16Matrix {
  return { rows: count, columns, float16: encodeFloat16(data) };
}
