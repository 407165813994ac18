import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { roundHalfEven } from '../../../src/numerics/round.js';

describe('roundHalfEven', () => {
  it('sends ties to the even neighbour', () => {
    const ties = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 14.5];
    expect(ties.map((tie) => roundHalfEven(tie) + 0)).toEqual([-2, -2, 0, 0, 2, 2, 4, 14]);
  });

  test.prop([fc.double({ min: -1e9, max: 1e9, noNaN: true })])('is a nearest integer', (value) => {
    const rounded = roundHalfEven(value);
    expect(Number.isInteger(rounded)).toBe(true);
    expect(Math.abs(rounded - value)).toBeLessThanOrEqual(0.5);
  });

  test.prop([fc.integer({ min: -(2 ** 40), max: 2 ** 40 })])('keeps integers', (value) => {
    expect(roundHalfEven(value)).toBe(value);
  });
});
