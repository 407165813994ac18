/**
 * The bound of `attend` against kernels in f32 that sum in orders of their own, and against mistakes that one token in some
 * hundred makes: right kernels stay within it and reach a tenth of it, so that nothing of the size of a token gets through.
 */

import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseCase } from '../../../src/check/case/golden.js';
import { CaseInputs, type CheckCase } from '../../../src/check/case/inputs.js';
import { tensorOf } from '../../../src/check/case/tensor.js';
import { checkCase } from '../../../src/check/check.js';
import { COMPUTE_TYPES, type ComputeType } from '../../../src/check/compare/rounding-noise.js';
import { NO_MODELS } from '../../../src/check/mistakes/mistake.js';
import { storedSources } from '../../../src/check/operations/stored-sources.js';
import { fromFloat16Bits, toFloat16Bits } from '../../../src/numerics/float16.js';
import { rope } from './naive-kernel.js';

const fround = Math.fround;
const golden = new URL('../../../../golden/vectors/', import.meta.url);
const files = readdirSync(golden).filter((name) => name.startsWith('attend-planted'));
const read = (file: string): CheckCase => parseCase(readFileSync(new URL(file, golden)), file);

/** What a kernel does its own way. */
interface Kernel {
  /** Partial sums that are added at the end. Default 1: one product after the other. */
  readonly lanes?: number;
  /** What the factors of products are rounded to. */
  readonly factor?: (value: number) => number;
  /** What weights are rounded to before values are averaged. */
  readonly weight?: (value: number) => number;
  /** First token, and how many are left out at the end. */
  readonly skip?: readonly [number, number];
  /** Columns of zeros that enter the softmax. */
  readonly padding?: number;
}

/** Attention in f32, written from the specification. */
function attend(source: CheckCase, kernel: Kernel): Float32Array {
  const {
    lanes = 1,
    factor = (value) => value,
    weight = (value) => value,
    skip = [0, 0],
    padding = 0,
  } = kernel;
  const inputs = new CaseInputs(source);
  const { keyRows, valueRows, keyWeights, valueWeights } = storedSources(inputs);
  const [heads, kvHeads, headDim] = ['heads', 'kvHeads', 'headDim'].map((name) => inputs.count(name));
  const [theta, position] = [inputs.number('theta'), inputs.number('position')];
  const layout = inputs.word('layout', ['half', 'interleaved']);
  const sum = (count: number, term: (i: number) => number): number => {
    const sums = new Float32Array(lanes);
    for (let i = 0; i < count; i++) sums[i % lanes] += fround(term(i));
    return sums.reduce((a, b) => fround(a + b));
  };
  const product = (x: Float32Array, w: Float32Array, inner: number): Float32Array =>
    Float32Array.from({ length: (x.length / inner) * (w.length / inner) }, (_, at) => {
      const [t, j] = [Math.floor(at / (w.length / inner)), at % (w.length / inner)];
      return sum(inner, (k) => factor(x[t * inner + k]) * factor(w[j * inner + k]));
    });
  const tokens = keyRows.rows;
  const width = kvHeads * headDim;
  const keys = rope(
    product(keyRows.data, keyWeights.data, keyRows.columns),
    width,
    headDim,
    theta,
    layout,
    (t) => t,
  );
  const values = product(valueRows.data, valueWeights.data, valueRows.columns);
  const query = rope(
    inputs.matrix('query', 'head').data,
    heads * headDim,
    headDim,
    theta,
    layout,
    () => position,
  );
  const output = new Float32Array(heads * headDim);
  for (let head = 0; head < heads; head++) {
    const at = Math.floor((head * kvHeads) / heads) * headDim;
    const scores = Float32Array.from({ length: tokens }, (_, t) =>
      fround(
        sum(headDim, (c) => factor(query[head * headDim + c]) * factor(keys[t * width + at + c])) /
          fround(Math.sqrt(headDim)),
      ),
    ).subarray(skip[0], tokens - skip[1]);
    const largest = scores.reduce((a, b) => Math.max(a, b));
    const weights = scores.map((score) => Math.exp(fround(score - largest)));
    const total = fround(sum(weights.length, (t) => weights[t]) + padding * Math.exp(-largest));
    for (let c = 0; c < headDim; c++) {
      const value = (t: number) => factor(values[(t + skip[0]) * width + at + c]);
      output[head * headDim + c] = fround(
        sum(weights.length, (t) => factor(weight(weights[t])) * value(t)) / total,
      );
    }
  }
  return output;
}

async function check(file: string, kernel: Kernel, compute: ComputeType = 'f32') {
  const source = read(file);
  const output = attend(source, kernel);
  const tensors = new Map(source.tensors).set(
    'output',
    tensorOf(output, source.tensors.get('output')?.shape ?? []),
  );
  const report = await checkCase({ ...source, tensors }, { ...NO_MODELS, compute }, { diagnose: false });
  return { verdict: report.verdict, ofBound: report.tensors[0].largestOfAllowed?.value ?? 0 };
}

const f16 = (value: number): number => fromFloat16Bits(toFloat16Bits(value));

/** Keeps the first bits of an f32 number, rounded to nearest or cut. */
function bits(kept: number, rounded: boolean): (value: number) => number {
  const word = new Int32Array(1);
  const float = new Float32Array(word.buffer);
  const dropped = 24 - kept;
  return (value) => {
    float[0] = value;
    if (rounded) word[0] += (1 << (dropped - 1)) - 1 + ((word[0] >> dropped) & 1);
    word[0] &= -1 << dropped;
    return float[0];
  };
}

const FACTORS: Readonly<Record<ComputeType, ((value: number) => number) | undefined>> = {
  f32: undefined,
  tf32: bits(11, false),
  bf16: bits(8, true),
  fp16: f16,
};

describe.each(files)('%s', (file) => {
  it('right kernels are within the bound, and not far', async () => {
    const found = await Promise.all([1, 4, 32].map((lanes) => check(file, { lanes })));
    console.log(file, found.map(({ ofBound }) => ofBound.toPrecision(2)).join(' '));
    expect(found.map(({ verdict }) => verdict)).toEqual(['pass', 'pass', 'pass']);
    expect(Math.max(...found.map(({ ofBound }) => ofBound))).toBeGreaterThan(0.1);
  });

  it.each<[string, Kernel]>([
    ['the first token is skipped', { skip: [1, 0] }],
    ['the newest token is skipped', { skip: [0, 1] }],
    ['a column of padding enters the softmax', { padding: 1 }],
    ['weights are rounded to f16', { weight: f16 }],
  ])('%s', async (_, kernel) => {
    expect(await check(file, kernel)).toMatchObject({ verdict: 'fail' });
  });

  it.each(COMPUTE_TYPES.slice(1))('products in %s fail, unless that is said', async (compute) => {
    const kernel = { factor: FACTORS[compute] };
    expect(await check(file, kernel)).toMatchObject({ verdict: 'fail' });
    const said = await check(file, kernel, compute);
    console.log(file, compute, said.ofBound.toPrecision(2));
    expect(said.verdict).toBe('pass');
    expect(said.ofBound).toBeGreaterThan(0.02);
    expect(await check(file, { ...kernel, skip: [0, 1] }, compute)).toMatchObject({ verdict: 'fail' });
  });
});
