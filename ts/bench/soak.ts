/**
 * What the engine's memory does over a long time: three measurements, each fails if memory does what it must not.
 *
 *     npm run build && npx tsc -p ts/bench/tsconfig.json
 *     node --expose-gc build/bench/bench/soak.js context [--tokens 32768] [--limit 500000000]
 *     node --expose-gc build/bench/bench/soak.js decode  [--tokens 10000]
 *     node --expose-gc build/bench/bench/soak.js loads   [--count 1000] [--threads 2]
 *
 *     context   the shape of SmolLM2-135M with a full context: the last tokens are decoded inside the limit
 *     decode    token after token; what is used beyond weights, cache and RoPE tables stays what it was
 *     loads     models loaded, run and disposed of; the process goes back to the memory it had
 *
 * `--cache` names another cache than xquant-cl:2@tuned. The context is filled with copies of a block: memory and
 * the work of a token are those of any text, and prefill would take an hour.
 *
 * @module
 */

import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import type { WasmModel, WasmModelOptions } from '../src/engine/wasm-model.js';
import type * as Package from '../src/index.js';
import { tinyModelGguf } from '../test/helpers/gguf-writer.js';
import { randomFactors } from './random-factors.js';
import { benchTokens, CONTEXT, randomModelPath } from './random-model.js';

const built = pathToFileURL(resolve('dist/index.js')).href;
const { loadModelFile, storedBytes, WasmModel: Engine } = (await import(built)) as typeof Package;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    tokens: { type: 'string' },
    count: { type: 'string', default: '1000' },
    limit: { type: 'string', default: '500000000' },
    threads: { type: 'string', default: '1' },
    cache: { type: 'string', default: 'xquant-cl:2@tuned' },
  },
});
const threads = Number(values.threads);
const commands: Readonly<Record<string, () => Promise<void>>> = { context, decode, loads };
const command = commands[positionals[0]];
if (!command || positionals.length !== 1) throw new Error(`say one of ${Object.keys(commands).join(', ')}`);
const collect = (globalThis as { gc?: () => void }).gc;
if (!collect) throw new Error('run node with --expose-gc');
await command();

/** Megabytes, as they are counted on a disk. */
function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** Prints a result and remembers whether it is as it must be. */
function expectThat(holds: boolean, text: string): void {
  console.log(`${holds ? 'ok  ' : 'FAIL'}  ${text}`);
  if (!holds) process.exitCode = 1;
}

/** A full context in the shape of SmolLM2-135M. */
async function context(): Promise<void> {
  const length = Number(values.tokens ?? CONTEXT);
  const limit = Number(values.limit);
  const file = await loadModelFile(randomModelPath());
  const engine = await Engine.load(file.config, file.weights, { threads, memoryLimit: limit });
  randomFactors(engine);
  const cache = engine.createCache(values.cache);
  const { residualWindow } = cache.options;

  // One block and a half, computed; the block then repeated until some tokens are missing.
  await engine.forward(benchTokens(residualWindow + residualWindow / 2), cache);
  const blocks = Math.floor(length / residualWindow) - 1;
  for (const layer of cache.layers) {
    const state = layer.state();
    layer.restore({
      ...state,
      length: state.length + (blocks - 1) * residualWindow,
      blocks: Array.from({ length: blocks }, () => state.blocks[0]),
    });
  }
  const rest = length - cache.length;
  console.log(`${cache.length} tokens in the cache, decoding ${rest} more`);
  const started = performance.now();
  for (const token of benchTokens(rest)) await engine.forward([token], cache);
  const seconds = (performance.now() - started) / 1000;

  const { peak, committed, weights } = engine.memoryUse;
  const bytes = cache.bytes();
  const f16 = 4 * file.config.numHiddenLayers * file.config.numKeyValueHeads * file.config.headDim * length;
  console.log(
    `${values.cache}: ${cache.length} tokens, ${(rest / seconds).toFixed(2)} tokens/s; weights ${megabytes(weights)}, ` +
      `cache ${megabytes(storedBytes(bytes))} and accumulators ${megabytes(bytes.scratch)} ` +
      `(f16 KV alone: ${megabytes(f16)})`,
  );
  expectThat(
    committed <= limit,
    `linear memory ${megabytes(committed)} (peak use ${megabytes(peak)}) of ${limit}`,
  );
  await engine.dispose();
}

/** Many tokens, one after another, on a small model. */
async function decode(): Promise<void> {
  const count = Number(values.tokens ?? 10_000);
  const file = await loadModelFile(tinyModelGguf({ layers: 6, context: count + 1, scale: 0.3 }));
  const engine = await Engine.load(file.config, file.weights, { threads });
  const cache = engine.createCache(values.cache);
  const others = (): number => {
    const { used, weights, ropeTables } = engine.memoryUse;
    return used - weights - ropeTables - cache.allocatedBytes;
  };
  // By then windows and scratch have been taken.
  const settled = 3 * cache.options.residualWindow;
  let before = 0;
  let most = 0;
  let resident = 0;
  for (let at = 0; at < count; at++) {
    await engine.forward([(at * 31) % file.config.vocabSize], cache);
    if (at === settled) before = others();
    if (at >= settled) most = Math.max(most, others());
    if (at === Math.floor(count / 2)) {
      collect?.();
      resident = process.memoryUsage().rss;
    }
    if ((at + 1) % 1000 === 0) {
      const { used, committed } = engine.memoryUse;
      console.log(
        `${at + 1} tokens: ${used} bytes used, cache ${cache.allocatedBytes} (stored ${storedBytes(cache.bytes())}), ` +
          `the rest ${others()}; committed ${committed}`,
      );
    }
  }
  expectThat(
    most === before,
    `beyond weights, RoPE tables and cache: ${before} bytes, later ${most} at most`,
  );
  collect?.();
  const grown = process.memoryUsage().rss - resident;
  expectThat(grown < 32e6, `the process grew by ${megabytes(grown)} in the second half`);
  await engine.dispose();
}

/** Models that come and go. */
async function loads(): Promise<void> {
  const count = Number(values.count);
  const file = await loadModelFile(tinyModelGguf({ layers: 6, scale: 0.3 }));
  const options: WasmModelOptions = { threads };
  const once = async (): Promise<void> => {
    const engine: WasmModel = await Engine.load(file.config, file.weights, options);
    const cache = engine.createCache(values.cache);
    await engine.forward([1, 2, 3, 4, 5], cache);
    await engine.forward([6], cache);
    await engine.dispose();
  };
  const measure = async (): Promise<number> => {
    for (let i = 0; i < 4; i++) {
      await new Promise((done) => setTimeout(done, 50));
      collect?.();
    }
    return process.memoryUsage().rss;
  };
  // The first half compiles functions and fills the pools of the allocator of each thread.
  const half = Math.floor(count / 2);
  let before = 0;
  for (let i = 0; i < count; i++) {
    await once();
    if (i + 1 === half) before = await measure();
    if ((i + 1) % 100 === 0) console.log(`${i + 1} loads: resident ${megabytes(await measure())}`);
  }
  const after = await measure();
  const perLoad = (after - before) / (count - half);
  const text = `resident ${megabytes(before)} after ${half} loads, ${megabytes(after)} after ${count}`;
  // A model of these takes more than a megabyte; a leak of a hundredth of it would show.
  expectThat(perLoad < 10_000, `${text}: ${perLoad.toFixed(0)} bytes a load`);
}
