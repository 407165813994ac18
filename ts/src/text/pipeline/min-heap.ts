/**
 * A binary heap of numbers.
 *
 * @module
 */

/** Gives the smallest number first. */
export class MinHeap {
  #values: Float64Array;
  #size = 0;

  /** @param capacity numbers that are expected; more have room, too */
  constructor(capacity: number) {
    this.#values = new Float64Array(Math.max(16, capacity));
  }

  get size(): number {
    return this.#size;
  }

  push(value: number): void {
    if (this.#size === this.#values.length) {
      const larger = new Float64Array(2 * this.#size);
      larger.set(this.#values);
      this.#values = larger;
    }
    const values = this.#values;
    let at = this.#size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (values[parent] <= value) break;
      values[at] = values[parent];
      at = parent;
    }
    values[at] = value;
  }

  /** Removes the smallest; there must be one. */
  pop(): number {
    const values = this.#values;
    const smallest = values[0];
    const value = values[--this.#size];
    let at = 0;
    while (true) {
      let child = 2 * at + 1;
      if (child >= this.#size) break;
      if (child + 1 < this.#size && values[child + 1] < values[child]) child++;
      if (values[child] >= value) break;
      values[at] = values[child];
      at = child;
    }
    values[at] = value;
    return smallest;
  }
}
