/**
 * The most memory that a process had which ran a prompt and generated some tokens, as a user's would.
 *
 *     node build/bench/bench/process-memory.js --cache xquant:4 [--model FILE] [--context 1024] [--threads 1]
 *         [--speculate off] [--working-set 0] [--calibration FILE]
 *
 * A process is measured once: the peak of a second prompt would be that of the first, too. The result is JSON, in bytes.
 *
 * @module
 */

import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import type * as Package from '../src/index.js';

/** What the process prints, in bytes. */
export interface ProcessMemoryResult {
  readonly cache: string;
  readonly context: number;
  readonly threads: number;
  /** Most that the process had in memory, code and runtime included. */
  readonly resident: number;
  /** Of linear memory: taken from the system, and of that the weights of the model. */
  readonly linear: number;
  readonly weights: number;
  /** The cache's own counts: stored, accumulators and scratch, plan. */
  readonly stored: number;
  readonly scratch: number;
  readonly plan: number;
}

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    cache: { type: 'string', default: 'kv' },
    text: { type: 'string', default: 'golden/text/heldout.txt' },
    context: { type: 'string', default: '1024' },
    threads: { type: 'string', default: '1' },
    speculate: { type: 'string', default: 'off' },
    calibration: { type: 'string' },
  },
});
if (options.model === undefined) throw new Error('--model is missing');

/** Tokens generated after the prompt. */
const GENERATED = 8;

const built = pathToFileURL(resolve('dist/index.js')).href;
const { CachedSequence, generate, loadModel, planBytes, storedBytes, WasmModel } = (await import(
  built
)) as typeof Package;
const threads = Number(options.threads);
const context = Number(options.context);
const { model, tokenizer } = await loadModel(options.model, { threads, calibration: options.calibration });
if (!(model instanceof WasmModel)) throw new Error('the engine does not run');
// No more of the text than may be needed: a token has a character at least, and some text would be garbage.
const text = readFileSync(options.text, 'utf8').slice(0, 8 * context);
const prompt = Array.from(tokenizer.encode(text)).slice(0, context - GENERATED);
const sequence = new CachedSequence(model.createCache(options.cache));
await generate(model, tokenizer, prompt, {
  cache: sequence,
  maxTokens: GENERATED,
  ignoreEos: true,
  speculate: options.speculate as Package.Speculate,
}).finish();
const bytes = sequence.cache.bytes();
const { committed, weights } = model.memoryUse;
const result: ProcessMemoryResult = {
  cache: options.cache,
  context,
  threads,
  resident: process.resourceUsage().maxRSS * 1024,
  linear: committed,
  weights,
  stored: storedBytes(bytes),
  scratch: bytes.scratch,
  plan: (planBytes(sequence.cache.options, model.config, model.keyWeights) ?? 0) + bytes.plan,
};
await model.dispose();
console.log(JSON.stringify(result));
