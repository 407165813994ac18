/**
 * How many conversations stay warm in some memory, by cache, and what a warm one saves.
 *
 *     node scripts/measure-conversations.mjs --model MODEL [--tokens 2000] [--memory 512M] [--cache kv,xquant:4]
 *         [--calibration FILE] [--time]
 *
 * A conversation that waits is a snapshot: the bytes that its cache stores, its ids, and a few kilobytes around them. With
 * --time each cache is filled, saved and restored, and the time to the first token of a returning conversation (one more
 * message of 20 tokens) is measured against reading it again. Needs a build.
 */

import { parseArgs } from 'node:util';
import { parseByteSize } from '../dist/cli/options.js';
import {
  CachedSequence,
  cacheBytes,
  loadModel,
  readModelHeader,
  resolveCacheOptions,
  restoreSnapshot,
  runPrompt,
  storedBytes,
  writeSnapshot,
} from '../dist/index.js';

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: 'books-mha' },
    tokens: { type: 'string', default: '2000' },
    memory: { type: 'string', default: '512M' },
    cache: { type: 'string', default: 'kv,xquant:4,xquant-cl:2,xquant-cl:2.25@calibrated' },
    calibration: { type: 'string' },
    time: { type: 'boolean', default: false },
  },
});
const tokens = Number(values.tokens);
const memory = parseByteSize(values.memory);
const NEW_TOKENS = 20;

const { config } = await readModelHeader(values.model);
/** META and the frames of the sections; measured on snapshots, and less than a thousandth of them. */
const frame = 1200 + 20 * (config.numHiddenLayers + 2);
const loaded = values.time ? await loadModel(values.model, { calibration: values.calibration }) : undefined;
process.stdout.write(`${values.model}, ${tokens} tokens, ${values.memory}\n`);
for (const cache of values.cache.split(',')) {
  const bytes =
    storedBytes(cacheBytes(resolveCacheOptions(cache, config), config, tokens)) + 4 * tokens + frame;
  const line = `${cache.padEnd(26)} ${(bytes / 1e6).toFixed(2).padStart(8)} MB each, ${Math.floor(memory / bytes)} conversations`;
  process.stdout.write(`${line}${loaded ? await times(loaded, cache) : ''}\n`);
}
await loaded?.model.dispose();

/** Reads a conversation with one more message, then saves it without that message, restores it, and runs the message. */
async function times({ model, file }, cache) {
  const ids = Array.from({ length: tokens + NEW_TOKENS }, (_, i) => (i * 7919 + 13) % config.vocabSize);
  model.createCache(cache).dispose(); // with its factors, before anything is timed
  const timed = async (work) => {
    const started = performance.now();
    await work();
    return (performance.now() - started) / 1000;
  };
  const sequence = new CachedSequence(model.createCache(cache));
  const reading = await timed(() => runPrompt(model, sequence, ids));
  sequence.keepPrefix(ids.slice(0, tokens + 1));
  const { fingerprint } = file;
  const bytes = writeSnapshot({ cache: sequence.cache, tokens: sequence.tokens, fingerprint });
  sequence.cache.dispose();
  const returning = await timed(async () => {
    const restored = restoreSnapshot(bytes, cache, { model, fingerprint });
    const again = new CachedSequence(restored.cache, restored.tokens);
    await runPrompt(model, again, ids);
    again.cache.dispose();
  });
  return `; snapshot ${bytes.length} bytes; first token after ${returning.toFixed(2)} s, reading again ${reading.toFixed(2)} s`;
}
