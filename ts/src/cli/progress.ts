/**
 * A progress bar for what takes longer than a second, on stderr if that is a terminal. Elsewhere, for instance in a log,
 * long work may say in a line every ten seconds how far it is.
 *
 * @module
 */

import { SingleBar } from 'cli-progress';
import type { Terminal } from './terminal.js';

/** Work shorter than this shows nothing. */
const QUIET_MS = 1000;

/** Between two lines where there is no terminal. */
const LINE_MS = 10_000;

/** How progress is reported without a terminal. */
export interface ProgressOptions {
  /** Whether to write lines; by default nothing is written. */
  readonly lines?: boolean;
}

/** One bar; made when the work begins, stopped when it ends. */
export class Progress {
  readonly #terminal: Terminal;
  readonly #label: string;
  readonly #started = performance.now();
  readonly #timer: NodeJS.Timeout | undefined;
  readonly #lines: NodeJS.Timeout | undefined;
  #lastLine: number;
  #done = 0;
  #total = 1;
  #bar: SingleBar | undefined;

  /** @param label what is being done, for instance `'loading'` */
  constructor(terminal: Terminal, label: string, { lines = false }: ProgressOptions = {}) {
    this.#terminal = terminal;
    this.#label = label;
    // The first step may be a long one: the bar appears without waiting for it.
    if (terminal.stderr.isTTY) this.#timer = setTimeout(() => this.#show(), QUIET_MS).unref();
    else if (lines) this.#lines = setInterval(() => this.#writeLine(), LINE_MS / 10).unref();
    this.#lastLine = this.#started;
  }

  /** Shows how far the work is. */
  update(done: number, total: number): void {
    [this.#done, this.#total] = [done, total];
    if (this.#lines) this.#writeLine();
    if (!this.#timer) return;
    // Work that never lets timers run would never see its bar.
    if (performance.now() - this.#started >= QUIET_MS) this.#show();
  }

  /** Removes the bar. */
  stop(): void {
    clearTimeout(this.#timer);
    clearInterval(this.#lines);
    this.#bar?.stop();
    this.#bar = undefined;
  }

  /** Also from `update`: work that never lets timers run would never write. */
  #writeLine(): void {
    const now = performance.now();
    if (now - this.#lastLine < LINE_MS) return;
    this.#lastLine = now;
    const percent = Math.floor((100 * this.#done) / this.#total);
    this.#terminal.stderr.write(`${this.#label} ${percent}%${this.#timeLeft()}\n`);
  }

  #show(): void {
    const payload = { left: this.#timeLeft() };
    if (this.#bar) {
      this.#bar.setTotal(this.#total);
      this.#bar.update(this.#done, payload);
      return;
    }
    this.#bar = new SingleBar({
      stream: this.#terminal.stderr as NodeJS.WritableStream,
      format: `${this.#label.padEnd(12)} {bar} {percentage}%{left}`,
      barCompleteChar: '█',
      barIncompleteChar: '░',
      barsize: 30,
      hideCursor: true,
      clearOnComplete: true,
      gracefulExit: false, // Ctrl-C is main.ts's to handle
    });
    this.#bar.start(this.#total, this.#done, payload);
  }

  /** At the average speed so far; the library's estimate ignores the time before the bar. */
  #timeLeft(): string {
    if (this.#done === 0) return '';
    const elapsed = (performance.now() - this.#started) / 1000;
    const seconds = Math.ceil((elapsed / this.#done) * (this.#total - this.#done));
    const minutes = Math.floor(seconds / 60);
    return ` | ${minutes > 0 ? `${minutes} min ` : ''}${seconds % 60} s left`;
  }
}

/** Runs some work with a bar, which disappears however the work ends. */
export async function withProgress<T>(
  terminal: Terminal,
  label: string,
  work: (update: (done: number, total: number) => void) => Promise<T>,
  options: ProgressOptions = {},
): Promise<T> {
  const progress = new Progress(terminal, label, options);
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
