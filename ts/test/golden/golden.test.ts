/**
 * Every golden case, made on a GPU by code that shares nothing with this package, against every
 * implementation: what is stored and greedy ids exactly, floats within the bounds of docs/numerics.md. The
 * largest error is printed also when green.
 *
 * Whole models are in whole-models.test.ts. With XQUANT_GOLDEN=all the reference runs them here, which takes hours, as does
 * `node scripts/check-golden.mjs`.
 */

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { manifestProblems, parseCase, parseManifest } from '../../src/check/case/golden.js';
import { CaseInputs } from '../../src/check/case/inputs.js';
import { numbersOf, type Tensor } from '../../src/check/case/tensor.js';
import { checkCase } from '../../src/check/check.js';
import { compareTensor, type TensorReport } from '../../src/check/compare/compare.js';
import { modelContext } from '../../src/check/context.js';
import { findOperation } from '../../src/check/operations/index.js';
import { formatCase } from '../../src/check/report.js';
import { WHOLE_MODEL_OPERATIONS } from '../../src/check/whole-models.js';
import { directoryFolder } from '../../src/io/node-file.js';
import { heldoutText } from '../../src/io/node-models.js';
import { memorySource } from '../../src/io/source.js';
import { wasmKernels } from './implementations.js';

const golden = fileURLToPath(new URL('../../../golden/', import.meta.url));
const manifestPath = `${golden}manifest.json`;
const everything = process.env.XQUANT_GOLDEN === 'all';

const context = modelContext({ heldoutText });
afterAll(() => context.dispose());

const manifest = parseManifest(readFileSync(manifestPath, 'utf8'), manifestPath);
const cases = manifest.cases.filter(
  ({ operation }) => everything || !WHOLE_MODEL_OPERATIONS.includes(operation),
);

function read(file: string) {
  return parseCase(readFileSync(`${golden}${file}`), file);
}

describe('the folder of golden vectors', () => {
  it('holds the files of the manifest, unchanged, and no others', async () => {
    expect(await manifestProblems(manifest, directoryFolder(`${golden}vectors`))).toEqual([]);
  });

  it('says in each file what the manifest says', () => {
    for (const { file, operation, options, tensors } of manifest.cases) {
      const source = read(file);
      expect({ file, operation: source.operation, options: source.options }).toEqual({
        file,
        operation,
        options,
      });
      const shapes = [...source.tensors].map(([name, { dtype, shape }]) => [name, { dtype, shape }]);
      const claimed = Object.entries(tensors).map(([name, { dtype, shape }]) => [name, { dtype, shape }]);
      expect(Object.fromEntries(shapes), file).toEqual(Object.fromEntries(claimed));
    }
  });
});

describe('losses by window', () => {
  it('begin with the perplexity cases', () => {
    const { losses } = JSON.parse(readFileSync(`${golden}losses.json`, 'utf8'));
    const perplexities = manifest.cases.filter(({ operation }) => operation === 'perplexity');
    let compared = 0;
    for (const { file, options } of perplexities) {
      const own = losses[String(options.model).replace('.gguf', '')][String(options.cache)];
      if (!own) continue;
      const expected = numbersOf(read(file).tensors.get('window_nll') as Tensor);
      for (const [w, nll] of expected.entries()) expect(own[w], file).toBeCloseTo(nll, 6);
      compared++;
    }
    expect(compared).toBeGreaterThan(10);
  });
});

describe('a folder that is not what its manifest says', () => {
  const files: Record<string, Uint8Array> = { 'a.safetensors': Uint8Array.of(1, 2, 3) };
  const folder = {
    name: 'folder',
    open: async (file: string) => (files[file] ? memorySource(files[file], file) : undefined),
    list: async () => Object.keys(files),
  };
  const entry = { operation: 'quantize', options: {}, tensors: {} };
  const sha256 = '039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81'; // of 1, 2, 3

  it.each([
    ['unchanged', [{ ...entry, file: 'a.safetensors', sha256 }], []],
    [
      'a changed file',
      [{ ...entry, file: 'a.safetensors', sha256: '0'.repeat(64) }],
      [/a.safetensors has sha256 0390/],
    ],
    ['a file nobody knows', [], [/a.safetensors is not in the manifest/]],
    [
      'a missing file',
      [
        { ...entry, file: 'a.safetensors', sha256 },
        { ...entry, file: 'b.safetensors', sha256 },
      ],
      [/b.safetensors is in the manifest and not in the folder/],
    ],
  ])('%s', async (_, entries, problems) => {
    const found = await manifestProblems({ version: '1', cases: entries }, folder);
    expect(found).toEqual(problems.map((problem) => expect.stringMatching(problem)));
  });
});

describe('the golden files are right, by the bounds of xquant check', () => {
  it.each(cases.map(({ file }) => file))('%s', async (file) => {
    const report = await checkCase(read(file), context, { diagnose: false });
    expect(['pass', 'inconclusive'], formatCase(report)).toContain(report.verdict);
    console.log(`${file}: ${report.tensors.map(errorText).join('; ')}`);
  });
});

describe.each([await wasmKernels('simd')])('$name agrees with the golden files', (implementation) => {
  const own = cases.filter((entry) => implementation.computes(entry));
  it.each(own.map(({ file }) => file))('%s', async (file) => {
    const source = read(file);
    const expected = await findOperation(source.operation).run(new CaseInputs(source), context);
    const outputs = await implementation.run(source);
    for (const [name, tensor] of Object.entries(expected).filter(([, { computed }]) => !computed)) {
      const theirs = source.tensors.get(name) as Tensor;
      const { bound } = tensor;
      const slack = implementation.slack?.(source, name);
      // Both may be off from the exact result, so from each other by twice as much.
      const allowed = bound && ((index: number) => 2 * bound(index) + (slack?.(index) ?? 0));
      const report = compareTensor(
        name,
        { ...tensor, values: numbersOf(theirs), bound: allowed },
        outputs[name],
      );
      const text = `${implementation.name}: ${file}: ${errorText(report)}`;
      expect(report.failing, text).toBe(0);
      console.log(text);
    }
  });
});

function errorText({
  name,
  comparison,
  verdict,
  largestAbsolute,
  largestOfAllowed,
  differing,
}: TensorReport): string {
  if (verdict === 'missing') return `${name} missing`;
  if (differing === 0) return `${name} equal`;
  const part = largestOfAllowed ? ` (${largestOfAllowed.value.toPrecision(2)} of the ${comparison})` : '';
  return `${name} ${largestAbsolute?.value.toPrecision(2) ?? 0}${part}${verdict === 'pass' ? '' : ` ${verdict}`}`;
}
