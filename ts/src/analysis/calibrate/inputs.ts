/**
 * What a layer is predicted from, put together from moments: the layers below side by side, the nearest first.
 *
 * @module
 */

import type { Float16Matrix } from '../../cache/state.js';
import { type Dense, dense, transposeDense } from '../../numerics/dense.js';
import { float16ToDense } from './fit.js';
import { covariance } from './statistics.js';
import type { CodedLayer, CollectedLayer, FitRequest } from './worker.js';

/** What a layer is predicted from, as if it were exact. */
export function exactInputs(
  layers: readonly CollectedLayer[],
  layer: number,
  count: number,
): FitRequest['inputs'] {
  if (count === 0) return undefined;
  const moments = layers[layer].below.slice(0, count);
  const below = moments.map((_, q) => layers[layer - 1 - q]);
  const blocks = below.map((a, row) =>
    below.map((b, column) => {
      if (row === column) return covariance(a.own);
      // The one moment that was gathered is of the lower layer and the upper one.
      const [upper, distance] = row < column ? [a, column - row] : [b, row - column];
      const cross = covariance(upper.below[distance - 1]);
      return row < column ? transposeDense(cross) : cross;
    }),
  );
  return {
    covariance: fromBlocks(blocks),
    cross: fromBlocks(moments.map((each) => [covariance(each)])),
    mean: concatenate(moments.map(({ meanA }) => meanA)),
    decode: [],
  };
}

/** What a layer is predicted from, as it is reconstructed. */
export function codedInputs(
  below: readonly CodedLayer[],
  decode: readonly Float16Matrix[],
): FitRequest['inputs'] {
  const count = decode.length;
  if (count === 0) return undefined;
  const [newest] = below;
  const blocks = Array.from({ length: count }, (_, row) =>
    Array.from({ length: count }, (_, column) => {
      // below[q].inputs[d] is of layer q and the one d below it.
      const [upper, distance] = row <= column ? [row, column - row] : [column, row - column];
      const moments = covariance(below[upper].inputs[distance]);
      return row <= column ? moments : transposeDense(moments);
    }),
  );
  const cross = newest.cross.slice(0, count);
  return {
    covariance: fromBlocks(blocks),
    cross: fromBlocks(cross.map((each) => [covariance(each)])),
    mean: concatenate(cross.map(({ meanA }) => meanA)),
    decode: decode.map(float16ToDense),
  };
}

function fromBlocks(blocks: readonly (readonly Dense[])[]): Dense {
  const rows = blocks.reduce((sum, [first]) => sum + first.rows, 0);
  const columns = blocks[0].reduce((sum, each) => sum + each.columns, 0);
  const result = dense(rows, columns);
  let top = 0;
  for (const line of blocks) {
    let left = 0;
    for (const { rows: height, columns: width, data } of line) {
      for (let r = 0; r < height; r++) {
        result.data.set(data.subarray(r * width, (r + 1) * width), (top + r) * columns + left);
      }
      left += width;
    }
    top += line[0].rows;
  }
  return result;
}

function concatenate(parts: readonly Float64Array[]): Float64Array {
  return Float64Array.from(parts.flatMap((part) => Array.from(part)));
}
