/**
 * Checks golden cases with the reference, the slow ones too: all generated ids and the perplexities.
 *
 *     node scripts/check-golden.mjs [NAME...]    cases whose name has one of these in it; all if there is none
 *
 * `decode` takes minutes, `perplexity` hours. Needs a build.
 */

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { manifestProblems, parseCase, parseManifest } from '../dist/check/case/golden.js';
import { checkCase } from '../dist/check/check.js';
import { modelContext } from '../dist/check/context.js';
import { formatCase, formatSummary, summarize } from '../dist/check/report.js';
import { directoryFolder } from '../dist/io/node-file.js';
import { heldoutText } from '../dist/io/node-models.js';

const golden = fileURLToPath(new URL('../golden/', import.meta.url));
const manifest = parseManifest(readFileSync(`${golden}manifest.json`, 'utf8'), 'golden/manifest.json');
const problems = await manifestProblems(manifest, directoryFolder(`${golden}vectors`));
for (const problem of problems) process.stdout.write(`${problem}\n`);

const context = modelContext({ heldoutText });
const reports = [];
const names = process.argv.slice(2);
for (const { file } of manifest.cases) {
  if (names.length > 0 && !names.some((name) => file.includes(name))) continue;
  const report = await checkCase(parseCase(readFileSync(`${golden}${file}`), file), context);
  reports.push(report);
  process.stdout.write(formatCase(report));
}
await context.dispose();
const summary = summarize(reports);
process.stdout.write(formatSummary(summary));
process.exitCode = problems.length + summary.fail + summary.error > 0 ? 1 : 0;
