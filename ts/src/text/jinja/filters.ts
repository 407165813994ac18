/**
 * jinja2's filters on single values. Those on lists are in `list-filters.ts`.
 *
 * @module
 */

import { type Bound, bind } from './arguments.js';
import { countCodePoints, sliceCodePoints } from './code-points.js';
import type { Context } from './context.js';
import { TemplateError, typeError } from './errors.js';
import { LIST_FILTERS } from './list-filters.js';
import { unpack } from './loop.js';
import { attributeOf } from './members.js';
import { isInt, paddingFor } from './operators.js';
import { fixed, formatPercent } from './percent-format.js';
import { joined, json, str } from './spelling.js';
import { capitalize, replace, splitLines, strip } from './string-methods.js';
import {
  type Arguments,
  Dict,
  Float,
  int,
  isIterable,
  isNumeric,
  lengthOf,
  numberOf,
  Tuple,
  toList,
  truth,
  typeName,
  Undefined,
  type Value,
} from './values.js';

/** A filter with the names of its parameters. */
export type Filter = readonly [
  parameters: readonly string[],
  apply: (value: Value, args: Bound, context: Context) => Value,
];

/**
 * Applies a filter.
 *
 * @throws {TemplateError} TemplateRuntimeError if there is none of that name
 */
export function applyFilter(name: string, value: Value, args: Arguments, context: Context): Value {
  if (name === 'format') {
    const { positional, named } = args;
    if (positional.length > 0 && named.size > 0) {
      throw typeError("can't handle positional and keyword arguments at the same time");
    }
    const values = named.size > 0 ? new Dict(named) : new Tuple(positional);
    return formatPercent(str(value, context.budget), values, context.budget);
  }
  const list = LIST_FILTERS[name as keyof typeof LIST_FILTERS];
  if (Object.hasOwn(LIST_FILTERS, name)) return list(value, args, context);
  if (Object.hasOwn(UNSUPPORTED, name)) {
    throw new TemplateError('NotSupported', `the filter '${name}' is not supported: ${UNSUPPORTED[name]}`);
  }
  if (!Object.hasOwn(FILTERS, name))
    throw new TemplateError('TemplateRuntimeError', `No filter named '${name}'.`);
  const [parameters, filter] = FILTERS[name];
  return filter(value, bind(name, parameters, args), context);
}

const UNSUPPORTED: Readonly<Record<string, string>> = {
  random: 'a conversation would be written differently each time',
  pprint: 'use tojson',
  urlize: 'it writes HTML',
  xmlattr: 'it writes HTML',
  striptags: 'it reads HTML',
  wordwrap: 'no template of a model wraps lines',
};

const text = (value: Value, { budget }: Context) => {
  const written = str(value, budget);
  budget.text(written.length);
  return written;
};

/** `len(value)`. */
function length(value: Value): number {
  const found = lengthOf(value);
  if (found === undefined) throw typeError(`object of type '${typeName(value)}' has no len()`);
  return found;
}

/** Python's `int(value)`, or the default. */
function toInt(value: Value, fallback: Value, base: number): Value {
  if (isNumeric(value)) {
    const number = Math.trunc(numberOf(value));
    return Number.isFinite(number) ? int(number) : fallback;
  }
  if (value instanceof Undefined) value.fail();
  if (typeof value !== 'string') return fallback;
  const digits = strip(value, null).toLowerCase();
  const pattern = {
    2: /^([+-]?)(?:0b)?_?([01_]+)$/,
    8: /^([+-]?)(?:0o)?_?([0-7_]+)$/,
    16: /^([+-]?)(?:0x)?_?([\da-f_]+)$/,
  };
  const match = (pattern[base as 2] ?? /^([+-]?)([\d_]+)$/).exec(digits);
  if (match && !/^_|__|_$/.test(match[2])) {
    const number = Number.parseInt(match[2].replaceAll('_', ''), base);
    return int(match[1] === '-' ? -number : number);
  }
  const number = parseFloatText(value);
  return number === undefined || !Number.isFinite(number) ? fallback : int(Math.trunc(number));
}

/** Python's `float(text)`. */
function parseFloatText(value: string): number | undefined {
  const digits = strip(value, null).toLowerCase();
  if (/^[+-]?(?:inf|infinity)$/.test(digits)) return digits.startsWith('-') ? -Infinity : Infinity;
  if (/^[+-]?nan$/.test(digits)) return Number.NaN;
  const match = /^[+-]?(?:\d+(?:_\d+)*\.?(?:\d+(?:_\d+)*)?|\.\d+(?:_\d+)*)(?:e[+-]?\d+(?:_\d+)*)?$/.test(
    digits,
  );
  return match ? Number(digits.replaceAll('_', '')) : undefined;
}

function toFloat(value: Value, fallback: Value): Value {
  if (value instanceof Undefined) value.fail();
  if (isNumeric(value)) return new Float(numberOf(value));
  const number = typeof value === 'string' ? parseFloatText(value) : undefined;
  return number === undefined ? fallback : new Float(number);
}

function round(value: Value, args: Bound): Value {
  const method = args.get('method', 'common');
  const precision = args.int('precision', 0);
  if (method !== 'common' && method !== 'ceil' && method !== 'floor') {
    throw new TemplateError('TemplateRuntimeError', 'method must be common, ceil or floor');
  }
  if (value instanceof Undefined) value.fail();
  if (!isNumeric(value)) throw typeError(`type ${typeName(value)} doesn't define __round__ method`);
  const number = numberOf(value);
  if (method !== 'common')
    return new Float(
      (method === 'ceil' ? Math.ceil : Math.floor)(number * 10 ** precision) / 10 ** precision,
    );
  if (isInt(value)) return roundInt(number, precision);
  if (!Number.isFinite(number)) return value;
  if (precision < 0) return new Float(Number(roundInt(Math.round(number), precision)));
  const rounded = Number(fixed(Math.abs(number), Math.min(precision, 100)));
  return new Float(number < 0 ? -rounded : rounded);
}

/** Halves go to the even neighbour. */
function roundInt(number: number, precision: number): number {
  if (precision >= 0) return number;
  const unit = 10 ** -precision;
  const down = Math.floor(number / unit) * unit;
  const rest = number - down;
  const up = rest > unit / 2 || (rest === unit / 2 && (down / unit) % 2 !== 0);
  return int(up ? down + unit : down);
}

function indent(value: Value, args: Bound, context: Context): string {
  const { budget } = context;
  if (typeof value !== 'string') {
    if (value instanceof Undefined) value.fail();
    throw typeError(`unsupported operand type(s) for +=: '${typeName(value)}' and 'str'`);
  }
  const width = args.get('width', 4);
  if (isInt(width)) budget.text(Number(width));
  const by = typeof width === 'string' ? width : ' '.repeat(Math.max(0, args.int('width', 4)));
  const lines = splitLines(`${value}\n`);
  const blank = truth(args.get('blank', false));
  const first = truth(args.get('first', false)) ? by : '';
  const rest = lines.map((line, i) => (i > 0 && (blank || line !== '') ? by + line : line));
  budget.text(by.length * lines.length);
  return first + joined(rest, '\n', budget);
}

function truncate(value: Value, args: Bound, context: Context): Value {
  const count = length(value);
  const limit = args.int('length', 255);
  const end = args.string('end', '...');
  const leeway = args.get('leeway', null) === null ? 5 : args.int('leeway');
  const endLength = countCodePoints(end);
  if (limit < endLength)
    throw new TemplateError('ValueError', `expected length >= ${endLength}, got ${limit}`);
  if (count <= limit + leeway) return value;
  const whole = text(value, context);
  const cut = sliceCodePoints(whole, 0, limit - endLength);
  if (truth(args.get('killwords', false))) return cut + end;
  const space = cut.lastIndexOf(' ');
  return (space < 0 ? cut : cut.slice(0, space)) + end;
}

function toJson(value: Value, args: Bound, { budget }: Context): string {
  const indentation = args.get('indent', null);
  const separators = args.get('separators', null);
  if (isInt(indentation)) budget.text(Math.max(0, Number(indentation)));
  const step =
    indentation === null
      ? undefined
      : typeof indentation === 'string'
        ? indentation
        : ' '.repeat(Math.max(0, args.int('indent')));
  const [item, key] = separators === null ? [] : toList(separators, budget);
  return json(
    value,
    {
      indent: step,
      itemSeparator: typeof item === 'string' ? item : step === undefined ? ', ' : ',',
      keySeparator: typeof key === 'string' ? key : ': ',
      sortKeys: truth(args.get('sort_keys', false)),
      ensureAscii: truth(args.get('ensure_ascii', false)),
    },
    budget,
  );
}

const HTML: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  "'": '&#39;',
  '"': '&#34;',
};

function escapeHtml(value: Value, _: Bound, context: Context): string {
  const escaped = text(value, context).replace(/[&<>'"]/g, (each) => HTML[each]);
  context.budget.text(escaped.length);
  return escaped;
}

const UNITS = ['k', 'M', 'G', 'T', 'P', 'E', 'Z', 'Y'];

function fileSize(value: Value, args: Bound): string {
  const binary = truth(args.get('binary', false));
  const size = toFloat(value, null);
  if (!(size instanceof Float)) throw new TemplateError('ValueError', 'could not convert to float');
  const base = binary ? 1024 : 1000;
  if (size.value === 1) return '1 Byte';
  if (size.value < base) return `${Math.trunc(size.value)} Bytes`;
  const found = UNITS.findIndex((_, i) => size.value < base ** (i + 2));
  const at = found < 0 ? UNITS.length - 1 : found;
  const unit = binary ? `${UNITS[at].toUpperCase()}iB` : `${UNITS[at]}B`;
  return `${fixed((base * size.value) / base ** (at + 2), 1)} ${unit}`;
}

function quoteUrl(value: Value, context: Context, inQuery: boolean): string {
  const quoted = encodeURIComponent(text(value, context).toWellFormed()).replace(
    /[!'()*]/g,
    (each) => `%${each.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return inQuery ? quoted.replaceAll('%20', '+') : quoted.replaceAll('%2F', '/');
}

function urlEncode(value: Value, _: Bound, context: Context): string {
  if (typeof value === 'string' || !isIterable(value)) return quoteUrl(value, context, false);
  const pairs =
    value instanceof Dict
      ? Array.from(value.entries())
      : toList(value, context.budget).map((each) => unpack(toList(each, context.budget), 2));
  return pairs
    .map(([key, each]) => `${quoteUrl(key, context, true)}=${quoteUrl(each, context, true)}`)
    .join('&');
}

const TITLE_PARTS = /([-\s({[<]+)/;

function titleFilter(value: Value, _: Bound, context: Context): string {
  return text(value, context)
    .split(TITLE_PARTS)
    .map((part) => {
      const first = sliceCodePoints(part, 0, 1);
      return first.toUpperCase() + part.slice(first.length).toLowerCase();
    })
    .join('');
}

function center(value: Value, args: Bound, context: Context): string {
  const whole = str(value, context.budget);
  const width = args.int('width', 80);
  const missing = paddingFor(whole, width, context.budget);
  const left = Math.floor(missing / 2) + (missing & width & 1);
  return ' '.repeat(left) + whole + ' '.repeat(missing - left);
}

const orDefault: Filter = [
  ['default_value', 'boolean'],
  (value, args) =>
    value instanceof Undefined || (truth(args.get('boolean', false)) && !truth(value))
      ? args.get('default_value', '')
      : value,
];
const htmlEscape: Filter = [[], escapeHtml];
const count: Filter = [[], length];

/** Filters by name. */
export const FILTERS: Readonly<Record<string, Filter>> = {
  abs: [
    [],
    (value) => {
      if (value instanceof Undefined) value.fail();
      if (!isNumeric(value)) throw typeError(`bad operand type for abs(): '${typeName(value)}'`);
      return value instanceof Float ? new Float(Math.abs(value.value)) : Math.abs(Number(value));
    },
  ],
  attr: [['name'], (value, args, { budget }) => plainAttribute(value, args.string('name'), budget)],
  capitalize: [[], (value, _, context) => capitalize(text(value, context))],
  center: [['width'], center],
  count,
  d: orDefault,
  default: orDefault,
  e: htmlEscape,
  escape: htmlEscape,
  filesizeformat: [['binary'], fileSize],
  float: [['default'], (value, args) => toFloat(value, args.get('default', new Float(0)))],
  forceescape: htmlEscape,
  indent: [['width', 'first', 'blank'], indent],
  int: [['default', 'base'], (value, args) => toInt(value, args.get('default', 0), args.int('base', 10))],
  length: count,
  lower: [[], (value, _, context) => text(value, context).toLowerCase()],
  replace: [
    ['old', 'new', 'count'],
    (value, args, context) =>
      replace(
        text(value, context),
        text(args.get('old'), context),
        text(args.get('new'), context),
        args.get('count', null) === null ? -1 : args.int('count'),
        context.budget,
      ),
  ],
  round: [['precision', 'method'], round],
  safe: [[], (value, _, context) => text(value, context)],
  string: [[], (value, _, context) => text(value, context)],
  title: [[], titleFilter],
  tojson: [['ensure_ascii', 'indent', 'separators', 'sort_keys'], toJson],
  trim: [['chars'], (value, args, context) => strip(text(value, context), args.get('chars', null))],
  truncate: [['length', 'killwords', 'end', 'leeway'], truncate],
  upper: [[], (value, _, context) => text(value, context).toUpperCase()],
  urlencode: [[], urlEncode],
  wordcount: [[], (value, _, context) => (text(value, context).match(/[\p{L}\p{N}_]+/gu) ?? []).length],
};

/** An attribute that is no item, as the filter `attr` reads it. */
function plainAttribute(value: Value, name: string, budget: Context['budget']): Value {
  if (!(value instanceof Dict && value.has(name))) return attributeOf(value, name, budget);
  const bare = attributeOf(new Dict(), name, budget);
  return bare instanceof Undefined ? bare : attributeOf(value, name, budget);
}
