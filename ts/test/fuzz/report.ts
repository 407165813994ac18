/**
 * The table of what the fuzz test did, and its place in docs/reliability.md.
 *
 * @module
 */

import { readFileSync, writeFileSync } from 'node:fs';

/** What was tried on one family. */
export interface Row {
  readonly family: string;
  /** Inputs by how they were answered. */
  readonly answers: Record<string, number>;
  /** Seconds of the slowest input. */
  slowest: number;
  /** Bytes of objects and buffers after the first job, and after the last. */
  firstHeap?: number;
  lastHeap?: number;
}

const PAGE = 'docs/reliability.md';
const START = '<!-- fuzz -->';
const END = '<!-- /fuzz -->';

/** A Markdown table. */
export function formatTable(rows: readonly Row[]): string {
  const lines = rows.map(({ family, answers, slowest, firstHeap = 0, lastHeap = 0 }) => {
    const total = Object.values(answers).reduce((sum, count) => sum + count, 0);
    const { accepted = 0, fault = 0, ...refused } = answers;
    const classes = Object.entries(refused)
      .sort(([, a], [, b]) => b - a)
      .map(([name, count]) => `${name} ${count}`);
    const growth = ((lastHeap - firstHeap) / 1e6).toFixed(1);
    return `| ${family} | ${total} | ${accepted} | ${classes.join(', ') || 'none'} | ${slowest.toFixed(2)} | ${growth} | ${fault} |`;
  });
  return [
    '| reader | inputs | accepted | refused with | slowest, s | growth, MB | faults |',
    '| --- | --- | --- | --- | --- | --- | --- |',
    ...lines,
  ].join('\n');
}

/** Puts the table in its place in the page. */
export function writeReliability(
  rows: readonly Row[],
  run: { inputs: number; seed: number; hangSeconds: number; memoryBytes: number },
): void {
  const page = readFileSync(PAGE, 'utf8');
  const [from, to] = [page.indexOf(START), page.indexOf(END)];
  if (from < 0 || to < from) throw new Error(`${PAGE} has no place for the table`);
  const limits = `${run.hangSeconds} s and ${run.memoryBytes / 1e9} GB`;
  const said = `${run.inputs} inputs from seed ${run.seed}, limits of ${limits}; Node ${process.version}.`;
  const text = `${START}\n\n${said}\n\n${formatTable(rows)}\n\n`;
  writeFileSync(PAGE, page.slice(0, from) + text + page.slice(to));
}
