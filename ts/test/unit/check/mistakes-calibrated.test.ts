/** Mistakes in calibrated caches, made by a kernel written here, are named. */

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseCase } from '../../../src/check/case/golden.js';
import type { CheckCase } from '../../../src/check/case/inputs.js';
import { numbersOf, type Tensor, tensorOf } from '../../../src/check/case/tensor.js';
import { checkCase } from '../../../src/check/check.js';
import { NO_MODELS } from '../../../src/check/mistakes/mistake.js';
import { fromFloat16Bits, toFloat16Bits } from '../../../src/numerics/float16.js';

const fround = Math.fround;
const f16 = (value: number) => fromFloat16Bits(toFloat16Bits(value));
const STEPS: Record<number, number> = { 1: 1.596, 2: 0.9957, 3: 0.586, 4: 0.3352, 8: 0.0308 };
const FACTORS = [0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.35, 1.5];

/** Steps of the quantizer that a test may replace. */
interface Kernel {
  code(z: number, scale: number, bits: number): number;
  level(code: number, bits: number): number;
  /** Of the candidates, with their errors, in order: which one is stored. */
  choose(errors: readonly number[]): number;
  size(group: readonly number[]): number;
  bitsOf(bits: readonly number[], channel: number): number;
  /** Which channel's scale codes a channel. */
  scaleOf(channel: number): number;
}

const right: Kernel = {
  code: (z, scale, bits) =>
    scale === 0
      ? 2 ** (bits - 1)
      : Math.min(Math.max(Math.floor(fround(z / scale)) + 2 ** (bits - 1), 0), 2 ** bits - 1),
  level: (code, bits) => code + 0.5 - 2 ** (bits - 1),
  choose: (errors) => errors.indexOf(Math.min(...errors)),
  size: (group) => fround(Math.sqrt(fround(squares(group) / group.length))),
  bitsOf: (bits, channel) => bits[channel],
  scaleOf: (channel) => channel,
};

function squares(values: readonly number[]): number {
  const lanes = [0, 0, 0, 0];
  values.forEach((value, i) => {
    lanes[i % 4] = fround(lanes[i % 4] + fround(value * value));
  });
  return fround(fround(lanes[0] + lanes[1]) + fround(lanes[2] + lanes[3]));
}

function stepOf(group: readonly number[], bits: number, kernel: Kernel): number {
  const size = kernel.size(group);
  const scales = FACTORS.map((m) => f16(fround(fround(fround(m) * fround(STEPS[bits])) * size)));
  const errors = scales.map((scale) =>
    squares(group.map((z) => fround(z - kernel.level(kernel.code(z, scale, bits), bits) * scale))),
  );
  return scales[kernel.choose(errors)];
}

/** x [tokens, channels] with one block of tokens. */
function quantize(x: Float32Array, given: readonly number[], kernel: Kernel) {
  const channels = given.length;
  const tokens = x.length / channels;
  const column = (k: number) => Array.from({ length: tokens }, (_, t) => x[t * channels + k]);
  const codes = new Uint8Array(x.length);
  const values = new Float32Array(x.length);
  const bytes: number[] = [];
  const scales: number[] = [];
  const widths = given.map((_, k) => kernel.bitsOf(given, k));
  const steps = widths.map((bits, k) => (bits === 0 ? 0 : stepOf(column(k), bits, kernel)));
  for (let k = 0; k < channels; k++) {
    const bits = widths[k];
    if (bits === 0) continue;
    scales.push(steps[k]);
    const used = steps[kernel.scaleOf(k)] ?? steps[k];
    const own = column(k).map((z) => kernel.code(z, used, bits));
    own.forEach((code, t) => {
      codes[t * channels + k] = code;
      values[t * channels + k] = kernel.level(code, bits) * used;
    });
    if (bits === 3)
      bytes.push(
        ...stream(
          own.map((c) => c & 3),
          2,
        ),
        ...stream(
          own.map((c) => c >> 2),
          1,
        ),
      );
    else bytes.push(...stream(own, bits));
  }
  return { packed: Uint8Array.from(bytes), scales: Uint16Array.from(scales, toFloat16Bits), codes, values };
}

function stream(codes: readonly number[], bits: number): number[] {
  const bytes = new Array<number>(Math.ceil((codes.length * bits) / 8)).fill(0);
  codes.forEach((code, i) => {
    bytes[(i * bits) >> 3] |= code << ((i * bits) & 7);
  });
  return bytes;
}

function golden(name: string): CheckCase {
  const path = new URL(`../../../../golden/vectors/${name}.safetensors`, import.meta.url);
  return parseCase(readFileSync(path), name);
}

async function named(dump: CheckCase): Promise<string[]> {
  const { verdict, diagnoses } = await checkCase(dump, NO_MODELS, { diagnoseSeconds: 60 });
  expect(verdict).toBe('fail');
  return diagnoses.map(({ id }) => id);
}

describe('symmetric', () => {
  const half = (bits: number) => 2 ** (bits - 1);
  const clamp = (cell: number, bits: number) => Math.min(Math.max(cell + half(bits), 0), 2 ** bits - 1);

  function dump(name: string, kernel: Partial<Kernel>): CheckCase {
    const source = golden(name);
    const tensor = (key: string) => numbersOf(source.tensors.get(key) as Tensor);
    const x = Float32Array.from(tensor('x'));
    const bits = Array.from(tensor('bits'));
    const { packed, scales, codes, values } = quantize(x, bits, { ...right, ...kernel });
    const shape = [x.length / bits.length, bits.length];
    const tensors = new Map(source.tensors);
    tensors.set('packed', tensorOf(packed, [packed.length]));
    tensors.set('scales', tensorOf(scales, [scales.length], 'F16'));
    tensors.set('codes', tensorOf(codes, shape));
    tensors.set('x_hat', tensorOf(values, shape));
    return { ...source, tensors };
  }

  it('the kernel of this file is right', async () => {
    for (const name of ['symmetric-mixed-384', 'symmetric-heavy-b3-128', 'symmetric-tie-b4']) {
      expect((await checkCase(dump(name, {}), NO_MODELS)).verdict).toBe('pass');
    }
  });

  it.each<[string, Partial<Kernel>]>([
    [
      'half-step-missing',
      {
        code: (z, s, b) => (s === 0 ? half(b) : clamp(Math.round(fround(z / s)), b)),
        level: (code, bits) => code - half(bits),
      },
    ],
    ['cell-rounding', { code: (z, s, b) => (s === 0 ? half(b) : clamp(Math.round(fround(z / s)), b)) }],
    ['neighbouring-scale', { scaleOf: (channel) => channel + 1 }],
    ['bits-shifted', { bitsOf: (bits, k) => bits[(k + 1) % bits.length] }],
    ['scale-search', { choose: () => FACTORS.indexOf(1) }],
    ['group-size-measure', { size: (group) => Math.max(...group.map(Math.abs)) }],
  ])('%s', async (id, kernel) => {
    // A shifted table and a neighbour are told from widths that differ; the others from a plain case.
    const isMixed = id === 'bits-shifted';
    expect(await named(dump(isMixed ? 'symmetric-mixed-384' : 'symmetric-heavy-b4-128', kernel))).toContain(
      id,
    );
  });

  it('multiplying with the reciprocal shows in values at borders', async () => {
    const code = (z: number, s: number, b: number) =>
      s === 0 ? half(b) : clamp(Math.floor(fround(z * fround(1 / s))), b);
    const found = await Promise.all(
      ['symmetric-tie-b8', 'symmetric-tie-b4', 'symmetric-tie-b3'].map(async (name) => {
        const { verdict, diagnoses } = await checkCase(dump(name, { code }), NO_MODELS);
        return { verdict, ids: diagnoses.map(({ id }) => id) };
      }),
    );
    const failing = found.filter(({ verdict }) => verdict === 'fail');
    expect(failing.length).toBeGreaterThan(0);
    for (const { ids } of failing) expect(ids).toContain('symmetric-reciprocal');
  });
});

describe('calibrated-decode', () => {
  /** Row vectors times a matrix, in f64. */
  function product(rows: readonly number[], weights: readonly number[], n: number): number[] {
    const result = new Array<number>(rows.length).fill(0);
    for (let t = 0; t < rows.length / n; t++) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let i = 0; i < n; i++) sum += rows[t * n + i] * weights[i * n + j];
        result[t * n + j] = sum;
      }
    }
    return result;
  }

  /** Layers from the stored z^, which are what the golden y leave after the prediction. */
  function decodeDump(name: string, mistake: 'swapped' | 'transposed' | 'noOffset' | 'none'): CheckCase {
    const source = golden(name);
    const read = (key: string) => Array.from(numbersOf(source.tensors.get(key) as Tensor));
    const { layers, width: n, tokens } = source.options as Record<string, number>;
    const size = tokens * n;
    const [y, decode, offset] = [read('y'), read('decode'), read('offset')];
    const predictions = (layer: number, known: number[][], swap: boolean, withOffset: boolean) => {
      const total = Array.from({ length: size }, (_, i) => (withOffset ? offset[layer * n + (i % n)] : 0));
      const depth = Math.min(layer, Number(source.options.predict));
      for (let p = 1; p <= depth; p++) {
        const from = known[layer - (swap ? depth + 1 - p : p)];
        product(from, read(`predict_${p}_${layer}`), n).forEach((value, i) => {
          total[i] += value;
        });
      }
      return total;
    };
    const exact = Array.from({ length: layers }, (_, layer) => y.slice(layer * size, (layer + 1) * size));
    const mistaken: number[][] = [];
    const carriers: number[] = [];
    for (let layer = 0; layer < layers; layer++) {
      const was = predictions(layer, exact, false, true);
      const now = predictions(layer, mistaken, mistake === 'swapped', mistake !== 'noOffset');
      mistaken.push(exact[layer].map((value, i) => value - was[i] + now[i]));
      const matrix = decode.slice(layer * n * n, (layer + 1) * n * n);
      const turned = matrix.map((_, i) => matrix[(i % n) * n + Math.floor(i / n)]);
      carriers.push(...product(mistaken[layer], mistake === 'transposed' ? turned : matrix, n));
    }
    const tensors = new Map(source.tensors);
    tensors.set('y', tensorOf(Float32Array.from(mistaken.flat()), [layers, tokens, n]));
    tensors.set('x_hat', tensorOf(Float32Array.from(carriers), [layers, tokens, n]));
    return { ...source, tensors };
  }

  it('the layers of this file are right', async () => {
    const { verdict } = await checkCase(decodeDump('calibrated-decode-p2-n32', 'none'), NO_MODELS);
    expect(verdict).toBe('pass');
  });

  it.each([
    ['prediction-swapped', 'swapped'],
    ['transposed-basis', 'transposed'],
    ['prediction-missing', 'noOffset'],
  ] as const)('%s', async (id, mistake) => {
    expect(await named(decodeDump('calibrated-decode-p2-n32', mistake))).toEqual([id]);
  });
});
