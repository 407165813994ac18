/**
 * Kernel calls that have not run yet, of any number, cut into tasks and stages; and how a portion of them becomes
 * what the threads read (stages.ts).
 *
 * Whoever records need not know how much fits into the shared buffers: {@link Recording.load} takes as much as fits
 * and leaves the rest for the next portion. A portion ends where a task does, or at a seam within one.
 *
 * @module
 */

import { CALL_SLOTS, CALLS, STAGE_TABLE, STAGES } from './stages.js';

/** Units at whose end a recording can be cut; each includes the ones before it. */
const CUTS = { seam: 0, task: 1, stage: 2 } as const;

/** See the module. */
export class Recording {
  #slots = new Float64Array(0);
  #calls = 0;
  /** Index of the call after each cut, ascending, and the kind of the cut. */
  readonly #places: number[] = [];
  readonly #kinds: number[] = [];
  /** Cuts in portions that are already loaded. */
  #loadedCuts = 0;

  /** Calls recorded. */
  get calls(): number {
    return this.#calls;
  }

  /**
   * Adds a call.
   *
   * @throws {RangeError} if it has more arguments than a call holds
   */
  add(kernel: number, args: readonly number[]): void {
    if (args.length > CALL_SLOTS - 2) {
      throw new RangeError(`a call has at most ${CALL_SLOTS - 2} arguments, got ${args.length}`);
    }
    const at = this.#calls++ * CALL_SLOTS;
    if (at + CALL_SLOTS > this.#slots.length) this.#grow();
    const slots = this.#slots;
    slots[at] = kernel;
    slots[at + 1] = args.length;
    for (let i = 0; i < args.length; i++) slots[at + 2 + i] = args[i];
  }

  /** Cuts after the last call. */
  cut(kind: keyof typeof CUTS): void {
    if (this.#calls === 0) return;
    const last = this.#places.length - 1;
    if (this.#places[last] === this.#calls) {
      this.#kinds[last] = Math.max(this.#kinds[last], CUTS[kind]);
      return;
    }
    this.#places.push(this.#calls);
    this.#kinds.push(CUTS[kind]);
  }

  /**
   * Writes calls from `first` on, as many as fit, into one buffer of the threads. Everything is cut at its end.
   *
   * @param table where the buffer starts in `control`
   * @param callsAt where it starts in `calls`
   * @returns the first call that was left
   * @throws {RangeError} if there are more calls without a cut than a buffer holds
   */
  load(first: number, control: Int32Array, table: number, calls: Float64Array, callsAt: number): number {
    const starts = table + STAGE_TABLE;
    let end = first;
    let tasks = 0;
    let stages = 0;
    let stageStart = 0;
    const endTask = () => {
      if (control[starts + tasks] < end - first) control[starts + ++tasks] = end - first;
    };
    const endStage = () => {
      if (tasks === stageStart) return;
      const at = table + 4 + 4 * stages++; // first task, tasks, taken, done
      control.set([stageStart, tasks - stageStart, 0, 0], at);
      stageStart = tasks;
    };
    control[starts] = 0;
    while (this.#loadedCuts < this.#places.length && stages < STAGES - 1) {
      const place = this.#places[this.#loadedCuts];
      if (place - first > CALLS) break;
      end = place;
      const kind = this.#kinds[this.#loadedCuts++];
      if (kind >= CUTS.task) endTask();
      if (kind === CUTS.stage) endStage();
    }
    if (end === first) throw new RangeError(`a task may have at most ${CALLS} calls without a seam`);
    endTask();
    endStage();
    control[table] = stages;
    calls.set(this.#slots.subarray(first * CALL_SLOTS, end * CALL_SLOTS), callsAt);
    return end;
  }

  /** Forgets everything. */
  clear(): void {
    this.#calls = 0;
    this.#places.length = 0;
    this.#kinds.length = 0;
    this.#loadedCuts = 0;
  }

  #grow(): void {
    const larger = new Float64Array(Math.max(256 * CALL_SLOTS, 2 * this.#slots.length));
    larger.set(this.#slots);
    this.#slots = larger;
  }
}
