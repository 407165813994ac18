/**
 * The operations on what is stored: quantize, pack, rotate, rope, svd. Everything is computed by `quant/`,
 * `numerics/` and `model/rope.ts`; here is only which tensor goes where and how far it may be off.
 *
 * @module
 */

import { ConfigError, ShapeError } from '../errors.js';
import { JsonReader } from '../io/json-reader.js';
import { ropeScaling } from '../io/rope-scaling.js';
import { applyRope, ropeFrequencies } from '../model/rope.js';
import { decodeFloat16, fromFloat16Bits } from '../numerics/float16.js';
import { hadamardBlock, rotateRows } from '../numerics/hadamard.js';
import type { Matrix } from '../numerics/matrix.js';
import { thinSvd } from '../numerics/svd.js';
import {
  dequantizeMatrix,
  type GroupedOptions,
  type QuantizedMatrix,
  quantizeMatrix,
  unpackMatrix,
} from '../quant/grouped.js';
import { packCodes, packedBytes, unpackCodes } from '../quant/pack.js';
import { type CodeView, type Expected, placeOf } from './compare.js';
import { type CaseInputs, groupOf, parameterShape, placeOfByte } from './inputs.js';
import { type ExpectedTensors, GROUPED_OPTIONS, type Operation } from './operation.js';
import { isNearTie, ropeBound, svdBounds } from './tolerance.js';

/**
 * Expected outputs of a quantized matrix.
 *
 * @param source the values that were quantized, to tell near-ties
 * @param noise error that a value of element i may have, 0 for given values
 */
export function expectedStored(
  quantized: QuantizedMatrix,
  source: Matrix,
  noise: (index: number) => number = () => 0,
): { packed: Expected; scales: Expected; mins: Expected; codes: Expected } {
  const { rows, columns, packed, scales, mins } = quantized;
  const locate = (index: number) => ({
    ...placeOf(index, [rows, columns], ['token', 'channel']),
    group: groupOf(index, columns, quantized),
  });
  const view = (unpack: CodeView['unpack']): CodeView => ({
    unpack,
    isNearTie(index) {
      const group = groupOf(index, columns, quantized);
      const scale = fromFloat16Bits(scales[group]);
      if (scale === 0) return false;
      return isNearTie((source.data[index] - fromFloat16Bits(mins[group])) / scale, noise(index) / scale);
    },
    locate,
  });
  const parameters = (bits: Uint16Array): Expected => ({
    dtype: 'F16',
    values: decodeFloat16(bits),
    shape: parameterShape(rows, columns, quantized),
    dimensions: quantized.grouping === 'perToken' ? ['token', 'group'] : ['block', 'channel'],
    stored: true,
  });
  return {
    packed: {
      dtype: 'U8',
      values: packed,
      shape: [packed.length],
      dimensions: ['byte'],
      stored: true,
      locate: (byte) => placeOfByte(byte, rows, columns, quantized),
      codes: view((bytes) => unpackMatrix({ ...quantized, packed: bytes })),
    },
    scales: parameters(scales),
    mins: parameters(mins),
    codes: {
      dtype: 'U8',
      values: unpackMatrix(quantized),
      shape: [rows, columns],
      dimensions: ['token', 'channel'],
      stored: true,
      locate,
      codes: view((codes) => codes),
    },
  };
}

/** A float result of some tokens. */
export function expectedRows(result: Matrix, bound?: (index: number) => number): Expected {
  return {
    dtype: 'F32',
    values: result.data,
    shape: [result.rows, result.columns],
    dimensions: ['token', 'channel'],
    bound,
  };
}

/** The values that `quantize` cuts into groups: x, rotated if the options say so. */
export function quantizeSource(inputs: CaseInputs): { source: Matrix; format: GroupedOptions } {
  return { source: rotateRows(inputs.matrix('x'), inputs.rotation()), format: inputs.grouped() };
}

const quantize: Operation = {
  name: 'quantize',
  summary: 'a matrix to packed codes, scales and minima, per token or per channel',
  specification: 'docs/numerics.md "The quantizer"',
  options: [...GROUPED_OPTIONS, { name: 'grouping', values: 'perToken | perChannel', optional: true }],
  tensors: [
    { name: 'x', role: 'input', dtype: 'F32', shape: '[tokens, channels]' },
    { name: 'packed', role: 'output', dtype: 'U8', shape: '[bytes]', comparison: 'exact' },
    {
      name: 'scales',
      role: 'output',
      dtype: 'F16',
      shape: '[tokens, groups] or [blocks, channels]',
      comparison: 'exact',
    },
    { name: 'mins', role: 'output', dtype: 'F16', shape: 'as scales', comparison: 'exact' },
    { name: 'codes', role: 'output', dtype: 'U8', shape: '[tokens, channels]', comparison: 'exact' },
    { name: 'x_hat', role: 'output', dtype: 'F32', shape: '[tokens, channels]', comparison: 'exact' },
  ],
  run(inputs) {
    const { source, format } = quantizeSource(inputs);
    const quantized = quantizeMatrix(source, format, { tensor: 'x' });
    return { ...expectedStored(quantized, source), x_hat: expectedRows(dequantizeMatrix(quantized)) };
  },
};

const pack: Operation = {
  name: 'pack',
  summary: 'codes of groups to bytes',
  specification: 'docs/numerics.md "Packing"',
  options: [{ name: 'bits', values: '1 | 2 | 3 | 4 | 8' }],
  tensors: [
    { name: 'codes', role: 'input', dtype: 'U8', shape: '[groups, groupSize]' },
    { name: 'packed', role: 'output', dtype: 'U8', shape: '[groups, bytes]', comparison: 'exact' },
  ],
  run(inputs) {
    const bits = inputs.bits();
    const { shape, data } = inputs.integers('codes');
    if (shape.length !== 2) throw new ShapeError('pack', 'codes', ['groups', 'groupSize'], shape);
    const [groups, groupSize] = shape;
    const bytes = packedBytes(groupSize, bits);
    const codes = Uint8Array.from(data);
    const bad = data.findIndex((code) => !(code >= 0 && code < 2 ** bits));
    if (bad >= 0) {
      throw new RangeError(
        `"codes" must be below ${2 ** bits}, got ${data[bad]} at ${place(bad, groupSize)}`,
      );
    }
    const packed = new Uint8Array(groups * bytes);
    for (let g = 0; g < groups; g++) {
      const group = codes.subarray(g * groupSize, (g + 1) * groupSize);
      packCodes(group, bits, packed.subarray(g * bytes, (g + 1) * bytes));
    }
    const unpack = (stored: Uint8Array): Uint8Array => {
      const result = new Uint8Array(groups * groupSize);
      for (let g = 0; g < groups; g++) {
        const group = result.subarray(g * groupSize, (g + 1) * groupSize);
        unpackCodes(stored.subarray(g * bytes, (g + 1) * bytes), bits, group);
      }
      return result;
    };
    return {
      packed: {
        dtype: 'U8',
        values: packed,
        shape: [groups, bytes],
        dimensions: ['group', 'byte'],
        stored: true,
        codes: {
          unpack,
          isNearTie: () => false, // the codes are given
          locate: (index) => ({ group: Math.floor(index / groupSize), element: index % groupSize }),
        },
      },
    };
  },
};

const rotate: Operation = {
  name: 'rotate',
  summary: 'the normalized Walsh-Hadamard transform of every row',
  specification: 'docs/numerics.md "The rotation"',
  options: [{ name: 'block', values: 'channels that are rotated together', optional: true }],
  tensors: [
    { name: 'x', role: 'input', dtype: 'F32', shape: '[tokens, channels]' },
    { name: 'rotated', role: 'output', dtype: 'F32', shape: '[tokens, channels]', comparison: 'exact' },
  ],
  run(inputs) {
    const x = inputs.matrix('x');
    const block = hadamardBlock(x.columns);
    const given = inputs.number('block', block);
    if (given !== block)
      throw new ConfigError('block', given, `${block}, the largest power of two in ${x.columns}`);
    return { rotated: expectedRows(rotateRows(x, 'hadamard')) };
  },
};

/** Options of RoPE, as the reference wants them. */
export function ropeOptions(inputs: CaseInputs): {
  layout: 'half' | 'interleaved';
  headDim: number;
  ropeTheta: number;
  ropeFrequencyDivisors: Float32Array | undefined;
  frequencies: Float64Array;
} {
  const layout = inputs.word('layout', ['half', 'interleaved']);
  const headDim = inputs.count('headDim');
  if (headDim % 2 !== 0)
    throw new RangeError(`"headDim" must be even, since RoPE rotates pairs, got ${headDim}`);
  const ropeTheta = inputs.number('theta');
  const { frequencyDivisors: divisors, rope_scaling: scaling } = inputs.case.options;
  const ropeFrequencyDivisors = Array.isArray(divisors)
    ? Float32Array.from(divisors)
    : storedScaling(scaling, headDim, ropeTheta, inputs.case.name);
  const frequencies = ropeFrequencies({ headDim, ropeTheta, ropeFrequencyDivisors });
  return { layout, headDim, ropeTheta, ropeFrequencyDivisors, frequencies };
}

/** Divisors of a `rope_scaling` as config.json has it. */
function storedScaling(
  scaling: unknown,
  headDim: number,
  ropeTheta: number,
  path: string,
): Float32Array | undefined {
  const entry = new JsonReader({ rope_scaling: scaling }, path).object('rope_scaling');
  return ropeScaling(entry, { rotaryDim: headDim, ropeTheta }).ropeFrequencyDivisors;
}

const rope: Operation = {
  name: 'rope',
  summary: 'rotary position embedding of all heads; row r stands at firstPosition + r',
  specification: 'docs/numerics.md "RoPE"',
  options: [
    { name: 'layout', values: 'half | interleaved' },
    { name: 'headDim', values: 'channels of a head' },
    { name: 'theta', values: 'base of the frequencies' },
    { name: 'firstPosition', values: 'position of row 0 (0)', optional: true },
    { name: 'frequencyDivisors', values: '[headDim / 2] numbers', optional: true },
    { name: 'rope_scaling', values: 'as in the config.json of a model', optional: true },
  ],
  tensors: [
    { name: 'x', role: 'input', dtype: 'F32', shape: '[tokens, heads * headDim]' },
    {
      name: 'rotated',
      role: 'output',
      dtype: 'F32',
      shape: '[tokens, heads * headDim]',
      comparison: 'bound',
    },
  ],
  run(inputs) {
    const x = inputs.matrix('x');
    const { layout, headDim, ropeTheta, frequencies } = ropeOptions(inputs);
    if (x.columns % headDim !== 0)
      throw new ShapeError('rope', 'x', ['tokens', 'heads * headDim'], [x.rows, x.columns]);
    const firstPosition = inputs.number('firstPosition', 0);
    const rotated = applyRope(x, firstPosition, frequencies, layout);
    const bound = (index: number): number => {
      const token = Math.floor(index / x.columns);
      const channel = index % x.columns;
      const within = channel % headDim;
      const pair = layout === 'half' ? within % (headDim / 2) : within >> 1;
      const first = index - within + (layout === 'half' ? pair : 2 * pair);
      const second = first + (layout === 'half' ? headDim / 2 : 1);
      const length = Math.hypot(x.data[first], x.data[second]);
      return ropeBound(length, firstPosition + token, frequencies[pair], (2 * pair) / headDim, ropeTheta);
    };
    return { rotated: expectedRows(rotated, bound) };
  },
};

const svd: Operation = {
  name: 'svd',
  summary: 'the thin factors W = U S V^T, the largest entry of each column of U positive',
  specification: 'docs/numerics.md "SVD factors"',
  options: [],
  tensors: [
    { name: 'w', role: 'input', dtype: 'F32', shape: '[hiddenSize, outDim]' },
    { name: 'u', role: 'output', dtype: 'F32', shape: '[hiddenSize, rank]', comparison: 'bound' },
    { name: 's', role: 'output', dtype: 'F32', shape: '[rank]', comparison: 'bound' },
    { name: 'vt', role: 'output', dtype: 'F32', shape: '[rank, outDim]', comparison: 'bound' },
  ],
  run(inputs): ExpectedTensors {
    const w = inputs.matrix('w', 'row', 'column');
    const { u, s, vT } = thinSvd(w);
    const bounds = svdBounds(s, Math.max(w.rows, w.columns));
    return {
      u: {
        dtype: 'F32',
        values: u.data,
        shape: [u.rows, u.columns],
        dimensions: ['row', 'rank'],
        bound: (index) => bounds.vectors[index % u.columns],
      },
      s: { dtype: 'F32', values: s, shape: [s.length], dimensions: ['rank'], bound: () => bounds.value },
      vt: {
        dtype: 'F32',
        values: vT.data,
        shape: [vT.rows, vT.columns],
        dimensions: ['rank', 'column'],
        bound: (index) => bounds.vectors[Math.floor(index / vT.columns)],
      },
    };
  },
};

/** Operations on what is stored, and on single vectors. */
export const STORAGE_OPERATIONS: readonly Operation[] = [quantize, pack, rotate, rope, svd];

function place(index: number, groupSize: number): string {
  return `group ${Math.floor(index / groupSize)}, element ${index % groupSize}`;
}
