/**
 * Which tokens a cache can forget.
 *
 * @module
 */

import { assertIndex, CacheStateError } from '../errors.js';
import type { CacheOptions } from './options.js';

/**
 * Requires a length that a cache can be trimmed to: exact values of sealed tokens are gone, so a cut through a sealed
 * block is refused.
 *
 * @param length wanted
 * @param current tokens stored
 * @throws {CacheStateError} if `length` is inside a sealed block
 * @throws {RangeError} if `length` is not from 0 to `current`
 */
export function assertTrim(
  length: number,
  current: number,
  { variant, residualWindow: size }: Pick<CacheOptions, 'variant' | 'residualWindow'>,
): void {
  assertIndex(length, current, 'length');
  const sealed = Math.floor(current / size) * size;
  if (length >= sealed || length % size === 0) return;
  throw new CacheStateError(
    variant,
    current,
    `trim to ${length}`,
    `position ${length} is inside a sealed block of ${size} tokens; trim to ${length - (length % size)} ` +
      'and append the rest again',
  );
}
