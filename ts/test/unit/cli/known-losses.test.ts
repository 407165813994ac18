import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { resolveCacheOptions } from '../../../src/cache/presets.js';
import { KNOWN_LOSSES, knownLosses } from '../../../src/cli/known-losses.js';
import { readModelHeader } from '../../../src/io/load-model.js';

const page = readFileSync(new URL('../../../../docs/results.md', import.meta.url), 'utf8');

/** Names of rows in docs/results.md. */
const ROWS: Readonly<Record<string, string>> = {
  'kivi:4': 'KIVI\\*-4',
  'kivi:2': 'KIVI\\*-2',
  'xquant:4@tuned': 'XQuant-4, tuned',
  'xquant:2@tuned': 'XQuant-2, tuned',
  'xquant-cl:3@tuned': 'XQuant-CL-3, tuned',
  'xquant-cl:2@tuned': 'XQuant-CL-2, tuned (all three)',
  'xquant-cl:2.25@calibrated': 'XQuant-CL-2.25, calibrated, from 1 layer',
  'xquant-cl:2.25@calibrated?predict=2': 'XQuant-CL-2.25, calibrated, from 2 layers',
};

describe.each(KNOWN_LOSSES)('losses of $heading', ({ heading, percent, shape }) => {
  it('are those of docs/results.md', () => {
    const section = page.split('\n## ').find((each) => each.startsWith(`${heading}\n`)) ?? '';
    expect(section).not.toBe('');
    for (const [cache, loss] of Object.entries(percent)) {
      expect(resolveCacheOptions(cache, { ...shape, numAttentionHeads: 12, headDim: 8 })).toBeDefined();
      const row = section.split('\n').find((line) => line.startsWith(`| ${ROWS[cache]} |`)) ?? '';
      const [, measured] = /\| ([+-][\d.]+) ± [\d.]+ \|(?: [\d.]+ \||[^|]*\|[^|]*\|[^|]*\|)$/.exec(row) ?? [];
      expect(Number(measured), `${cache} in "${row}"`).toBe(loss);
    }
  });
});

describe('the embedded models', () => {
  it.each(['books-mha', 'books-gqa'])('%s is found by name and shape', async (name) => {
    const root = new URL('../../../../', import.meta.url).pathname;
    const header = await readModelHeader(join(root, `golden/models/${name}.gguf`));
    expect(knownLosses(header.name, header.config)?.heading.toLowerCase()).toContain(name.replace('-', ' '));
  });

  it('another shape of the same name is not', async () => {
    const header = await readModelHeader('books-mha');
    expect(knownLosses(header.name, { ...header.config, numHiddenLayers: 3 })).toBeUndefined();
  });
});
