/**
 * xquant against node-llama-cpp (llama.cpp, native code), on the same file, in one process, taking turns.
 *
 *     npm run build && npx tsc -p ts/bench/tsconfig.json
 *     cd ts/bench/peers && npm install --ignore-scripts && node compare.mjs [options]
 *
 *     --threads 1,2          thread counts
 *     --contexts 16,512,2048 context lengths at which decoding is timed
 *     --caches kv,...        caches of xquant; node-llama-cpp always has its f16 KV cache
 *     --tokens 10            tokens of one turn
 *     --rounds 5             turns; medians are printed
 *     --kernel auto          instruction set of xquant
 *     --without zen4,...     builds of llama.cpp that shall not be used
 *     --model file           a GGUF file; default: random weights in the shape of SmolLM2-135M, Q8_0
 *     --json
 *
 * Each turn of one is followed by a turn of the other, so that a busy machine slows both. Both are timed through
 * their JavaScript interface. With one thread the clock is the processor time of the process, which does not
 * count waiting for a core; with more it is the wall clock. Ratios are speed of xquant / speed of node-llama-cpp.
 *
 * llama.cpp starts a thread for every graph and leaves its place to the system, which often puts two threads on
 * one core. pin.c keeps them apart:
 *
 *     cc -shared -fPIC -O2 -o ../../../build/pin.so pin.c && LD_PRELOAD=../../../build/pin.so node compare.mjs --threads 2
 *
 * It loads the fastest of its builds that the processor can run. `--without zen4,icelake` hides some.
 */

import { existsSync, readdirSync, readFileSync, renameSync } from 'node:fs';
import { cpus } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { getLlama } from 'node-llama-cpp';

const BUILD = new URL('../../../build/bench/', import.meta.url);
const { benchTokens, randomModelPath } = await import(new URL('bench/random-model.js', BUILD));
const { randomFactors } = await import(new URL('bench/random-factors.js', BUILD));
const { loadModelFile } = await import(new URL('../../../dist/io/load-model.js', import.meta.url));
const { WasmModel } = await import(new URL('../../../dist/engine/wasm-model.js', import.meta.url));

const { values: options } = parseArgs({
  options: {
    threads: { type: 'string', default: '1,2' },
    contexts: { type: 'string', default: '16,512,2048' },
    caches: {
      type: 'string',
      default: 'kv,xquant:4,xquant-cl:2@tuned?form=x,xquant-cl:2@tuned?form=latent',
    },
    tokens: { type: 'string', default: '10' },
    rounds: { type: 'string', default: '5' },
    kernel: { type: 'string', default: 'auto' },
    'key-weights': { type: 'string', default: 'exact' },
    model: { type: 'string' },
    without: { type: 'string', default: '' },
    json: { type: 'boolean', default: false },
  },
});
const numbers = (text) => text.split(',').map(Number);
const contexts = numbers(options.contexts);
const caches = options.caches.split(',');
const perTurn = Number(options.tokens);
const rounds = Number(options.rounds);
const modelPath = options.model ?? randomModelPath();

/** Tokens of a prompt that go through a model together. */
const CHUNK = 512;

const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];
const note = (text) => process.stderr.write(`${text}\n`);

/** The longest context and what is decoded after it at every stop. */
const longest = Math.max(...contexts) + contexts.length * (rounds + 3) * perTurn + CHUNK;
const tokens = benchTokens(longest);

/** Both sides offer the same: add tokens of a prompt, generate some more. Each keeps its own sequence. */
async function ours(file, threads) {
  const { kernel } = options;
  const model = await WasmModel.load(file.config, file.weights, {
    threads,
    kernel,
    keyWeights: options['key-weights'],
  });
  randomFactors(model);
  return {
    build: model.build,
    start(cache) {
      const sequence = model.createCache(cache);
      return {
        prefill: (ids) => model.forward(ids, sequence),
        async decode(count) {
          for (let i = 0; i < count; i++) await model.forward([tokens[sequence.length]], sequence);
        },
        finish: () => sequence.dispose(),
      };
    },
    dispose: () => model.dispose(),
  };
}

async function theirs(model, threads) {
  const context = await model.createContext({
    contextSize: longest,
    batchSize: CHUNK,
    threads,
    sequences: 1,
  });
  const sequence = context.getSequence();
  return {
    async start() {
      await sequence.clearHistory();
      let last = tokens[0];
      return {
        async prefill(ids) {
          // the last token is kept back: it is what decoding starts from
          await sequence.evaluateWithoutGeneratingNewTokens(ids);
          last = ids.at(-1);
        },
        async decode(count) {
          let left = count;
          for await (const id of sequence.evaluate([last], { temperature: 0, yieldEogToken: true })) {
            last = id;
            if (--left === 0) break;
          }
        },
        finish: () => {},
      };
    },
    dispose: () => context.dispose(),
  };
}

/** Seconds that something takes: processor time with one thread, else wall clock. */
async function seconds(threads, run) {
  const usage = process.cpuUsage();
  const started = performance.now();
  await run();
  const wall = (performance.now() - started) / 1000;
  const { user, system } = process.cpuUsage(usage);
  return threads === 1 ? (user + system) / 1e6 : wall;
}

/** Builds of llama.cpp for this platform. */
function peerBuilds() {
  const entry = import.meta.resolve(`@node-llama-cpp/${process.platform}-${process.arch}`);
  const bins = fileURLToPath(new URL('../bins', entry));
  return readdirSync(bins).flatMap((name) => {
    const inside = join(bins, name);
    return readdirSync(inside)
      .filter((file) => file.startsWith('libggml-cpu-'))
      .map((file) => join(inside, file));
  });
}

/** The one that was loaded, as the system shows it. */
function loadedPeerBuild() {
  if (!existsSync('/proc/self/maps')) return 'unknown';
  return /libggml-cpu-(\w+)\.so/.exec(readFileSync('/proc/self/maps', 'utf8'))?.[1] ?? 'unknown';
}

const hidden = [];
function showHidden() {
  for (const file of hidden.splice(0)) renameSync(`${file}.hidden`, file);
}
process.on('exit', showHidden);
for (const file of peerBuilds()) {
  if (!options.without.split(',').some((name) => name && file.endsWith(`-${name}.so`))) continue;
  renameSync(file, `${file}.hidden`);
  hidden.push(file);
}

const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error', maxThreads: 0 });
const llamaModel = await llama.loadModel({ modelPath, useMmap: true });
const peerBuild = loadedPeerBuild();
showHidden();
const rows = [];
let build = '';

for (const threads of numbers(options.threads)) {
  const file = await loadModelFile(modelPath);
  const xquant = await ours(file, threads);
  build = xquant.build;
  const peer = await theirs(llamaModel, threads);
  for (const cache of caches) {
    const mine = await xquant.start(cache);
    const other = await peer.start();
    let at = 0;
    for (const context of contexts) {
      const prefill = { mine: [], other: [] };
      while (at < context) {
        const ids = tokens.slice(at, Math.min(at + CHUNK, context));
        prefill.mine.push(ids.length / (await seconds(threads, () => mine.prefill(ids))));
        prefill.other.push(ids.length / (await seconds(threads, () => other.prefill(ids))));
        at += ids.length;
      }
      if (context >= CHUNK && cache === 'kv') {
        add({
          work: `prefill to ${context}`,
          threads,
          cache,
          mine: median(prefill.mine),
          other: median(prefill.other),
        });
      }
      const decode = { mine: [], other: [] };
      // Both compile or touch things on their first tokens.
      const warmUp = context === contexts[0] ? 30 : 2;
      const pace = (await seconds(threads, () => mine.decode(warmUp))) / warmUp;
      await other.decode(warmUp);
      const count = Math.max(1, Math.min(perTurn, Math.round(0.4 / pace)));
      for (let round = 0; round < rounds; round++) {
        decode.mine.push(count / (await seconds(threads, () => mine.decode(count))));
        decode.other.push(count / (await seconds(threads, () => other.decode(count))));
      }
      at += warmUp + rounds * count;
      add({
        work: `decode at ${context}`,
        threads,
        cache,
        mine: median(decode.mine),
        other: median(decode.other),
      });
    }
    mine.finish();
  }
  await xquant.dispose();
  await peer.dispose();
}

function add({ work, threads, cache, mine, other }) {
  rows.push({ work, threads, cache, xquant: mine, nodeLlamaCpp: other, ratio: mine / other });
  note(
    `${work}, ${cache}, ${threads} thread(s): ${mine.toFixed(1)} against ${other.toFixed(1)} tokens/s, ` +
      `${(mine / other).toFixed(3)} x`,
  );
}

const report = {
  command: `npm run bench:peers -- ${process.argv.slice(2).join(' ')}`.trim(),
  machine: `${cpus().length} x ${cpus()[0]?.model.trim()}`,
  node: process.version,
  build,
  peer: `node-llama-cpp 3.21.1, ${peerBuild}`,
  pinned: (process.env.LD_PRELOAD ?? '').includes('pin'),
  clock: 'processor time with 1 thread, wall clock with more',
  date: new Date().toISOString().slice(0, 10),
  ...(options.model && { model: basename(options.model) }),
  rows,
};
if (options.json) {
  console.log(JSON.stringify(report, null, 2));
} else {
  console.log(`${report.machine}, Node ${report.node}, ${report.build}; ${report.peer}\n`);
  console.log('| work | cache | threads | xquant, tokens/s | node-llama-cpp, f16 KV | ratio |');
  console.log('| --- | --- | --- | --- | --- | --- |');
  for (const { work, cache, threads, xquant, nodeLlamaCpp, ratio } of rows) {
    console.log(
      `| ${work} | \`${cache}\` | ${threads} | ${xquant.toFixed(1)} | ${nodeLlamaCpp.toFixed(1)} | ${ratio.toFixed(3)} |`,
    );
  }
}
await llamaModel.dispose();
await llama.dispose();
