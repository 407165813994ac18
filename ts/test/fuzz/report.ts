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
  /** By how many bytes objects and buffers of a process grew after its first job; the most of all processes. */
  growth: number;
}

/** Inputs that were tried. */
export function total({ answers }: Row): number {
  return Object.values(answers).reduce((sum, count) => sum + count, 0);
}

/** Inputs that were answered wrongly. */
export function faultsOf({ answers }: Row): number {
  return answers.fault ?? 0;
}

const PAGE = 'docs/reliability.md';
const START = '<!-- fuzz -->';
const END = '<!-- /fuzz -->';

/** A Markdown table. */
export function formatTable(rows: readonly Row[]): string {
  const lines = rows.map((row) => {
    const { family, answers, slowest } = row;
    const { accepted = 0, fault = 0, ...refused } = answers;
    const classes = Object.entries(refused)
      .sort(([, a], [, b]) => b - a)
      .map(([name, count]) => `${name} ${count}`);
    const growth = (row.growth / 1e6).toFixed(1);
    return `| ${family} | ${total(row)} | ${accepted} | ${classes.join(', ') || 'none'} | ${slowest.toFixed(2)} | ${growth} | ${fault} |`;
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
