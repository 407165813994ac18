import { fc, test as propertyTest } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { formatBytes, formatCount, formatTable } from '../../../src/cli/format.js';

describe('numbers', () => {
  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.00 kB'],
    [999_499, '999 kB'],
    [999_600, '1.00 MB'],
    [17_310_752, '17.3 MB'],
    [2_147_483_648, '2.15 GB'],
  ])('%d bytes are %s', (bytes, text) => expect(formatBytes(bytes)).toBe(text));

  it.each([
    [12, '12'],
    [16_100_000, '16.1 M'],
    [8_030_261_248, '8.03 G'],
  ])('%d are %s', (count, text) => expect(formatCount(count)).toBe(text));

  propertyTest.prop([fc.maxSafeNat()])('never look like 1e+3, and are within half a percent', (bytes) => {
    const text = formatBytes(bytes);
    expect(text).toMatch(/^\d+(\.\d+)? ([kMGTP]?B)$/);
    const [digits, unit] = text.split(' ');
    const value = Number(digits) * 1000 ** ['B', 'kB', 'MB', 'GB', 'TB', 'PB'].indexOf(unit);
    expect(Math.abs(value - bytes)).toBeLessThanOrEqual(0.005 * bytes);
  });
});

describe('tables', () => {
  it('align names to the left and numbers to the right', () => {
    const table = formatTable([
      ['cache', 'bits'],
      ['kv', '16'],
      ['xquant:4', '4.25'],
    ]);
    expect(table).toBe('cache     bits\n--------------\nkv          16\nxquant:4  4.25\n');
  });
});
