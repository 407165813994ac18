/**
 * `'{} is {name:>5}'.format(...)`.
 *
 * @module
 */

import type { Budget } from './budget.js';
import { sliceCodePoints } from './code-points.js';
import { TemplateError, typeError } from './errors.js';
import { floatDigits, pad } from './percent-format.js';
import { floatText, repr, str } from './spelling.js';
import { type Arguments, Float, isNumeric, numberOf, Undefined, type Value } from './values.js';

/** Reads an attribute or item of a value, as `a.b` and `a[b]` in a field do. */
export interface FieldAccess {
  attribute(value: Value, name: string): Value;
  item(value: Value, key: Value): Value;
}

/**
 * `format.format(*args, **kwargs)`.
 *
 * @throws {TemplateError} as Python does
 */
export function formatBraces(format: string, args: Arguments, access: FieldAccess, budget: Budget): string {
  const counter = { next: 0, style: '' };
  const text = expand(format, args, access, budget, counter, 2);
  budget.text(text.length);
  return text;
}

interface Counter {
  next: number;
  /** Automatic and manual numbers cannot be mixed. */
  style: string;
}

function expand(
  format: string,
  args: Arguments,
  access: FieldAccess,
  budget: Budget,
  counter: Counter,
  depth: number,
): string {
  if (depth < 0) throw new TemplateError('ValueError', 'Max string recursion exceeded');
  let result = '';
  for (let at = 0; at < format.length; ) {
    const character = format[at];
    if ((character === '{' || character === '}') && format[at + 1] === character) {
      result += character;
      at += 2;
    } else if (character === '}') {
      throw new TemplateError('ValueError', "Single '}' encountered in format string");
    } else if (character === '{') {
      const end = closing(format, at);
      const field = format.slice(at + 1, end);
      const [, path, conversion, spec = ''] = /^([^!:]*)(?:!([^:]*))?(?::([\s\S]*))?$/.exec(field) ?? [];
      if (path === undefined) throw new TemplateError('ValueError', 'invalid replacement field');
      let value = lookUp(path, args, access, counter);
      if (conversion === 'r' || conversion === 'a') value = repr(value, budget);
      else if (conversion === 's') value = str(value, budget);
      else if (conversion !== undefined) {
        throw new TemplateError('ValueError', `Unknown conversion specifier ${conversion}`);
      }
      result += formatValue(value, expand(spec, args, access, budget, counter, depth - 1), budget);
      at = end + 1;
    } else {
      result += character;
      at++;
    }
  }
  return result;
}

function closing(format: string, open: number): number {
  let depth = 0;
  for (let at = open; at < format.length; at++) {
    if (format[at] === '{') depth++;
    else if (format[at] === '}' && --depth === 0) return at;
  }
  throw new TemplateError('ValueError', "expected '}' before end of string");
}

function lookUp(path: string, args: Arguments, access: FieldAccess, counter: Counter): Value {
  const first = /^[^.[]*/.exec(path)![0];
  const isNumber = first === '' || /^\d+$/.test(first);
  let value: Value | undefined;
  if (isNumber) {
    const style = first === '' ? 'automatic' : 'manual';
    if (counter.style !== '' && counter.style !== style) {
      throw new TemplateError('ValueError', 'cannot mix automatic and manual field numbering');
    }
    counter.style = style;
    const index = first === '' ? counter.next++ : Number(first);
    value = args.positional[index];
    if (value === undefined) {
      throw new TemplateError(
        'IndexError',
        `Replacement index ${index} out of range for positional args tuple`,
      );
    }
  } else {
    value = args.named.get(first);
    if (value === undefined) throw new TemplateError('KeyError', `'${first}'`);
  }
  for (const [, name, key] of path.slice(first.length).matchAll(/\.([^.[]+)|\[([^\]]*)\]/g)) {
    value =
      name === undefined
        ? access.item(value, /^\d+$/.test(key) ? Number(key) : key)
        : access.attribute(value, name);
  }
  return value;
}

const SPEC = /^(?:([\s\S])?([<>=^]))?([-+ ])?(#)?(0)?(\d+)?([,_])?(?:\.(\d+))?([bcdeEfFgGnosxX%])?$/u;

/** `format(value, spec)`. */
function formatValue(value: Value, spec: string, budget: Budget): string {
  if (spec === '') return str(value, budget);
  const match = SPEC.exec(spec);
  if (!match) throw new TemplateError('ValueError', `Invalid format specifier '${spec}'`);
  const [, givenFill, givenAlign, plus = '', alternate, zero, widthText, grouping, precisionText, type] =
    match;
  const width = Number(widthText ?? 0);
  if (width > 1e6) throw new TemplateError('OverflowError', 'width too big');
  const precision = precisionText === undefined ? undefined : Number(precisionText);
  const fill = givenFill ?? (zero ? '0' : ' ');
  if (value instanceof Undefined) value.fail();
  if (isNumeric(value) && type !== 's' && !(typeof value === 'boolean' && type === undefined)) {
    const text = formatNumber(value, type, precision, plus, alternate !== undefined, grouping);
    return pad(text, width, givenAlign ?? (zero ? '=' : '>'), fill, budget);
  }
  if (typeof value !== 'string' && !isNumeric(value)) {
    throw typeError('unsupported format string passed to an object that is neither text nor number');
  }
  if (type !== undefined && type !== 's') {
    throw new TemplateError('ValueError', `Unknown format code '${type}' for object of type 'str'`);
  }
  const text = str(value, budget);
  const cut = precision === undefined ? text : sliceCodePoints(text, 0, precision);
  return pad(cut, width, givenAlign ?? '<', fill, budget);
}

function formatNumber(
  value: number | boolean | Float,
  type: string | undefined,
  precision: number | undefined,
  plus: string,
  alternate: boolean,
  grouping: string | undefined,
): string {
  const number = numberOf(value);
  const size = Math.abs(number);
  const negative = number < 0 || Object.is(number, -0);
  const sign = negative ? '-' : plus === '-' ? '' : plus;
  let digits: string;
  if (type === 'c') return String.fromCodePoint(number);
  if (/^[bdnoxX]$/.test(type ?? (value instanceof Float ? 'f' : 'd'))) {
    if (value instanceof Float) {
      throw new TemplateError('ValueError', `Unknown format code '${type}' for object of type 'float'`);
    }
    const base = { b: 2, o: 8, x: 16, X: 16 }[type ?? 'd'] ?? 10;
    const prefix = alternate && base !== 10 ? `0${(type ?? '').toLowerCase()}` : '';
    digits = prefix + size.toString(base);
    if (type === 'X') digits = digits.toUpperCase();
  } else if (type === '%') digits = `${floatDigits(size * 100, 'f', precision ?? 6, alternate)}%`;
  else if (type !== undefined)
    digits = floatDigits(size, type === 'n' ? 'g' : type, precision ?? 6, alternate);
  else digits = precision === undefined ? floatText(size) : plainFloat(size, precision);
  if (grouping) digits = digits.replace(/^\d+/, (whole) => whole.replace(/\B(?=(\d{3})+$)/g, grouping));
  return sign + digits;
}

/** Without a type: like `g`, but with at least one digit after the point. */
function plainFloat(size: number, precision: number): string {
  const text = floatDigits(size, 'g', precision, false);
  return /[.e]|inf|nan/.test(text) ? text : `${text}.0`;
}
