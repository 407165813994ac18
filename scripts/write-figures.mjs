/**
 * Writes the figures of the documentation, docs/figures/NAME.svg. `--check` writes nothing and fails if one of them is not
 * what its script draws. Needs a build, whose numbers the figures show.
 */

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import * as algorithm from './figures/algorithm.mjs';
import { caches } from './figures/caches.mjs';

const FOLDER = new URL('../docs/figures/', import.meta.url);

const figures = Object.fromEntries(
  Object.entries({ ...algorithm, caches }).map(([name, draw]) => [
    `${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}.svg`,
    draw(),
  ]),
);
const present = existsSync(FOLDER) ? readdirSync(FOLDER) : [];
const stale = present.filter((name) => !Object.hasOwn(figures, name));
const wrong = Object.entries(figures).filter(
  ([name, svg]) => !present.includes(name) || readFileSync(new URL(name, FOLDER), 'utf8') !== svg,
);

if (process.argv.includes('--check')) {
  const names = [...stale, ...wrong.map(([name]) => name)];
  if (names.length > 0) {
    const list = names.map((name) => `docs/figures/${name}`).join(', ');
    process.stderr.write(`not what the scripts draw: ${list}: run "node scripts/write-figures.mjs"\n`);
    process.exitCode = 1;
  }
} else {
  mkdirSync(FOLDER, { recursive: true });
  for (const name of stale) rmSync(new URL(name, FOLDER));
  for (const [name, svg] of wrong) writeFileSync(new URL(name, FOLDER), svg);
}
