/**
 * Deep equality of values full of typed arrays, a thousand times faster than a matcher that visits each
 * element: bytes are compared first, and only a difference is handed to the matcher to be described.
 *
 * @module
 */

import { expect } from 'vitest';

/** Expects two values to be equal, typed arrays bit for bit. */
export function expectSame(actual: unknown, expected: unknown): void {
  if (!same(actual, expected)) expect(actual).toEqual(expected);
}

function same(a: unknown, b: unknown): boolean {
  if (ArrayBuffer.isView(a) && ArrayBuffer.isView(b)) {
    return a.byteLength === b.byteLength && Buffer.compare(bytes(a), bytes(b)) === 0;
  }
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return Object.is(a, b);
  const keys = Object.keys(a);
  if (keys.length !== Object.keys(b).length) return false;
  return keys.every((key) => same((a as Record<string, unknown>)[key], (b as Record<string, unknown>)[key]));
}

function bytes(view: ArrayBufferView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}
