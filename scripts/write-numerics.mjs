/**
 * Writes the list of golden cases, their sizes and the largest errors of the reference into docs/numerics.md,
 * between its markers. `--check` writes nothing and fails if the page is not what it should be. `--quick`
 * leaves out what takes minutes (decode, perplexity); such rows say so. Needs a build.
 */

import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const BEGIN = '<!-- golden cases: begin -->';
const END = '<!-- golden cases: end -->';
const SLOW = ['decode', 'perplexity'];

const root = fileURLToPath(new URL('..', import.meta.url));
const page = `${root}docs/numerics.md`;
const quick = process.argv.includes('--quick');

if (!existsSync(`${root}dist/check/check.js`)) fail('there is no dist/: run "npm run build" first');
const { checkCase } = await import('../dist/check/check.js');
const { parseCase, parseManifest } = await import('../dist/check/golden.js');
const { modelContext } = await import('../dist/cli/check.js');

const manifest = parseManifest(readFileSync(`${root}golden/manifest.json`, 'utf8'), 'golden/manifest.json');
const context = modelContext(new AbortController().signal);
const rows = [['file', 'bytes', 'options', 'verdict', 'exact', 'largest error', 'of bound']];
for (const { file, operation, options } of manifest.cases) {
  const path = `${root}golden/${file}`;
  const bytes = String(statSync(path).size);
  if (quick && SLOW.includes(operation)) {
    rows.push([file, bytes, describe(options), 'not run', '', '', '']);
    continue;
  }
  const report = await checkCase(parseCase(readFileSync(path), file), context, { diagnose: false });
  const present = report.tensors.filter(({ verdict }) => verdict !== 'missing');
  const exact = present.filter(({ comparison }) => comparison === 'exact');
  const bounded = present.filter(({ comparison }) => comparison === 'bound');
  const wrong = exact.reduce((sum, { failing }) => sum + failing, 0);
  rows.push([
    file,
    bytes,
    describe(options),
    report.verdict,
    exact.length === 0 ? '' : wrong === 0 ? 'equal' : `${wrong} differ`,
    largest(bounded, 'largestAbsolute'),
    largest(bounded, 'largestOfAllowed'),
  ]);
}
await context.dispose();

const text = readFileSync(page, 'utf8');
const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
if (begin < 0 || end < begin) fail(`docs/numerics.md has no markers ${BEGIN} and ${END}`);
const written = `${text.slice(0, begin + BEGIN.length)}\n\n${table(rows)}\n${text.slice(end)}`;
if (process.argv.includes('--check')) {
  if (written !== text) fail('docs/numerics.md is out of date: run "node scripts/write-numerics.mjs"');
} else {
  writeFileSync(page, written);
}

/** Options as `name=value`, without those that are long. */
function describe(options) {
  return Object.entries(options)
    .filter(([, value]) => typeof value !== 'object')
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
