/**
 * Who may run: so many requests at once, so many more in a queue, first come, first served.
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
  readonly #queue: (() => void)[] = [];
  readonly #whenIdle: (() => void)[] = [];

  constructor(limit: number, queueLimit: number) {
    this.#limit = limit;
    this.#queueLimit = queueLimit;
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
   * Waits for a slot.
   *
   * @returns gives the slot back, once
   * @throws {BusyError} if too many wait already
   * @throws the signal's reason, if it fires first
   */
  async acquire(signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    if (this.#running >= this.#limit) {
      if (this.#queue.length >= this.#queueLimit) {
        throw new BusyError(`${this.#running} requests run and ${this.#queue.length} wait; try again later`);
      }
      await this.#wait(signal); // takes over the slot of whoever leaves
    } else this.#running++;
    let isHeld = true;
    return () => {
      if (!isHeld) return;
      isHeld = false;
      const next = this.#queue.shift();
      if (next) {
        next();
        return;
      }
      this.#running--;
      if (this.#running === 0) for (const resolve of this.#whenIdle.splice(0)) resolve();
    };
  }

  #wait(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#queue.splice(this.#queue.indexOf(enter), 1);
        reject(signal.reason);
      };
      const enter = () => {
        signal.removeEventListener('abort', leave);
        resolve();
      };
      signal.addEventListener('abort', leave, { once: true });
      this.#queue.push(enter);
    });
  }
}
