import { describe, expect, it } from 'vitest';
import { parseCase, writeCase } from '../../../src/check/case/golden.js';
import { checkCase } from '../../../src/check/check.js';
import { makeCase } from '../../../src/check/make-case.js';
import { NO_MODELS } from '../../../src/check/mistakes/mistake.js';
import { formatCase } from '../../../src/check/report.js';

const CASES: [operation: string, rows: number, columns: number, options: Record<string, unknown>][] = [
  ...[1, 2, 3, 4, 8].flatMap((bits) =>
    ['perToken', 'perChannel'].map((grouping): (typeof CASES)[number] => [
      'quantize',
      130,
      192,
      { bits, grouping },
    ]),
  ),
  ['quantize', 32, 96, { bits: 2, range: 'mse', rotation: 'hadamard', groupSize: 64 }],
  ['pack', 5, 64, { bits: 3 }],
  ['rotate', 9, 96, {}],
  ['rope', 9, 64, { layout: 'interleaved', headDim: 32, firstPosition: 1000 }],
  ['svd', 48, 16, {}],
  ['rematerialize', 40, 96, { bits: 4, kvDim: 64 }],
  ['rematerialize', 130, 64, { bits: 2, kvDim: 64, form: 'latent' }],
  ['cl-encode', 20, 96, { bits: 2 }],
  ['cl-encode', 20, 96, { bits: 2, form: 'latent', rank: 32 }],
  ['cl-decode', 20, 96, { bits: 2 }],
  ['cl-decode', 20, 96, { bits: 2, form: 'latent', rank: 32 }],
  ['attend', 33, 64, { headDim: 16, heads: 8, kvDim: 64 }],
  ['attend', 33, 64, { headDim: 16, form: 'latent', bits: 8 }],
  ['layer', 20, 64, { headDim: 16, kvHeads: 2, cache: 'xquant:4' }],
];

describe('a case made by the reference passes its own check', () => {
  it.each(CASES)('%s %ix%i %o', async (operation, rows, columns, options) => {
    const made = await makeCase({ operation, rows, columns, seed: 1, options }, NO_MODELS);
    const read = parseCase(writeCase(made), made.name);
    const report = await checkCase(read, NO_MODELS);
    expect(report.verdict, formatCase(report)).toBe('pass');
    const stored = report.tensors.filter(({ name }) => read.tensors.has(name));
    expect(stored.every(({ differing }) => differing === 0)).toBe(true);
  });

  it('makes the same bytes for the same seed, others for another', async () => {
    const request = { operation: 'quantize', rows: 4, columns: 64, seed: 3 };
    const bytes = writeCase(await makeCase(request, NO_MODELS));
    expect(writeCase(await makeCase(request, NO_MODELS))).toEqual(bytes);
    expect(writeCase(await makeCase({ ...request, seed: 4 }, NO_MODELS))).not.toEqual(bytes);
  });
});
