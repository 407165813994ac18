/** golden/README.md says what the manifest and `xquant check --list` say. */

import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { parseManifest } from '../../../src/check/case/golden.js';
import { OPERATIONS } from '../../../src/check/operations/index.js';

const golden = new URL('../../../../golden/', import.meta.url).pathname;
const readme = readFileSync(join(golden, 'README.md'), 'utf8');
const manifest = parseManifest(readFileSync(join(golden, 'manifest.json'), 'utf8'), 'manifest.json');

it.each(OPERATIONS.map(({ name, tensors }) => ({ name, tensors })))(
  'the table has $name with its outputs',
  ({ name, tensors }) => {
    const row = readme.split('\n').find((line) => line.startsWith(`| \`${name}\``)) ?? '';
    const cells = row.split('|');
    expect(cells, name).toHaveLength(5);
    for (const tensor of tensors) {
      // One tensor per layer is written with the number of the first.
      if (tensor.role === 'output') expect(cells[3]).toContain(`\`${tensor.name.replace('<layer>', '0')}\``);
    }
  },
);

it('counts the files and their bytes', () => {
  const bytes = manifest.cases.reduce((sum, { file }) => sum + statSync(join(golden, file)).size, 0);
  expect(readme).toContain(`${manifest.cases.length} files, ${(bytes / 1e6).toFixed(1)} MB`);
});
