/**
 * Numbers and tables for people.
 *
 * @module
 */

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
