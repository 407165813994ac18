/**
 * Writes docs/results.md from folders of `xquant reproduce`, in the order given.
 *
 *     npx xquant reproduce --model books-mha --text books-heldout.txt --plan all --out books-mha
 *     node scripts/write-results.mjs books-mha books-gqa smollm2
 *
 * The tables are the `results.md` of each folder, as the command wrote them.
 */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const FILE = new URL('../docs/results.md', import.meta.url);

const INTRO = `# Results

What the caches cost, on three models, as \`xquant reproduce\` measured and wrote it; \`node scripts/write-results.mjs\` puts
its pages together. Losses are paired by window: the mean difference of log-likelihood from the f16 KV cache on the same
tokens, with its standard error over windows. Teacher forcing: every token is read from the quantized cache, the newest
included. The books are ten public-domain books that the embedded models have not seen; WikiText-2 is its raw test text,
joined as usual. Rows of tuned caches were measured before sinks became part of that preset: they
are what its option sinks=0 gives today.

A loss below zero is possible: quantization is a perturbation, and on some texts a small one predicts better. Rounding
alone, a unit in the last place of every kept number, moves the loss of one window by up to 0.02 nats at 2 bits
(the tolerances in \`golden/manifest.json\` are eight times that), because codes next to a tie fall to the other side.
[The engine](engine.md#what-is-rounded-otherwise) has most of these caches beside what independent code loses on the same windows.
`;

const folders = process.argv.slice(2);
if (folders.length === 0) fail('name the folders of xquant reproduce whose results belong on the page');
const parts = folders.map((folder) => {
  const file = join(folder, 'results.md');
  if (!existsSync(file)) fail(`${file} is not there: has the run of xquant reproduce ended?`);
  return readFileSync(file, 'utf8').trim();
});
writeFileSync(FILE, `${[INTRO.trim(), ...parts].join('\n\n')}\n`);

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(2);
}
