/**
 * How the engine tells threads what to do: calls of kernels, in tasks, in stages.
 *
 * A task is a run of kernel calls that one thread makes one after another. Tasks of one stage do not depend on
 * each other and run in any order on any thread; a stage starts when the one before it is complete. Which
 * thread runs a task changes nothing it computes, so results do not depend on the number of threads.
 *
 * A recording is in shared memory, in two buffers used in turn:
 *
 *     control   [ header: epoch, stop, failed, acks, scratch ]  then for each buffer
 *               [ stages | first task, tasks, taken, done | ... ][ first call of task 0, of task 1, ... ]
 *     calls     [ kernel, arguments, argument, ... ] x CALLS for each buffer; a call's result replaces its kernel
 *
 * The arguments of a kernel that takes a parameter block are its fields; the thread writes them to memory of its own
 * (parameter-blocks.ts).
 *
 * A thread that finds nothing left to take in a stage waits for its last task by spinning, since a token has
 * hundreds of stages and waking a parked thread takes longer than most of them; only when that lasts too
 * long, and between tokens, does it sleep.
 *
 * @module
 */

/** Numbers of a recorded call: kernel, argument count, arguments. */
export const CALL_SLOTS = 28;

/** Calls, and tasks, that one buffer holds. */
export const CALLS = 4096;

/** Stages that one buffer holds. */
export const STAGES = 512;

/** Threads that one team can have. */
export const MAX_THREADS = 64;

/** Words of `control` before the buffers. */
export const CONTROL_HEADER = 160;

/** Words before the task list of a buffer. */
export const STAGE_TABLE = 4 + 4 * STAGES;

/** Words of `control` for one buffer. */
export const CONTROL_BUFFER = STAGE_TABLE + CALLS + 4;

/** Word of `control`: number of the recording to run. */
export const EPOCH = 0;
/** Word of `control`: not 0 if threads have to end. */
export const STOP = 1;
/** Word of `control`: 1 + the thread on which a kernel threw, otherwise 0. */
export const FAILED = 2;
/** Word of `control`: the last epoch that thread 0 finished; other threads follow. */
export const ACK = 16;
/** Word of `control`: pointer to thread 0's scratch memory; other threads follow. */
export const SCRATCH = 80;

/**
 * Arguments from here on are offsets into the scratch memory of whichever thread runs the task. Above every
 * pointer, and exact as an f64.
 */
export const THREAD_SCRATCH = 2 ** 40;

/** The setup of a thread that runs stages. */
export interface RunnerSetup {
  /** Kernels by number. */
  readonly kernels: readonly CallableFunction[];
  /** By number: of kernels that take a parameter block, whether each field is f32. */
  readonly blocks: readonly (readonly boolean[] | undefined)[];
  readonly memory: WebAssembly.Memory;
  readonly control: Int32Array;
  readonly calls: Float64Array;
  readonly thread: number;
}

/** Runs recorded stages on one thread. */
export interface Runner {
  /** Calls one kernel now. */
  call(kernel: number, args: ArrayLike<number>): number;
  /** Prepares to run the stages of an epoch. */
  start(epoch: number): void;
  /**
   * Runs tasks and waits for stages, for as long as that makes progress.
   *
   * @param patience milliseconds to sleep at most in one go
   * @returns whether the epoch is finished; false: another thread is late, call again
   */
  advance(patience: number): boolean;
  /** The error that a kernel threw on this thread. */
  error(): unknown;
}

/**
 * Makes a runner. Worker threads get this function as source text, so it must not refer to anything outside
 * itself; the constants above are therefore repeated in it (a test compares them).
 */
export function createRunner({ kernels, blocks, memory, control, calls, thread }: RunnerSetup): Runner {
  const CALL_SLOTS = 28;
  const CALLS = 4096;
  const CONTROL_HEADER = 160;
  const STAGE_TABLE = 4 + 4 * 512;
  const CONTROL_BUFFER = STAGE_TABLE + CALLS + 4;
  const FAILED = 2;
  const ACK = 16;
  const SCRATCH = 80;
  const THREAD_SCRATCH = 2 ** 40;
  // About 100 microseconds: longer than almost every stage, shorter than a scheduler's time slice.
  const SPINS = 20_000;
  const PARAMETERS = 32768;
  const PARAMETER_BYTES = 256;

  const block = PARAMETERS + thread * PARAMETER_BYTES;
  let integers = new Int32Array(memory.buffer, block, PARAMETER_BYTES / 4);
  let floats = new Float32Array(memory.buffer, block, PARAMETER_BYTES / 4);
  let epoch = 0;
  let stage = 0;
  let failure: unknown;
  let mayBlock = true;

  function call(kernel: number, args: ArrayLike<number>, from: number, count: number): number {
    const own = control[SCRATCH + thread] >>> 0;
    const place = (value: number) => (value >= THREAD_SCRATCH ? value - THREAD_SCRATCH + own : value);
    const fields = blocks[kernel];
    if (!fields) {
      const placed = new Array<number>(count);
      for (let i = 0; i < count; i++) placed[i] = place(args[from + i]);
      return kernels[kernel](...placed) as number;
    }
    if (integers.buffer !== memory.buffer) {
      integers = new Int32Array(memory.buffer, block, PARAMETER_BYTES / 4);
      floats = new Float32Array(memory.buffer, block, PARAMETER_BYTES / 4);
    }
    for (let i = 0; i < count; i++) {
      if (fields[i]) floats[i] = args[from + i];
      else integers[i] = place(args[from + i]);
    }
    return kernels[kernel](block) as number;
  }

  function runTask(buffer: number, task: number): void {
    const starts = CONTROL_HEADER + buffer * CONTROL_BUFFER + STAGE_TABLE;
    const end = control[starts + task + 1];
    for (let index = control[starts + task]; index < end; index++) {
      const at = (buffer * CALLS + index) * CALL_SLOTS;
      calls[at] = call(calls[at], calls, at + 2, calls[at + 1]);
    }
  }

  return {
    call: (kernel, args) => call(kernel, args, 0, args.length),
    start(next) {
      epoch = next;
      stage = 0;
      failure = undefined;
    },
    advance(patience) {
      const buffer = epoch & 1;
      const table = CONTROL_HEADER + buffer * CONTROL_BUFFER;
      const stages = control[table];
      for (; stage < stages; stage++) {
        const at = table + 4 + 4 * stage; // first task, tasks, taken, done
        const first = control[at];
        const count = control[at + 1];
        while (Atomics.load(control, FAILED) === 0) {
          const index = Atomics.add(control, at + 2, 1);
          if (index >= count) break;
          try {
            runTask(buffer, first + index);
          } catch (error) {
            failure = error;
            Atomics.store(control, FAILED, thread + 1);
          }
          if (Atomics.add(control, at + 3, 1) === count - 1) Atomics.notify(control, at + 3);
        }
        for (let spins = 0; ; spins++) {
          const done = Atomics.load(control, at + 3);
          if (done >= count || Atomics.load(control, FAILED) !== 0) break;
          if (spins < SPINS) continue;
          if (spins > SPINS + 4 || !mayBlock) return false;
          try {
            Atomics.wait(control, at + 3, done, patience);
          } catch {
            mayBlock = false; // the main thread of a page must not block
          }
        }
        if (Atomics.load(control, FAILED) !== 0) break;
      }
      Atomics.store(control, ACK + thread, epoch);
      return true;
    },
    error: () => failure,
  };
}

/** The start data of a worker thread. */
export interface ThreadSetup {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  readonly kernelNames: readonly string[];
  readonly blocks: RunnerSetup['blocks'];
  readonly control: Int32Array;
  readonly calls: Float64Array;
  readonly thread: number;
}

/** A message of a worker thread. */
export type ThreadMessage = { readonly kind: 'ready' } | { readonly kind: 'failed'; readonly reason: string };

/**
 * The whole life of a worker thread. Given as source text, too.
 *
 * @param makeRunner {@link createRunner}
 * @param post sends a message to the engine
 */
export function runThread(
  makeRunner: typeof createRunner,
  setup: ThreadSetup,
  post: (message: ThreadMessage) => void,
): void {
  const EPOCH = 0;
  const STOP = 1;
  const SPINS = 40_000;
  const { module, memory, kernelNames, control } = setup;
  const functions: Record<string, (...args: unknown[]) => unknown> = {};
  for (const { kind, name } of WebAssembly.Module.imports(module)) {
    if (kind !== 'function') continue;
    functions[name] = () => {
      throw new Error(`kernel called ${name}`);
    };
  }
  const instance = new WebAssembly.Instance(module, { env: { ...functions, memory } });
  const kernels = kernelNames.map((name) => instance.exports[name] as CallableFunction);
  const runner = makeRunner({ ...setup, kernels });
  let epoch = Atomics.load(control, EPOCH); // read before anyone can be told to move on
  post({ kind: 'ready' });

  for (;;) {
    let spins = 0;
    while (Atomics.load(control, EPOCH) === epoch && Atomics.load(control, STOP) === 0) {
      if (++spins > SPINS) Atomics.wait(control, EPOCH, epoch); // parked between tokens
    }
    if (Atomics.load(control, STOP) !== 0) return;
    epoch = Atomics.load(control, EPOCH);
    runner.start(epoch);
    while (!runner.advance(5)) {
      if (Atomics.load(control, STOP) !== 0) return;
    }
    const error = runner.error();
    if (error !== undefined) {
      post({ kind: 'failed', reason: error instanceof Error ? error.message : String(error) });
    }
  }
}
