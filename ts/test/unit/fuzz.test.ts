/**
 * A short run of the fuzz test of every reader (`npm run fuzz` is the long one): each seed, hostile ones among them,
 * and some random inputs. The seed is that of all property tests, see `setup.ts`.
 */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { seedsOf } from '../fuzz/corpus.js';
import { enter, FAMILIES } from '../fuzz/doors.js';
import { inputs } from '../fuzz/inputs.js';
import { judge } from '../fuzz/judge.js';

/** The most that one input may take here; `npm run fuzz` ends the process after this. */
const SECONDS = 5;

describe.each(FAMILIES)('hostile inputs: %s', (family) => {
  const seeds = seedsOf(family);
  // A template may use up its budget, which takes a second or two.
  const hasTemplates = family === 'template' || family === 'gguf';

  it.each(seeds)('$name', async ({ bytes }) => {
    const started = performance.now();
    await judge(family, bytes);
    expect(performance.now() - started).toBeLessThan(SECONDS * 1000);
  });

  it('a good one is accepted, before and after', async () => {
    await enter(family, seeds[0].bytes);
    await fc.assert(
      fc.asyncProperty(inputs(family, seeds), async ({ bytes }) => void (await judge(family, bytes))),
      { numRuns: hasTemplates ? 20 : 100 },
    );
    await enter(family, seeds[0].bytes);
  });
});
