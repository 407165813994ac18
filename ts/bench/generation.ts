/**
 * What guessing ahead brings: tokens a second with it and without, after a natural text, in one process, taking turns.
 *
 *     node build/bench/bench/generation.js --model FILE --cache xquant:4 [--text FILE] [--context 2048] [--tokens 64]
 *         [--plain-tokens 12] [--turns 5] [--threads 1] [--speculate auto] [--temperature 0] [--calibration FILE]
 *
 * Every turn goes 64 tokens further in the text and generates from there, first without guesses, then with; the text
 * is then as if nothing had been generated. A generation with guesses is longer, since it has to find its stride; the
 * tokens of both are compared. With a temperature of 2 nobody can guess what comes.
 *
 * Guesses are as good as the model and the text are like what people use: the model has no default. With one thread the
 * clock is processor time. The result is JSON.
 *
 * @module
 */

import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import type { GenerationSummary } from '../src/generate.js';
import type * as Package from '../src/index.js';
import { type Duration, type Repeats, repeats, time } from './report.js';

/** What the process prints. Speeds in tokens a second. */
export interface GenerationResult {
  readonly cache: string;
  readonly threads: number;
  readonly build: string;
  readonly clock: 'processor' | 'wall';
  readonly context: number;
  readonly speculate: string;
  readonly temperature: number;
  readonly plain: Repeats;
  readonly guessing: Repeats;
  /** Speed with guesses by speed without, turn by turn. */
  readonly ratio: Repeats;
  readonly drafted: number;
  readonly accepted: number;
  readonly passes: number;
  readonly verified: number;
  readonly generated: number;
}

const { values: options } = parseArgs({
  options: {
    model: { type: 'string' },
    cache: { type: 'string', default: 'xquant:4' },
    text: { type: 'string', default: 'golden/text/heldout.txt' },
    context: { type: 'string', default: '2048' },
    tokens: { type: 'string', default: '64' },
    'plain-tokens': { type: 'string', default: '12' },
    turns: { type: 'string', default: '5' },
    threads: { type: 'string', default: '1' },
    speculate: { type: 'string', default: 'auto' },
    temperature: { type: 'string', default: '0' },
    calibration: { type: 'string' },
  },
});
if (options.model === undefined) throw new Error('--model is missing');

/** Tokens of the text between two turns. */
const STRIDE = 64;

const built = pathToFileURL(resolve('dist/index.js')).href;
const { CachedSequence, generate, loadModel, WasmModel } = (await import(built)) as typeof Package;
const threads = Number(options.threads);
const context = Number(options.context);
const temperature = Number(options.temperature);
const speculate = options.speculate as Package.Speculate;
const clock = threads === 1 ? 'processor' : 'wall';
const { calibration } = options;
const { model, tokenizer } = await loadModel(options.model, { threads, calibration });
if (!(model instanceof WasmModel)) throw new Error('the engine does not run');
const text = Array.from(tokenizer.encode(readFileSync(options.text, 'utf8')));
const sequence = new CachedSequence(model.createCache(options.cache));

/** Generates from a prompt and takes everything back. */
async function run(
  prompt: readonly number[],
  maxTokens: number,
  guess: Package.Speculate,
): Promise<{ summary: GenerationSummary; rate: number }> {
  const cache = sequence.cache.clone();
  const started = new CachedSequence(cache, sequence.tokens);
  const settings = { cache: started, maxTokens, temperature, seed: 1, ignoreEos: true };
  let summary: GenerationSummary | undefined;
  const duration: Duration = await time(async () => {
    summary = await generate(model, tokenizer, prompt, { ...settings, speculate: guess }).finish();
  });
  if (!summary) throw new Error('nothing was generated');
  cache.dispose?.();
  return { summary, rate: summary.ids.length / duration[clock] };
}

const plain: number[] = [];
const guessing: number[] = [];
const counts = { drafted: 0, accepted: 0, passes: 0, verified: 0, generated: 0 };
for (let turn = -1; turn < Number(options.turns); turn++) {
  // The first turn compiles and is not counted.
  const end = context + Math.max(0, turn) * STRIDE;
  const prompt = text.slice(0, end + 1);
  while (sequence.tokens.length < end) {
    const from = sequence.tokens.length;
    await sequence.run(model, text.slice(from, Math.min(end, from + 512)));
  }
  const without = await run(prompt, Number(options['plain-tokens']), 'off');
  const withGuesses = await run(prompt, turn < 0 ? 16 : Number(options.tokens), speculate);
  const common = Math.min(without.summary.ids.length, withGuesses.summary.ids.length);
  if (without.summary.ids.slice(0, common).join() !== withGuesses.summary.ids.slice(0, common).join()) {
    throw new Error(`turn ${turn}: the tokens differ`);
  }
  if (turn < 0) continue;
  plain.push(without.rate);
  guessing.push(withGuesses.rate);
  for (const key of ['drafted', 'accepted', 'passes', 'verified'] as const) {
    counts[key] += withGuesses.summary.speculation[key];
  }
  counts.generated += withGuesses.summary.ids.length;
}
const result: GenerationResult = {
  cache: options.cache,
  threads,
  build: model.build,
  clock,
  context,
  speculate: options.speculate,
  temperature,
  plain: repeats(plain),
  guessing: repeats(guessing),
  ratio: repeats(guessing.map((rate, i) => rate / plain[i])),
  ...counts,
};
await model.dispose();
console.log(JSON.stringify(result));
