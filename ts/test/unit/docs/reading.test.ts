/**
 * The README's advice on where to start reading: the files are there, and as long as it says.
 *
 * @module
 */

import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';

const root = new URL('../../../../', import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, root), 'utf8');

/** Files that the README names with their lengths: `[...](ts/src/FILE) (..., about N lines)`. */
const advised = [
  ...read('README.md').matchAll(/\]\((ts\/src\/[\w/-]+\.ts)\) \([^)]*about (\d+) lines\)/g),
].map(([, path, lines]) => ({ path, lines: Number(lines) }));

it('names files to start with', () => {
  expect(advised.length).toBeGreaterThanOrEqual(3);
});

it.each(advised)('$path has about $lines lines', ({ path, lines }) => {
  const actual = read(path).split('\n').length - 1;
  expect(Math.abs(actual - lines)).toBeLessThanOrEqual(0.1 * actual);
});
