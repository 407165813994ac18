import { describe, expect, it } from 'vitest';
import type { CheckCase } from '../../../src/check/case/inputs.js';
import { numbersOf, type Tensor, tensorOf } from '../../../src/check/case/tensor.js';
import { type CaseReport, checkCase } from '../../../src/check/check.js';
import { heavyTailed, makeCase } from '../../../src/check/make-case.js';
import { NO_MODELS } from '../../../src/check/mistakes/mistake.js';
import { formatCase } from '../../../src/check/report.js';
import { fromFloat16Bits, toFloat16Bits } from '../../../src/numerics/float16.js';
import { Random } from '../../../src/sampling.js';
import {
  bitsOf,
  bytesOf,
  type Hooks,
  hadamard,
  halfEven,
  type KernelOptions,
  type KernelResult,
  kernel,
  product,
  rope,
  specifiedGroups,
  specifiedPacking,
} from './naive-kernel.js';

const fround = Math.fround;
const f16 = (value: number) => fromFloat16Bits(toFloat16Bits(value));

function activations(rows: number, columns: number, seed = 1): Float32Array {
  return heavyTailed(rows, columns, new Random(seed));
}

/** Values exactly between two levels of scales that f16 can hold. */
function ties(rows: number, columns: number, last: number, seed = 1): Float32Array {
  const random = new Random(seed);
  const x = new Float32Array(rows * columns);
  for (let t = 0; t < rows; t++) {
    const scale = f16(0.05 + random.next() * 0.01);
    for (let c = 0; c < columns; c++) {
      const level = c === 0 ? 0 : c === 1 ? last : Math.floor(random.next() * last) + 0.5;
      x[t * columns + c] = level * scale;
    }
  }
  return x;
}

type Overrides = Partial<KernelOptions> & { x?: Float32Array; options?: Record<string, unknown> };

/** A dump of a quantizer that goes wrong as `hooks` say. */
function quantizeDump(hooks: Hooks, overrides: Overrides = {}): CheckCase {
  const { x: given, options: more, ...sizes } = overrides;
  const options: KernelOptions = {
    rows: 8,
    columns: 256,
    bits: 4,
    groupSize: 128,
    grouping: 'perToken',
    ...sizes,
  };
  const { rows, columns, ...stored } = options;
  const x = given ?? activations(rows, columns);
  return {
    name: 'dump',
    operation: 'quantize',
    options: { ...stored, ...more },
    tensors: new Map(
      Object.entries({ x: tensorOf(x, [rows, columns]), ...outputs(kernel(x, options, hooks), options) }),
    ),
  };
}

function outputs({ packed, scales, mins, codes, x_hat }: KernelResult, { rows, columns }: KernelOptions) {
  return {
    packed: tensorOf(packed, [packed.length]),
    scales: tensorOf(scales, [scales.length], 'F16'),
    mins: tensorOf(mins, [mins.length], 'F16'),
    codes: tensorOf(codes, [rows, columns]),
    x_hat: tensorOf(x_hat, [rows, columns]),
  };
}

function withTensors(source: CheckCase, tensors: Record<string, Tensor>): CheckCase {
  return { ...source, tensors: new Map([...source.tensors, ...Object.entries(tensors)]) };
}

async function expectDiagnosis(dump: CheckCase, id: string, detail?: string): Promise<CaseReport> {
  const report = await checkCase(dump, NO_MODELS);
  expect(report.verdict, formatCase(report)).toBe('fail');
  expect(
    report.diagnoses.map((diagnosis) => diagnosis.id),
    formatCase(report),
  ).toEqual([id]);
  if (detail !== undefined) expect(report.diagnoses[0].detail).toContain(detail);
  expect(report.diagnoses[0].specification).toMatch(/\.md/);
  return report;
}

async function reference(operation: string, rows: number, columns: number, options = {}): Promise<CheckCase> {
  return makeCase({ operation, rows, columns, seed: 2, options }, NO_MODELS);
}

function floats(source: CheckCase, name: string): Float32Array {
  return Float32Array.from(numbersOf(source.tensors.get(name) as Tensor));
}

describe('the naive kernel', () => {
  it.each([1, 2, 3, 4, 8])('passes with %i bits when nothing is wrong', async (bits) => {
    for (const grouping of ['perToken', 'perChannel'] as const) {
      const report = await checkCase(
        quantizeDump({}, { bits, grouping, rows: 130, columns: 160 }),
        NO_MODELS,
      );
      expect(report.verdict, formatCase(report)).toBe('pass');
    }
  });
});

describe('mistakes of the quantizer', () => {
  it('rounding half away from zero', async () => {
    const round = (level: number) => Math.sign(level) * Math.floor(Math.abs(level) + 0.5);
    const report = await expectDiagnosis(
      quantizeDump({ round }, { x: ties(8, 256, 15), groupSize: 256 }),
      'rounding-half-up',
    );
    const codes = report.tensors.find(({ name }) => name === 'codes')?.codes;
    expect(codes?.differing).toBeGreaterThan(0);
    expect(codes?.nearTies).toBe(codes?.differing);
  });

  it('rounding half up', async () => {
    await expectDiagnosis(
      quantizeDump({ round: Math.round }, { x: ties(8, 256, 15), groupSize: 256 }),
      'rounding-half-up',
    );
  });

  it('truncating', async () => {
    await expectDiagnosis(quantizeDump({ round: Math.trunc }), 'rounding-truncated');
  });

  it('multiplying by the reciprocal', async () => {
    const level: Hooks['level'] = (x, { scale, min }) => fround(fround(x - min) * fround(1 / scale));
    const report = await expectDiagnosis(
      quantizeDump({ level }, { x: ties(8, 256, 15), groupSize: 256 }),
      'reciprocal',
      '(x - min)',
    );
    const codes = report.tensors.find(({ name }) => name === 'packed')?.codes;
    expect(codes?.nearTies).toBe(codes?.differing);
  });

  it('multiplying by the reciprocal, distributed', async () => {
    const level: Hooks['level'] = (x, { scale, min }) => {
      const inverse = fround(1 / scale);
      return fround(fround(x * inverse) - fround(min * inverse));
    };
    const x = ties(8, 256, 15).map((value, i) => value + (i % 512 < 256 ? 0.75 : -0.75));
    await expectDiagnosis(quantizeDump({ level }, { x, groupSize: 256 }), 'reciprocal', 'min * (1 / scale)');
  });

  it('codes from the unrounded scale', async () => {
    const level: Hooks['level'] = (x, stored, exact) => fround(fround(x - stored.min) / exact.scale);
    await expectDiagnosis(quantizeDump({ level }, { rows: 64 }), 'unrounded-parameters', 'unrounded scale');
  });

  it('codes from the unrounded minimum', async () => {
    const level: Hooks['level'] = (x, stored, exact) => fround(fround(x - exact.min) / stored.scale);
    await expectDiagnosis(quantizeDump({ level }, { rows: 64 }), 'unrounded-parameters', 'unrounded minimum');
  });

  it('codes from both unrounded', async () => {
    const level: Hooks['level'] = (x, _, exact) => fround(fround(x - exact.min) / exact.scale);
    await expectDiagnosis(quantizeDump({ level }, { rows: 64 }), 'unrounded-parameters', 'scale and minimum');
  });

  it('arithmetic in f16', async () => {
    const hooks: Hooks = {
      statistics: (values) => values.map(f16),
      parameters: (min, max, last) => ({ scale: f16(f16(max - min) / last), min }),
      level: (x, { scale, min }) => f16(f16(f16(x) - min) / scale),
      value: (code, { scale, min }) => f16(f16(code * scale) + min),
    };
    await expectDiagnosis(quantizeDump(hooks), 'f16-arithmetic');
  });

  it('an integer zero point', async () => {
    const zeroOf = (min: number, scale: number) => Math.min(15, Math.max(0, halfEven(-min / scale)));
    const hooks: Hooks = {
      parameters: (min, max, last) => {
        const scale = fround(fround(max - min) / last);
        return { scale, min: -zeroOf(min, f16(scale)) * f16(scale) };
      },
      level: (x, { scale, min }) => halfEven(fround(x / scale)) + Math.round(-min / scale),
      value: (code, { scale, min }) => fround((code - Math.round(-min / scale)) * scale),
    };
    await expectDiagnosis(quantizeDump(hooks), 'integer-zero-point');
  });

  it('a range symmetric about zero', async () => {
    const parameters: Hooks['parameters'] = (min, max, last) => {
      const size = Math.max(-min, max);
      return { scale: fround((2 * size) / last), min: -size };
    };
    await expectDiagnosis(quantizeDump({ parameters }), 'symmetric-range', 'max|x|');
  });

  it('signed codes with an offset', async () => {
    const hooks: Hooks = {
      parameters: (min, max) => {
        const scale = fround(Math.max(Math.abs(min), Math.abs(max)) / 7);
        return { scale, min: -8 * f16(scale) };
      },
      level: (x, { scale }) => halfEven(fround(x / scale)) + 8,
      value: (code, { scale }) => fround((code - 8) * scale),
    };
    await expectDiagnosis(quantizeDump(hooks), 'symmetric-range', 'signed codes');
  });

  it('the other range rule', async () => {
    await expectDiagnosis(
      quantizeDump({}, { options: { range: 'mse' } }),
      'range-rule',
      'minmax instead of mse',
    );
  });

  it.each(['perToken', 'perChannel'] as const)('axes swapped, %s asked for', async (grouping) => {
    const groups: Hooks['groups'] = (options) =>
      specifiedGroups({ ...options, grouping: grouping === 'perToken' ? 'perChannel' : 'perToken' });
    await expectDiagnosis(
      quantizeDump({ groups }, { grouping, rows: 256, columns: grouping === 'perToken' ? 128 : 64 }),
      'axes-swapped',
    );
  });

  it('groups per channel written channel by channel', async () => {
    const groups: Hooks['groups'] = (options) => specifiedGroups(options).sort(([[, a]], [[, b]]) => a - b);
    await expectDiagnosis(
      quantizeDump({ groups }, { grouping: 'perChannel', rows: 256, columns: 32 }),
      'group-order',
    );
  });

  it.each([64, 32])('group size %i', async (groupSize) => {
    const groups: Hooks['groups'] = (options) => specifiedGroups({ ...options, groupSize });
    await expectDiagnosis(quantizeDump({ groups }), 'group-size', String(groupSize));
  });

  it('groups counted from the second token', async () => {
    const groups: Hooks['groups'] = (options) => specifiedGroups(options, options.groupSize - 1);
    const dump = quantizeDump({ groups }, { grouping: 'perChannel', rows: 255, columns: 32 });
    await expectDiagnosis(dump, 'group-start', '127');
  });

  it('groups counted from the last token', async () => {
    const groups: Hooks['groups'] = (options) => specifiedGroups(options, options.rows % options.groupSize);
    await expectDiagnosis(
      quantizeDump({ groups }, { grouping: 'perChannel', rows: 200, columns: 32 }),
      'group-start',
      '72',
    );
  });

  it('a last group filled up with zeros', async () => {
    const statistics: Hooks['statistics'] = (values, size) =>
      values.length < size ? [...values, 0] : values;
    const x = activations(8, 192).map((value) => Math.abs(value) + 1);
    await expectDiagnosis(quantizeDump({ statistics }, { x, columns: 192 }), 'zero-padding');
  });

  it('a last group filled up with zeros that are packed too', async () => {
    const hooks: Hooks = {
      statistics: (values, size) => (values.length < size ? [...values, 0] : values),
      pack: (codes, bits) => specifiedPacking([...codes, ...new Array(128 - codes.length).fill(0)], bits),
    };
    const x = activations(8, 192).map((value) => Math.abs(value) + 1);
    await expectDiagnosis(quantizeDump(hooks, { x, columns: 192 }), 'zero-padding', 'packed');
  });

  it('a minimum of -0', async () => {
    const x = activations(8, 256).map((value, i) => (i % 5 === 0 ? -0 : Math.abs(value)));
    await expectDiagnosis(quantizeDump({ keepNegativeZero: true }, { x }), 'negative-zero');
  });
});

describe('mistakes in the order of bits and bytes', () => {
  it.each([1, 2, 4])('the first of %i-bit codes in the high bits', async (bits) => {
    const pack: Hooks['pack'] = (codes, width) => {
      const perByte = 8 / width;
      const swapped = codes.map((_, i) => codes[i - (i % perByte) + (perByte - 1 - (i % perByte))]);
      return bytesOf(bitsOf(swapped, width));
    };
    await expectDiagnosis(quantizeDump({ pack }, { bits }), 'nibble-order');
  });

  it('4-bit codes i and i + n/2 in a byte', async () => {
    const pack: Hooks['pack'] = (codes) =>
      codes.slice(0, codes.length / 2).map((code, i) => code | (codes[i + codes.length / 2] << 4));
    await expectDiagnosis(quantizeDump({ pack }), 'split-halves');
  });

  it('3-bit planes in the other order', async () => {
    const pack: Hooks['pack'] = (codes) => [
      ...bytesOf(
        bitsOf(
          codes.map((code) => code >> 2),
          1,
        ),
      ),
      ...bytesOf(
        bitsOf(
          codes.map((code) => code & 3),
          2,
        ),
      ),
    ];
    await expectDiagnosis(quantizeDump({ pack }, { bits: 3 }), 'plane-order');
  });

  it('3-bit codes as a stream', async () => {
    const pack: Hooks['pack'] = (codes) => bytesOf(bitsOf(codes, 3));
    await expectDiagnosis(quantizeDump({ pack }, { bits: 3 }), 'three-bit-stream');
  });

  it('3-bit codes as three planes', async () => {
    const pack: Hooks['pack'] = (codes) =>
      [0, 1, 2].flatMap((bit) => bytesOf(codes.map((code) => (code >> bit) & 1)));
    await expectDiagnosis(quantizeDump({ pack }, { bits: 3 }), 'three-bit-planes');
  });

  it('big-endian scales and minima', async () => {
    const dump = quantizeDump({});
    const swapped = (name: string) => {
      const tensor = dump.tensors.get(name) as Tensor;
      return { ...tensor, bytes: tensor.bytes.map((_, i, bytes) => bytes[i ^ 1]) };
    };
    const wrong = withTensors(dump, { scales: swapped('scales'), mins: swapped('mins') });
    await expectDiagnosis(wrong, 'big-endian', 'scales and minima');
  });

  it('packed codes in big-endian words', async () => {
    const pack: Hooks['pack'] = (codes, bits) => {
      const bytes = specifiedPacking(codes, bits);
      return bytes.map((_, i) => bytes[i ^ 3]);
    };
    await expectDiagnosis(quantizeDump({ pack }), 'big-endian', 'words of 4 bytes');
  });

  it("codes in two's complement", async () => {
    const pack: Hooks['pack'] = (codes, bits) =>
      specifiedPacking(
        codes.map((code) => code ^ 8),
        bits,
      );
    await expectDiagnosis(quantizeDump({ pack }), 'signed-codes');
  });

  it('packing alone', async () => {
    const made = await reference('pack', 8, 128);
    const codes = [...floats(made, 'codes')];
    const bytes = codes.filter((_, i) => i % 2 === 0).map((code, i) => (code << 4) | codes[2 * i + 1]);
    await expectDiagnosis(
      withTensors(made, { packed: tensorOf(Uint8Array.from(bytes), [8, 64]) }),
      'nibble-order',
    );
  });

  it('reading the high nibble first', async () => {
    const made = await reference('rematerialize', 12, 128);
    const packed = (made.tensors.get('packed') as Tensor).bytes;
    const misread = withTensors(made, {
      packed: tensorOf(
        packed.map((byte) => (byte >> 4) | ((byte & 15) << 4)),
        [packed.length],
      ),
    });
    const { keys, values } = await rerun(misread);
    await expectDiagnosis(withTensors(made, { keys, values }), 'nibble-order');
  });
});

/** What a right kernel would give for changed inputs. */
async function rerun(source: CheckCase): Promise<Record<string, Tensor>> {
  const { findOperation } = await import('../../../src/check/operations/index.js');
  const { CaseInputs } = await import('../../../src/check/case/inputs.js');
  const { expectedTensor } = await import('../../../src/check/make-case.js');
  const expected = await findOperation(source.operation).run(new CaseInputs(source), NO_MODELS);
  return Object.fromEntries(Object.entries(expected).map(([name, tensor]) => [name, expectedTensor(tensor)]));
}

describe('mistakes of the rotations', () => {
  it('the Hadamard transform without normalization', async () => {
    const made = await reference('rotate', 8, 96);
    const rotated = hadamard(floats(made, 'x'), 32);
    await expectDiagnosis(
      withTensors(made, { rotated: tensorOf(rotated, [8, 96]) }),
      'hadamard-unnormalized',
      'no factor',
    );
  });

  it('the Hadamard transform with 1/n', async () => {
    const made = await reference('rotate', 8, 64);
    const rotated = hadamard(floats(made, 'x'), 64).map((value) => value / 64);
    await expectDiagnosis(
      withTensors(made, { rotated: tensorOf(rotated, [8, 64]) }),
      'hadamard-unnormalized',
      '1/n',
    );
  });

  it('quantizing after an unnormalized transform', async () => {
    const x = activations(16, 256);
    const options: KernelOptions = { rows: 16, columns: 256, bits: 2, groupSize: 128, grouping: 'perToken' };
    const dump = quantizeDump({}, { ...options, x, options: { rotation: 'hadamard' } });
    const wrong = outputs(kernel(hadamard(x, 256), options), options);
    await expectDiagnosis(withTensors(dump, wrong), 'hadamard-unnormalized');
  });

  it('no rotation where one is asked for', async () => {
    const dump = quantizeDump({}, { bits: 2, options: { rotation: 'hadamard' } });
    await expectDiagnosis(dump, 'rotation-missing', 'not rotated');
  });

  it.each(['half', 'interleaved'] as const)('RoPE of the other layout than %s', async (layout) => {
    const made = await reference('rope', 12, 128, { layout, headDim: 64, firstPosition: 5 });
    const other = layout === 'half' ? 'interleaved' : 'half';
    const rotated = rope(floats(made, 'x'), 128, 64, 10_000, other, (row) => row + 5);
    await expectDiagnosis(withTensors(made, { rotated: tensorOf(rotated, [12, 128]) }), 'rope-layout');
  });

  it.each([1, -1])('RoPE with positions off by %i', async (off) => {
    const made = await reference('rope', 12, 128, { headDim: 64, firstPosition: 5 });
    const rotated = rope(floats(made, 'x'), 128, 64, 10_000, 'half', (row) => row + 5 + off);
    await expectDiagnosis(withTensors(made, { rotated: tensorOf(rotated, [12, 128]) }), 'rope-position');
  });

  it('RoPE in the other direction', async () => {
    const made = await reference('rope', 12, 128, { headDim: 64, firstPosition: 5 });
    const rotated = rope(floats(made, 'x'), 128, 64, 10_000, 'half', (row) => -row - 5);
    await expectDiagnosis(withTensors(made, { rotated: tensorOf(rotated, [12, 128]) }), 'rope-direction');
  });

  it('RoPE before quantizing', async () => {
    const x = activations(140, 128);
    const options: KernelOptions = {
      rows: 140,
      columns: 128,
      bits: 4,
      groupSize: 128,
      grouping: 'perChannel',
    };
    const { applyRope, ropeFrequencies } = await import('../../../src/model/rope.js');
    const frequencies = ropeFrequencies({ headDim: 64, ropeTheta: 10_000 });
    const rotated = applyRope({ rows: 140, columns: 128, data: x }, 0, frequencies, 'half').data;
    const wrong = outputs(kernel(rotated, options), options);
    await expectDiagnosis(
      withTensors(quantizeDump({}, { ...options, x }), wrong),
      'rope-before-caching',
      'headDim 64',
    );
  });

  it.each([
    ['keys', 'rope-before-caching'],
    ['values', 'rope-on-values'],
  ] as const)('rematerialized %s that come rotated', async (name, id) => {
    const made = await reference('rematerialize', 24, 128);
    const rotated = rope(floats(made, name), 128, 64, 10_000, 'interleaved', (row) => row);
    await expectDiagnosis(withTensors(made, { [name]: tensorOf(rotated, [24, 128]) }), id, 'interleaved');
  });

  it('attention over keys without RoPE', async () => {
    const { made, query, keys, values } = await attendParts();
    const rotated = rope(query, 128, 32, 10_000, 'half', () => 40);
    const output = attention(rotated, keys, values, 32);
    await expectDiagnosis(withTensors(made, { output: tensorOf(output, [4, 32]) }), 'rope-before-caching');
  });

  it('attention with RoPE on values', async () => {
    const { made, query, keys, values } = await attendParts();
    const turn = (x: Float32Array) => rope(x, 128, 32, 10_000, 'half', (row) => row);
    const output = attention(
      rope(query, 128, 32, 10_000, 'half', () => 40),
      turn(keys),
      turn(values),
      32,
    );
    await expectDiagnosis(withTensors(made, { output: tensorOf(output, [4, 32]) }), 'rope-on-values');
  });

  it('attention at the wrong position', async () => {
    const { made, query, keys, values } = await attendParts();
    const turned = rope(keys, 128, 32, 10_000, 'half', (row) => row);
    const output = attention(
      rope(query, 128, 32, 10_000, 'half', () => 41),
      turned,
      values,
      32,
    );
    await expectDiagnosis(
      withTensors(made, { output: tensorOf(output, [4, 32]) }),
      'rope-position',
      '41 instead of 40',
    );
  });

  it('attention in f32 is right otherwise', async () => {
    const { made, query, keys, values } = await attendParts();
    const turned = rope(keys, 128, 32, 10_000, 'half', (row) => row);
    const output = attention(
      rope(query, 128, 32, 10_000, 'half', () => 40),
      turned,
      values,
      32,
    );
    const report = await checkCase(withTensors(made, { output: tensorOf(output, [4, 32]) }), NO_MODELS);
    expect(report.verdict, formatCase(report)).toBe('pass');
    expect(report.tensors[0].differing).toBeGreaterThan(0);
  });
});

async function attendParts() {
  const made = await reference('attend', 40, 128, { headDim: 32, heads: 4, kvDim: 128, bits: 4 });
  const { keys, values } = await rerun({ ...made, operation: 'rematerialize' });
  return {
    made,
    query: floats(made, 'query'),
    keys: new Float32Array(numbersOf(keys)),
    values: new Float32Array(numbersOf(values)),
  };
}

/** Softmax attention of one query in f32; as many heads for queries as for keys. */
function attention(
  query: Float32Array,
  keys: Float32Array,
  values: Float32Array,
  headDim: number,
): Float32Array {
  const width = query.length;
  const tokens = keys.length / width;
  const output = new Float32Array(width);
  for (let head = 0; head < width; head += headDim) {
    const scores = Float32Array.from({ length: tokens }, (_, t) => {
      let sum = 0;
      for (let i = head; i < head + headDim; i++) sum = fround(sum + fround(query[i] * keys[t * width + i]));
      return sum / Math.sqrt(headDim);
    });
    const max = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - max));
    const total = weights.reduce((sum, weight) => fround(sum + weight), 0);
    for (let i = head; i < head + headDim; i++) {
      let sum = 0;
      for (let t = 0; t < tokens; t++) sum = fround(sum + fround(weights[t] * values[t * width + i]));
      output[i] = sum / total;
    }
  }
  return output;
}

describe('mistakes in the weights', () => {
  it('a transposed weight', async () => {
    const made = await reference('rematerialize', 24, 128);
    const { dequantized, w } = await parts(made);
    const transposed = w.map((_, i) => w[(i % 128) * 128 + Math.floor(i / 128)]);
    const keys = product(dequantized, transposed, 128);
    await expectDiagnosis(
      withTensors(made, { keys: tensorOf(keys, [24, 128]) }),
      'weights-transposed',
      'w_k',
    );
  });

  it('a weight that is not square read the other way', async () => {
    const made = await reference('rematerialize', 24, 128, { kvDim: 64 });
    const { dequantized, w } = await parts(made);
    // The memory of [64, 128] taken as [128, 64], the input channel first.
    const misread = Float32Array.from(
      { length: w.length },
      (_, i) => w[(i % 128) * 64 + Math.floor(i / 128)],
    );
    const keys = product(dequantized, misread, 128);
    await expectDiagnosis(withTensors(made, { keys: tensorOf(keys, [24, 64]) }), 'weights-transposed', 'w_k');
  });

  it('keys and values swapped', async () => {
    const made = await reference('rematerialize', 24, 128);
    const [keys, values] = ['values', 'keys'].map((name) => made.tensors.get(name) as Tensor);
    await expectDiagnosis(withTensors(made, { keys, values }), 'keys-and-values-swapped');
  });

  async function parts(made: CheckCase) {
    const { CaseInputs } = await import('../../../src/check/case/inputs.js');
    const { storedSources } = await import('../../../src/check/operations/stored-sources.js');
    return { dequantized: storedSources(new CaseInputs(made)).keyRows.data, w: floats(made, 'w_k') };
  }

  const LAYER = { headDim: 16, kvHeads: 2, cache: 'xquant:4@paper' };

  it.each([
    ['gain-twice', 'attention_norm', 'before attention', (gain: number) => gain * gain],
    ['gain-missing', 'attention_norm', 'before attention', () => 1],
    ['gain-twice', 'mlp_norm', 'before the MLP', (gain: number) => gain * gain],
    ['gain-missing', 'mlp_norm', 'before the MLP', () => 1],
  ] as const)('%s in %s', async (id, norm, detail, change) => {
    const made = await reference('layer', 130, 32, LAYER);
    const { output } = await rerun(
      withTensors(made, { [norm]: tensorOf(floats(made, norm).map(change), [32]) }),
    );
    await expectDiagnosis(withTensors(made, { output }), id, detail);
  });

  it('the gain applied twice for keys and values', async () => {
    const made = await reference('layer', 130, 32, LAYER);
    const gain = floats(made, 'attention_norm');
    const folded = (name: string) =>
      tensorOf(
        floats(made, name).map((value, i) => value * gain[i % 32]),
        [32, 32],
      );
    const { output } = await rerun(withTensors(made, { w_k: folded('w_k'), w_v: folded('w_v') }));
    await expectDiagnosis(withTensors(made, { output }), 'gain-twice', 'keys and values');
  });

  it('RoPE of the other layout in a layer', async () => {
    const made = await reference('layer', 130, 32, LAYER);
    const { output } = await rerun({ ...made, options: { ...made.options, layout: 'interleaved' } });
    await expectDiagnosis(withTensors(made, { output }), 'rope-layout');
  });

  it('factors of an SVD returned transposed', async () => {
    const made = await reference('svd', 32, 32);
    const u = floats(made, 'u');
    const transposed = u.map((_, i) => u[(i % 32) * 32 + Math.floor(i / 32)]);
    await expectDiagnosis(
      withTensors(made, { u: tensorOf(transposed, [32, 32]) }),
      'projection-transposed',
      'u',
    );
  });
});

describe('mistakes across layers', () => {
  const rows = 20;
  const columns = 128;

  /** XQuant-CL by hand; `against` says what a difference is taken against. */
  async function encodeDump(
    against: (x: Float32Array[], sums: Float32Array[], layer: number) => Float32Array,
    next: (sums: Float32Array[], increment: Float32Array) => Float32Array,
  ): Promise<CheckCase> {
    const made = await reference('cl-encode', rows, columns);
    const all = floats(made, 'x');
    const size = rows * columns;
    const x = Array.from({ length: 5 }, (_, layer) => all.slice(layer * size, (layer + 1) * size));
    const sums: Float32Array[] = [];
    const tensors: Record<string, Tensor> = {};
    for (let layer = 0; layer < 5; layer++) {
      const options: KernelOptions = {
        rows,
        columns,
        bits: layer === 0 ? 4 : 2,
        groupSize: 128,
        grouping: 'perToken',
      };
      const below = layer === 0 ? new Float32Array(size) : against(x, sums, layer);
      const result = kernel(
        x[layer].map((value, i) => value - below[i]),
        options,
      );
      for (const name of ['packed', 'scales', 'mins'] as const) {
        tensors[`${name}_${layer}`] = outputs(result, options)[name];
      }
      sums.push(layer === 0 ? result.x_hat : next(sums, result.x_hat));
    }
    const accumulator = new Float32Array(5 * size);
    sums.forEach((sum, layer) => {
      accumulator.set(sum, layer * size);
    });
    return withTensors(made, { ...tensors, accumulator: tensorOf(accumulator, [5, rows, columns]) });
  }

  const last = (sums: Float32Array[]) => sums[sums.length - 1];
  const plus = (a: Float32Array, b: Float32Array) => a.map((value, i) => value + b[i]);

  it('encoding by hand is right', async () => {
    const dump = await encodeDump(
      (_, sums) => last(sums),
      (sums, increment) => plus(last(sums), increment),
    );
    expect((await checkCase(dump, NO_MODELS)).verdict).toBe('pass');
  });

  it('differences against the true layer below', async () => {
    const dump = await encodeDump(
      (x, _, layer) => x[layer - 1],
      (sums, increment) => plus(last(sums), increment),
    );
    await expectDiagnosis(dump, 'open-loop');
  });

  it('an accumulator that is not carried on', async () => {
    const dump = await encodeDump(
      (_, sums) => sums[0],
      (sums, increment) => plus(sums[0], increment),
    );
    await expectDiagnosis(dump, 'accumulator-not-updated', 'adds to the base');
  });

  it('an accumulator that stays', async () => {
    const dump = await encodeDump(
      (_, sums) => sums[0],
      (sums) => sums[0],
    );
    await expectDiagnosis(dump, 'accumulator-not-updated', 'stays at the base');
  });

  it('a decoder that does not add up', async () => {
    const made = await reference('cl-decode', rows, columns);
    const sums = floats(made, 'accumulator');
    const size = rows * columns;
    const wrong = sums.map((value, i) =>
      i < 2 * size ? value : fround(value - sums[i - size]) + sums[i % size],
    );
    // Undone in f32, the increments are a little off, so the dump is made from exact ones.
    const { decodeLayers } = await import('../../../src/check/operations/cross-layer.js');
    const { CaseInputs } = await import('../../../src/check/case/inputs.js');
    const { increments } = decodeLayers(new CaseInputs(made));
    increments.forEach(({ data }, layer) => {
      if (layer > 0) wrong.set(plus(increments[0].data, data), layer * size);
    });
    await expectDiagnosis(
      withTensors(made, { accumulator: tensorOf(wrong, [5, rows, columns]) }),
      'accumulator-not-updated',
      'adds to the base',
    );
  });

  it('U in place of its transpose', async () => {
    const made = await reference('cl-decode', rows, columns, { form: 'latent', rank: 128 });
    const down = floats(made, 'down');
    const transposed = down.map((_, i) => {
      const [layer, at] = [Math.floor(i / 128 ** 2) * 128 ** 2, i % 128 ** 2];
      return down[layer + (at % 128) * 128 + Math.floor(at / 128)];
    });
    const { accumulator } = await rerun(withTensors(made, { down: tensorOf(transposed, [5, 128, 128]) }));
    await expectDiagnosis(withTensors(made, { accumulator }), 'projection-transposed');
  });
});

describe('no diagnosis where none fits', () => {
  const cases: [string, number, number, Record<string, unknown>, string][] = [
    ['quantize', 32, 256, {}, 'codes'],
    ['quantize', 32, 256, { bits: 3 }, 'packed'],
    ['quantize', 32, 256, { grouping: 'perChannel' }, 'scales'],
    ['pack', 8, 128, {}, 'packed'],
    ['rotate', 8, 96, {}, 'rotated'],
    ['rope', 12, 128, {}, 'rotated'],
    ['svd', 32, 32, {}, 'u'],
    ['rematerialize', 24, 128, {}, 'keys'],
    ['cl-encode', 20, 128, {}, 'accumulator'],
    ['cl-decode', 20, 128, {}, 'accumulator'],
    ['attend', 24, 64, {}, 'output'],
    ['layer', 24, 64, { headDim: 16 }, 'output'],
  ];

  it.each(cases)('%s %ix%i %o, %s corrupted', async (operation, rows, columns, options, name) => {
    const made = await reference(operation, rows, columns, options);
    const tensor = made.tensors.get(name) as Tensor;
    const bytes = tensor.bytes.slice();
    // Somewhere in the middle, three elements.
    const random = new Random(9);
    for (let i = 0; i < 3; i++) bytes[Math.floor(random.next() * (bytes.length / 8)) * 8 + 3] ^= 0x05;
    const report = await checkCase(withTensors(made, { [name]: { ...tensor, bytes } }), NO_MODELS);
    expect(report.verdict, formatCase(report)).toBe('fail');
    expect(report.diagnoses).toEqual([]);
    expect(formatCase(report)).toContain('no known mistake');
  });

  it('an output of zeros is called dead', async () => {
    const made = await reference('rematerialize', 24, 128);
    const zeros = tensorOf(new Float32Array(24 * 128), [24, 128]);
    const report = await checkCase(withTensors(made, { keys: zeros }), NO_MODELS);
    expect(report.diagnoses).toEqual([]);
    expect(report.tensors.find(({ name }) => name === 'keys')?.dead).toBe('zero');
  });
});
