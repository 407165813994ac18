/**
 * Greedy tokens of the engine beside those of the reference: every cache, both embedded models.
 *
 *     node scripts/engine-tokens.mjs [--model books-mha] [--tokens 200] [--prompt TEXT] [--cache kv,xquant:4]
 *                                    [--threads 1] [--kernel auto] [--key-weights exact]
 *
 * Both get the reference's tokens, one by one, so that a difference does not hide those after it. Where the engine
 * would take another token, the two logits are shown as each sees them. That is a tie in floating point if the
 * reference's margin is within the error of the logits, or the consequence of ties in the quantizer: values next to
 * the middle of two codes, which fell to one side there and to the other here. How many codes of the cache differ is
 * shown. Fails if there is neither. Needs a build; takes minutes, nearly all of them for the reference.
 */

import { parseArgs } from 'node:util';
import { loadModelFile, startModel, Tokenizer, unpackMatrix } from '../dist/index.js';

const CACHES = [
  'kv',
  'kivi:2',
  'xquant:4',
  'xquant:2@paper',
  'xquant:4?form=latent',
  'xquant-cl:2@tuned',
  'xquant-cl:2@paper',
  'xquant-cl:2@tuned?form=latent',
];

/** Largest error of a logit that the engine's sums explain, on these models; twice, since two are compared. */
const TIE = 2 * 0.01;

const { values: options } = parseArgs({
  options: {
    model: { type: 'string', multiple: true, default: ['books-mha', 'books-gqa'] },
    tokens: { type: 'string', default: '200' },
    prompt: { type: 'string', default: 'It was a dark night, and the old man' },
    cache: { type: 'string' },
    threads: { type: 'string', default: '1' },
    kernel: { type: 'string', default: 'auto' },
    'key-weights': { type: 'string', default: 'exact' },
  },
});

let failed = false;
for (const name of options.model) {
  const file = await loadModelFile(name);
  const tokenizer = new Tokenizer(file.tokenizer);
  const reference = await startModel(file, { backend: 'reference' });
  const engine = await startModel(file, {
    threads: Number(options.threads),
    kernel: options.kernel,
    keyWeights: options['key-weights'],
  });
  for (const cache of options.cache?.split(',') ?? CACHES) {
    const result = await compare(reference, engine, cache, Array.from(tokenizer.encode(options.prompt)));
    if (result) console.log(`${name}  ${cache.padEnd(30)} ${result}`);
  }
  await engine.dispose();
}
process.exitCode = failed ? 1 : 0;

/** Runs both in step; undefined if the model cannot have the cache. */
async function compare(reference, engine, cache, prompt) {
  let caches;
  try {
    caches = [reference.createCache(cache), engine.createCache(cache)];
  } catch (error) {
    return error.code === 'CONFIG' ? `not for this model: ${error.message}` : Promise.reject(error);
  }
  const count = Number(options.tokens);
  const ties = [];
  let largest = 0; // difference of a logit
  let tokens = prompt;
  for (let step = 0; step < count; step++) {
    const theirs = (await reference.forward(tokens, caches[0])).data;
    const ours = (await engine.forward(tokens, caches[1])).data;
    const error = ours.reduce((most, value, id) => Math.max(most, Math.abs(value - theirs[id])), 0);
    largest = Math.max(largest, error);
    const [right, taken] = [greatest(theirs), greatest(ours)];
    if (right !== taken) {
      const margin = theirs[right] - theirs[taken];
      const { differ, all } = differentCodes(...caches);
      // Both logits can be off by the error of sums; a wider margin needs codes that differ.
      const isTie = margin <= TIE;
      failed ||= !isTie && differ === 0;
      const why = isTie ? 'tie' : differ > 0 ? `${differ} of ${all} codes differ` : 'DIFFERENT';
      ties.push(
        `  token ${step}: ${right} or ${taken} (${why}): reference ${theirs[right].toFixed(4)}, ` +
          `${theirs[taken].toFixed(4)}; engine ${ours[right].toFixed(4)}, ${ours[taken].toFixed(4)}`,
      );
    }
    tokens = [right];
  }
  caches[1].dispose();
  const same = `${count - ties.length} of ${count} tokens the same, logits differ by ${largest.toExponential(1)} at most`;
  return [same, ...ties].join('\n');
}

/** Codes of two caches that are not the same. */
function differentCodes(reference, engine) {
  let differ = 0;
  let all = 0;
  for (const [layer, theirs] of reference.layers.entries()) {
    const ours = engine.layers[layer].state();
    for (const [b, block] of theirs.state().blocks.entries()) {
      for (const [name, tensor] of Object.entries(block)) {
        if (!('packed' in tensor)) continue;
        const other = unpackMatrix(ours.blocks[b][name]);
        all += other.length;
        for (const [i, code] of unpackMatrix(tensor).entries()) if (code !== other[i]) differ++;
      }
    }
  }
  return { differ, all };
}

function greatest(values) {
  let best = 0;
  for (let id = 1; id < values.length; id++) if (values[id] > values[best]) best = id;
  return best;
}
