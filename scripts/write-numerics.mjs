/**
 * Writes the list of golden cases, their sizes and the largest errors into docs/numerics.md, between its markers: of the
 * reference, and for `decode` and `perplexity`, which take the reference hours, of the engine. `--windows N` runs the first N
 * of the eight windows of perplexities. `--only WORD,WORD` runs the cases whose name has one of the words in it; the rows of
 * the others stay as they are. `--check` writes nothing and fails if the page is not what it should be. Needs a build.
 */

import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const BEGIN = '<!-- golden cases: begin -->';
const END = '<!-- golden cases: end -->';
const BY_ENGINE = ['decode', 'perplexity'];

const root = fileURLToPath(new URL('..', import.meta.url));
const page = `${root}docs/numerics.md`;
const windowsAt = process.argv.indexOf('--windows');
const windows = windowsAt < 0 ? undefined : Number(process.argv[windowsAt + 1]);
const onlyAt = process.argv.indexOf('--only');
const only = onlyAt < 0 ? undefined : process.argv[onlyAt + 1].split(',');

if (!existsSync(`${root}dist/check/check.js`)) fail('there is no dist/: run "npm run build" first');
const { checkCase } = await import('../dist/check/check.js');
const { parseCase, parseManifest } = await import('../dist/check/case/golden.js');
const { modelContext } = await import('../dist/check/context.js');
const { heldoutText } = await import('../dist/io/node-models.js');

const { compareWholeModel, WHOLE_MODEL_OPERATIONS } = await import('../dist/check/whole-models.js');
const { perturbFileWeights } = await import('../dist/check/compare/perturb.js');
const { WasmModel } = await import('../dist/engine/wasm-model.js');
const { loadModelFile } = await import('../dist/io/load-model.js');

const manifest = parseManifest(readFileSync(`${root}golden/manifest.json`, 'utf8'), 'golden/manifest.json');
const reference = modelContext({ heldoutText });
const engines = new Map();
const engine = {
  heldoutTokens: reference.heldoutTokens,
  async loadModel(name, variation) {
    const key = `${name} ${variation}`;
    if (!engines.has(key)) engines.set(key, await loadEngine(name, variation));
    return engines.get(key);
  },
};

const rows = [['file', 'bytes', 'options', 'by', 'verdict', 'exact', 'largest error', 'of bound']];
const known = new Map(
  [...readFileSync(page, 'utf8').matchAll(/^\| ([\w.-]+) \| (\d+ \| .*) \|$/gm)].map(([, name, rest]) => [
    name,
    rest.split(' | '),
  ]),
);
for (const { file, operation, options, tensors } of manifest.cases) {
  const path = `${root}golden/${file}`;
  const name = file.replace(/^vectors\//, '').replace(/\.safetensors$/, '');
  if (only && !only.some((word) => name.includes(word)) && known.has(name)) {
    rows.push([name, ...known.get(name)]);
    continue;
  }
  const source = parseCase(readFileSync(path), file);
  const byEngine = BY_ENGINE.includes(operation);
  let by = byEngine ? 'engine' : 'reference';
  let reports;
  if (WHOLE_MODEL_OPERATIONS.includes(operation)) {
    reports = await compareWholeModel(source, tensors, byEngine ? engine : reference, windows);
    if (operation === 'perplexity' && windows) by += `, ${windows} of ${options.windows} windows`;
  } else {
    reports = (await checkCase(source, reference, { diagnose: false })).tensors;
  }
  const present = reports.filter(({ verdict }) => verdict !== 'missing');
  const exact = present.filter(({ comparison }) => comparison === 'exact');
  const bounded = present.filter(({ comparison }) => comparison === 'bound');
  const differing = exact.reduce((sum, report) => sum + report.differing, 0);
  rows.push([
    name,
    String(statSync(path).size),
    describe(options),
    by,
    ['fail', 'inconclusive'].find((word) => present.some(({ verdict }) => verdict === word)) ?? 'pass',
    exact.length === 0 ? '' : differing === 0 ? 'equal' : `${differing} differ`,
    largest(bounded, 'largestAbsolute'),
    largest(bounded, 'largestOfAllowed'),
  ]);
  process.stdout.write(`${rows.at(-1).join('  ')}\n`);
}
await reference.dispose();
for (const model of engines.values()) await model.dispose();

const text = readFileSync(page, 'utf8');
const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
if (begin < 0 || end < begin) fail(`docs/numerics.md has no markers ${BEGIN} and ${END}`);
const written = `${text.slice(0, begin + BEGIN.length)}\n\n${table(rows)}\n${text.slice(end)}`;
if (process.argv.includes('--check')) {
  if (written !== text) fail('docs/numerics.md is out of date: run "node scripts/write-numerics.mjs"');
} else {
  writeFileSync(page, written);
}

/** A model on the engine; moved weights are f32. */
async function loadEngine(name, variation) {
  const { config, weights } = await loadModelFile(name);
  return WasmModel.load(config, variation === 0 ? weights : perturbFileWeights(weights, variation));
}

/** Options as `name=value`, without those that are long or stand in the name of the file. */
function describe(options) {
  return Object.entries(options)
    .filter(
      ([name, value]) =>
        typeof value !== 'object' && !['windows', 'windowLength', 'promptStart'].includes(name),
    )
    .map(([name, value]) => `${name}=${value}`)
    .join(' ');
}

function largest(tensors, key) {
  const values = tensors.map((tensor) => tensor[key]?.value ?? 0);
  return values.length === 0 ? '' : Math.max(...values).toPrecision(2);
}

function table([head, ...body]) {
  const line = (cells) => `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`;
  return `${line(head)}${line(head.map(() => '---'))}${body.map(line).join('')}`;
}

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}
