/**
 * jinja2's tests, the words after `is`.
 *
 * @module
 */

import { type Bound, bind } from './arguments.js';
import type { Context } from './context.js';
import { TemplateError, typeError } from './errors.js';
import { FILTERS } from './filters.js';
import { arithmetic, comparison } from './operators.js';
import { str } from './spelling.js';
import { isLower, isUpper } from './string-methods.js';
import {
  type Arguments,
  Callable,
  Dict,
  equal,
  Float,
  Instance,
  isIterable,
  isNumeric,
  Range,
  Tuple,
  Undefined,
  type Value,
} from './values.js';

type Test = (value: Value, args: Bound, context: Context) => boolean;

/**
 * Applies a test.
 *
 * @throws {TemplateError} TemplateRuntimeError if there is none of that name
 */
export function applyTest(name: string, value: Value, args: Arguments, context: Context): boolean {
  if (!Object.hasOwn(TESTS, name))
    throw new TemplateError('TemplateRuntimeError', `No test named '${name}'.`);
  const [parameters, test] = TESTS[name];
  return test(value, bind(name, parameters, args), context);
}

function remainder(value: Value, divisor: Value, expected: number, context: Context): boolean {
  return equal(arithmetic('%', value, divisor, context.budget), expected, context.budget);
}

function compares(operator: string): readonly [readonly string[], Test] {
  return [['other'], (value, args, { budget }) => comparison(operator, value, args.get('other'), budget)];
}

function isSequence(value: Value): boolean {
  return (
    typeof value === 'string' ||
    Array.isArray(value) ||
    value instanceof Tuple ||
    value instanceof Dict ||
    value instanceof Range ||
    value instanceof Undefined
  );
}

const equalTo = compares('==');
const notEqual = compares('!=');
const greater = compares('>');
const atLeast = compares('>=');
const less = compares('<');
const atMost = compares('<=');

const TESTS: Readonly<Record<string, readonly [readonly string[], Test]>> = {
  '!=': notEqual,
  '<': less,
  '<=': atMost,
  '==': equalTo,
  '>': greater,
  '>=': atLeast,
  boolean: [[], (value) => typeof value === 'boolean'],
  callable: [
    [],
    (value) =>
      value instanceof Callable ||
      value instanceof Undefined ||
      (value instanceof Instance && value.more.call !== undefined),
  ],
  defined: [[], (value) => !(value instanceof Undefined)],
  divisibleby: [['num'], (value, args, context) => remainder(value, args.get('num'), 0, context)],
  eq: equalTo,
  equalto: equalTo,
  escaped: [[], () => false],
  even: [[], (value, _, context) => remainder(value, 2, 0, context)],
  false: [[], (value) => value === false],
  filter: [[], (value) => typeof value === 'string' && Object.hasOwn(FILTERS, value)],
  float: [[], (value) => value instanceof Float],
  ge: atLeast,
  greaterthan: greater,
  gt: greater,
  in: [['seq'], (value, args, { budget }) => comparison('in', value, args.get('seq'), budget)],
  integer: [[], (value) => typeof value === 'number'],
  iterable: [[], isIterable],
  le: atMost,
  lessthan: less,
  lower: [[], (value, _, { budget }) => isLower(str(value, budget))],
  lt: less,
  mapping: [[], (value) => value instanceof Dict],
  ne: notEqual,
  none: [[], (value) => value === null],
  number: [[], isNumeric],
  odd: [[], (value, _, context) => remainder(value, 2, 1, context)],
  sameas: [['other'], (value, args) => isSame(value, args.get('other'))],
  sequence: [[], isSequence],
  string: [[], (value) => typeof value === 'string'],
  test: [[], (value) => typeof value === 'string' && Object.hasOwn(TESTS, value)],
  true: [[], (value) => value === true],
  undefined: [[], (value) => value instanceof Undefined],
  upper: [[], (value, _, { budget }) => isUpper(str(value, budget))],
};

/** Python's `is`, for what a template can rely on: singletons and the same object. */
function isSame(a: Value, b: Value): boolean {
  if (a instanceof Float && b instanceof Float) throw typeError('sameas of floats is not supported');
  return a === b;
}
