/** docs/extend.md names files that are there, and its worked examples fit them. `npm run check:extend` does the rest. */

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { OPERATIONS } from '../../../src/check/operations/index.js';

const root = new URL('../../../../', import.meta.url).pathname;
const page = readFileSync(join(root, 'docs/extend.md'), 'utf8');
const recipes = page
  .split(/^## /m)
  .slice(1)
  .map((section) => ({ heading: section.split('\n', 1)[0], section }));

describe('docs/extend.md', () => {
  it.each(recipes)('$heading: every file is there', ({ section }) => {
    const rows = [...section.matchAll(/^\| `([^`]+)` \|/gm)].map(([, file]) => file);
    expect(rows.length).toBeGreaterThan(3);
    const paths = [...section.matchAll(/`((?:ts|as|docs|golden|scripts)\/[\w./-]+)`/g)].map(
      ([, path]) => path,
    );
    for (const path of [...rows, ...paths]) expect(existsSync(join(root, path)), path).toBe(true);
  });

  it('has worked examples that fit the files of today', () => {
    const { status, stderr } = spawnSync(
      process.execPath,
      [join(root, 'scripts/add-one-experiment.mjs'), '--examples'],
      { encoding: 'utf8' },
    );
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  });
});

it('every operation that a file of check/operations defines is in the table', () => {
  const folder = join(root, 'ts/src/check/operations');
  const defined = readdirSync(folder).flatMap((file) =>
    [...readFileSync(join(folder, file), 'utf8').matchAll(/: Operation = \{\n\s*name: '([\w-]+)'/g)].map(
      ([, name]) => name,
    ),
  );
  expect(defined.sort()).toEqual(OPERATIONS.map(({ name }) => name).sort());
});
