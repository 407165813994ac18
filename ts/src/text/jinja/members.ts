/**
 * Attributes, items, slices and methods of values, as the sandbox of jinja2 shows them: nothing that changes a
 * list or dict, nothing that begins with an underscore, and nothing of JavaScript.
 *
 * @module
 */

import { bind } from './arguments.js';
import type { Budget } from './budget.js';
import { codePoints, sliceCodePoints } from './code-points.js';
import { TemplateError, typeError } from './errors.js';
import { isInt, sliceIndices } from './operators.js';
import { str } from './spelling.js';
import { characterAt, stringMethod } from './string-methods.js';
import {
  type Arguments,
  Callable,
  Dict,
  equal,
  Float,
  Instance,
  Range,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.js';

/** A slice as a key. */
export class Slice {
  constructor(
    readonly start: Value,
    readonly stop: Value,
    readonly step: Value,
  ) {}
}

/** Members that the immutable sandbox hides, by type. */
const MUTATING: Readonly<Record<string, readonly string[]>> = {
  dict: ['clear', 'pop', 'popitem', 'setdefault', 'update'],
  list: ['append', 'clear', 'extend', 'insert', 'pop', 'remove', 'reverse', 'sort'],
};

/** `value.name`: an attribute, else an item. */
export function attributeOf(value: Value, name: string, budget: Budget): Value {
  const attribute = own(value, name, budget);
  const found = attribute === undefined ? item(value, name) : attribute;
  return found === undefined ? missing(value, name, budget) : found;
}

/** `value[key]`: an item, else an attribute. */
export function itemOf(value: Value, key: Value | Slice, budget: Budget): Value {
  if (key instanceof Slice) return sliced(value, key, budget);
  let found = item(value, key);
  if (found === undefined && typeof key === 'string') found = own(value, key, budget);
  return found === undefined ? missing(value, key, budget) : found;
}

function missing(value: Value, key: Value, budget: Budget): Undefined {
  if (value instanceof Undefined) return value.fail();
  const shown = typeof key === 'string' ? `attribute '${key}'` : `element ${str(key, budget)}`;
  return new Undefined(`'${typeName(value)} object' has no ${shown}`);
}

/** An attribute in the sense of Python's `getattr`. */
function own(value: Value, name: string, budget: Budget): Value | undefined {
  const type = typeName(value);
  if (/^__\w+__$/.test(name) || MUTATING[type]?.includes(name)) {
    return new Undefined(`access to attribute '${name}' of '${type}' object is unsafe.`, 'SecurityError');
  }
  if (value instanceof Instance) return value.attribute(name);
  if (value instanceof Callable) return value.attributes.get(name);
  if (value instanceof Tuple && value.names?.includes(name)) return value.items[value.names.indexOf(name)];
  const method = methodOf(value, name, budget);
  return method && new Callable(name, method, undefined, 'builtin_function_or_method');
}

function methodOf(value: Value, name: string, budget: Budget): ((args: Arguments) => Value) | undefined {
  if (typeof value === 'string') {
    const access = {
      attribute: (object: Value, key: string) => attributeOf(object, key, budget),
      item: (object: Value, key: Value) => itemOf(object, key, budget),
    };
    return stringMethod(name, value, access, budget);
  }
  if (value instanceof Dict) return dictMethod(value, name, budget);
  if (value instanceof Float && name === 'is_integer') return () => Number.isInteger(value.value);
  const items = Array.isArray(value) ? value : value instanceof Tuple ? value.items : undefined;
  if (!items) return undefined;
  if (name === 'count') {
    return (args) => {
      const wanted = bind(name, ['value'], args).get('value');
      return items.filter((each) => equal(each, wanted, budget)).length;
    };
  }
  if (name === 'index') {
    return (args) => {
      const wanted = bind(name, ['value'], args).get('value');
      const at = items.findIndex((each) => equal(each, wanted, budget));
      if (at < 0) throw new TemplateError('ValueError', `${str(wanted, budget)} is not in list`);
      return at;
    };
  }
  return name === 'copy' && Array.isArray(value) ? () => copy(items, budget) : undefined;
}

function copy(items: readonly Value[], budget: Budget): Value[] {
  budget.step(items.length);
  return [...items];
}

function dictMethod(dict: Dict, name: string, budget: Budget): ((args: Arguments) => Value) | undefined {
  switch (name) {
    case 'get':
      return (args) => {
        const bound = bind(name, ['key', 'default'], args);
        const found = dict.get(bound.get('key'));
        return found === undefined ? bound.get('default', null) : found;
      };
    case 'keys':
    case 'values':
    case 'items':
      return (args) => {
        bind(name, [], args);
        return new View(`dict_${name}`, dict);
      };
    case 'copy':
      return () => {
        budget.step(dict.size);
        return new Dict(dict.entries());
      };
  }
  return undefined;
}

/** An item in the sense of Python's `[]`; `undefined` where Python raises LookupError or TypeError. */
function item(value: Value, key: Value): Value | undefined {
  if (value instanceof Dict) return isHashable(key) ? value.get(key) : undefined;
  if (!isInt(key)) return undefined;
  const at = Number(key);
  if (typeof value === 'string') return characterAt(value, at);
  const items = Array.isArray(value) ? value : value instanceof Tuple ? value.items : undefined;
  if (items) return items.at(at);
  if (value instanceof Range) {
    const index = at < 0 ? at + value.length : at;
    return index >= 0 && index < value.length ? value.at(index) : undefined;
  }
  return undefined;
}

function isHashable(key: Value): boolean {
  return !(Array.isArray(key) || key instanceof Dict);
}

function sliced(value: Value, { start, stop, step }: Slice, budget: Budget): Value {
  if (value instanceof Undefined) value.fail();
  const source = typeof value === 'string' ? codePoints(value) : value instanceof Tuple ? value.items : value;
  if (!(typeof source === 'string' || Array.isArray(source) || value instanceof Range)) {
    throw typeError(`'${typeName(value)}' object cannot be sliced`);
  }
  const length = value instanceof Range ? value.length : (source as ArrayLike<Value>).length;
  const { from, to, by } = sliceIndices(length, start, stop, step);
  if (value instanceof Range) return new Range(value.at(from), value.at(to), value.step * by);
  if (typeof value === 'string' && by === 1) {
    budget.text(value.length);
    return sliceCodePoints(value, from, Math.max(from, to));
  }
  const taken: Value[] = [];
  for (let at = from; by > 0 ? at < to : at > to; at += by) {
    taken.push((source as ArrayLike<Value>)[at]);
  }
  budget.step(taken.length);
  if (typeof value === 'string') return taken.join('');
  return Array.isArray(value) ? taken : new Tuple(taken);
}
