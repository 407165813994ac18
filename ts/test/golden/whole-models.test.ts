/**
 * Golden cases of whole models by the engine: logits, all generated ids, and the first window of perplexities. The
 * reference's logits are in unit/model/independent-logits.test.ts, and what it would need hours for in
 * `node scripts/check-golden.mjs`.
 */

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { parseCase, parseManifest } from '../../src/check/case/golden.js';
import { perturbFileWeights } from '../../src/check/compare/perturb.js';
import { modelContext } from '../../src/check/context.js';
import type { CheckContext } from '../../src/check/operation.js';
import { compareWholeModel } from '../../src/check/whole-models.js';
import { WasmModel } from '../../src/engine/wasm-model.js';
import { loadModelFile } from '../../src/io/load-model.js';
import { heldoutText } from '../../src/io/node-models.js';

const golden = fileURLToPath(new URL('../../../golden/', import.meta.url));
const manifest = parseManifest(readFileSync(`${golden}manifest.json`, 'utf8'), 'golden/manifest.json');
const casesOf = (operation: string) => manifest.cases.filter((each) => each.operation === operation);

/** Milliseconds; a case takes a few seconds of a processor. */
const TIMEOUT = 180_000;

const reference = modelContext({ heldoutText });
const models = new Map<string, Promise<WasmModel>>();
/** Embedded models on the engine; moved ones have weights of f32. */
const engine: CheckContext = {
  heldoutTokens: (count) => reference.heldoutTokens(count),
  loadModel(name, variation) {
    const key = `${name} ${variation}`;
    const found = models.get(key) ?? loadEngine(name, variation);
    models.set(key, found);
    return found;
  },
};

async function loadEngine(name: string, variation: number): Promise<WasmModel> {
  const { config, weights } = await loadModelFile(name);
  const own = variation === 0 ? weights : perturbFileWeights(weights, variation);
  return WasmModel.load(config, own, { threads: 1 });
}

afterAll(async () => {
  for (const model of models.values()) await (await model).dispose();
  await reference.dispose();
});

async function check(file: string, context: CheckContext, windows?: number): Promise<void> {
  const entry = manifest.cases.find((each) => each.file === file);
  const source = parseCase(readFileSync(`${golden}${file}`), file);
  const reports = await compareWholeModel(source, entry?.tensors ?? {}, context, windows);
  for (const { name, verdict, largestAbsolute, largestOfAllowed, undecided, notes } of reports) {
    const error = largestAbsolute?.value.toExponential(1) ?? 0;
    const part = largestOfAllowed ? `, ${largestOfAllowed.value.toFixed(3)} of what is allowed` : '';
    const text = [`${file}: ${name} ${verdict}: largest error ${error}${part}`, ...(undecided ? notes : [])];
    console.log(text.join('\n'));
    expect(['pass', 'inconclusive'], text.concat(notes).join('\n')).toContain(verdict);
  }
}

describe('logits of the engine', () => {
  it.each(casesOf('logits').map(({ file }) => file))('%s', (file) => check(file, engine), TIMEOUT);
});

describe('greedy ids of the engine', () => {
  it.each(casesOf('decode').map(({ file }) => file))('%s', (file) => check(file, engine), TIMEOUT);
});

describe('perplexity of the engine', () => {
  const quick = casesOf('perplexity').filter(({ options }) =>
    ['kv', 'xquant-cl:2@tuned'].includes(String(options.cache)),
  );
  it.each(quick.map(({ file }) => file))('%s, first window', (file) => check(file, engine, 1), TIMEOUT);
});
