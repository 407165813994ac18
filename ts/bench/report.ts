/**
 * What every benchmark says about where it ran, and how it sums up repeats.
 *
 * @module
 */

import { cpus } from 'node:os';

/** Where and how something was measured. */
export interface Environment {
  readonly command: string;
  readonly date: string;
  readonly machine: string;
  readonly node: string;
  /** Flags of the runtime. */
  readonly flags: string;
  /** Build of the kernels. */
  readonly build: string;
}

/** @param name of the command, as package.json knows it */
export function environment(name: string, build: string): Environment {
  const given = process.argv.slice(2).join(' ');
  return {
    command: `npm run ${name}${given && ` -- ${given}`}`,
    date: new Date().toISOString().slice(0, 10),
    machine: `${cpus().length} cores of ${cpus()[0]?.model.trim()}`,
    node: process.version,
    flags: process.execArgv.join(' '),
    build,
  };
}

/** Repeats of a measurement. */
export interface Repeats {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly count: number;
}

/** @throws {RangeError} if there are none */
export function repeats(values: readonly number[]): Repeats {
  if (values.length === 0) throw new RangeError('nothing was measured');
  const sorted = [...values].sort((a, b) => a - b);
  return {
    median: sorted[sorted.length >> 1],
    min: sorted[0],
    max: sorted[sorted.length - 1],
    count: sorted.length,
  };
}

/** Seconds that something takes. */
export interface Duration {
  readonly wall: number;
  /** Processor time of all threads of the process. Does not count waiting for a core. */
  readonly processor: number;
}

/** Times something. */
export async function time(run: () => unknown): Promise<Duration> {
  const usage = process.cpuUsage();
  const started = performance.now();
  await run();
  const wall = (performance.now() - started) / 1000;
  const { user, system } = process.cpuUsage(usage);
  return { wall, processor: (user + system) / 1e6 };
}
