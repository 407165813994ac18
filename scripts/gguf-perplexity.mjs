/**
 * Negative log-likelihood of the first tokens of a text by the engine, in nats a token, beside what transformers gives for
 * the same tokens and the dequantized weights. Needs a build; the second step needs Python with torch, transformers, gguf.
 *
 *     node scripts/gguf-perplexity.mjs model.gguf text.txt 700 > result.json
 *     python golden/generate/perplexity_hf.py model.gguf result.json       (adds "transformers")
 *
 * golden/families/real-files.json is a list of such results; docs/models.md shows it.
 */

import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { WasmModel } from '../dist/engine/wasm-model.js';
import { loadModelFile } from '../dist/io/load-model.js';
import { logSumExp } from '../dist/sampling.js';
import { Tokenizer } from '../dist/text/tokenizer.js';

const [path, text, count] = process.argv.slice(2);
const file = await loadModelFile(path);
const ids = new Tokenizer(file.tokenizer)
  .encode(readFileSync(text, 'utf8').slice(0, 20 * count))
  .slice(0, Number(count));
const model = await WasmModel.load(file.config, file.weights);
const logits = await model.forward(ids, model.createCache('kv'), { logits: 'all' });
let nll = 0;
for (let i = 0; i + 1 < ids.length; i++) {
  const row = logits.data.subarray(i * logits.columns, (i + 1) * logits.columns);
  nll += (logSumExp(row) - row[ids[i + 1]]) / (ids.length - 1);
}
await model.dispose();
const types = file.weightTypes.map(({ type }) => type).filter((type) => type !== 'F32');
const result = {
  file: basename(path),
  types,
  text: basename(text),
  count: ids.length,
  engine: nll,
  tokens: Array.from(ids),
};
process.stdout.write(`${JSON.stringify(result)}\n`);
