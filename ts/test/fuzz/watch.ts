/**
 * Runs jobs in a process of their own, with limits of time and memory.
 *
 * @module
 */

import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { FoundFault, FromChild, Job, Outcome } from './protocol.js';

/** An input that takes longer hangs. */
export const HANG_SECONDS = 5;

/** A process that takes more leaks or was made to allocate. */
export const MEMORY_BYTES = 1.5e9;

const CHILD = fileURLToPath(new URL('child.js', import.meta.url));

/** A process for jobs, one after another; a new one after each that had to be ended. */
export class Runner {
  #child: ChildProcess | undefined;
  #started = 0;

  /** Which process it is: no other one, of any runner, has the same number. */
  get started(): number {
    return this.#started;
  }

  /** What came of a job; a hang or the end of the process is a fault. */
  async run(job: Job): Promise<Outcome> {
    const first = await this.#try(job);
    if (typeof first !== 'string') return first;
    // Once more, knowing every input, so that the fault can be shown.
    const second = job.file || job.careful ? undefined : await this.#try({ ...job, careful: true });
    if (second !== undefined && typeof second !== 'string') return second;
    const at = this.#trying ?? { seed: job.file?.name ?? `seed ${job.seed}`, bytes: job.file?.bytes ?? '' };
    const fault: FoundFault = { ...at, message: second ?? first };
    const slowest = { seconds: HANG_SECONDS, seed: fault.seed };
    return { answers: { fault: 1 }, faults: [fault], slowest, heapBytes: 0, residentBytes: 0 };
  }

  /** Ends the process. */
  stop(): void {
    this.#child?.kill('SIGKILL');
    this.#child = undefined;
  }

  #trying: { seed: string; bytes: string } | undefined;

  /** The outcome, or what ended the process. */
  async #try(job: Job): Promise<Outcome | string> {
    this.#trying = undefined;
    const child = this.#child ?? (await start());
    if (this.#child === undefined) this.#started = ++starts;
    this.#child = child;
    return new Promise((resolve) => {
      let timer: NodeJS.Timeout;
      const settle = (result: Outcome | string) => {
        clearTimeout(timer);
        child.removeAllListeners();
        if (typeof result === 'string' || result.residentBytes > MEMORY_BYTES) this.stop();
        resolve(result);
      };
      const alive = () => {
        clearTimeout(timer);
        timer = setTimeout(() => settle(`no answer within ${HANG_SECONDS} s`), HANG_SECONDS * 1000);
      };
      child.on('message', (message: FromChild) => {
        if (message.kind === 'done') {
          const over = message.residentBytes > MEMORY_BYTES;
          settle(over ? `the process took ${(message.residentBytes / 1e6).toFixed(0)} MB` : message);
          return;
        }
        if (message.kind === 'trying') this.#trying = { seed: message.seed, bytes: message.bytes };
        alive();
      });
      child.once('exit', (code, signal) => {
        this.#child = undefined;
        settle(`the process ended (${signal ?? `exit code ${code}`})`);
      });
      alive();
      child.send(job);
    });
  }
}

/** Processes that were started by all runners. */
let starts = 0;

function start(): Promise<ChildProcess> {
  const execArgv = ['--expose-gc', `--max-old-space-size=${Math.floor(MEMORY_BYTES / 2 ** 20)}`];
  const child = fork(CHILD, { execArgv, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  return new Promise((resolve, reject) => {
    child.once('message', () => resolve(child));
    child.once('exit', (code) =>
      reject(new Error(`the process of the fuzz test did not start (exit code ${code})`)),
    );
  });
}
