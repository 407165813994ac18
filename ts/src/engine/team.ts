/**
 * The threads of one engine, seen from the thread that drives them.
 *
 * With one thread, a call is made as it is recorded. With more, calls are recorded, task by task and stage by
 * stage, and {@link Team.run} lets all threads, this one included, work through them.
 *
 * @module
 */

import { KernelError } from '../errors.js';
import type { Kernels } from './kernels.js';
import type { LinearMemory } from './memory.js';
import {
  type BlockKernel,
  blockValues,
  floatFields,
  type ParameterBlock,
  takesBlock,
} from './parameter-blocks.js';
import { Recording } from './recording.js';
import {
  ACK,
  CALL_SLOTS,
  CALLS,
  CONTROL_BUFFER,
  CONTROL_HEADER,
  createRunner,
  EPOCH,
  FAILED,
  MAX_THREADS,
  type Runner,
  runThread,
  SCRATCH,
  STOP,
  type ThreadMessage,
  type ThreadSetup,
} from './stages.js';

export { THREAD_SCRATCH } from './stages.js';

/** Names of the kernels. */
export type KernelName = keyof Kernels;

/** What a call of a kernel takes: the fields of its parameter block, or its arguments one by one. */
export type KernelArguments<K extends KernelName> = K extends BlockKernel
  ? [block: ParameterBlock<K>]
  : Parameters<Kernels[K]>;

/** One running worker. */
export interface ThreadHandle {
  /** Ends it at once. The promise says when it has ended. */
  terminate(): Promise<unknown> | undefined;
}

/**
 * Starts a worker thread.
 *
 * @param source JavaScript that defines `run(setup, post)`
 * @param onMessage what the thread says
 * @param onEnd it ended, for whatever reason
 */
export type SpawnThread = (
  source: string,
  setup: ThreadSetup,
  onMessage: (message: ThreadMessage) => void,
  onEnd: (reason: string) => void,
) => ThreadHandle;

/** The parts of a {@link Team}. */
export interface TeamOptions {
  readonly threads: number;
  readonly memory: LinearMemory;
  readonly module: WebAssembly.Module;
  /** The kernels, instantiated on `memory` for this thread. */
  readonly exports: Readonly<Record<string, unknown>>;
  /** Needed for more than one thread. */
  readonly spawn?: SpawnThread;
}

/** `kernel` of the error of a kernel that trapped on some thread. */
export const TRAPPED = 'kernel';

/** How long to wait for a late thread before letting events run: it may have died, and only an event tells. */
const PATIENCE_MS = 2;

/** How long a new thread may take to compile and start. */
const START_TIMEOUT_MS = 30_000;

// Bundlers that keep function names wrap functions in a call of this helper.
const SOURCE_PRELUDE = 'const __name = (value) => value;';

/** Source text of a worker: defines `run(setup, post)`. */
function threadSource(): string {
  return (
    `${SOURCE_PRELUDE}\nconst createRunner = ${createRunner.toString()};\n` +
    `const runThread = ${runThread.toString()};\n` +
    'const run = (setup, post) => runThread(createRunner, setup, post);\n'
  );
}

/** Takes down what is to be done. Pointers from THREAD_SCRATCH on are the running thread's own scratch. */
export interface Recorder {
  /** Threads that will share the work; only how finely it is worth cutting depends on it. */
  readonly threads: number;
  /** Starts a task: the calls that follow belong to it. */
  task(): void;
  /** Adds a kernel call to the task. */
  call<K extends KernelName>(kernel: K, ...args: KernelArguments<K>): void;
  /**
   * Adds a kernel call that reports -1 for success.
   *
   * @param fail makes the error from another result; called on this thread when the stage has run
   */
  check<K extends KernelName>(fail: (result: number) => Error, kernel: K, ...args: KernelArguments<K>): void;
  /** The task may be divided here: the calls that follow need nothing from a thread's scratch. */
  seam(): void;
  /** Ends the stage: what is recorded from here on starts when it is complete. */
  barrier(): void;
}

interface Check {
  /** Number of the call in the recording. */
  readonly call: number;
  readonly fail: (result: number) => Error;
}

/** Runs tasks on one or more threads. */
export class Team implements Recorder {
  readonly threads: number;
  /** Makes every call at once, on this thread. For what must be done when it is asked for. */
  readonly immediate: Recorder;
  readonly #kernels: Readonly<Record<string, number>>;
  readonly #memory: LinearMemory;
  readonly #control: Int32Array;
  readonly #calls: Float64Array;
  readonly #runner: Runner;
  readonly #handles: ThreadHandle[] = [];
  readonly #recording = new Recording();
  #checks: Check[] = [];
  /** Calls of the recording that have run, or run now. */
  #done = 0;
  #scratch = 0;
  #scratchBytes = 0;
  #failure: KernelError | undefined;
  #disposed = false;
  #late = false;
  #epoch = 1;

  private constructor({ threads, memory, exports }: TeamOptions) {
    this.threads = threads;
    this.#memory = memory;
    const several = threads > 1;
    const Buffer = several ? SharedArrayBuffer : ArrayBuffer;
    this.#control = new Int32Array(new Buffer(4 * (CONTROL_HEADER + (several ? 2 * CONTROL_BUFFER : 0))));
    this.#calls = new Float64Array(new Buffer(several ? 8 * 2 * CALLS * CALL_SLOTS : 0));
    const names = kernelNames(exports);
    this.#kernels = Object.fromEntries(names.map((name, index) => [name, index]));
    const kernels = names.map((name) => exports[name] as CallableFunction);
    this.#runner = createRunner({
      kernels,
      blocks: names.map(floatFields),
      memory: memory.memory,
      control: this.#control,
      calls: this.#calls,
      thread: 0,
    });
    this.immediate = this.#immediateRecorder();
  }

  /**
   * Starts the threads and waits until all are ready.
   *
   * @throws {RangeError} if `threads` is not from 1 to 64
   * @throws {KernelError} if a thread cannot be started
   */
  static async start(options: TeamOptions): Promise<Team> {
    const { threads, module, memory, spawn, exports } = options;
    if (!Number.isInteger(threads) || threads < 1 || threads > MAX_THREADS) {
      throw new RangeError(`"threads" must be an integer from 1 to ${MAX_THREADS}, got ${threads}`);
    }
    const team = new Team(options);
    if (threads === 1) return team;
    if (!spawn) throw new KernelError('threads', 'this runtime has no worker threads');
    const source = threadSource();
    const starting: Promise<void>[] = [];
    for (let thread = 1; thread < threads; thread++) {
      const setup: ThreadSetup = {
        module,
        memory: memory.memory,
        kernelNames: kernelNames(exports),
        blocks: kernelNames(exports).map(floatFields),
        control: team.#control,
        calls: team.#calls,
        thread,
      };
      starting.push(team.#startThread(spawn, source, setup));
    }
    try {
      await Promise.all(starting);
    } catch (error) {
      await team.dispose();
      throw error;
    }
    return team;
  }

  /** Why the threads cannot continue, if so. */
  get failure(): KernelError | undefined {
    return this.#failure;
  }

  /** Whether nothing is recorded or running. */
  get idle(): boolean {
    return this.#recording.calls === 0 && !this.#late;
  }

  /** Bytes of scratch memory of all threads. */
  get scratchBytes(): number {
    return this.#scratchBytes * this.threads;
  }

  /**
   * Makes sure that every thread has scratch memory of its own. Not while tasks run.
   *
   * @param bytes for each thread
   * @throws {MemoryError} if there is no room
   */
  reserveScratch(bytes: number): void {
    if (bytes <= this.#scratchBytes) return;
    const fresh = this.#memory.allocate(bytes * this.threads, 'scratch of the threads');
    this.#memory.free(this.#scratch);
    this.#scratch = fresh;
    this.#scratchBytes = bytes;
    for (let thread = 0; thread < this.threads; thread++) {
      this.#control[SCRATCH + thread] = fresh + thread * bytes;
    }
  }

  task(): void {
    this.#recording.cut('task');
  }

  seam(): void {
    this.#recording.cut('seam');
  }

  barrier(): void {
    this.#recording.cut('stage');
  }

  call<K extends KernelName>(kernel: K, ...args: KernelArguments<K>): void {
    const values = argumentValues(kernel, args);
    if (this.threads === 1) this.#runner.call(this.#kernels[kernel], values);
    else this.#recording.add(this.#kernels[kernel], values);
  }

  check<K extends KernelName>(fail: (result: number) => Error, kernel: K, ...args: KernelArguments<K>): void {
    if (this.threads === 1) {
      this.immediate.check(fail, kernel, ...args);
      return;
    }
    this.#checks.push({ call: this.#recording.calls, fail });
    this.#recording.add(this.#kernels[kernel], argumentValues(kernel, args));
  }

  /**
   * Runs what was recorded, in as many portions as the shared buffers need.
   *
   * @returns nothing, or a promise if a thread is late
   * @throws {KernelError} if a kernel threw or a thread has died
   * @throws what the first failed check makes of its result
   */
  run(): void | Promise<void> {
    if (this.threads === 1) return;
    this.barrier();
    while (this.#done < this.#recording.calls) {
      if (this.#failure) throw this.#failure;
      const control = this.#control;
      const first = this.#done;
      this.#done = this.#recording.load(first, control, this.#bufferAt(), this.#calls, this.#callsAt());
      this.#runner.start(this.#epoch);
      Atomics.store(control, EPOCH, this.#epoch);
      Atomics.notify(control, EPOCH);
      const late = this.#runner.advance(PATIENCE_MS) ? this.#finish(first) : this.#runLate(first);
      if (late) return late.then(() => this.run());
    }
    this.discard();
  }

  /** Forgets what was recorded and not run, after an error elsewhere. */
  discard(): void {
    this.#recording.clear();
    this.#checks = [];
    this.#done = 0;
  }

  /** Ends the threads and waits until none of them can touch the memory. */
  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    Atomics.store(this.#control, STOP, 1);
    Atomics.store(this.#control, EPOCH, -1);
    Atomics.notify(this.#control, EPOCH);
    this.#failure ??= new KernelError('threads', 'the threads have been ended');
    await Promise.all(this.#handles.map((handle) => handle.terminate()));
    this.#memory.free(this.#scratch);
    this.#scratch = 0;
    this.#scratchBytes = 0;
  }

  #bufferAt(): number {
    return CONTROL_HEADER + (this.#epoch & 1) * CONTROL_BUFFER;
  }

  /** Start of the calls in this epoch's buffer. */
  #callsAt(): number {
    return (this.#epoch & 1) * CALLS * CALL_SLOTS;
  }

  #immediateRecorder(): Recorder {
    const call = (kernel: KernelName, args: readonly unknown[]) =>
      this.#runner.call(this.#kernels[kernel], argumentValues(kernel, args));
    return {
      threads: 1,
      task: () => {},
      call: (kernel, ...args) => void call(kernel, args),
      check: (fail, kernel, ...args) => {
        const result = call(kernel, args);
        if (result !== -1) throw fail(result);
      },
      seam: () => {},
      barrier: () => {},
    };
  }

  async #runLate(first: number): Promise<void> {
    this.#late = true;
    try {
      do {
        await new Promise((resolve) => setTimeout(resolve, 0)); // lets the news of a dead thread arrive
        if (this.#failure) throw this.#failure;
      } while (!this.#runner.advance(PATIENCE_MS));
    } finally {
      this.#late = false;
    }
    await this.#finish(first);
  }

  /** After a portion's last stage: errors; and the other buffer, which is loaded next, must be free. */
  #finish(first: number): void | Promise<void> {
    if (Atomics.load(this.#control, FAILED) !== 0) return this.#fail();
    const error = this.#failedCheck(first);
    const previous = this.#epoch - 1;
    this.#epoch++;
    const waiting = this.#waitForAcks(previous, 1000);
    if (!error) return waiting;
    this.discard();
    if (!waiting) throw error;
    return waiting.then(() => {
      throw error;
    });
  }

  /** The error of the first call of the portion that did not report success. */
  #failedCheck(first: number): Error | undefined {
    const result = (call: number) => this.#calls[this.#callsAt() + (call - first) * CALL_SLOTS];
    const failed = this.#checks.find(({ call }) => call >= first && call < this.#done && result(call) !== -1);
    return failed?.fail(result(failed.call));
  }

  #waitForAcks(epoch: number, spins: number): void | Promise<void> {
    for (let i = 0; i < spins; i++) if (this.#acknowledged(epoch)) return;
    return (async () => {
      while (!this.#acknowledged(epoch)) {
        if (this.#failure) throw this.#failure;
        await new Promise((resolve) => setTimeout(resolve, 0));
      }
    })();
  }

  #acknowledged(epoch: number): boolean {
    for (let thread = 1; thread < this.threads; thread++) {
      if (Atomics.load(this.#control, ACK + thread) < epoch) return false;
    }
    return true;
  }

  async #fail(): Promise<void> {
    this.discard();
    const thread = Atomics.load(this.#control, FAILED) - 1;
    await this.#waitForAcks(this.#epoch++, 0);
    Atomics.store(this.#control, FAILED, 0);
    throw new KernelError(TRAPPED, `it stopped on thread ${thread}`, { cause: this.#runner.error() });
  }

  #startThread(spawn: SpawnThread, source: string, setup: ThreadSetup): Promise<void> {
    return new Promise((resolve, reject) => {
      const give = (reason: string) => {
        const error = new KernelError('threads', `thread ${setup.thread}: ${reason}`);
        if (!this.#disposed) this.#failure ??= error;
        reject(error);
      };
      const timer = setTimeout(() => give('it did not start in time'), START_TIMEOUT_MS);
      const onMessage = (message: ThreadMessage) => {
        if (message.kind !== 'ready') return;
        clearTimeout(timer);
        resolve();
      };
      const onEnd = (reason: string) => {
        clearTimeout(timer);
        give(reason);
      };
      try {
        this.#handles.push(spawn(source, setup, onMessage, onEnd));
      } catch (error) {
        clearTimeout(timer);
        reject(new KernelError('threads', 'a thread could not be started', { cause: error }));
      }
    });
  }
}

function kernelNames(exports: Readonly<Record<string, unknown>>): string[] {
  return Object.keys(exports)
    .filter((name) => typeof exports[name] === 'function')
    .sort();
}

/** The numbers of a call in the order in which they are recorded. */
function argumentValues(kernel: KernelName, args: readonly unknown[]): number[] {
  return takesBlock(kernel)
    ? blockValues(kernel, args[0] as ParameterBlock<typeof kernel>)
    : (args as number[]);
}
