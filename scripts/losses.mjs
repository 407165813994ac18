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
import { estimate } from '../dist/reproduce/statistics.js';
import { formatEstimate } from '../dist/reproduce/tables.js';

/** Where the tables of a backend stand. */
const PAGES = { reference: '../docs/reference.md', wasm: '../docs/engine.md' };
const WINDOW = 2048;
/** Caches that share one pass of the f16 baseline. */
const BATCH = 6;

/** Losses by window that independent code measured on a GPU, on the same weights and text. */
const INDEPENDENT = JSON.parse(
  readFileSync(new URL('../golden/losses.json', import.meta.url), 'utf8'),
).losses;

/**
 * Per model: caches by what they are. A number is the perplexity that a cache costs in an earlier simulation in
 * PyTorch (32 windows, f16 weights), of those that golden/losses.json does not have.
 */
const LADDERS = {
  'books-mha': [
    { title: 'KIVI*', caches: { 'kivi:4': null, 'kivi:3': null, 'kivi:2': null } },
    {
      title: 'XQuant, per token (paper)',
      caches: { 'xquant:4@paper': null, 'xquant:3@paper': null, 'xquant:2@paper': null },
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
        'xquant:4@paper?rotation=hadamard': null,
        'xquant:3@paper?rotation=hadamard': null,
        'xquant:2@paper?rotation=hadamard': null,
      },
    },
    {
      title: 'XQuant, latents of Wk and Wv',
      caches: {
        'xquant:4@paper?form=latent': null,
        'xquant:3@paper?form=latent': null,
        'xquant:2@paper?form=latent': null,
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
      caches: { 'xquant-cl:4@paper': null, 'xquant-cl:3@paper': null, 'xquant-cl:2@paper': null },
    },
    {
      title: 'XQuant-CL, differences before the gain',
      caches: {
        'xquant-cl:4@paper?deltaSpace=normalized': null,
        'xquant-cl:3@paper?deltaSpace=normalized': null,
        'xquant-cl:2@paper?deltaSpace=normalized': null,
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
        'xquant-cl:2@paper?deltaSpace=normalized&rotation=hadamard': null,
        'xquant-cl:2@paper?deltaSpace=normalized&range=mse': null,
        'xquant-cl:2@tuned?sinks=0': null,
      },
    },
    {
      title: 'tuned',
      caches: {
        'xquant:4@tuned?sinks=0': null,
        'xquant-cl:3@tuned?sinks=0': null,
        'xquant-cl:2@tuned?baseBits=2&sinks=0': null,
        'xquant-cl:2@tuned?group=256&sinks=0': null,
        'xquant-cl:1@tuned?sinks=0': null,
      },
    },
  ],
  'books-gqa': [
    { title: 'KIVI*', caches: { 'kivi:4': null, 'kivi:3': null, 'kivi:2': null } },
    {
      title: 'XQuant, latents (paper)',
      caches: { 'xquant:4@paper': null, 'xquant:3@paper': null, 'xquant:2@paper': null },
    },
    {
      title: 'XQuant-CL, latents (paper)',
      caches: { 'xquant-cl:4@paper': null, 'xquant-cl:3@paper': null, 'xquant-cl:2@paper': null },
    },
    {
      title: 'towards tuned, step by step',
      caches: {
        'xquant-cl:2@paper?deltaSpace=normalized': null,
        'xquant-cl:2@paper?deltaSpace=normalized&range=mse': null,
        'xquant-cl:2@tuned?sinks=0': null,
      },
    },
    {
      title: 'tuned',
      caches: {
        'xquant:4@tuned?sinks=0': null,
        'xquant:2@tuned?sinks=0': null,
        'xquant-cl:3@tuned?sinks=0': null,
        'xquant-cl:2@tuned?baseBits=2&sinks=0': null,
        'xquant-cl:2@tuned?group=256&sinks=0': null,
        'xquant-cl:1@tuned?sinks=0': null,
        'xquant-cl:2@tuned?form=x&sinks=0': null,
      },
    },
  ],
};

const mean = (values) => estimate(values).mean;

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
    for (const name of Object.keys(LADDERS)) {
      const own = results.filter((each) => each.backend === backend && each.model === name);
      if (own.length === 0) continue;
      const [begin, end] = [`<!-- ${name}: begin -->`, `<!-- ${name}: end -->`];
      const [from, to] = [page.indexOf(begin), page.indexOf(end)];
      if (from < 0 || to < from) fail(`${path} has no markers ${begin} and ${end}`);
      page = `${page.slice(0, from + begin.length)}\n\n${table(name, own)}\n${page.slice(to)}`;
    }
    writeFileSync(file, page);
  }
}

function table(name, results) {
  const ladder = LADDERS[name];
  const caches = ladder.flatMap((row) => Object.keys(row.caches));
  const windows = Math.min(...caches.map((cache) => results.filter((each) => each.cache === cache).length));
  if (windows === 0) fail(`not every cache of ${name} has been measured`);
  const rowsOf = (cache) =>
    results
      .filter((each) => each.cache === cache && each.window < windows)
      .sort((a, b) => a.window - b.window);
  const exact = INDEPENDENT[name].kv.slice(0, windows);

  const baseline = Math.exp(mean(rowsOf(caches[0]).map(({ baselineLoss }) => baselineLoss)));
  const head = ['', 'cache', 'smaller', 'perplexity lost', 'PyTorch', 'ratio', 'difference, nats a token'];
  const lines = ladder.flatMap(({ title, caches: own }) =>
    Object.entries(own).map(([cache, earlier], index) => {
      const rows = rowsOf(cache);
      const losses = rows.map(({ loss }) => loss);
      const lost = Math.exp(mean(losses)) - baseline;
      const paired = estimate(rows.map(({ loss, baselineLoss }) => loss - baselineLoss));
      const independent = INDEPENDENT[name][cache]?.slice(0, windows);
      const expected = independent ? Math.exp(mean(independent)) - Math.exp(mean(exact)) : earlier;
      const apart = independent && estimate(losses.map((loss, i) => loss - independent[i]));
      return [
        index === 0 ? title : '',
        `\`${cache}\``,
        `${rows[0].compression.toFixed(1)}x`,
        // A small difference of logarithms times the perplexity is one of perplexities.
        `${signed(lost, 3)} ± ${((baseline + lost) * paired.stdErr).toFixed(3)}`,
        `${signed(expected, 3)}${independent ? '' : ' \\*'}`,
        (lost / expected).toFixed(2),
        apart ? formatEstimate(apart, 4) : '',
      ];
    }),
  );
  const line = (cells) => `| ${cells.join(' | ')} |\n`;
  const note = lines.some((cells) => cells[4].endsWith('*'))
    ? '\n\\* an earlier simulation: 32 windows, weights in f16\n'
    : '';
  return (
    `${windows} windows of ${WINDOW} tokens; f16 KV cache: perplexity ${baseline.toFixed(3)}, in PyTorch ` +
    `${Math.exp(mean(exact)).toFixed(3)}.\n\n` +
    `${line(head)}${line(head.map(() => '---'))}${lines.map(line).join('')}${note}`
  );
}

function signed(value, digits) {
  return `${value < 0 ? '' : '+'}${value.toFixed(digits)}`;
}

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}
