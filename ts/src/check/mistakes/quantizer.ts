/**
 * Mistakes in the quantizer and in the layout of bytes.
 *
 * @module
 */

import { decodeFloat16 } from '../../numerics/float16.js';
import type { Matrix } from '../../numerics/matrix.js';
import type { GroupedOptions } from '../../quant/grouped.js';
import { packCodes, packedBytes } from '../../quant/pack.js';
import type { CaseInputs } from '../case/inputs.js';
import { tensorOf } from '../case/tensor.js';
import type { Expected } from '../compare/compare.js';
import type { CheckContext, ExpectedTensors } from '../operation.js';
import { quantizeSource } from '../operations/quantize.js';
import { encodeLayers } from './cross-layer.js';
import { exactly, type KnownMistake, rerun } from './mistake.js';
import {
  type PackingOrder,
  packMistakenly,
  type QuantizerMistakes,
  quantizeMistakenly,
  swapBytes,
  unpackMistakenly,
} from './mistaken-quantizer.js';

function storedOutputs(source: Matrix, format: GroupedOptions, mistakes: QuantizerMistakes): ExpectedTensors {
  const { packed, scales, mins, codes, values } = quantizeMistakenly(source, format, mistakes);
  return {
    packed: exactly(packed, 'U8', 'byte'),
    scales: exactly(decodeFloat16(scales), 'F16', 'group'),
    mins: exactly(decodeFloat16(mins), 'F16', 'group'),
    codes: exactly(codes, 'U8', 'element'),
    x_hat: exactly(values.data, 'F32', 'element', false),
  };
}

/** A mistake inside the quantizer shows in every operation that quantizes. */
function quantizerMistake(
  id: string,
  title: string,
  specification: string,
  variants: (inputs: CaseInputs) => Iterable<QuantizerMistakes & { detail?: string }>,
): KnownMistake {
  return {
    id,
    title,
    specification,
    operations: ['quantize', 'cl-encode'],
    *attempts(inputs, _context, right) {
      for (const { detail, ...mistakes } of variants(inputs)) {
        yield {
          detail,
          outputs: () => {
            if (inputs.case.operation === 'cl-encode') return encodeLayers(inputs, right, mistakes);
            const { source, format } = quantizeSource(inputs);
            return storedOutputs(source, format, mistakes);
          },
        };
      }
    },
  };
}

const GROUP_SIZES = [64, 32, 256, 16, 8];

/** Mistakes inside the quantizer. */
export const QUANTIZER_MISTAKES: readonly KnownMistake[] = [
  quantizerMistake(
    'rounding-half-up',
    'ties are rounded half up or away from zero (codes are not negative, so that is the same)',
    'docs/numerics.md "The quantizer", step 5: roundHalfEven',
    () => [{ rounding: 'halfUp' }],
  ),
  quantizerMistake(
    'rounding-truncated',
    'levels are truncated, not rounded',
    'docs/numerics.md "The quantizer", step 5: roundHalfEven',
    () => [{ rounding: 'truncate' }],
  ),
  quantizerMistake(
    'reciprocal',
    'codes are computed by multiplying with 1 / scale',
    'docs/numerics.md "The quantizer", step 5 (case E10): true division',
    () => [
      { reciprocal: 'scaled', detail: '(x - min) * (1 / scale)' },
      { reciprocal: 'fused', detail: 'x * (1 / scale) - min * (1 / scale)' },
    ],
  ),
  quantizerMistake(
    'unrounded-parameters',
    'codes are computed from the scale or minimum before it is rounded to f16',
    'docs/numerics.md "The quantizer", steps 2 to 5 (cases E4, E5): the stored (rounded) s and m',
    () => [
      { unrounded: 'scale', detail: 'unrounded scale' },
      { unrounded: 'min', detail: 'unrounded minimum' },
      { unrounded: 'both', detail: 'unrounded scale and minimum' },
    ],
  ),
  quantizerMistake(
    'f16-arithmetic',
    'the arithmetic runs in f16',
    'docs/numerics.md "The quantizer": all in f32',
    () => [{ halfArithmetic: true }],
  ),
  quantizerMistake(
    'integer-zero-point',
    'the zero point is an integer code',
    'docs/numerics.md "The quantizer", step 3: the minimum is a float',
    () => [
      { integerZeroPoint: 'clamped', detail: 'clamped to the codes' },
      { integerZeroPoint: 'free', detail: 'not clamped' },
      { integerZeroPoint: 'clampedCode', detail: 'clamped, the code itself is stored' },
      { integerZeroPoint: 'freeCode', detail: 'not clamped, the code itself is stored' },
    ],
  ),
  quantizerMistake(
    'symmetric-range',
    'the range is symmetric about zero',
    'docs/numerics.md "The quantizer", step 1: asymmetric, min to max',
    () => [
      { symmetric: 'range', detail: '-max|x| to max|x| over all levels' },
      { symmetric: 'signed', detail: 'signed codes with an offset' },
      { symmetric: 'signedWithoutMin', detail: 'signed codes with an offset, no minimum stored' },
    ],
  ),
  quantizerMistake('range-rule', 'the other range rule is used', 'docs/numerics.md "The range"', (inputs) => {
    const range = inputs.range() === 'mse' ? 'minmax' : 'mse';
    return [{ range, detail: `${range} instead of ${inputs.range()}` }];
  }),
  quantizerMistake(
    'axes-swapped',
    'groups run along the other axis',
    'docs/numerics.md "Groups": perToken is a run of channels, perChannel a run of tokens',
    (inputs) => {
      const grouping = inputs.grouping() === 'perToken' ? 'perChannel' : 'perToken';
      return [
        { grouping, detail: `${grouping} instead of ${inputs.grouping()}` },
        {
          grouping,
          channelMajor: true,
          detail: `${grouping} instead of ${inputs.grouping()}, channel by channel`,
        },
      ];
    },
  ),
  quantizerMistake(
    'group-order',
    'groups per channel are written channel by channel',
    'docs/numerics.md "Groups": token block-major, then channel',
    (inputs) => (inputs.grouping() === 'perChannel' ? [{ channelMajor: true }] : []),
  ),
  quantizerMistake(
    'group-size',
    'groups have another size',
    'docs/numerics.md "Groups": the group size of the options, 128 in the paper',
    (inputs) =>
      [128, ...GROUP_SIZES]
        .filter((groupSize) => groupSize !== inputs.count('groupSize', 128))
        .map((groupSize) => ({ groupSize, detail: `group size ${groupSize}` })),
  ),
  quantizerMistake(
    'group-start',
    'groups are counted from the wrong place, so that the first one is short',
    'docs/numerics.md "Groups": counted from position 0',
    (inputs) => {
      const groupSize = inputs.count('groupSize', 128);
      const along = inputs.tensor('x').shape.at(inputs.grouping() === 'perToken' ? -1 : -2) ?? 0;
      const starts = [along % groupSize, groupSize - 1, 1, 2, 4, 8, 16, 32, 64, groupSize / 2];
      return [...new Set(starts)]
        .filter((start) => Number.isInteger(start) && start > 0 && start < groupSize)
        .map((firstGroup) => ({ firstGroup, detail: `the first group has ${firstGroup} elements` }));
    },
  ),
  quantizerMistake(
    'zero-padding',
    'a short last group is filled up with zeros that enter its range',
    'docs/numerics.md "Groups": never zero-pad into a statistic',
    () => [
      { zeroPadding: 'statistics', detail: 'in the statistics' },
      { zeroPadding: 'bytes', detail: 'in the statistics and in the packed codes' },
    ],
  ),
  quantizerMistake(
    'negative-zero',
    'a minimum of -0 is stored as it is',
    'docs/numerics.md "The quantizer", step 1: zero is stored as +0',
    () => [{ negativeZero: true }],
  ),
];

/** Orders of codes in bytes, as something done to a whole group. */
const PACKING_ORDERS: readonly { id: string; title: string; order: PackingOrder; bits: readonly number[] }[] =
  [
    {
      id: 'nibble-order',
      title: 'the first code is in the high bits of its byte',
      order: 'mostSignificantFirst',
      bits: [1, 2, 3, 4],
    },
    {
      id: 'split-halves',
      title: 'a byte holds codes from different parts of the group (i and i + n/2, as q4_0 does)',
      order: 'halves',
      bits: [1, 2, 4],
    },
    {
      id: 'plane-order',
      title: 'the plane of high bits stands before the low bits',
      order: 'highPlaneFirst',
      bits: [3],
    },
    {
      id: 'three-bit-stream',
      title: '3-bit codes are one stream across bytes',
      order: 'threeBitStream',
      bits: [3],
    },
    {
      id: 'three-bit-planes',
      title: '3-bit codes are three planes of one bit',
      order: 'threeBitPlanes',
      bits: [3],
    },
  ];

const PACKED_LAYOUT = 'docs/numerics.md "Packing"';

/** Mistakes in the order of bits and bytes. */
export function packingMistakes(): KnownMistake[] {
  const orders = PACKING_ORDERS.map(
    ({ id, title, order, bits }): KnownMistake => ({
      id,
      title,
      specification: PACKED_LAYOUT,
      operations: ['quantize', 'pack', 'cl-encode', 'rematerialize', 'attend', 'cl-decode'],
      *attempts(inputs, context, right) {
        if (!bits.includes(inputs.bits())) return;
        yield { outputs: () => packedOutputs(inputs, context, right, { packing: order }) };
      },
    }),
  );
  return [
    ...orders,
    {
      id: 'signed-codes',
      title: "codes are in two's complement",
      specification: PACKED_LAYOUT,
      operations: ['quantize', 'pack', 'cl-encode'],
      *attempts(inputs, context, right) {
        yield { outputs: () => packedOutputs(inputs, context, right, { signedCodes: true }) };
      },
    },
    {
      id: 'big-endian',
      title: 'bytes are in big-endian order',
      specification: 'docs/numerics.md "Packing": little-endian',
      operations: ['quantize', 'pack', 'cl-encode', 'rematerialize', 'attend', 'cl-decode'],
      *attempts(inputs, context, right) {
        const ways: (QuantizerMistakes & { detail: string })[] = [
          { bigEndianParameters: true, detail: 'scales and minima' },
          ...([4, 2, 8] as const).flatMap((bigEndianWords) => [
            { bigEndianWords, detail: `packed codes in words of ${bigEndianWords} bytes` },
            {
              bigEndianWords,
              bigEndianParameters: true,
              detail: `scales, minima, and packed codes in words of ${bigEndianWords} bytes`,
            },
          ]),
        ];
        for (const { detail, ...mistakes } of ways) {
          yield { detail, outputs: () => packedOutputs(inputs, context, right, mistakes) };
        }
      },
    },
  ];
}

/** Outputs of a kernel that writes (or, where packed codes are an input, reads) bytes another way. */
function packedOutputs(
  inputs: CaseInputs,
  context: CheckContext,
  right: ExpectedTensors,
  mistakes: QuantizerMistakes,
): ExpectedTensors | Promise<ExpectedTensors> {
  switch (inputs.case.operation) {
    case 'quantize': {
      const { source, format } = quantizeSource(inputs);
      return storedOutputs(source, format, mistakes);
    }
    case 'cl-encode':
      return encodeLayers(inputs, right, mistakes);
    case 'pack':
      return { packed: packGroups(inputs, mistakes) };
    default:
      return rerun(readMistakenly(inputs, mistakes), context, right);
  }
}

function packGroups(inputs: CaseInputs, mistakes: QuantizerMistakes): Expected {
  const bits = inputs.bits();
  const { shape, data } = inputs.integers('codes');
  const [groups, groupSize] = shape;
  const bytes = packedBytes(groupSize, bits);
  const packed = new Uint8Array(groups * bytes);
  const flip = mistakes.signedCodes ? 1 << (bits - 1) : 0;
  for (let g = 0; g < groups; g++) {
    const codes = Uint8Array.from(data.subarray(g * groupSize, (g + 1) * groupSize), (code) => code ^ flip);
    packed.set(packMistakenly(codes, bits, mistakes.packing), g * bytes);
  }
  if (mistakes.bigEndianWords) swapBytes(packed, mistakes.bigEndianWords);
  return exactly(packed, 'U8', 'byte');
}

/** The inputs as a kernel sees them that reads bytes another way. */
function readMistakenly(inputs: CaseInputs, mistakes: QuantizerMistakes): CaseInputs {
  const tensors: Record<string, ReturnType<typeof tensorOf>> = {};
  for (const [name, tensor] of inputs.case.tensors) {
    if (/(^|_)packed(_|$)/.test(name)) {
      const bytes = tensor.bytes.slice();
      if (mistakes.bigEndianWords) swapBytes(bytes, mistakes.bigEndianWords);
      if (mistakes.packing) repack(bytes, name, inputs, mistakes.packing);
      tensors[name] = tensorOf(bytes, [bytes.length]);
    } else if (/(^|_)(scales|mins)(_|$)/.test(name) && mistakes.bigEndianParameters) {
      const bytes = tensor.bytes.slice();
      swapBytes(bytes, 2);
      tensors[name] = { ...tensor, bytes };
    }
  }
  return inputs.with({ tensors });
}

/** Reads groups in one order and writes them as specified, in place. Groups of the full size only. */
function repack(packed: Uint8Array, name: string, inputs: CaseInputs, order: PackingOrder): void {
  const bits = inputs.bits(
    /_0$/.test(name) && inputs.case.options.baseBits !== undefined ? 'baseBits' : 'bits',
  );
  const groupSize = inputs.count('groupSize', 128);
  const bytes = packedBytes(groupSize, bits);
  for (let at = 0; at + bytes <= packed.length; at += bytes) {
    const group = packed.subarray(at, at + bytes);
    packCodes(unpackMistakenly(group, bits, groupSize, order), bits, group);
  }
}
