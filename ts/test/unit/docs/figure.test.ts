import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = new URL('../../../../', import.meta.url).pathname;
const readme = readFileSync(join(root, 'README.md'), 'utf8');

describe.skipIf(!existsSync(join(root, 'dist/index.js')))('pages and figures that scripts write', () => {
  it.each([
    ['the figures', 'write-figures.mjs'],
    ['docs/results.md', 'write-results.mjs'],
    ['what an error costs', 'write-error-figures.mjs'],
  ])('%s has what the numbers give', (_, script) => {
    const { status, stderr } = spawnSync(process.execPath, [join(root, 'scripts', script), '--check'], {
      encoding: 'utf8',
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  });
});

describe('the first screen', () => {
  it('says about how long the files are that one reads first', () => {
    const counts = [...readme.matchAll(/\]\((ts\/src\/[\w/.-]+)\)\s+\([^)]*?about (\d+) lines\)/g)];
    expect(counts).toHaveLength(3);
    for (const [, file, lines] of counts) {
      const text = readFileSync(join(root, file), 'utf8');
      const actual = text.split('\n').length - 1;
      expect(Math.abs(actual - Number(lines)), `${file}: ${actual} lines`).toBeLessThan(0.3 * actual);
    }
  });
});
