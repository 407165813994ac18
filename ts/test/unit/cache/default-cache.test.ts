import { describe, expect, it } from 'vitest';
import type { Calibration, CalibrationSet } from '../../../src/cache/calibration.js';
import { chooseCache } from '../../../src/cache/default-cache.js';
import { resolveCacheOptions } from '../../../src/cache/presets.js';
import { TINY_CONFIG, TINY_GQA_CONFIG } from '../../helpers/tiny-model.js';

/** As much of a calibration as the choice looks at. */
function calibrationFor(...sets: Pick<CalibrationSet, 'predict' | 'basis' | 'bits' | 'loss'>[]): Calibration {
  const texts = ['a.txt', 'b.txt'].map((name) => ({ name, sha256: '0'.repeat(64), tokens: 1 }));
  return { origin: { texts }, sets } as unknown as Calibration;
}

describe('the choice of a cache', () => {
  it('is by the attention of the model without a calibration', () => {
    expect(chooseCache(TINY_CONFIG).cache).toBe('xquant-cl:2@tuned');
    expect(chooseCache(TINY_GQA_CONFIG).cache).toBe('xquant:4@tuned');
  });

  it.each([TINY_CONFIG, TINY_GQA_CONFIG])('is calibrated with one, and names texts and loss', (config) => {
    const loss = { text: 'novels', percent: 0.654, standardError: 0.06 };
    const set = { predict: 1, basis: 'joint', bits: 2.25, loss } as const;
    const { cache, reason } = chooseCache(config, calibrationFor(set));
    expect(cache).toBe('xquant-cl:2.25@calibrated');
    expect(reason).toMatch(/made on a\.txt and b\.txt; it loses 0\.65 % of perplexity on novels$/);
    expect(resolveCacheOptions(cache, config)).toMatchObject({
      form: 'calibrated',
      predict: 1,
      basis: 'joint',
    });
  });

  it('names no loss that was measured at other bits', () => {
    const loss = { text: 'novels', percent: 0.1, standardError: 0.06 };
    const { reason } = chooseCache(
      TINY_CONFIG,
      calibrationFor({ predict: 1, basis: 'joint', bits: 0.6, loss }),
    );
    expect(reason).not.toContain('novels');
  });

  it('needs a set with prediction from one layer', () => {
    const others = calibrationFor(
      { predict: 0, basis: 'joint', bits: null },
      { predict: 2, basis: 'joint', bits: 2.25 },
    );
    expect(chooseCache(TINY_GQA_CONFIG, others).cache).toBe('xquant:4@tuned');
  });

  it('looks for a calibration only if it is asked to choose', () => {
    const finder = {
      findCalibration(): never {
        throw new Error('was looked for');
      },
    };
    expect(resolveCacheOptions('kv', TINY_CONFIG, finder).variant).toBe('kv');
    expect(() => resolveCacheOptions('auto', TINY_CONFIG, finder)).toThrow('was looked for');
  });
});
