/**
 * Python's operators. Anything else than what Python allows is a TypeError: adding an object to a text is a
 * mistake in the template or the messages, not "[object Object]".
 *
 * @module
 */

import type { Budget } from './budget.js';
import { countCodePoints } from './code-points.js';
import { TemplateError, typeError } from './errors.js';
import { formatPercent } from './percent-format.js';
import {
  compare,
  Dict,
  equal,
  Float,
  int,
  isNumeric,
  iterate,
  numberOf,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.js';

/** An operator with two numbers or texts. */
export type Arithmetic = '+' | '-' | '*' | '/' | '//' | '%' | '**';

/**
 * `a operator b`.
 *
 * @throws {TemplateError} as Python does
 */
export function arithmetic(operator: Arithmetic, a: Value, b: Value, budget: Budget): Value {
  if (typeof a === 'string' && operator === '%') return formatPercent(a, b, budget);
  for (const side of [a, b]) if (side instanceof Undefined) side.fail();
  if (isNumeric(a) && isNumeric(b)) {
    const isFloat = a instanceof Float || b instanceof Float;
    return calculate(operator, numberOf(a), numberOf(b), isFloat);
  }
  const sequences =
    operator === '+' ? add(a, b, budget) : operator === '*' ? repeat(a, b, budget) : undefined;
  if (sequences !== undefined) return sequences;
  if (operator === '+' && typeof a === 'string') {
    throw typeError(`can only concatenate str (not "${typeName(b)}") to str`);
  }
  if (operator === '+' && Array.isArray(a)) {
    throw typeError(`can only concatenate list (not "${typeName(b)}") to list`);
  }
  const shown = operator === '**' ? '** or pow()' : operator;
  throw typeError(`unsupported operand type(s) for ${shown}: '${typeName(a)}' and '${typeName(b)}'`);
}

function calculate(operator: Arithmetic, a: number, b: number, isFloat: boolean): Value {
  const result = (value: number) => (isFloat ? new Float(value) : int(value));
  if (b === 0 && (operator === '/' || operator === '//' || operator === '%')) {
    const what =
      operator === '/' ? 'division' : isFloat ? 'float floor division' : 'integer division or modulo';
    throw new TemplateError('ZeroDivisionError', `${what} by zero`);
  }
  switch (operator) {
    case '+':
      return result(a + b);
    case '-':
      return result(a - b);
    case '*':
      return result(a * b);
    case '/':
      return new Float(a / b);
    case '//':
      return result(Math.round((a - modulo(a, b)) / b));
    case '%':
      return result(modulo(a, b));
    case '**':
      return power(a, b, isFloat);
  }
}

/** The rest with the sign of the divisor. */
function modulo(a: number, b: number): number {
  const rest = a % b;
  if (rest === 0) return b < 0 ? -0 : 0;
  return rest < 0 === b < 0 ? rest : rest + b;
}

function power(a: number, b: number, isFloat: boolean): Value {
  if (a === 0 && b < 0) {
    throw new TemplateError('ZeroDivisionError', '0.0 cannot be raised to a negative power');
  }
  if (a < 0 && !Number.isInteger(b))
    throw new TemplateError('NotSupported', 'complex numbers are not supported');
  const value = a ** b;
  if (!isFloat && b >= 0) return int(value);
  if (!Number.isFinite(value) && Number.isFinite(a) && Number.isFinite(b)) {
    throw new TemplateError('OverflowError', 'Numerical result out of range');
  }
  return new Float(value);
}

function add(a: Value, b: Value, budget: Budget): Value | undefined {
  if (typeof a === 'string' && typeof b === 'string') {
    budget.text(a.length + b.length);
    return a + b;
  }
  if (Array.isArray(a) && Array.isArray(b)) {
    budget.step(a.length + b.length);
    return [...a, ...b];
  }
  if (a instanceof Tuple && b instanceof Tuple) {
    budget.step(a.items.length + b.items.length);
    return new Tuple([...a.items, ...b.items]);
  }
  return undefined;
}

function repeat(a: Value, b: Value, budget: Budget): Value | undefined {
  const [sequence, count] = isInt(a) ? [b, a] : [a, b];
  if (!isInt(count)) return undefined;
  const times = Math.max(0, Number(count));
  if (typeof sequence === 'string') {
    budget.text(sequence.length * times);
    return sequence.repeat(times);
  }
  const items = Array.isArray(sequence) ? sequence : sequence instanceof Tuple ? sequence.items : undefined;
  if (!items) return undefined;
  budget.step(items.length * times);
  const repeated: Value[] = [];
  for (let i = 0; i < times; i++) for (const item of items) repeated.push(item);
  return Array.isArray(sequence) ? repeated : new Tuple(repeated);
}

/** Whether a value is an int; bool is one in Python. */
export function isInt(value: Value): value is number | boolean {
  return typeof value === 'number' || typeof value === 'boolean';
}

/** `-a` and `+a`. */
export function sign(operator: '-' | '+', value: Value): Value {
  if (value instanceof Undefined) value.fail();
  if (!isNumeric(value)) throw typeError(`bad operand type for unary ${operator}: '${typeName(value)}'`);
  const number = operator === '-' ? -numberOf(value) : numberOf(value);
  return value instanceof Float ? new Float(number) : int(number);
}

/** A comparison, `in` or `not in`. */
export function comparison(operator: string, a: Value, b: Value, budget: Budget): boolean {
  switch (operator) {
    case '==':
      return equal(a, b, budget);
    case '!=':
      return !equal(a, b, budget);
    case 'in':
      return contains(b, a, budget);
    case 'not in':
      return !contains(b, a, budget);
  }
  const order = compare(a, b, operator, budget);
  if (operator === '<') return order < 0;
  if (operator === '<=') return order <= 0;
  return operator === '>' ? order > 0 : order >= 0;
}

/** `item in container`. */
function contains(container: Value, item: Value, budget: Budget): boolean {
  if (typeof container === 'string') {
    if (typeof item === 'string') return container.includes(item);
    if (item instanceof Undefined) item.fail();
    throw typeError(`'in <string>' requires string as left operand, not ${typeName(item)}`);
  }
  if (container instanceof Dict) return container.has(item);
  if (container instanceof View && container.kind === 'dict_keys') return container.dict.has(item);
  if (container === null || isNumeric(container)) {
    throw typeError(`argument of type '${typeName(container)}' is not iterable`);
  }
  for (const each of iterate(container, budget)) if (equal(each, item, budget)) return true;
  return false;
}

/** The indices that a slice takes. */
export function sliceIndices(
  length: number,
  start: Value,
  stop: Value,
  step: Value,
): { from: number; to: number; by: number } {
  const by = step === null ? 1 : sliceNumber(step);
  if (by === 0) throw new TemplateError('ValueError', 'slice step cannot be zero');
  const clamp = (value: Value, fallback: number) => {
    if (value === null) return fallback;
    const at = sliceNumber(value);
    const absolute = at < 0 ? at + length : at;
    return by > 0 ? Math.min(Math.max(absolute, 0), length) : Math.min(Math.max(absolute, -1), length - 1);
  };
  return by > 0
    ? { from: clamp(start, 0), to: clamp(stop, length), by }
    : { from: clamp(start, length - 1), to: clamp(stop, -1), by };
}

function sliceNumber(value: Value): number {
  if (isInt(value)) return Number(value);
  throw typeError('slice indices must be integers or None or have an __index__ method');
}

/** How wide a text is for padding: Python counts code points. */
export function paddingFor(text: string, width: number, budget: Budget): number {
  const missing = Math.max(0, width - countCodePoints(text));
  budget.text(text.length + missing);
  return missing;
}
