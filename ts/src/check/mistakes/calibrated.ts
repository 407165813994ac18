/**
 * Mistakes in the calibrated caches: the symmetric quantizer, prediction, and basis.
 *
 * @module
 */

import { fromFloat16Bits, toFloat16Bits } from '../../numerics/float16.js';
import { linearTiled } from '../../numerics/linear-tiled.js';
import { add, type Matrix, matrix, subtract, transpose } from '../../numerics/matrix.js';
import { packCodes } from '../../quant/pack.js';
import {
  type ChannelBits,
  dequantizeSymmetric,
  NORMAL_STEP,
  quantizeSymmetric,
  STEP_FACTORS,
  type SymmetricFormat,
  symmetricGroups,
} from '../../quant/symmetric.js';
import type { Bits } from '../../quant/uniform.js';
import type { CaseInputs } from '../case/inputs.js';
import type { Expected } from '../compare/compare.js';
import type { ExpectedTensors } from '../operation.js';
import { below, type CalibratedLayers, calibratedLayers } from '../operations/calibrated-layers.js';
import { channelBitsOf } from '../operations/symmetric.js';
import { exactly, type KnownMistake, within } from './mistake.js';

const fround = Math.fround;

/** What a mistaken quantizer does otherwise. */
interface SymmetricMistakes {
  /** Levels lie at multiples of the scale, zero among them, and codes are rounded. */
  readonly halfStep?: 'missing';
  /** The minimum of the group is subtracted first and added again, as in the quantizer of the other caches. */
  readonly minimum?: 'added';
  readonly rounding?: 'nearest' | 'towardsZero';
  readonly division?: 'reciprocal';
  /** The scale of the channel before or after is used to code. */
  readonly scaleOf?: 'next' | 'previous';
  /** Bits of channel k are taken from channel k + shift. */
  readonly bitsShift?: 1 | -1;
  /** Which factors are tried, and which of equal ones wins. */
  readonly search?: 'none' | 'laterTies';
  readonly size?: 'deviation' | 'largest';
  readonly unroundedScale?: boolean;
}

interface MistakenSymmetric {
  readonly packed: Uint8Array;
  readonly scales: Float32Array;
  /** [tokens, channels] */
  readonly codes: Uint8Array;
  readonly values: Matrix;
}

/** The quantizer with mistakes, written apart from the right one. */
function symmetricMistakenly(
  source: Matrix,
  { groupSize, channelBits: given }: SymmetricFormat,
  mistakes: SymmetricMistakes,
): MistakenSymmetric {
  const { rows, columns, data } = source;
  const shift = mistakes.bitsShift ?? 0;
  const channelBits = given.map((_, k) => given[(k + shift + columns) % columns]);
  const groups = symmetricGroups(rows, { groupSize, channelBits });
  const size = groups.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const packed = new Uint8Array(size);
  const scales = new Float32Array(groups.length);
  const codes = new Uint8Array(rows * columns);
  const values = matrix(rows, columns);
  const own = groups.map(({ token, channel, count, bits }) => {
    const group = Float32Array.from({ length: count }, (_, i) => data[(token + i) * columns + channel]);
    const minimum = mistakes.minimum ? group.reduce((a, b) => Math.min(a, b)) : 0;
    return { group, minimum, scale: chooseScale(group, bits, mistakes) };
  });
  const neighbour = { next: 1, previous: -1 }[mistakes.scaleOf as 'next' | 'previous'] ?? 0;
  for (const [g, { token, channel, count, bits, byteOffset, byteLength }] of groups.entries()) {
    const { group, minimum, scale } = own[g];
    const used = own[g + neighbour]?.scale ?? scale;
    const stored = fromFloat16Bits(toFloat16Bits(scale));
    const groupCodes = Uint8Array.from(group, (value) =>
      codeOf(fround(value - minimum), mistakes.unroundedScale ? used : rounded(used), bits, mistakes),
    );
    scales[g] = stored;
    packCodes(groupCodes, bits, packed.subarray(byteOffset, byteOffset + byteLength));
    for (let i = 0; i < count; i++) {
      const at = (token + i) * columns + channel;
      codes[at] = groupCodes[i];
      values.data[at] = fround(fround(levelOf(groupCodes[i], bits, mistakes) * rounded(used)) + minimum);
    }
  }
  return { packed, scales, codes, values };
}

function rounded(scale: number): number {
  return fromFloat16Bits(toFloat16Bits(scale));
}

function chooseScale(group: Float32Array, bits: Bits, mistakes: SymmetricMistakes): number {
  const size = sizeOf(group, mistakes);
  let best = fround(NORMAL_STEP[bits] * size);
  if (mistakes.search === 'none') return best;
  let bestError = Number.POSITIVE_INFINITY;
  for (const factor of STEP_FACTORS) {
    const scale = fround(fround(factor * NORMAL_STEP[bits]) * size);
    const step = rounded(scale);
    const error = squaredError(group, step, bits, mistakes);
    if (error < bestError || (mistakes.search === 'laterTies' && error === bestError)) {
      best = scale;
      bestError = error;
    }
  }
  return best;
}

function sizeOf(group: Float32Array, { size }: SymmetricMistakes): number {
  if (size === 'largest') return group.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
  const mean = size === 'deviation' ? group.reduce((a, b) => a + b, 0) / group.length : 0;
  return fround(Math.sqrt(fround(inLanes(group.map((value) => fround(value - mean))) / group.length)));
}

function squaredError(group: Float32Array, step: number, bits: Bits, mistakes: SymmetricMistakes): number {
  return inLanes(
    group.map((value) => value - levelOf(codeOf(value, step, bits, mistakes), bits, mistakes) * step),
  );
}

/** Sum of squares in four lanes. */
function inLanes(values: Float32Array): number {
  const lanes = new Float32Array(4);
  for (let i = 0; i < values.length; i++) lanes[i & 3] += fround(values[i] * values[i]);
  return fround(fround(lanes[0] + lanes[1]) + fround(lanes[2] + lanes[3]));
}

function codeOf(value: number, step: number, bits: Bits, mistakes: SymmetricMistakes): number {
  const half = mistakes.minimum ? 0 : 2 ** (bits - 1);
  if (step === 0) return half;
  const cell = mistakes.division ? fround(value * fround(1 / step)) : fround(value / step);
  const whole =
    mistakes.halfStep || mistakes.rounding === 'nearest'
      ? Math.round(cell)
      : mistakes.rounding === 'towardsZero'
        ? Math.trunc(cell)
        : Math.floor(cell);
  return Math.min(Math.max(whole + half, 0), 2 ** bits - 1);
}

function levelOf(code: number, bits: Bits, mistakes: SymmetricMistakes): number {
  return code + (mistakes.halfStep ? 0 : 0.5) - (mistakes.minimum ? 0 : 2 ** (bits - 1));
}

/** What is different about the layers of a mistaken cache. */
interface LayerMistakes {
  readonly quantizer?: SymmetricMistakes;
  /** What a layer is predicted from. */
  readonly predictFrom?: 'exact' | 'swapped' | 'nothing';
  readonly offset?: 'missing';
  /** Matrices of the basis used the other way round. */
  readonly transposed?: 'encode' | 'decode' | 'both';
}

/** Layers with mistakes, written or read. */
function layersMistakenly(
  inputs: CaseInputs,
  right: ExpectedTensors,
  mistakes: LayerMistakes,
): ExpectedTensors {
  const isEncode = inputs.case.operation === 'calibrated-encode';
  const carriers = isEncode ? inputs.stack('x') : [];
  const plan = calibratedLayers(inputs, isEncode ? inputs.stack('encode') : undefined);
  const outputs: Record<string, Expected> = {};
  const coordinates: Matrix[] = [];
  const exact: Matrix[] = [];
  const decoded: Matrix[] = [];
  for (const [layer, transform] of plan.transforms.entries()) {
    const sources = predictionSources(plan, layer, { coordinates, exact }, mistakes);
    const rows = isEncode ? carriers[layer].rows : inputs.count('tokens');
    let predicted =
      mistakes.predictFrom === 'nothing' ? matrix(rows, plan.width) : transform.predict(sources, rows);
    if (mistakes.offset) predicted = withoutOffset(predicted, transform.offset);
    const flip = (which: 'encode' | 'decode') =>
      mistakes.transposed === which || mistakes.transposed === 'both';
    if (isEncode) {
      const weights = flip('encode') ? transpose(transform.encodeTransposed) : transform.encodeTransposed;
      const full = linearTiled(carriers[layer], weights);
      exact.push(full);
      const stored = storeLayer(subtract(full, predicted), plan, layer, mistakes.quantizer);
      outputs[`packed_${layer}`] = exactly(stored.packed, 'U8', 'byte');
      outputs[`scales_${layer}`] = exactly(stored.scales, 'F16', 'group');
      coordinates.push(add(predicted, stored.values));
    } else {
      const stored = {
        rows,
        columns: plan.width,
        groupSize: plan.groupSize,
        channelCodes: inputs.tensor(`packed_${layer}`).bytes,
        scales: inputs.halfBits(`scales_${layer}`),
      };
      coordinates.push(add(predicted, dequantizeSymmetric(stored, plan.bits[layer])));
    }
    const back = flip('decode') ? transpose(transform.decodeTransposed) : transform.decodeTransposed;
    decoded.push(linearTiled(coordinates[layer], back));
  }
  return { ...outputs, y: stacked(coordinates, right.y), x_hat: stacked(decoded, right.x_hat) };
}

function predictionSources(
  { transforms }: CalibratedLayers,
  layer: number,
  known: { coordinates: readonly Matrix[]; exact: readonly Matrix[] },
  { predictFrom }: LayerMistakes,
): Matrix[] {
  const sources = below(predictFrom === 'exact' ? known.exact : known.coordinates, transforms[layer]);
  return predictFrom === 'swapped' ? sources.reverse() : sources;
}

function withoutOffset({ rows, columns, data }: Matrix, offset: Float32Array): Matrix {
  return matrix(
    rows,
    columns,
    data.map((value, i) => value - offset[i % columns]),
  );
}

function storeLayer(z: Matrix, plan: CalibratedLayers, layer: number, mistakes?: SymmetricMistakes) {
  const format = { groupSize: plan.groupSize, channelBits: plan.bits[layer] };
  if (mistakes) return symmetricMistakenly(z, format, mistakes);
  const stored = quantizeSymmetric(z, format);
  const values = dequantizeSymmetric(stored, format.channelBits);
  return { packed: stored.channelCodes, scales: Float32Array.from(stored.scales, fromFloat16Bits), values };
}

function stacked(layers: readonly Matrix[], right: Expected): Expected {
  return within(right, Float32Array.from(layers.flatMap(({ data }) => [...data])));
}

/** A mistake inside the quantizer shows in both operations that quantize. */
function quantizerMistake(
  id: string,
  title: string,
  step: string,
  variants: readonly (SymmetricMistakes & { readonly detail?: string })[],
): KnownMistake {
  return {
    id,
    title,
    specification: `docs/numerics.md "The symmetric quantizer", ${step}`,
    operations: ['symmetric', 'calibrated-encode'],
    *attempts(inputs, _context, right) {
      for (const { detail, ...mistakes } of variants) {
        yield {
          detail,
          outputs: () =>
            inputs.case.operation === 'symmetric'
              ? symmetricOutputs(inputs, mistakes)
              : layersMistakenly(inputs, right, { quantizer: mistakes }),
        };
      }
    },
  };
}

function symmetricOutputs(inputs: CaseInputs, mistakes: SymmetricMistakes): ExpectedTensors {
  const x = inputs.matrix('x');
  const channelBits: ChannelBits[] = channelBitsOf(inputs, x.columns);
  const format = { groupSize: inputs.count('groupSize', 128), channelBits };
  const { packed, scales, codes, values } = symmetricMistakenly(x, format, mistakes);
  return {
    packed: exactly(packed, 'U8', 'byte'),
    scales: exactly(scales, 'F16', 'group'),
    codes: exactly(codes, 'U8', 'element'),
    x_hat: exactly(values.data, 'F32', 'element', false),
  };
}

function layerMistake(
  id: string,
  title: string,
  operations: readonly ('calibrated-encode' | 'calibrated-decode')[],
  variants: readonly (LayerMistakes & { readonly detail?: string })[],
): KnownMistake {
  return {
    id,
    title,
    specification: 'docs/numerics.md "Calibrated caches"',
    operations,
    *attempts(inputs, _context, right) {
      for (const { detail, ...mistakes } of variants) {
        yield { detail, outputs: () => layersMistakenly(inputs, right, mistakes) };
      }
    },
  };
}

const BOTH = ['calibrated-encode', 'calibrated-decode'] as const;

/** Mistakes in calibrated caches. */
export const CALIBRATED_MISTAKES: readonly KnownMistake[] = [
  quantizerMistake(
    'half-step-missing',
    'levels lie at multiples of the scale, without the half step',
    'step 4',
    [{ halfStep: 'missing' }],
  ),
  quantizerMistake(
    'minimum-added',
    'a minimum is subtracted and added, as in the asymmetric quantizer',
    'steps 3 and 4',
    [{ minimum: 'added' }],
  ),
  quantizerMistake('neighbouring-scale', 'codes use the scale of a neighbouring channel', 'step 3', [
    { scaleOf: 'next', detail: 'of the channel after' },
    { scaleOf: 'previous', detail: 'of the channel before' },
  ]),
  quantizerMistake('bits-shifted', 'the table of bits is shifted by a channel', 'bits of the channels', [
    { bitsShift: 1, detail: 'bits of the channel after' },
    { bitsShift: -1, detail: 'bits of the channel before' },
  ]),
  quantizerMistake('cell-rounding', 'codes are not rounded down', 'step 3', [
    { rounding: 'nearest', detail: 'rounded to the nearest' },
    { rounding: 'towardsZero', detail: 'truncated towards zero' },
  ]),
  quantizerMistake('symmetric-reciprocal', 'codes are computed by multiplying with 1 / scale', 'step 3', [
    { division: 'reciprocal' },
  ]),
  quantizerMistake(
    'scale-search',
    'the scale is not the first best of the nine candidates',
    'steps 2 and 5',
    [
      { search: 'none', detail: 'the step of a normal variable, no search' },
      { search: 'laterTies', detail: 'of equal ones the last' },
    ],
  ),
  quantizerMistake(
    'group-size-measure',
    'the step is scaled by something other than the root mean square',
    'step 1',
    [
      { size: 'deviation', detail: 'the standard deviation: the mean is removed' },
      { size: 'largest', detail: 'the largest magnitude' },
    ],
  ),
  quantizerMistake(
    'symmetric-unrounded-scale',
    'codes are computed from the scale before it is rounded to f16',
    'step 2',
    [{ unroundedScale: true }],
  ),
  layerMistake(
    'predicted-from-exact',
    'a layer is predicted from the exact coordinates below',
    ['calibrated-encode'],
    [{ predictFrom: 'exact' }],
  ),
  layerMistake('prediction-swapped', 'the two layers below are taken in the wrong order', BOTH, [
    { predictFrom: 'swapped' },
  ]),
  layerMistake('prediction-missing', 'nothing is predicted', BOTH, [
    { predictFrom: 'nothing', detail: 'neither matrices nor offset' },
    { offset: 'missing', detail: 'the offset is left out' },
  ]),
  layerMistake('transposed-basis', 'a matrix of the basis is transposed', BOTH, [
    { transposed: 'encode', detail: 'encode' },
    { transposed: 'decode', detail: 'decode' },
    { transposed: 'both', detail: 'both' },
  ]),
];
