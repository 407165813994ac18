/**
 * `'%s is %d' % (a, b)`, and the numbers of `str.format`.
 *
 * @module
 */

import type { Budget } from './budget.js';
import { countCodePoints, sliceCodePoints } from './code-points.js';
import { TemplateError, typeError } from './errors.js';
import { repr, str } from './spelling.js';
import { Dict, Float, int, isNumeric, numberOf, Tuple, typeName, Undefined, type Value } from './values.js';

const DIRECTIVE = /%(?:\(([^()]*)\))?([-#0 +]*)(\*|\d+)?(?:\.(\*|\d+)?)?([hlL]?)([\s\S])?/g;

/** Wider than this is a mistake or an attack; Python's own limit is 2^31. */
const MAX_WIDTH = 1_000_000;

/**
 * `format % values`.
 *
 * @throws {TemplateError} as Python does
 */
export function formatPercent(format: string, values: Value, budget: Budget): string {
  const list = values instanceof Tuple ? values.items : [values];
  let next = 0;
  let usedNames = false;
  const take = (): Value => {
    if (next >= list.length) throw typeError('not enough arguments for format string');
    return list[next++];
  };
  const parts: string[] = [];
  let end = 0;
  for (const match of format.matchAll(DIRECTIVE)) {
    const [whole, name, flags, widthText, precisionText, , type] = match;
    parts.push(format.slice(end, match.index));
    end = match.index + whole.length;
    if (type === undefined) throw new TemplateError('ValueError', 'incomplete format');
    if (type === '%' && whole === '%%') {
      parts.push('%');
      continue;
    }
    if (name !== undefined && !(values instanceof Dict)) throw typeError('format requires a mapping');
    const number = (text: string | undefined) => (text === '*' ? starred(take()) : Number(text ?? 0));
    const width = number(widthText);
    const hasPrecision = /\.(?:\*|\d*)[hlL]?[\s\S]$/.test(whole);
    const precision = hasPrecision ? number(precisionText) : undefined;
    if (Math.abs(width) > MAX_WIDTH || (precision ?? 0) > MAX_WIDTH) {
      throw new TemplateError('OverflowError', 'width too big');
    }
    let value: Value;
    if (name !== undefined) {
      const found = (values as Dict).get(name);
      if (found === undefined) throw new TemplateError('KeyError', `'${name}'`);
      value = found;
      usedNames = true;
    } else value = take();
    const text = directive(type, value, flags, precision, budget);
    const left = flags.includes('-') || width < 0;
    const zero = flags.includes('0') && !left && !/[srac]/.test(type);
    parts.push(pad(text, Math.abs(width), left ? '<' : zero ? '=' : '>', zero ? '0' : ' ', budget));
  }
  parts.push(format.slice(end));
  if (!usedNames && next < list.length && !isMapping(values)) {
    throw typeError('not all arguments converted during string formatting');
  }
  const text = parts.join('');
  budget.text(text.length);
  return text;
}

/** Whether values that no directive takes are no mistake. */
function isMapping(values: Value): boolean {
  return values instanceof Dict || Array.isArray(values) || values instanceof Undefined;
}

function starred(value: Value): number {
  if (typeof value === 'number') return value;
  throw typeError('* wants int');
}

function directive(
  type: string,
  value: Value,
  flags: string,
  precision: number | undefined,
  budget: Budget,
): string {
  if (type === 's' || type === 'r' || type === 'a') {
    const text = type === 's' ? str(value, budget) : repr(value, budget);
    return precision === undefined ? text : sliceCodePoints(text, 0, precision);
  }
  if (type === 'c') {
    if (typeof value === 'string' && countCodePoints(value) === 1) return value;
    if (typeof value === 'number' && value >= 0 && value <= 0x10ffff) return String.fromCodePoint(value);
    throw typeError('%c requires int or char');
  }
  if (!/[diuxXoeEfFgG]/.test(type)) {
    throw new TemplateError('ValueError', `unsupported format character '${type}'`);
  }
  if (value instanceof Undefined) value.fail();
  if (!isNumeric(value)) {
    const wanted = /[eEfFgG]/.test(type)
      ? 'must be real number'
      : `%${type} format: a real number is required`;
    throw typeError(`${wanted}, not ${typeName(value)}`);
  }
  const number = numberOf(value);
  if (/[xXo]/.test(type) && value instanceof Float) {
    throw typeError(`%${type} format: an integer is required, not float`);
  }
  const plus = flags.includes('+') ? '+' : flags.includes(' ') ? ' ' : '';
  const negative = number < 0 || Object.is(number, -0);
  const digits = /[eEfFgG]/.test(type)
    ? floatDigits(Math.abs(number), type, precision ?? 6, flags.includes('#'))
    : intDigits(Math.abs(int(Math.trunc(number))), type, flags.includes('#'), precision);
  return (negative && !(digits === '0' && !/[eEfFgG]/.test(type)) ? '-' : plus) + digits;
}

function intDigits(value: number, type: string, alternate: boolean, precision = 0): string {
  const base = { x: 16, X: 16, o: 8 }[type] ?? 10;
  const digits = value.toString(base).padStart(precision, '0');
  const prefix = alternate ? ({ x: '0x', X: '0x', o: '0o' }[type] ?? '') : '';
  return type === 'X' ? (prefix + digits).toUpperCase() : prefix + digits;
}

/**
 * A float that is not negative, with `e`, `f` or `g`.
 *
 * @param precision digits as in Python's format
 */
export function floatDigits(value: number, type: string, precision: number, alternate: boolean): string {
  const upper = type !== type.toLowerCase();
  const kind = type.toLowerCase();
  let text: string;
  if (!Number.isFinite(value)) text = Number.isNaN(value) ? 'nan' : 'inf';
  else if (kind === 'f') text = fixed(value, precision);
  else if (kind === 'e') text = exponential(value, precision);
  else {
    const digits = precision || 1;
    const exponent = Number(exponential(value, digits - 1).split('e')[1]);
    const isPlain = exponent >= -4 && exponent < digits;
    text = isPlain ? fixed(value, Math.max(0, digits - 1 - exponent)) : exponential(value, digits - 1);
    if (!alternate) text = text.replace(/(\.\d*?)0+(?=e|$)/, '$1').replace(/\.(?=e|$)/, '');
  }
  return upper ? text.toUpperCase() : text;
}

function exponential(value: number, precision: number): string {
  const [digits, exponent] = exactExponential(value, precision).split('e');
  const size = Math.abs(Number(exponent));
  return `${digits}e${Number(exponent) < 0 ? '-' : '+'}${String(size).padStart(2, '0')}`;
}

/** JavaScript rounds halves up in its decimal digits, Python to even; only exact halves differ. */
function exactExponential(value: number, precision: number): string {
  if (precision > 100) throw new TemplateError('NotSupported', 'more than 100 digits are not supported');
  return value.toExponential(precision);
}

/**
 * A float with a number of digits after the point, exact halves rounded to even as Python does.
 *
 * @param value finite and not negative
 */
export function fixed(value: number, precision: number): string {
  if (precision > 100) throw new TemplateError('NotSupported', 'more than 100 digits are not supported');
  if (value >= 1e21) {
    const whole = BigInt(value).toString();
    return precision > 0 ? `${whole}.${'0'.repeat(precision)}` : whole;
  }
  const rounded = value.toFixed(precision);
  // Only a number that ends in binary soon can be an exact half; toFixed takes the larger neighbour then.
  const exact = value.toFixed(Math.min(100, precision + 30));
  const rest = exact.slice(rounded.length + (precision === 0 ? 1 : 0));
  if (precision > 70 || !/^50*$/.test(rest)) return rounded;
  const down = exact.slice(0, rounded.length);
  return Number(down.at(-1)) % 2 === 0 ? down : rounded;
}

/**
 * Fills a text up to a width.
 *
 * @param align `<`, `>`, `^`, or `=`, which fills between the sign or prefix and the digits of a number
 */
export function pad(text: string, width: number, align: string, fill: string, budget: Budget): string {
  const missing = width - countCodePoints(text);
  if (missing <= 0) return text;
  budget.text(missing + text.length);
  const filling = fill.repeat(missing);
  if (align === '<') return text + filling;
  if (align === '=') {
    const head = /^[-+ ]?(?:0[xXob])?/.exec(text)![0];
    return head + filling + text.slice(head.length);
  }
  if (align === '^') {
    const before = Math.floor(missing / 2);
    return fill.repeat(before) + text + fill.repeat(missing - before);
  }
  return filling + text;
}
