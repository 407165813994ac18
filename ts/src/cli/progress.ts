/**
 * A progress bar for what takes longer than a second, on stderr, and only if that is a terminal.
 *
 * @module
 */

import { SingleBar } from 'cli-progress';
import type { Terminal } from './terminal.js';

/** Work shorter than this shows nothing. */
const QUIET_MS = 1000;

/** One bar; made when the work begins, stopped when it ends. */
export class Progress {
  readonly #terminal: Terminal;
  readonly #label: string;
  readonly #started = performance.now();
  #bar: SingleBar | undefined;

  /** @param label what is being done, for instance `'loading'` */
  constructor(terminal: Terminal, label: string) {
    this.#terminal = terminal;
    this.#label = label;
  }

  /** Shows how far the work is. */
  update(done: number, total: number): void {
    if (!this.#terminal.stderr.isTTY || performance.now() - this.#started < QUIET_MS) return;
    if (!this.#bar) {
      this.#bar = new SingleBar({
        stream: this.#terminal.stderr as NodeJS.WritableStream,
        format: `${this.#label.padEnd(12)} {bar} {percentage}% | {eta_formatted} left`,
        barCompleteChar: '█',
        barIncompleteChar: '░',
        barsize: 30,
        hideCursor: true,
        clearOnComplete: true,
        gracefulExit: false, // Ctrl-C is main.ts's to handle
        etaBuffer: 50,
      });
      this.#bar.start(total, done);
      return;
    }
    this.#bar.setTotal(total);
    this.#bar.update(done);
  }

  /** Removes the bar. */
  stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }
}

/** Runs some work with a bar, which disappears however the work ends. */
export async function withProgress<T>(
  terminal: Terminal,
  label: string,
  work: (update: (done: number, total: number) => void) => Promise<T>,
): Promise<T> {
  const progress = new Progress(terminal, label);
  try {
    return await work((done, total) => progress.update(done, total));
  } finally {
    progress.stop();
  }
}

/** Runs some work that cannot tell how far it is, with a line that says what it is and disappears afterwards. */
export function withStatus<T>({ stderr }: Terminal, text: string, work: () => T): T {
  if (!stderr.isTTY) return work();
  stderr.write(`${text} ...`);
  try {
    return work();
  } finally {
    stderr.write('\r\x1b[K');
  }
}
