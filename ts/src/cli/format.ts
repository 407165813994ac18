/**
 * Numbers and tables for people.
 *
 * @module
 */

import type { MemoryTotals } from '../memory-totals.js';

/** Bytes with a decimal unit: `1.25 MB`. */
export function formatBytes(bytes: number): string {
  return withUnit(bytes, ['B', 'kB', 'MB', 'GB', 'TB', 'PB']);
}

/** A count with a unit: `16.1 M`. */
export function formatCount(count: number): string {
  return withUnit(count, ['', 'k', 'M', 'G', 'T']).trimEnd();
}

/** Three digits, and the unit that leaves one to three of them before the point. */
function withUnit(value: number, units: readonly string[]): string {
  let scaled = value;
  let unit = 0;
  // From 999.5 on three digits would be 1000.
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= 1000;
    unit++;
  }
  const digits = unit === 0 || scaled >= 999.5 ? scaled.toFixed(0) : scaled.toPrecision(3);
  return `${digits} ${units[unit]}`;
}

/** The total size of a cache, with its parts, against f16: `1.2 MB, 3.1 times smaller than f16 keys and values (...)`. */
export function describeTotals({
  total,
  cache,
  accumulator,
  plan = 0,
  float16,
  cacheSmaller,
  smaller,
}: MemoryTotals): string {
  const parts: [string, number][] = [
    ['cache', cache],
    ['accumulator', accumulator],
    ['plan', plan],
  ];
  const shown = parts
    .filter(([, bytes]) => bytes > 0)
    .map(([name, bytes]) => `${name} ${formatBytes(bytes)}`);
  const alone = total > cache ? `; the cache alone ${describeRatio(cacheSmaller)}` : '';
  return `${formatBytes(total)} instead of ${formatBytes(float16)} in f16: ${describeRatio(smaller)} (${shown.join(', ')}${alone})`;
}

/** A ratio in words: `3.10 times smaller`, or `1.30 times larger`. */
export function describeRatio(smaller: number): string {
  if (Math.abs(smaller - 1) < 0.005) return 'as large';
  return smaller > 1 ? `${smaller.toFixed(2)} times smaller` : `${(1 / smaller).toFixed(2)} times larger`;
}

/**
 * A table in columns, the first one left-aligned, the others right-aligned.
 *
 * @param rows the first is the head
 */
export function formatTable(rows: readonly (readonly string[])[]): string {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((cells) => cells[column].length)));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[column])))
      .join('  ');
  const [head, ...body] = rows.map(line);
  return [head, '-'.repeat(head.length), ...body].map((each) => `${each.trimEnd()}\n`).join('');
}
