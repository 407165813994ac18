/**
 * Decisions of a quantizer whose input is itself the result of a product.
 *
 * Two correct kernels give latents that differ in their last bits, and a value that stands almost at a tie, or
 * a range end almost between two f16 numbers, is then stored differently. Both are right. Where a dump decides
 * otherwise than the reference and the error of the product allows it, its decision is adopted, and everything
 * after is judged by it.
 *
 * @module
 */

import { fromFloat16Bits } from '../../numerics/float16.js';
import type { Matrix } from '../../numerics/matrix.js';
import {
  forEachGroup,
  type GroupedOptions,
  type QuantizedMatrix,
  unpackMatrix,
} from '../../quant/grouped.js';
import { packCodes } from '../../quant/pack.js';
import {
  type Bits,
  dequantizeGroup,
  encodeGroup,
  type GroupParameters,
  MSE_RANGE_FACTORS,
  maxCode,
} from '../../quant/uniform.js';
import { HALF_SUBNORMAL_STEP, UNIT_ROUNDOFF } from '../case/tensor.js';
import { F32_ROUNDOFF, isNearTie } from './tolerance.js';

/** Stored tensors with the decisions of a dump that are as right as the reference's. */
export interface AdoptedMatrix {
  readonly quantized: QuantizedMatrix;
  /** Codes and parameters that differ from the reference's and were adopted. */
  readonly codes: number;
  readonly parameters: number;
}

/**
 * Adopts what a dump may decide.
 *
 * @param reference what the reference stores
 * @param source the values that it quantized. [tokens, channels]
 * @param noise what the value of an element may be off
 * @param dumped what the dump stores, of the same shape
 */
export function adoptDecisions(
  reference: QuantizedMatrix,
  source: Matrix,
  noise: (index: number) => number,
  dumped: QuantizedMatrix,
  { range }: Pick<GroupedOptions, 'range'>,
): AdoptedMatrix {
  const { rows, columns, bits, groupSize } = reference;
  const packed = reference.packed.slice();
  const scales = reference.scales.slice();
  const mins = reference.mins.slice();
  const theirCodes = unpackMatrix(dumped);
  const ourCodes = unpackMatrix(reference);
  const values = new Float32Array(groupSize);
  const codes = new Uint8Array(groupSize);
  let adoptedCodes = 0;
  let adoptedParameters = 0;

  forEachGroup(rows, columns, reference, (slot) => {
    const at = (i: number): number => slot.start + i * slot.stride;
    const group = values.subarray(0, slot.count);
    let groupNoise = 0;
    for (let i = 0; i < slot.count; i++) {
      group[i] = source.data[at(i)];
      groupNoise = Math.max(groupNoise, noise(at(i)));
    }
    const ours = { scale: scales[slot.index], min: mins[slot.index] };
    const theirs = { scale: dumped.scales[slot.index], min: dumped.mins[slot.index] };
    const same = ours.scale === theirs.scale && ours.min === theirs.min;
    if (!same && !mayChoose(theirs, group, groupNoise, bits, range)) return;

    const scale = fromFloat16Bits(theirs.scale);
    const min = fromFloat16Bits(theirs.min);
    const groupCodes = codes.subarray(0, slot.count);
    encodeGroup(group, theirs, bits, groupCodes);
    for (let i = 0; i < slot.count; i++) {
      const found = theirCodes[at(i)];
      if (found === groupCodes[i]) continue;
      const level = (group[i] - min) / scale;
      if (Math.abs(found - groupCodes[i]) === 1 && isNearTie(level, noise(at(i)) / scale))
        groupCodes[i] = found;
    }
    if (!same) adoptedParameters++;
    scales[slot.index] = theirs.scale;
    mins[slot.index] = theirs.min;
    for (let i = 0; i < slot.count; i++) if (groupCodes[i] !== ourCodes[at(i)]) adoptedCodes++;
    packCodes(groupCodes, bits, packed.subarray(slot.byteOffset, slot.byteOffset + slot.byteLength));
  });
  return {
    quantized: { ...reference, packed, scales, mins },
    codes: adoptedCodes,
    parameters: adoptedParameters,
  };
}

/** Whether a kernel whose values are off by `noise` may have stored these parameters. */
function mayChoose(
  parameters: GroupParameters,
  values: Float32Array,
  noise: number,
  bits: Bits,
  range: GroupedOptions['range'],
): boolean {
  const last = maxCode(bits);
  const min = values.reduce((a, b) => Math.min(a, b));
  const max = values.reduce((a, b) => Math.max(a, b));
  const mid = (min + max) / 2;
  for (const factor of range === 'mse' ? MSE_RANGE_FACTORS : MSE_RANGE_FACTORS.subarray(0, 1)) {
    const low = mid - factor * (mid - min);
    const high = mid + factor * (max - mid);
    const slack = noise + 4 * F32_ROUNDOFF * (Math.abs(min) + Math.abs(max));
    if (
      isRounded(parameters.min, low, slack) &&
      isRounded(parameters.scale, (high - low) / last, (2 * slack) / last) &&
      (range === 'minmax' || isGoodRange(parameters, values, noise, bits, mid, max - min))
    ) {
      return true;
    }
  }
  return false;
}

/** Whether a number that is off by `slack` at most rounds to these f16 bits. */
function isRounded(bits: number, value: number, slack: number): boolean {
  const stored = fromFloat16Bits(bits);
  const rounding = UNIT_ROUNDOFF.F16! * Math.abs(value) + HALF_SUBNORMAL_STEP.F16!;
  return Math.abs(stored - value) <= slack + rounding;
}

/** Whether no other factor describes the values better by more than their noise can make up. */
function isGoodRange(
  parameters: GroupParameters,
  values: Float32Array,
  noise: number,
  bits: Bits,
  mid: number,
  extent: number,
): boolean {
  const last = maxCode(bits);
  const error = Math.sqrt(squaredError(parameters, values, bits));
  // The root of a squared error is a length, and moves by no more than the values do.
  const slack = 2 * noise * Math.sqrt(values.length);
  const half = extent / 2;
  for (const factor of MSE_RANGE_FACTORS) {
    const scale = (2 * factor * half) / last;
    const low = mid - factor * half;
    let squares = 0;
    for (const value of values) {
      const code = Math.min(last, Math.max(0, Math.round((value - low) / scale)));
      squares += (value - (code * scale + low)) ** 2;
    }
    // Parameters in f16 are off by a rounding each.
    const rounding = Math.sqrt(values.length) * UNIT_ROUNDOFF.F16! * (Math.abs(low) + 2 * half);
    if (Math.sqrt(squares) + slack + rounding < error) return false;
  }
  return true;
}

function squaredError(parameters: GroupParameters, values: Float32Array, bits: Bits): number {
  const codes = new Uint8Array(values.length);
  const decoded = new Float32Array(values.length);
  encodeGroup(values, parameters, bits, codes);
  dequantizeGroup(codes, parameters, decoded);
  return values.reduce((sum, value, i) => sum + (value - decoded[i]) ** 2, 0);
}
