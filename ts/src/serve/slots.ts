/**
 * Who may run: so many answers at once, so many more requests in a queue, first come, first served.
 *
 * @module
 */

/** The queue is full. */
export class BusyError extends Error {
  override readonly name = 'BusyError';
}

/** See the module. */
export class Slots {
  readonly #limit: number;
  readonly #queueLimit: number;
  #running = 0;
  readonly #queue: { readonly count: number; readonly enter: () => void }[] = [];
  readonly #whenIdle: (() => void)[] = [];

  constructor(limit: number, queueLimit: number) {
    this.#limit = limit;
    this.#queueLimit = queueLimit;
  }

  get limit(): number {
    return this.#limit;
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return this.#queue.length;
  }

  /** Waits until nobody runs. */
  idle(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#running === 0) resolve();
      else this.#whenIdle.push(resolve);
    });
  }

  /**
   * Waits for slots. Who comes later waits longer, also if it needs fewer.
   *
   * @param count at most as many as there are
   * @returns gives the slots back, once
   * @throws {BusyError} if too many wait already
   * @throws the signal's reason, if it fires first
   */
  async acquire(signal: AbortSignal, count = 1): Promise<() => void> {
    signal.throwIfAborted();
    if (this.#queue.length > 0 || this.#running + count > this.#limit) {
      if (this.#queue.length >= this.#queueLimit) {
        throw new BusyError(
          `${this.#running} answers run and ${this.#queue.length} requests wait; try again later`,
        );
      }
      await this.#wait(signal, count);
    } else this.#running += count;
    let isHeld = true;
    return () => {
      if (!isHeld) return;
      isHeld = false;
      this.#running -= count;
      this.#admit();
      if (this.#running === 0) for (const resolve of this.#whenIdle.splice(0)) resolve();
    };
  }

  #wait(signal: AbortSignal, count: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#queue.splice(this.#queue.indexOf(waiting), 1);
        reject(signal.reason);
        this.#admit(); // the next may need fewer
      };
      const enter = () => {
        signal.removeEventListener('abort', leave);
        resolve();
      };
      const waiting = { count, enter };
      signal.addEventListener('abort', leave, { once: true });
      this.#queue.push(waiting);
    });
  }

  /** Lets those in, in order, for whom there is room. */
  #admit(): void {
    for (
      let next = this.#queue[0];
      next && this.#running + next.count <= this.#limit;
      next = this.#queue[0]
    ) {
      this.#queue.shift();
      this.#running += next.count;
      next.enter();
    }
  }
}
