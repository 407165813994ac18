/** Regular traces of mistakes are found and named; chance is not. */

import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { placeOf } from '../../../src/check/compare/compare.js';
import { findPattern } from '../../../src/check/compare/patterns.js';

const ROWS = 256;
const COLUMNS = 96;

function pattern(differs: (token: number, channel: number) => boolean) {
  const locate = (index: number) => placeOf(index, [ROWS, COLUMNS], ['token', 'channel']);
  return findPattern(
    ROWS * COLUMNS,
    (index) => differs(Math.floor(index / COLUMNS), index % COLUMNS),
    locate,
  );
}

describe('regions', () => {
  it.each<[string, (token: number, channel: number) => boolean, string]>([
    ['odd rows', (t) => t % 2 === 1, 'every odd token'],
    ['even rows', (t) => t % 2 === 0, 'every even token'],
    ['a tail of channels', (_, c) => c >= 32, 'channels from 32 up'],
    ['the last group', (t) => t >= 224, 'tokens from 224 up'],
    ['the second block on', (t) => t >= 128, 'tokens from 128 up'],
    ['one head', (_, c) => c >= 32 && c < 48, 'channels 32 to 47'],
    ['one channel', (_, c) => c === 17, 'only channel 17'],
    ['the start', (t) => t < 4, 'tokens up to 3'],
    ['one lane of four', (_, c) => c % 4 === 3, 'channels 3 of every 4'],
    ['runs', (_, c) => c % 32 >= 16, 'aligned runs of 16 channels, 16 to 31 of every 32'],
  ])('%s', (_, differs, region) => {
    expect(pattern(differs)?.region).toBe(region);
  });
});

// Half of the elements of a region are right by chance: the region is still found. A region may be three quarters of a tensor.
test.prop([fc.integer({ min: 80, max: ROWS - 32 }), fc.integer()])(
  'a region of which half differs',
  (first, seed) => {
    let state = seed | 1;
    const coin = () => {
      state = (Math.imul(state, 1664525) + 1013904223) | 0;
      return state < 0;
    };
    const flips = Array.from({ length: ROWS * COLUMNS }, coin);
    const found = pattern((t, c) => t >= first && flips[t * COLUMNS + c]);
    expect(found?.elements ?? Number.POSITIVE_INFINITY).toBeLessThanOrEqual((ROWS - first) * COLUMNS);
  },
);

// Elements anywhere: with this many, every residue and both ends are hit.
test.prop([fc.uniqueArray(fc.nat(ROWS * COLUMNS - 1), { minLength: 2000, maxLength: 4000 })], {
  numRuns: 10,
})('no pattern in elements anywhere', (indices) => {
  const bad = new Set(indices);
  expect(pattern((t, c) => bad.has(t * COLUMNS + c))).toBeUndefined();
});

it('says nothing about a few elements', () => {
  expect(pattern((t, c) => t === 5 && c < 3)).toBeUndefined();
});
