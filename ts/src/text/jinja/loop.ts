/**
 * The variable `loop` of a for loop.
 *
 * @module
 */

import type { Budget } from './budget.js';
import { TemplateError, typeError } from './errors.js';
import { type Arguments, Callable, equal, Instance, orUndefined, Tuple, type Value } from './values.js';

/** The position of a loop. */
export class LoopState {
  /** From 0. */
  index = 0;
  #lastChanged: Tuple | undefined;

  /**
   * @param depth loops of a recursive loop around this one
   * @param recurse renders the body for other elements, if the loop is recursive
   */
  constructor(
    readonly items: readonly Value[],
    readonly depth: number,
    readonly recurse: ((items: Value) => string) | undefined,
    readonly budget: Budget,
  ) {}

  /** The loop as templates see it. */
  toValue(): Instance {
    const { items } = this;
    return new Instance('LoopContext', (name) => this.#attribute(name), {
      call: (args) => this.#call(args),
      text: () => `<LoopContext ${this.index + 1}/${items.length}>`,
      length: () => items.length,
    });
  }

  #call({ positional }: Arguments): Value {
    if (!this.recurse) {
      throw typeError("The loop must have the 'recursive' marker to be called recursively.");
    }
    if (positional.length !== 1) throw typeError('loop() takes exactly one argument');
    return this.recurse(positional[0]);
  }

  #attribute(name: string): Value | undefined {
    const { items, index, depth } = this;
    switch (name) {
      case 'index':
        return index + 1;
      case 'index0':
        return index;
      case 'revindex':
        return items.length - index;
      case 'revindex0':
        return items.length - index - 1;
      case 'first':
        return index === 0;
      case 'last':
        return index === items.length - 1;
      case 'length':
        return items.length;
      case 'depth':
        return depth + 1;
      case 'depth0':
        return depth;
      case 'previtem':
        return orUndefined(items[index - 1], () => 'there is no previous item');
      case 'nextitem':
        return orUndefined(items[index + 1], () => 'there is no next item');
      case 'cycle':
        return new Callable('cycle', ({ positional }) => {
          if (positional.length === 0) throw typeError('no items for cycling given');
          return positional[index % positional.length];
        });
      case 'changed':
        return new Callable('changed', ({ positional }) => this.#changed(new Tuple(positional)));
    }
    return undefined;
  }

  #changed(values: Tuple): boolean {
    const same = this.#lastChanged !== undefined && equal(this.#lastChanged, values, this.budget);
    this.#lastChanged = values;
    return !same;
  }
}

/** The parts of a value for several targets: `a, b = value`. */
export function unpack(parts: readonly Value[], count: number): readonly Value[] {
  if (parts.length === count) return parts;
  const reason =
    parts.length > count
      ? `too many values to unpack (expected ${count})`
      : `not enough values to unpack (expected ${count}, got ${parts.length})`;
  throw new TemplateError('ValueError', reason);
}
