/**
 * Writes docs/results.md and its figures from the losses that golden/generate/losses.py measured.
 *
 *     node scripts/write-results.mjs [--check]
 *
 * Losses come from golden/losses.json and golden/losses-smollm2-135m.json, sizes from the formulas of the library, tables
 * and figures from the code of `xquant reproduce`. `--check` writes nothing and fails if a file is not what the numbers
 * say. Needs a build.
 */

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cacheBytes, float16KeyValueBytes } from '../dist/analysis/memory.js';
import { DEVICES } from '../dist/analysis/roofline.js';
import { resolveCacheOptions } from '../dist/cache/presets.js';
import { storedBytes } from '../dist/cache/stored-matrix.js';
import { namedShape } from '../dist/index.js';
import { readModelHeader } from '../dist/io/load-model.js';
import { loadDrawing, standaloneSvg } from '../dist/reproduce/draw.js';
import { lossFigures } from '../dist/reproduce/figures.js';
import { resultsMarkdown } from '../dist/reproduce/markdown.js';
import { plannedCaches } from '../dist/reproduce/plans.js';
import { assembleReproduction } from '../dist/reproduce/results.js';
import { isRotatedCache, rotatedBytes } from '../dist/reproduce/rotated-caches.js';

const INTRO = `# Results

What the caches cost, on three models. Losses were measured on a GPU by code that shares nothing with this package
(PyTorch, [golden/generate/losses.py](../golden/README.md), sums in f64) and are kept by window in \`golden/losses.json\`; sizes
come from the formulas of the package, which tests hold to the bytes of real caches. \`node scripts/write-results.mjs\` puts
this page together. \`xquant reproduce\` measures the same with the engine, on any model;
[the engine](engine.md#what-is-rounded-otherwise) and [the reference](reference.md#what-the-caches-lose) have their own losses
beside these on the same windows.

Losses are paired by window: the mean difference of log-likelihood from the f16 KV cache on the same tokens, with its
standard error over windows. Teacher forcing: every token is read from the quantized cache, the newest included; sinks, which
stay in f16, are the first token in \`tuned\` caches and the first four in calibrated ones, and are counted. KL is the
mean divergence of the next-token distribution from that of the f16 KV cache, in nats. The books are
ten public-domain books that the embedded models have not seen; WikiText-2 is its raw test text, joined as usual.
Calibrations were made on 16 windows of the second half of the same texts (SmolLM2: half of each), of which the first half
is evaluated; KVQuant's on 16 windows of the books.

A loss below zero is possible: quantization is a perturbation, and on some texts a small one predicts better. Rounding
alone, a unit in the last place of every kept number, moves the loss of one window by up to 0.02 nats at 2 bits
(the tolerances in \`golden/manifest.json\` are eight times that), because codes next to a tie fall to the other side.`;

const root = new URL('../', import.meta.url);
const readJson = (path) => JSON.parse(readFileSync(new URL(path, root), 'utf8'));
const [embedded, smol] = [readJson('golden/losses.json'), readJson('golden/losses-smollm2-135m.json')];
const SMOL = {
  name: 'SmolLM2-135M-Instruct',
  fingerprint: 'e153fed142c22d4f',
  parameters: 134.5e6,
  weights: 'Q4_1, Q8_0, F32',
  config: namedShape('smollm2-135m'),
};
const LOSSES = 'python golden/generate/losses.py';
const OF_EMBEDDED = `${LOSSES} --models golden/models --text books-heldout.txt --out golden/losses.json`;
const OF_SMOL = `${LOSSES} --model SmolLM2-135M-Instruct.Q4_1.gguf --name smollm2-135m --calibration smollm2.safetensors \\
    --kvquant smollm2-kvquant.safetensors --text wikitext-2=wikitext2-test.txt:64 --text books=books-heldout.txt:32 \\
    --out golden/losses-smollm2-135m.json`;

const sections = [
  ['books-mha', await embeddedModel('books-mha'), 'books-heldout.txt', embedded, 'books-mha', OF_EMBEDDED],
  ['books-gqa', await embeddedModel('books-gqa'), 'books-heldout.txt', embedded, 'books-gqa', OF_EMBEDDED],
  ['smollm2-wikitext2', SMOL, 'wikitext2-test.txt', smol, 'smollm2-135m/wikitext-2', OF_SMOL],
  ['smollm2-books', SMOL, 'books-heldout.txt', smol, 'smollm2-135m/books', OF_SMOL],
];

const isCheck = process.argv.includes('--check');
const draw = await loadDrawing();
const parts = [INTRO];
for (const [id, model, text, file, key, command] of sections) {
  const results = reproduction(model, text, file, key, command);
  const figures = [];
  for (const { id: figure, title, caption, spec } of lossFigures(results)) {
    const name = `charts/${id}-${figure}.svg`;
    put(`docs/${name}`, standaloneSvg(await draw(spec, figure)));
    figures.push(`![${title}: ${model.name}, ${text}](${name})\n\n${caption}`);
  }
  const circumstances = `${file.date ?? '2026-11-25'}; ${file.gpu}, PyTorch ${file.torch}; weights as in the GGUF file`;
  const [claims, ...tables] = resultsMarkdown(results, circumstances)
    .trim()
    .split(/(?=^### Table 1)/m);
  parts.push(claims.trim(), figures.join('\n\n'), tables.join('').trim());
}
put('docs/results.md', `${parts.join('\n\n')}\n`);

/** What `xquant reproduce` would have found out, had it measured these losses. */
function reproduction(model, text, { losses, divergences, outlierRanks, windowLength }, key, command) {
  const [own, kl] = [losses[key], divergences?.[key] ?? {}];
  const measured = plannedCaches('all', model.config).filter(({ cache }) => own[cache]);
  const results = measured.map(({ cache }) => ({
    cache,
    windows: own[cache].map((loss, window) => ({
      window,
      baseline: own.kv[window],
      loss,
      klDivergence: kl[cache]?.[window],
      storedBytes: stored(cache, model.config, windowLength),
      scratchBytes: 0,
      float16Bytes: float16KeyValueBytes(model.config, windowLength),
    })),
  }));
  const missing = plannedCaches('all', model.config).filter(({ cache }) => !own[cache]);
  if (missing.length > 0)
    process.stderr.write(`${key}: no losses of ${missing.map(({ cache }) => cache).join(', ')}\n`);
  const setup = {
    command,
    plan: 'all',
    windows: own.kv.length,
    windowSize: windowLength,
    model,
    text: { name: text },
  };
  const ranks = outlierRanks?.[key.split('/')[0]] ?? [];
  const outlierPrediction = [1, 2, 4, 8].map((k) => ({
    k,
    layers: ranks.filter((rank) => rank < k).length / ranks.length,
  }));
  const analysis = { outlierPrediction: ranks.length > 0 ? outlierPrediction : [] };
  return assembleReproduction(setup, { results, skipped: [] }, analysis, DEVICES.h100, {});
}

function stored(cache, config, tokens) {
  if (isRotatedCache(cache)) return storedBytes(rotatedBytes(cache, config, tokens));
  return storedBytes(cacheBytes(resolveCacheOptions(cache, config), config, tokens));
}

async function embeddedModel(name) {
  const { parameterCount, weightTypes, ...header } = await readModelHeader(name);
  const weights = weightTypes.map(({ type }) => type).join(', ');
  return {
    name: header.name,
    fingerprint: header.fingerprint,
    parameters: parameterCount,
    weights,
    config: header.config,
  };
}

/** Writes a file, or with `--check` compares it. */
function put(path, content) {
  const file = new URL(path, root);
  if (!isCheck) {
    mkdirSync(new URL('.', file), { recursive: true });
    writeFileSync(file, content);
  } else if (!existsSync(file) || readFileSync(file, 'utf8') !== content) {
    process.stderr.write(`${path} is not what the numbers say: run "node scripts/write-results.mjs"\n`);
    process.exitCode = 1;
  }
}
