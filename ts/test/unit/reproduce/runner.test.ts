import { describe, expect, it } from 'vitest';
import { measurePerplexity } from '../../../src/perplexity.js';
import { type CacheResult, type ResultStore, runCaches } from '../../../src/reproduce/runner.js';
import { randomTokens, tinyModel } from '../../helpers/tiny-model.js';

const WINDOW = 64;
const TEXT = randomTokens(3 * WINDOW + 9);
const CACHES = ['xquant:2@paper?window=16', 'kivi:2?group=16&window=32', 'xquant-cl:2@tuned?window=16'];
const JOBS = CACHES.map((cache) => ({ cache, windows: 3 }));

/** Keeps copies, as a disk does. */
class MemoryStore implements ResultStore {
  readonly files = new Map<string, string>();
  writes = 0;

  /** @param failAt stops with an error at this write */
  constructor(private readonly failAt = Number.POSITIVE_INFINITY) {}

  async read(cache: string): Promise<CacheResult> {
    return JSON.parse(this.files.get(cache) ?? JSON.stringify({ cache, windows: [] }));
  }

  async write(result: CacheResult): Promise<void> {
    if (++this.writes > this.failAt) throw new Error('the power is gone');
    this.files.set(result.cache, JSON.stringify(result));
  }
}

const run = (store: ResultStore, jobs = JOBS) =>
  runCaches(tinyModel(), TEXT, { jobs, windowSize: WINDOW, store });

describe('runCaches', () => {
  it('finds what measurePerplexity finds', async () => {
    const { results, skipped } = await run(new MemoryStore());
    expect(skipped).toEqual([]);
    const { caches, baseline } = await measurePerplexity(tinyModel(), TEXT, {
      caches: CACHES,
      windows: 3,
      windowSize: WINDOW,
    });
    for (const [i, { cache, windows }] of results.entries()) {
      expect(cache).toBe(CACHES[i]);
      expect(windows.map(({ loss }) => loss)).toEqual(caches[i].windowLosses);
      expect(windows.map((each) => each.baseline)).toEqual(baseline.windowLosses);
      const bytes = windows.reduce((sum, each) => sum + each.storedBytes, 0);
      expect(bytes / (3 * WINDOW)).toBeCloseTo(caches[i].bytesPerToken, 9);
      expect(windows[0].float16Bytes / windows[0].storedBytes).toBeCloseTo(caches[i].compression, 9);
    }
  });

  it('gives the same however often and wherever it was stopped', async () => {
    const whole = await run(new MemoryStore());
    for (let failAt = 0; failAt < 9; failAt += 2) {
      const store = new MemoryStore(failAt);
      await expect(run(store)).rejects.toThrow('the power is gone');
      const resumed = new MemoryStore();
      for (const [name, text] of store.files) resumed.files.set(name, text);
      expect(await run(resumed)).toEqual(whole);
      expect(resumed.writes).toBe(9 - failAt); // nothing is run twice
    }
  });

  it('says how far it is, of what there is left to do', async () => {
    const store = new MemoryStore();
    await run(store, [{ cache: CACHES[0], windows: 2 }]);
    const seen: [number, number][] = [];
    await runCaches(tinyModel(), TEXT, {
      jobs: JOBS,
      windowSize: WINDOW,
      store,
      onProgress: (done, total) => seen.push([done, total]),
    });
    // Two caches and the baseline in the first two windows, three and the baseline in the last.
    const total = (3 + 3 + 4) * WINDOW;
    expect(seen.every(([, all]) => all === total)).toBe(true);
    expect(seen.map(([done]) => done)).toEqual(seen.map((_, i) => (i + 1) * (total / seen.length)));
  });

  it('passes over what the model cannot have, and names the reason', async () => {
    const { results, skipped } = await run(new MemoryStore(), [
      { cache: 'kvquant:2', windows: 1 },
      { cache: 'xquant:2?firstLayers=99', windows: 1 },
      { cache: CACHES[0], windows: 1 },
    ]);
    expect(results.map(({ cache }) => cache)).toEqual([CACHES[0]]);
    expect(skipped.map(({ cache }) => cache)).toEqual(['kvquant:2', 'xquant:2?firstLayers=99']);
    expect(skipped[0].reason).toContain('calibrate_kvquant.py');
    expect(skipped[1].reason).toContain('layers');
  });

  it('refuses a text that is too short', async () => {
    await expect(run(new MemoryStore(), [{ cache: 'kivi:2', windows: 4 }])).rejects.toThrow(
      'at least 256 tokens: 4 windows of 64',
    );
  });
});
