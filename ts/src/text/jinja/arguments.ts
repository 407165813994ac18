/**
 * Arguments of built-in functions, filters, tests and methods.
 *
 * @module
 */

import { typeError } from './errors.js';
import { type Arguments, isNumeric, numberOf, typeName, Undefined, type Value } from './values.js';

/** Arguments by the names of the parameters, in any order Python allows. */
export class Bound {
  readonly #values: ReadonlyMap<string, Value>;
  readonly #owner: string;

  constructor(owner: string, values: ReadonlyMap<string, Value>) {
    this.#owner = owner;
    this.#values = values;
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  /** The argument, or the default. */
  get(name: string, fallback?: Value): Value {
    const value = this.#values.get(name) ?? (this.#values.has(name) ? null : fallback);
    if (value !== undefined) return value;
    throw typeError(`${this.#owner}() missing 1 required positional argument: '${name}'`);
  }

  string(name: string, fallback?: string): string {
    const value = this.get(name, fallback);
    if (typeof value === 'string') return value;
    return this.#wrong(name, 'str', value);
  }

  /** An int; bool counts as one. */
  int(name: string, fallback?: number): number {
    const value = this.get(name, fallback);
    if (typeof value === 'number' || typeof value === 'boolean') return Number(value);
    return this.#wrong(name, 'int', value);
  }

  /** A number of any type. */
  number(name: string): number {
    const value = this.get(name);
    return isNumeric(value) ? numberOf(value) : this.#wrong(name, 'number', value);
  }

  #wrong(name: string, wanted: string, value: Value): never {
    if (value instanceof Undefined) value.fail();
    throw typeError(`${this.#owner}(): argument '${name}' must be ${wanted}, not ${typeName(value)}`);
  }
}

/**
 * Gives arguments their names.
 *
 * @param owner for messages
 * @throws {TemplateError} TypeError if there are too many, or one has an unknown name or comes twice
 */
export function bind(owner: string, parameters: readonly string[], args: Arguments): Bound {
  const { positional, named } = args;
  if (positional.length > parameters.length) {
    throw typeError(`${owner}() takes at most ${parameters.length} arguments (${positional.length} given)`);
  }
  const values = new Map(positional.map((value, i) => [parameters[i], value] as const));
  for (const [name, value] of named) {
    if (!parameters.includes(name)) {
      throw typeError(`${owner}() got an unexpected keyword argument '${name}'`);
    }
    if (values.has(name)) throw typeError(`${owner}() got multiple values for argument '${name}'`);
    values.set(name, value);
  }
  return new Bound(owner, values);
}
