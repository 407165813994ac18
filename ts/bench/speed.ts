/**
 * Tokens a second and memory of one cache with one number of threads, in the shape of SmolLM2-135M. `npm run bench`
 * starts one process of it for each, so that the memory of one is not that of another.
 *
 *     node build/bench/bench/speed.js --cache xquant:4 [--threads 1] [--contexts 16,512,2048,8192] [--repeats 5]
 *         [--kernel auto] [--key-weights exact]
 *
 * Prefill is a chunk of 512 tokens that ends at the context; what is before it are copies of its first block, since
 * time does not depend on what is stored. Decode is one token after another from the context on, in as many turns as
 * there are repeats. With one thread the clock is processor time, which a busy machine changes least; with more it
 * is the wall clock. The result is JSON.
 *
 * It stops with an error if a logit is not finite, or if a small model's logits are not those of the reference.
 *
 * @module
 */

import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import type { KernelChoice } from '../src/engine/load-wasm.js';
import type { KeyWeights } from '../src/engine/small-product.js';
import type * as Package from '../src/index.js';
import { tinyModelGguf } from '../test/helpers/gguf-writer.js';
import { randomFactors } from './random-factors.js';
import { benchTokens, randomModelPath } from './random-model.js';
import { type Duration, type Repeats, repeats, time } from './report.js';

/** What is measured at one context. Speeds in tokens a second. */
export interface ContextResult {
  readonly context: number;
  readonly prefill?: Repeats;
  readonly decode: Repeats;
  /** Bytes that the cache stores, as it counts them. */
  readonly cacheBytes: number;
  /** Bytes of accumulators, which a pass needs. */
  readonly accumulatorBytes: number;
}

/** What the process prints. */
export interface SpeedResult {
  readonly cache: string;
  readonly threads: number;
  readonly build: string;
  readonly keyWeights: string;
  readonly clock: 'processor' | 'wall';
  readonly contexts: readonly ContextResult[];
  /** Bytes at the longest context. */
  readonly memory: { readonly linear: number; readonly weights: number; readonly resident: number };
  /** Of the small model's logits to the reference's: length of the difference by length. */
  readonly difference: number;
}

const { values: options } = parseArgs({
  options: {
    cache: { type: 'string', default: 'kv' },
    threads: { type: 'string', default: '1' },
    contexts: { type: 'string', default: '16,512,2048,8192' },
    repeats: { type: 'string', default: '5' },
    kernel: { type: 'string', default: 'auto' },
    'key-weights': { type: 'string', default: 'exact' },
  },
});

/** Tokens of a prompt that go through the model together. */
const CHUNK = 512;
/** Seconds of one turn of decoding, about. */
const TURN = 0.4;
/**
 * Most that they may differ. Wide, since a code near a tie may fall the other way, and a random model amplifies that; the
 * tests hold the engine to much tighter bounds.
 */
const TOLERANCE = 0.02;

const built = pathToFileURL(resolve('dist/index.js')).href;
const { loadModelFile, referenceWeights, storedBytes, ReferenceModel, WasmModel } = (await import(
  built
)) as typeof Package;
const threads = Number(options.threads);
const modelOptions = {
  threads,
  kernel: options.kernel as KernelChoice,
  keyWeights: options['key-weights'] as KeyWeights,
};
const clock = threads === 1 ? 'processor' : 'wall';
const seconds = (duration: Duration): number => duration[clock];

const difference = await compareWithReference();
const file = await loadModelFile(randomModelPath());
const engine = await WasmModel.load(file.config, file.weights, modelOptions);
randomFactors(engine);
const contexts = [];
for (const context of options.contexts.split(',').map(Number)) contexts.push(await measure(context));
const { committed, weights } = engine.memoryUse;
const result: SpeedResult = {
  cache: options.cache,
  threads,
  build: engine.build,
  keyWeights: engine.keyWeights,
  clock,
  contexts,
  memory: { linear: committed, weights, resident: process.resourceUsage().maxRSS * 1024 },
  difference,
};
await engine.dispose();
console.log(JSON.stringify(result));

async function measure(context: number): Promise<ContextResult> {
  const cache = engine.createCache(options.cache);
  const { residualWindow } = cache.options;
  const tokens = benchTokens(context + 1);
  const forward = async (ids: readonly number[]): Promise<void> => {
    const { data } = await engine.forward(ids, cache);
    const bad = data.findIndex((logit) => !Number.isFinite(logit));
    if (bad >= 0) throw new Error(`${options.cache} at ${cache.length}: logit ${bad} is ${data[bad]}`);
  };
  const blocks = Math.floor((context - CHUNK) / residualWindow);
  if (blocks >= 2) {
    // The first block has sinks and is like no other: the second one stands for all that follow.
    await forward(tokens.slice(0, 2 * residualWindow));
    for (const layer of cache.layers) {
      const state = layer.state();
      layer.restore({
        ...state,
        length: blocks * residualWindow,
        blocks: Array.from({ length: blocks }, (_, i) => state.blocks[Math.min(i, 1)]),
      });
    }
  }
  const count = Number(options.repeats);
  const start = cache.length;
  const chunk = tokens.slice(start, context);
  const prefill: number[] = [];
  if (context >= CHUNK) {
    await forward(chunk); // compiles
    for (let i = 0; i < Math.min(count, 3); i++) {
      cache.trim(start);
      prefill.push(chunk.length / seconds(await time(() => forward(chunk))));
    }
  } else {
    await forward(chunk);
  }

  const next = () => forward([tokens[cache.length % tokens.length]]);
  const warmUp = 3 + Math.round(300 / context);
  let pace = 0;
  for (let i = 0; i < warmUp; i++) pace = seconds(await time(next));
  const perTurn = Math.max(1, Math.min(10, Math.round(TURN / pace)));
  const decode: number[] = [];
  for (let i = 0; i < count; i++) {
    const duration = await time(async () => {
      for (let n = 0; n < perTurn; n++) await next();
    });
    decode.push(perTurn / seconds(duration));
  }
  const bytes = cache.bytes();
  const measured = {
    context,
    ...(prefill.length > 0 && { prefill: repeats(prefill) }),
    decode: repeats(decode),
    cacheBytes: storedBytes(bytes),
    accumulatorBytes: bytes.scratch,
  };
  cache.dispose();
  return measured;
}

/** The same tokens through a small model, by the engine and by the definition. */
async function compareWithReference(): Promise<number> {
  const small = await loadModelFile(
    tinyModelGguf({
      hiddenSize: 128,
      layers: 5,
      heads: 4,
      kvHeads: 2,
      ffn: 256,
      context: 512,
      type: 'Q8_0',
      scale: 0.05,
    }),
  );
  const fast = await WasmModel.load(small.config, small.weights, modelOptions);
  const definition = new ReferenceModel(small.config, referenceWeights(small.weights));
  const prompt = Array.from({ length: 300 }, (_, i) => (i * 37) % small.config.vocabSize);
  let worst = 0;
  const caches = [fast.createCache(options.cache), definition.createCache(options.cache)] as const;
  for (const ids of [prompt, [5], [7]]) {
    const ours = await fast.forward(ids, caches[0]);
    const theirs = await definition.forward(ids, caches[1]);
    let error = 0;
    let size = 0;
    for (const [i, logit] of theirs.data.entries()) {
      error += (ours.data[i] - logit) ** 2;
      size += logit ** 2;
    }
    worst = Math.max(worst, Math.sqrt(error / size));
  }
  await fast.dispose();
  if (!(worst <= TOLERANCE)) {
    throw new Error(`${options.cache}: the logits differ from the reference's by ${worst} of their length`);
  }
  return worst;
}
