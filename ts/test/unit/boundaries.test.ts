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

/** The files of ts/src that a file imports, for their types or for more. */
function importedFiles(file: string): string[] {
  return importsOf(file)
    .filter((name) => name.startsWith('.'))
    .map((name) => posix.join(posix.dirname(file), name).replace(/\.js$/, '.ts'));
}

/** The folder of a file, or the file itself if it lies in none. */
const levelOf = (file: string): string => file.split('/')[0];

/** Folders of ts/src, and files beside them, in order: one may import from itself and from those before it. */
const LEVELS = [
  ...['printable.ts', 'nearest-name.ts', 'platform.ts', 'errors.ts'],
  ...['numerics', 'quant', 'cache', 'model', 'reference-model.ts', 'engine'],
  ...['text', 'io'],
  ...['sampling.ts', 'scoring.ts', 'stop-filter.ts', 'speculation.ts', 'generate.ts', 'samples.ts'],
  ...['analysis', 'perplexity.ts', 'memory-totals.ts', 'backends.ts', 'load.ts', 'chat-session.ts'],
  ...['check', 'reproduce', 'serve'],
  ...['index.ts', 'reference.ts'],
  ...['browser', 'cli'],
];

/** The definition, which imports no package but for its linear algebra. */
const DEFINITION = ['numerics', 'quant', 'cache', 'model'];

/** A circle of imports, each file importing the next; empty if there is none. */
function findCircle(importsOfFile: (file: string) => readonly string[], from: readonly string[]): string[] {
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (file: string): string[] => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
    if (done.has(file)) return [];
    path.push(file);
    for (const next of importsOfFile(file)) {
      const circle = visit(next);
      if (circle.length > 0) return circle;
    }
    path.pop();
    done.add(file);
    return [];
  };
  for (const file of from) {
    const circle = visit(file);
    if (circle.length > 0) return circle;
  }
  return [];
}

describe('imports', () => {
  it('have a level for every folder and every file beside the folders', () => {
    expect([...new Set(files.map(levelOf))].sort()).toEqual([...LEVELS].sort());
  });

  it.each(files)('%s', (file) => {
    const folder = levelOf(file);
    for (const name of importsOf(file)) {
      if (name.startsWith('node:')) {
        const allowed =
          folder === 'cli' || folder === 'serve' || /(^|\/)node-[\w-]+\.ts$|-node\.ts$/.test(file);
        expect(
          allowed,
          `${file} imports ${name}, which only cli/, serve/, io/node-*.ts and engine/*-node.ts may`,
        ).toBe(true);
      } else if (!name.startsWith('.') && DEFINITION.includes(folder)) {
        expect(file, `${file} imports the package ${name}`).toMatch(/^numerics\/(svd|eigen)\.ts$/);
      }
    }
    for (const target of importedFiles(file)) {
      expect(LEVELS.slice(0, LEVELS.indexOf(folder) + 1), `${file} imports ${target}`).toContain(
        levelOf(target),
      );
    }
  });

  it('make no circle, those of types included', () => {
    expect(findCircle(importedFiles, files)).toEqual([]);
  });

  it('that make a circle are found', () => {
    const circle: Record<string, string[]> = { a: ['b', 'c'], b: [], c: ['d'], d: ['b', 'c'] };
    expect(findCircle((file) => circle[file], ['a'])).toEqual(['c', 'd', 'c']);
  });

  it('of the HTTP library and of serve/ are left to serve/ and to its command', () => {
    for (const file of files.filter((name) => !name.startsWith('serve/') && name !== 'cli/serve.ts')) {
      expect(
        importsOf(file).filter((name) => /^(hono|@hono)\b|\/serve\//.test(name)),
        file,
      ).toEqual([]);
    }
  });

  it('of model/ are contracts of cache/', () => {
    const contracts = ['contract', 'projection', 'state', 'options'].map((name) => `cache/${name}.ts`);
    for (const file of files.filter((name) => name.startsWith('model/'))) {
      const imported = importedFiles(file).filter((target) => levelOf(target) === 'cache');
      expect(contracts, file).toEqual(expect.arrayContaining(imported));
    }
  });
});
