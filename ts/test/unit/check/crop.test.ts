import { describe, expect, it } from 'vitest';
import { numbersOf, type Tensor, tensorOf } from '../../../src/check/case/tensor.js';
import { checkCase } from '../../../src/check/check.js';
import { makeCase } from '../../../src/check/make-case.js';
import { NO_MODELS } from '../../../src/check/mistakes/mistake.js';
import { formatCase } from '../../../src/check/report.js';

describe('a large dump', () => {
  it.each([
    ['quantize', 2048, 64, { grouping: 'perChannel', groupSize: 64 }, 'packed', 'nibble-order'],
    ['quantize', 2048, 64, { groupSize: 32 }, 'packed', 'nibble-order'],
    ['pack', 2048, 64, {}, 'packed', 'nibble-order'],
    ['rotate', 2048, 64, {}, 'rotated', 'hadamard-unnormalized'],
    ['rematerialize', 512, 64, {}, 'keys', 'keys-and-values-swapped'],
    ['rematerialize', 512, 64, { form: 'latent' }, 'keys', 'keys-and-values-swapped'],
  ] as const)(
    '%s %ix%i %o: the mistake is found in the first tokens',
    async (operation, rows, columns, options, name, id) => {
      const made = await makeCase({ operation, rows, columns, seed: 4, options }, NO_MODELS);
      const tensors = new Map(made.tensors);
      const tensor = tensors.get(name) as Tensor;
      if (id === 'nibble-order') {
        tensors.set(name, { ...tensor, bytes: tensor.bytes.map((byte) => (byte >> 4) | (byte << 4)) });
      } else if (id === 'hadamard-unnormalized') {
        tensors.set(
          name,
          tensorOf(
            Float32Array.from(numbersOf(tensor), (value) => value * 8),
            tensor.shape,
          ),
        );
      } else {
        tensors.set('keys', made.tensors.get('values') as Tensor);
        tensors.set('values', tensor);
      }
      const report = await checkCase({ ...made, tensors }, NO_MODELS);
      expect(report.diagnoses, formatCase(report)).toMatchObject([{ id }]);
      expect(report.diagnoses[0].tokens).toMatchObject({ from: 0, of: rows });
    },
  );

  it.each(['perToken', 'perChannel'])('%s: the mistake is found where it begins', async (grouping) => {
    const options = { grouping, groupSize: 64 };
    const made = await makeCase(
      { operation: 'quantize', rows: 4096, columns: 64, seed: 4, options },
      NO_MODELS,
    );
    const tensor = made.tensors.get('packed') as Tensor;
    const start = tensor.bytes.length / 2;
    const swap = (byte: number, i: number) => (i < start ? byte : (byte >> 4) | (byte << 4));
    const tensors = new Map(made.tensors).set('packed', { ...tensor, bytes: tensor.bytes.map(swap) });
    const report = await checkCase({ ...made, tensors }, NO_MODELS);
    expect(report.diagnoses, formatCase(report)).toMatchObject([
      { id: 'nibble-order', tokens: { from: 2048 } },
    ]);
  });

  it('says nothing of one wrong code near the end', async () => {
    const made = await makeCase({ operation: 'quantize', rows: 2048, columns: 64, seed: 4 }, NO_MODELS);
    const tensor = made.tensors.get('codes') as Tensor;
    const bytes = tensor.bytes.slice();
    bytes[2000 * 64 + 1] ^= 1;
    const tensors = new Map(made.tensors).set('codes', { ...tensor, bytes });
    const report = await checkCase({ ...made, tensors }, NO_MODELS);
    expect(report).toMatchObject({ verdict: 'fail', diagnoses: [] });
  });
});
