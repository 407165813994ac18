/**
 * How much a squared error of keys, or of values, costs in one layer, measured: only that part of that layer is coded, and
 * the distribution of the next token moves.
 *
 *     a_i = mean over tokens of KL(exact || keys of layer i coded) / mean over tokens of  e Omega_K e^T
 *     b_i = the same of values, with Omega_V
 *
 * The part is coded with 2 bits a channel in its own basis, which makes errors of the size and kind that a cache makes.
 * Everything downstream is in the ratio: how sharp attention is, how much the layer adds to the stream, how later layers
 * pass it on. Without it all layers would count the same, and bits would go where the numbers are large.
 *
 * @module
 */

import { multiply, toDense } from '../../numerics/dense.js';
import { type Matrix, matrix } from '../../numerics/matrix.js';
import { dequantizeSymmetric, quantizeSymmetric } from '../../quant/symmetric.js';
import type { Bits } from '../../quant/uniform.js';
import type { LayerBasis } from './basis.js';

/** Bits of every channel of the part that is coded. */
const PROBE_BITS: Bits = 2;

/** Tokens that share a scale. */
export const GROUP_TOKENS = 128;

/** One part of one layer: keys, or values. */
export type CodedPart = 'keys' | 'values';

/** A part before and after. */
export interface ProbedRows {
  /** What a cache of these bits would give back. [tokens, channels] */
  readonly rows: Matrix;
  /** Sum over tokens of e Q e^T, in the metric of the basis. */
  readonly error: number;
}

/** What a coded part did to the next token's distribution; sums over tokens. */
export interface Probe {
  /** Sum of KL(exact || coded), in nats. */
  readonly divergence: number;
  /** Sum of weighted squared errors. */
  readonly error: number;
}

/**
 * Codes some rows with {@link PROBE_BITS} in a basis and decodes them.
 *
 * @param rows keys or values before bias and norm, [tokens, channels], read
 * @param basis of the part
 * @param mean what is expected of every token, [channels]
 * @returns fresh
 */
export function probeRows(rows: Matrix, basis: LayerBasis, mean: Float64Array): ProbedRows {
  const { rows: tokens, columns } = rows;
  const centered = toDense(rows);
  for (let i = 0; i < centered.data.length; i++) centered.data[i] -= mean[i % columns];
  const z = multiply(centered, basis.encode);
  const format = { groupSize: GROUP_TOKENS, channelBits: new Array<Bits>(columns).fill(PROBE_BITS) };
  const source = matrix(tokens, columns, Float32Array.from(z.data));
  const coded = dequantizeSymmetric(quantizeSymmetric(source, format), format.channelBits);
  const back = multiply(toDense(coded), basis.decode);
  let error = 0;
  for (let i = 0; i < z.data.length; i++) {
    error += basis.importance[i % columns] * (coded.data[i] - z.data[i]) ** 2;
  }
  return {
    rows: matrix(
      tokens,
      columns,
      Float32Array.from(back.data, (v, i) => v + mean[i % columns]),
    ),
    error,
  };
}

/**
 * The sensitivity that probes on several windows say.
 *
 * @throws {RangeError} if the coded part had no error at all, so that there is nothing to divide by
 */
export function sensitivity(probes: readonly Probe[]): number {
  const divergence = probes.reduce((sum, each) => sum + each.divergence, 0);
  const error = probes.reduce((sum, each) => sum + each.error, 0);
  if (!(error > 0)) throw new RangeError(`a probe must have an error above 0, got ${error}`);
  return divergence / error;
}
