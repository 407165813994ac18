/**
 * Values of Python in JavaScript, with Python's equality, order, truth and iteration.
 *
 *     None, bool, str, int   null, boolean, string, number (safe integers)
 *     float                  Float, because 1.0 and 1 are written differently
 *     list, tuple, dict      array, Tuple, Dict
 *     undefined              Undefined, which remembers its name
 *     generators, views      Lazy (read once), View
 *
 * @module
 */

import type { Budget } from './budget.js';
import { codePoints, compareCodePoints } from './code-points.js';
import { TemplateError, typeError } from './errors.js';

/** A value of a template. */
export type Value =
  | null
  | boolean
  | number
  | string
  | Float
  | Undefined
  | Value[]
  | Tuple
  | Dict
  | Range
  | View
  | Lazy
  | Callable
  | Instance;

/** A Python float. */
export class Float {
  constructor(readonly value: number) {}
}

/** jinja2's `Undefined`: empty as text and in loops, an error in nearly every operation. */
export class Undefined {
  constructor(
    readonly reason: string,
    /** `SecurityError` for attributes that the sandbox hides. */
    readonly kind: 'UndefinedError' | 'SecurityError' = 'UndefinedError',
  ) {}

  fail(): never {
    throw new TemplateError(this.kind, this.reason);
  }
}

/** A Python tuple; `groupby` gives tuples whose parts have names, too. */
export class Tuple {
  constructor(
    readonly items: readonly Value[],
    readonly names?: readonly string[],
  ) {}
}

/** `range(...)`, not written out. */
export class Range {
  constructor(
    readonly start: number,
    readonly stop: number,
    readonly step: number,
  ) {}

  get length(): number {
    return Math.max(0, Math.ceil((this.stop - this.start) / this.step));
  }

  at(index: number): number {
    return this.start + index * this.step;
  }
}

/** A Python dict: insertion order, keys by Python's equality (1, 1.0 and True are one key). */
export class Dict {
  readonly #entries = new Map<string, [Value, Value]>();

  constructor(entries: Iterable<readonly [Value, Value]> = []) {
    for (const [key, value] of entries) this.set(key, value);
  }

  get size(): number {
    return this.#entries.size;
  }

  get(key: Value): Value | undefined {
    return this.#entries.get(hash(key))?.[1];
  }

  has(key: Value): boolean {
    return this.#entries.has(hash(key));
  }

  set(key: Value, value: Value): void {
    const slot = this.#entries.get(hash(key));
    if (slot) slot[1] = value;
    else this.#entries.set(hash(key), [key, value]);
  }

  entries(): IterableIterator<[Value, Value]> {
    return this.#entries.values();
  }

  *keys(): IterableIterator<Value> {
    for (const [key] of this.#entries.values()) yield key;
  }

  *values(): IterableIterator<Value> {
    for (const [, value] of this.#entries.values()) yield value;
  }
}

/** The result of `keys()`, `values()` and `items()` of a dict. */
export class View {
  constructor(
    readonly kind: 'dict_keys' | 'dict_values' | 'dict_items',
    readonly dict: Dict,
  ) {}

  *[Symbol.iterator](): IterableIterator<Value> {
    for (const [key, value] of this.dict.entries()) {
      if (this.kind === 'dict_keys') yield key;
      else if (this.kind === 'dict_values') yield value;
      else yield new Tuple([key, value]);
    }
  }
}

/** A generator: can be read once, has no length, and is always true. */
export class Lazy {
  constructor(
    readonly iterator: Iterator<Value>,
    readonly typeName = 'generator',
  ) {}
}

/** A value that may be absent; `null` is None and present, so `??` will not do. */
export function orUndefined(value: Value | undefined, reason: () => string): Value {
  return value === undefined ? new Undefined(reason()) : value;
}

/** Arguments of a call. */
export interface Arguments {
  readonly positional: readonly Value[];
  readonly named: ReadonlyMap<string, Value>;
}

/** A function, method or macro. */
export class Callable {
  constructor(
    readonly name: string,
    readonly call: (args: Arguments) => Value,
    /** Other attributes, for instance the `name` of a macro. */
    readonly attributes: ReadonlyMap<string, Value> = new Map(),
    readonly typeName = 'function',
  ) {}
}

/** An object of jinja2 itself (`loop`, `namespace()`, `cycler()`): attributes by name, perhaps callable. */
export class Instance {
  constructor(
    readonly typeName: string,
    readonly attribute: (name: string) => Value | undefined,
    readonly more: {
      readonly call?: (args: Arguments) => Value;
      readonly set?: (name: string, value: Value) => void;
      readonly text?: () => string;
      readonly length?: () => number;
    } = {},
  ) {}
}

/** A key that is equal for what Python calls equal. */
function hash(value: Value): string {
  if (typeof value === 'string') return `s${value}`;
  if (isNumeric(value)) return `n${numberOf(value)}`;
  if (value === null) return 'N';
  if (value instanceof Tuple) {
    const parts = value.items.map(hash);
    return `t${parts.map((part) => `${part.length}:${part}`).join('')}`;
  }
  if (value instanceof Undefined) return 'u';
  throw typeError(`unhashable type: '${typeName(value)}'`);
}

/** The name of a type in Python's messages. */
export function typeName(value: Value): string {
  if (value === null) return 'NoneType';
  if (typeof value === 'string') return 'str';
  if (typeof value === 'number') return 'int';
  if (typeof value === 'boolean') return 'bool';
  if (Array.isArray(value)) return 'list';
  if (value instanceof Float) return 'float';
  if (value instanceof Tuple) return 'tuple';
  if (value instanceof Dict) return 'dict';
  if (value instanceof Range) return 'range';
  if (value instanceof View) return value.kind;
  if (value instanceof Undefined) return 'Undefined';
  return value.typeName;
}

/** Whether a value is an int, a bool or a float. */
export function isNumeric(value: Value): value is number | boolean | Float {
  return typeof value === 'number' || typeof value === 'boolean' || value instanceof Float;
}

/** The number in an int, bool or float. */
export function numberOf(value: number | boolean | Float): number {
  return value instanceof Float ? value.value : Number(value);
}

/** An integer of JavaScript, or an error: integers without limit are not written here. */
export function int(value: number): number {
  if (Number.isSafeInteger(value)) return value + 0; // -0 is 0
  throw new TemplateError('NotSupported', `integers beyond 2^53 are not supported (${value})`);
}

/** Python's truth of a value. */
export function truth(value: Value): boolean {
  if (value === null || value instanceof Undefined) return false;
  if (isNumeric(value)) return numberOf(value) !== 0;
  return lengthOf(value) !== 0;
}

/** `len()`, or `undefined` for what has none. Undefined has length 0. */
export function lengthOf(value: Value): number | undefined {
  if (typeof value === 'string') return codePoints(value).length;
  if (Array.isArray(value) || value instanceof Range) return value.length;
  if (value instanceof Tuple) return value.items.length;
  if (value instanceof Dict) return value.size;
  if (value instanceof View) return value.dict.size;
  if (value instanceof Undefined) return 0;
  if (value instanceof Instance) return value.more.length?.();
  return undefined;
}

/** Python's `==`. */
export function equal(a: Value, b: Value, budget: Budget): boolean {
  budget.step();
  if (a === b) return true;
  if (isNumeric(a) && isNumeric(b)) return numberOf(a) === numberOf(b);
  if (Array.isArray(a) && Array.isArray(b)) return equalLists(a, b, budget);
  if (a instanceof Tuple && b instanceof Tuple) return equalLists(a.items, b.items, budget);
  if (a instanceof Dict && b instanceof Dict) {
    if (a.size !== b.size) return false;
    for (const [key, value] of a.entries()) {
      const other = b.get(key);
      if (other === undefined || !equal(value, other, budget)) return false;
    }
    return true;
  }
  if (a instanceof Range && b instanceof Range) {
    return a.length === b.length && (a.length === 0 || (a.start === b.start && a.step === b.step));
  }
  return a instanceof Undefined && b instanceof Undefined;
}

function equalLists(a: readonly Value[], b: readonly Value[], budget: Budget): boolean {
  return a.length === b.length && a.every((value, i) => equal(value, b[i], budget));
}

/**
 * Python's order.
 *
 * @returns below, at or above 0; NaN if a NaN is compared
 * @throws {TemplateError} TypeError if the two have no order
 */
export function compare(a: Value, b: Value, operator: string, budget: Budget): number {
  budget.step();
  if (typeof a === 'string' && typeof b === 'string') return compareCodePoints(a, b);
  if (isNumeric(a) && isNumeric(b)) return numberOf(a) - numberOf(b) || equalOrNaN(a, b);
  const lists = sameLists(a, b);
  if (lists) {
    const [left, right] = lists;
    for (let i = 0; i < Math.min(left.length, right.length); i++) {
      if (!equal(left[i], right[i], budget)) return compare(left[i], right[i], operator, budget);
    }
    return left.length - right.length;
  }
  for (const side of [a, b]) if (side instanceof Undefined) side.fail();
  throw typeError(`'${operator}' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
}

function equalOrNaN(a: number | boolean | Float, b: number | boolean | Float): number {
  return numberOf(a) === numberOf(b) ? 0 : Number.NaN; // also two infinities
}

function sameLists(a: Value, b: Value): [readonly Value[], readonly Value[]] | undefined {
  if (Array.isArray(a) && Array.isArray(b)) return [a, b];
  if (a instanceof Tuple && b instanceof Tuple) return [a.items, b.items];
  return undefined;
}

/**
 * Python's `iter()`. Each element is a step.
 *
 * @throws {TemplateError} TypeError for what cannot be iterated
 */
export function* iterate(value: Value, budget: Budget): IterableIterator<Value> {
  for (const each of iterableOf(value)) {
    budget.step();
    yield each;
  }
}

/** All elements. A range is counted before it is written out. */
export function toList(value: Value, budget: Budget): Value[] {
  if (value instanceof Range) budget.step(value.length);
  return [...iterate(value, budget)];
}

/** Whether `iter()` works. */
export function isIterable(value: Value): boolean {
  return (
    typeof value === 'string' ||
    Array.isArray(value) ||
    [Tuple, Dict, Range, View, Lazy, Undefined].some((type) => value instanceof type) ||
    (value instanceof Instance && value.typeName === 'LoopContext')
  );
}

function iterableOf(value: Value): Iterable<Value> {
  if (typeof value === 'string') return value; // by code point
  if (Array.isArray(value)) return value;
  if (value instanceof Tuple) return value.items;
  if (value instanceof Dict) return value.keys();
  if (value instanceof Range) return numbers(value);
  if (value instanceof View) return value;
  // Only `next`: leaving a loop early must not end the generator.
  if (value instanceof Lazy) return { [Symbol.iterator]: () => ({ next: () => value.iterator.next() }) };
  if (value instanceof Undefined) return [];
  throw typeError(`'${typeName(value)}' object is not iterable`);
}

function* numbers(range: Range): IterableIterator<number> {
  for (let i = 0; i < range.length; i++) yield range.at(i);
}
