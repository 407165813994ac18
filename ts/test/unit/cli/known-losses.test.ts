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
};

const isCalibrated = (cache: string) => cache.includes('@calibrated');

describe.each(KNOWN_LOSSES)('losses of $heading', ({ heading, percent, shape, calibrated }) => {
  it('of calibrated caches are those by window in golden/', () => {
    const caches = Object.keys(percent).filter(isCalibrated);
    expect(caches.length > 0).toBe(calibrated !== undefined);
    if (!calibrated) return;
    const [file, key] = calibrated;
    const golden = new URL(`../../../../golden/${file}`, import.meta.url);
    const { losses } = JSON.parse(readFileSync(golden, 'utf8'));
    for (const cache of caches) {
      const windows: number[] = losses[key][cache];
      const mean = windows.reduce((sum, loss, i) => sum + loss - losses[key].kv[i], 0) / windows.length;
      expect(100 * Math.expm1(mean), cache).toBeCloseTo(percent[cache], 2);
    }
  });

  it('of the others are those of docs/results.md', () => {
    const section = page.split('\n## ').find((each) => each.startsWith(`${heading}\n`)) ?? '';
    expect(section).not.toBe('');
    for (const [cache, loss] of Object.entries(percent)) {
      if (isCalibrated(cache)) continue;
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
