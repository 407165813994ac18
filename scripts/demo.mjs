/**
 * The first thing to see: a model goes on with a page of a book, through a cache that is a fraction of what keys and values
 * in f16 would take. `npm run demo` builds and runs it; the model and the text come with the clone.
 */

import { readFileSync } from 'node:fs';
import { generate, loadModel, memoryTotals, planBytes } from '../dist/index.js';

const CACHE = 'xquant-cl:2@tuned';
const PROMPT_TOKENS = 1700;
const NEW_TOKENS = 120;
const SHOWN_CHARACTERS = 300;

const { model, tokenizer } = await loadModel('books-mha');
const text = readFileSync(new URL('../golden/text/heldout.txt', import.meta.url), 'utf8');
const ids = tokenizer.encode(text).slice(0, PROMPT_TOKENS);
const end = tokenizer.decode(ids).slice(-SHOWN_CHARACTERS);
const options = { cache: CACHE, maxTokens: NEW_TOKENS, temperature: 0.8, topK: 40, seed: 1 };
const generation = generate(model, tokenizer, ids, options);

process.stdout.write(
  `books-mha reads ${ids.length} tokens of a book it has not seen, which end\n\n... ${end}\n\nand goes on\n\n`,
);
for await (const { text: piece } of generation) process.stdout.write(piece);

const { prefillSeconds, generateSeconds, generatedTokens, cacheBytes } = generation.summary;
const { cache } = generation.sequence;
const { config } = model;
const float16 = 4 * config.numKeyValueHeads * config.headDim * config.numHiddenLayers * cache.length;
const {
  total,
  cache: stored,
  smaller,
  cacheSmaller,
} = memoryTotals(cacheBytes, planBytes(cache.options, config), float16);
const mb = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
process.stdout.write(`

${mb(total)} instead of ${mb(float16)} at ${(generatedTokens / generateSeconds).toFixed(0)} tokens/s: a conversation of ${cache.length} tokens
in the cache ${CACHE} is ${smaller.toFixed(1)} times smaller in all than f16 keys and values, and the cache itself
(${mb(stored)}, what a conversation takes that waits) ${cacheSmaller.toFixed(1)} times. Reading took ${prefillSeconds.toFixed(1)} s.
`);
await model.dispose();
