import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

const root = new URL('../../../../', import.meta.url).pathname;
const map = readFileSync(join(root, 'docs/paper-map.md'), 'utf8');

/** `XQuant §3.1`, `XQuant Table 4`, `XQuant App. B`. */
const CITATION = /XQuant (§\d+(?:\.\d+)*|Table \d+|App\. [A-Z])/g;

const sourceFiles = readdirSync(join(root, 'ts/src'), { recursive: true, encoding: 'utf8' }).filter((name) =>
  name.endsWith('.ts'),
);
const sources = sourceFiles.map((name) => readFileSync(join(root, 'ts/src', name), 'utf8'));

it('every citation in the source stands in the map', () => {
  const known = new Set(map.match(CITATION));
  for (const [i, source] of sources.entries()) {
    for (const citation of source.match(CITATION) ?? []) {
      expect(known, `${sourceFiles[i]} cites ${citation}`).toContain(citation);
    }
  }
});

it('every row that names a file names one that exists, and an export of it', () => {
  const references = [...map.matchAll(/`(ts\/src\/[\w/-]+\.ts)`(?: \(`(\w+)`\))?/g)];
  expect(references.length).toBeGreaterThan(15);
  for (const [, file, name] of references) {
    expect(existsSync(join(root, file)), file).toBe(true);
    if (!name) continue;
    const source = readFileSync(join(root, file), 'utf8');
    expect(source, `${file} exports ${name}`).toMatch(new RegExp(`export [\\w ]*\\b${name}\\b`));
  }
});
