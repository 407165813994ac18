/**
 * What the caches lose on the embedded models, measured with the reference or the engine, beside what an independent
 * simulation in PyTorch lost (docs/reference.md and docs/engine.md say how).
 *
 *     node scripts/losses.mjs measure TEXT RESULTS [--backend reference] [--model books-mha] [--windows 4] [--part 1/2]
 *                                                  [--known FOLDER]
 *     node scripts/losses.mjs write RESULTS...
 *
 * `measure` appends a line of JSON to RESULTS for each cache and window and goes on where it stopped. With the
 * reference it takes half an hour of one core per window; `--part 2/3` takes every third piece, for several processes with a file of
 * their own each. `--known` leaves out what a folder of `xquant reproduce` has. `write` puts the tables into the pages;
 * RESULTS are such files and folders. Needs a build.
 */

import { appendFileSync, existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  loadModelFile,
  measurePerplexity,
  ReferenceModel,
  referenceWeights,
  Tokenizer,
  WasmModel,
} from '../dist/index.js';

/** Where the tables of a backend stand. */
const PAGES = { reference: '../docs/reference.md', wasm: '../docs/engine.md' };
const WINDOW = 2048;
/** Caches that share one pass of the f16 baseline. */
const BATCH = 6;

/**
 * Per model: caches by what they are, and the perplexity that each costs in the PyTorch simulation (32 windows,
 * f16 weights; rows marked 96: 96 windows).
 */
const LADDERS = {
  'books-mha': [
    { title: 'KIVI*', caches: { 'kivi:4': 0.067, 'kivi:3': 0.386, 'kivi:2': 2.02 } },
    {
      title: 'XQuant, per token (paper)',
      caches: { 'xquant:4@paper': 0.261, 'xquant:3@paper': 1.6, 'xquant:2@paper': 37.4 },
    },
    {
      title: 'XQuant, per channel',
      caches: {
        'xquant:4@paper?grouping=perChannel': 0.098,
        'xquant:3@paper?grouping=perChannel': 0.398,
        'xquant:2@paper?grouping=perChannel': 3.27,
      },
    },
    {
      title: 'XQuant, rotated',
      caches: {
        'xquant:4@paper?rotation=hadamard': 0.116,
        'xquant:3@paper?rotation=hadamard': 0.533,
        'xquant:2@paper?rotation=hadamard': 4.19,
      },
    },
    {
      title: 'XQuant, latents of Wk and Wv',
      caches: {
        'xquant:4@paper?form=latent': 0.083,
        'xquant:3@paper?form=latent': 0.488,
        'xquant:2@paper?form=latent': 3.25,
      },
    },
    {
      title: 'the same, outlier channel in f16',
      caches: {
        'xquant:4@paper?form=latent&outlier=f16': 0.073,
        'xquant:3@paper?form=latent&outlier=f16': 0.459,
        'xquant:2@paper?form=latent&outlier=f16': 2.99,
      },
    },
    {
      title: 'XQuant-CL (paper)',
      caches: { 'xquant-cl:4@paper': 0.011, 'xquant-cl:3@paper': 0.095, 'xquant-cl:2@paper': 0.842 },
    },
    {
      title: 'XQuant-CL, differences before the gain',
      caches: {
        'xquant-cl:4@paper?deltaSpace=normalized': 0.03,
        'xquant-cl:3@paper?deltaSpace=normalized': 0.075,
        'xquant-cl:2@paper?deltaSpace=normalized': 0.348,
      },
    },
    {
      title: 'the same, accumulator in 8 bits',
      caches: {
        'xquant-cl:4@paper?deltaSpace=normalized&accumulator=int8': 0.033,
        'xquant-cl:3@paper?deltaSpace=normalized&accumulator=int8': 0.061,
        'xquant-cl:2@paper?deltaSpace=normalized&accumulator=int8': 0.323,
      },
    },
    {
      title: 'towards tuned, step by step',
      caches: {
        'xquant-cl:2@paper?deltaSpace=normalized&rotation=hadamard': 0.332,
        'xquant-cl:2@paper?deltaSpace=normalized&range=mse': 0.148,
        'xquant-cl:2@tuned': 0.089,
      },
    },
    {
      title: 'tuned (96 windows)',
      caches: {
        'xquant:4@tuned': 0.098,
        'xquant-cl:3@tuned': 0.01,
        'xquant-cl:2@tuned?baseBits=2': 0.083,
        'xquant-cl:2@tuned?group=256': 0.107,
        'xquant-cl:1@tuned': 0.596,
      },
    },
  ],
  'books-gqa': [
    { title: 'KIVI*', caches: { 'kivi:4': null, 'kivi:2': null } },
    { title: 'XQuant, latents (paper)', caches: { 'xquant:4@paper': null, 'xquant:2@paper': null } },
    { title: 'XQuant-CL, latents (paper)', caches: { 'xquant-cl:2@paper': null } },
    { title: 'tuned', caches: { 'xquant:4@tuned': null, 'xquant:2@tuned': null, 'xquant-cl:2@tuned': null } },
  ],
};

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    backend: { type: 'string', default: 'reference' },
    model: { type: 'string', default: 'books-mha' },
    known: { type: 'string' },
    windows: { type: 'string', default: '4' },
    part: { type: 'string', default: '1/1' },
  },
});
const [command, ...files] = positionals;
if (command === 'measure' && files.length === 2) await measure(...files);
else if (command === 'write' && files.length > 0) write(files);
else fail('usage: losses.mjs measure TEXT RESULTS [options], or: write RESULTS...');

/** Windows first, so that stopping early leaves whole windows of all caches. */
async function measure(textFile, results) {
  const { backend, model: name } = options;
  const [part, parts] = options.part.split('/').map(Number);
  const file = await loadModelFile(name);
  const tokenizer = new Tokenizer(file.tokenizer);
  const tokens = tokenizer.encode(readFileSync(textFile, 'utf8'), { parseSpecial: true });
  const model =
    backend === 'wasm'
      ? await WasmModel.load(file.config, file.weights)
      : new ReferenceModel(file.config, referenceWeights(file.weights));
  const caches = LADDERS[name].flatMap((row) => Object.keys(row.caches));
  const measured = existsSync(results) ? readResults(results) : [];
  if (options.known) measured.push(...readResults(options.known));
  const known = new Set(measured.map((each) => `${each.backend} ${each.model} ${each.window} ${each.cache}`));

  let piece = 0;
  for (let window = 0; window < Number(options.windows); window++) {
    const ids = tokens.slice(window * WINDOW, (window + 1) * WINDOW);
    const missing = caches.filter((each) => !known.has(`${backend} ${name} ${window} ${each}`));
    for (let at = 0; at < missing.length; at += BATCH) {
      if (piece++ % parts !== part - 1) continue;
      const batch = missing.slice(at, at + BATCH);
      const report = await measurePerplexity(model, ids, { caches: batch, windows: 1 });
      for (const { cache, windowLosses, compression } of report.caches) {
        const [[loss], [baselineLoss]] = [windowLosses, report.baseline.windowLosses];
        const line = { backend, model: name, window, cache, loss, baselineLoss, compression };
        appendFileSync(results, `${JSON.stringify(line)}\n`);
      }
    }
  }
  await model.dispose();
}

/** Lines of a file of `measure`, or the same of a folder of `xquant reproduce`. */
function readResults(path) {
  if (!statSync(path).isDirectory()) {
    const lines = readFileSync(path, 'utf8').split('\n').filter(Boolean);
    return lines.map((line) => JSON.parse(line));
  }
  const { command } = JSON.parse(readFileSync(join(path, 'results.json'), 'utf8'));
  const model = /--model (\S+)/.exec(command)[1];
  const folder = join(path, 'results');
  return readdirSync(folder).flatMap((name) => {
    const { cache, windows } = JSON.parse(readFileSync(join(folder, name), 'utf8'));
    return (windows ?? []).map(({ window, loss, baseline, float16Bytes, storedBytes }) => ({
      backend: 'wasm',
      model,
      window,
      cache,
      loss,
      baselineLoss: baseline,
      compression: float16Bytes / storedBytes,
    }));
  });
}

/** Replaces the tables of each backend and model that have results. */
function write(resultFiles) {
  const results = resultFiles.flatMap(readResults);
  for (const [backend, path] of Object.entries(PAGES)) {
    const file = new URL(path, import.meta.url);
    let page = readFileSync(file, 'utf8');
    for (const [name, ladder] of Object.entries(LADDERS)) {
      const own = results.filter((each) => each.backend === backend && each.model === name);
      if (own.length === 0) continue;
      const [begin, end] = [`<!-- ${name}: begin -->`, `<!-- ${name}: end -->`];
      const [from, to] = [page.indexOf(begin), page.indexOf(end)];
      if (from < 0 || to < from) fail(`${path} has no markers ${begin} and ${end}`);
      page = `${page.slice(0, from + begin.length)}\n\n${table(ladder, own)}\n${page.slice(to)}`;
    }
    writeFileSync(file, page);
  }
}

function table(ladder, results) {
  const caches = ladder.flatMap((row) => Object.entries(row.caches));
  const windows = Math.min(...caches.map(([cache]) => results.filter((each) => each.cache === cache).length));
  if (windows === 0) fail('not every cache has been measured');
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const perplexity = (values) => Math.exp(mean(values));
  const rowsOf = (cache) =>
    results
      .filter((each) => each.cache === cache && each.window < windows)
      .sort((a, b) => a.window - b.window);

  const baseline = perplexity(rowsOf(caches[0][0]).map(({ baselineLoss }) => baselineLoss));
  const independent = caches.some(([, expected]) => expected !== null);
  const head = ['', 'cache', 'smaller', 'perplexity lost', ...(independent ? ['PyTorch', 'ratio'] : [])];
  const lines = ladder.flatMap(({ title, caches: own }) =>
    Object.entries(own).map(([cache, expected], index) => {
      const rows = rowsOf(cache);
      const lost = perplexity(rows.map(({ loss }) => loss)) - baseline;
      // Paired by window; a small difference of logarithms times the perplexity is one of perplexities.
      const differences = rows.map(({ loss, baselineLoss }) => loss - baselineLoss);
      const squares = differences.map((each) => (each - mean(differences)) ** 2);
      const error = (baseline + lost) * Math.sqrt(mean(squares) / (windows - 1));
      return [
        index === 0 ? title : '',
        `\`${cache}\``,
        `${rows[0].compression.toFixed(1)}x`,
        `${lost < 0 ? '' : '+'}${lost.toFixed(3)}${windows > 1 ? ` ± ${error.toFixed(3)}` : ''}`,
        ...(independent ? [`+${expected}`, (lost / expected).toFixed(2)] : []),
      ];
    }),
  );
  const line = (cells) => `| ${cells.join(' | ')} |\n`;
  return (
    `${windows} windows of ${WINDOW} tokens; f16 KV cache: perplexity ${baseline.toFixed(3)}.\n\n` +
    `${line(head)}${line(head.map(() => '---'))}${lines.map(line).join('')}`
  );
}

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}
