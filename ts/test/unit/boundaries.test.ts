/**
 * What may import what (docs of the architecture, in one place that fails).
 *
 * @module
 */

import { readdirSync, readFileSync } from 'node:fs';
import { join, posix } from 'node:path';
import { describe, expect, it } from 'vitest';

const source = new URL('../../src/', import.meta.url).pathname;
const files = readdirSync(source, { recursive: true, encoding: 'utf8' }).filter((name) =>
  name.endsWith('.ts'),
);

/** The modules that a file imports at load time or later. */
function importsOf(file: string): string[] {
  const text = readFileSync(join(source, file), 'utf8').replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '');
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map(([, name]) => name);
}

/** Folders in order: one may import from those before it. */
const LEVELS = ['numerics', 'quant', 'cache', 'model'];

describe('imports', () => {
  it.each(files)('%s', (file) => {
    const folder = posix.dirname(file).split('/')[0];
    for (const name of importsOf(file)) {
      if (name.startsWith('node:')) {
        const allowed =
          folder === 'cli' || folder === 'serve' || /(^|\/)node-[\w-]+\.ts$|-node\.ts$/.test(file);
        expect(
          allowed,
          `${file} imports ${name}, which only cli/, serve/, io/node-*.ts and engine/*-node.ts may`,
        ).toBe(true);
      }
      const level = LEVELS.indexOf(folder);
      if (level < 0) continue;
      if (!name.startsWith('.')) {
        expect(file, `${file} imports the package ${name}`).toMatch(/^numerics\/(svd|eigen)\.ts$/);
        continue;
      }
      const target = posix.normalize(posix.join(posix.dirname(file), name)).split('/')[0];
      if (['errors.js', 'nearest-name.js', 'printable.js'].includes(target)) continue;
      expect(LEVELS.slice(0, level + 1), `${file} imports ${name}`).toContain(target);
    }
  });

  it('of the HTTP library and of serve/ are left to serve/ and to its command', () => {
    for (const file of files.filter((name) => !name.startsWith('serve/') && name !== 'cli/serve.ts')) {
      expect(
        importsOf(file).filter((name) => /^(hono|@hono)\b|\/serve\//.test(name)),
        file,
      ).toEqual([]);
    }
  });

  it('model/ knows no concrete cache but through cache/create.ts', () => {
    const concrete = /cache\/(kv|kivi|xquant[\w-]*|block|accumulator)\.js$/;
    for (const file of files.filter((name) => name.startsWith('model/'))) {
      expect(importsOf(file).filter((name) => concrete.test(name))).toEqual([]);
    }
  });
});
