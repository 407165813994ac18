import { describe, expect, it } from 'vitest';
import type { CheckCase } from '../../../src/check/case/inputs.js';
import { numbersOf, type Tensor, tensorOf } from '../../../src/check/case/tensor.js';
import { checkCase } from '../../../src/check/check.js';
import { makeCase } from '../../../src/check/make-case.js';
import { NO_MODELS } from '../../../src/check/mistakes/mistake.js';
import { formatCase } from '../../../src/check/report.js';
import { dequantizeMatrix, quantizeMatrix } from '../../../src/quant/grouped.js';
import { product } from './naive-kernel.js';

const [rows, columns, rank] = [64, 128, 64];

/** A kernel of the latent form with the error of long sums in f32, so that its codes differ at ties. */
async function float32Kernel(range: 'minmax' | 'mse', spoil = (_: Float32Array) => {}): Promise<CheckCase> {
  const made = await makeCase(
    { operation: 'cl-encode', rows, columns, seed: 3, options: { form: 'latent', rank, bits: 8, range } },
    NO_MODELS,
  );
  const floats = (name: string) => Float32Array.from(numbersOf(made.tensors.get(name) as Tensor));
  const [all, downs] = [floats('x'), floats('down')];
  const size = rows * columns;
  const tensors = new Map(made.tensors);
  const sums: Float32Array[] = [];
  for (let layer = 0; layer < 5; layer++) {
    const x = all.subarray(layer * size, (layer + 1) * size);
    const below = sums.at(-1);
    const down = downs.subarray(layer * rank * columns, (layer + 1) * rank * columns);
    const back = down.map((_, i) => down[(i % rank) * columns + Math.floor(i / rank)]);
    const latent = below
      ? product(
          x.map((value, i) => value - below[i]),
          down,
          columns,
        )
      : x;
    // Half of the bound (129 u of the lengths): sums in another order would do the same, but not for every seed.
    if (below) for (let i = 0; i < latent.length; i++) latent[i] *= 1 + (i % 2 ? 4e-6 : -4e-6);
    if (layer === 2) spoil(latent);
    const width = below ? rank : columns;
    const format = { bits: layer === 0 ? 4 : 8, groupSize: 128, grouping: 'perToken', range } as const;
    const stored = quantizeMatrix({ rows, columns: width, data: Float32Array.from(latent) }, format);
    tensors.set(`packed_${layer}`, tensorOf(stored.packed, [stored.packed.length]));
    tensors.set(`scales_${layer}`, tensorOf(stored.scales, [stored.scales.length], 'F16'));
    tensors.set(`mins_${layer}`, tensorOf(stored.mins, [stored.mins.length], 'F16'));
    const values = dequantizeMatrix(stored).data;
    sums.push(below ? product(values, back, rank).map((value, i) => value + below[i]) : values);
  }
  const accumulator = new Float32Array(5 * size);
  sums.forEach((sum, layer) => {
    accumulator.set(sum, layer * size);
  });
  return { ...made, tensors: tensors.set('accumulator', tensorOf(accumulator, [5, rows, columns])) };
}

describe('codes of latents that are a product', () => {
  it.each(['minmax', 'mse'] as const)('may differ within its error, %s', async (range) => {
    const report = await checkCase(await float32Kernel(range), NO_MODELS);
    expect(report.verdict, formatCase(report)).toBe('pass');
    expect(formatCase(report)).toContain('within the error of the product');
  });

  it.each(['minmax', 'mse'] as const)('may not differ by more, %s', async (range) => {
    const dump = await float32Kernel(range, (latent) => {
      latent[5 * rank + 7] *= 1.5;
      latent[9 * rank + 1] += 0.3 * Math.max(...latent.subarray(9 * rank, 10 * rank));
    });
    const report = await checkCase(dump, NO_MODELS);
    expect(report.verdict).toBe('fail');
    const failing = report.tensors.filter(({ verdict }) => verdict === 'fail').map(({ name }) => name);
    expect(failing).toContain('packed_2');
    expect(failing).not.toContain('packed_1');
  });
});
