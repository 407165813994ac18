/**
 * How Python writes values: `str()`, `repr()` and `json.dumps()`.
 *
 * @module
 */

import type { Budget } from './budget.js';
import { TemplateError, typeError } from './errors.js';
import {
  Callable,
  Dict,
  Float,
  Instance,
  isNumeric,
  type Lazy,
  numberOf,
  Range,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.js';

/** Values inside values that are written or converted at most. */
export const MAX_NESTING = 200;

/** `str(value)`. */
export function str(value: Value, budget: Budget): string {
  if (typeof value === 'string') return value;
  if (value instanceof Undefined) {
    if (value.kind === 'SecurityError') value.fail();
    return '';
  }
  return repr(value, budget);
}

/** `repr(value)`. */
export function repr(value: Value, budget: Budget, depth = 0): string {
  if (depth > MAX_NESTING) throw tooDeep();
  budget.step();
  if (typeof value === 'string') return quoted(value, budget);
  if (value === null) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (typeof value === 'number') return String(value);
  if (value instanceof Float) return floatText(value.value);
  const inner = (each: Value) => repr(each, budget, depth + 1);
  const list = (items: Iterable<Value>) => joined(Array.from(items, inner), ', ', budget);
  if (Array.isArray(value)) return `[${list(value)}]`;
  if (value instanceof Tuple) return `(${list(value.items)}${value.items.length === 1 ? ',' : ''})`;
  if (value instanceof Dict) {
    const entries = Array.from(value.entries(), ([key, each]) => `${inner(key)}: ${inner(each)}`);
    return `{${joined(entries, ', ', budget)}}`;
  }
  if (value instanceof View) return `${value.kind}([${list(value)}])`;
  if (value instanceof Range) {
    const { start, stop, step } = value;
    return `range(${step === 1 ? `${start}, ${stop}` : `${start}, ${stop}, ${step}`})`;
  }
  if (value instanceof Undefined) return 'Undefined';
  if (value instanceof Instance && value.more.text) return value.more.text();
  if (value instanceof Callable) return `<${value.typeName} ${value.name}>`;
  // Python writes an address here; nothing depends on it.
  return `<${(value as Lazy | Instance).typeName} object>`;
}

/** Joins texts that are counted first. */
export function joined(parts: readonly string[], separator: string, budget: Budget): string {
  let length = separator.length * Math.max(0, parts.length - 1);
  for (const part of parts) length += part.length;
  budget.text(length);
  return parts.join(separator);
}

/** `repr()` of a float: the shortest digits that give the same float. */
export function floatText(value: number): string {
  if (Number.isNaN(value)) return 'nan';
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
  if (value === 0) return Object.is(value, -0) ? '-0.0' : '0.0';
  const [digits, power] = value.toExponential().split('e');
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 16) {
    const sign = exponent < 0 ? '-' : '+';
    return `${digits}e${sign}${String(Math.abs(exponent)).padStart(2, '0')}`;
  }
  const plain =
    exponent < 0
      ? value.toFixed(Math.max(1, digits.replace(/\D/g, '').length - 1 - exponent))
      : String(value);
  return plain.includes('.') ? plain : `${plain}.0`;
}

const ESCAPES: Readonly<Record<string, string>> = { '\n': '\\n', '\r': '\\r', '\t': '\\t', '\\': '\\\\' };

/** Characters that Python does not print: controls, formats, surrogates, unassigned, and spaces but U+0020. */
const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u;
const ALL_ESCAPED = /\\|[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu;

function quoted(text: string, budget: Budget): string {
  budget.text(text.length + 2);
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  let body = text.replace(ALL_ESCAPED, escapeOne);
  if (quote === "'") body = body.replaceAll("'", "\\'");
  return quote + body + quote;
}

function escapeOne(character: string): string {
  const known = ESCAPES[character];
  if (known) return known;
  const code = character.codePointAt(0)!;
  if (code < 0x100) return `\\x${hex(code, 2)}`;
  return code < 0x10000 ? `\\u${hex(code, 4)}` : `\\U${hex(code, 8)}`;
}

/** `str.isprintable`. */
export function isPrintable(text: string): boolean {
  return !UNPRINTABLE.test(text);
}

function hex(code: number, digits: number): string {
  return code.toString(16).padStart(digits, '0');
}

/** Options of transformers' `tojson`. */
export interface JsonOptions {
  readonly indent?: string;
  readonly itemSeparator: string;
  readonly keySeparator: string;
  readonly sortKeys: boolean;
  readonly ensureAscii: boolean;
}

/**
 * `json.dumps(value)`.
 *
 * @throws {TemplateError} TypeError for what JSON does not have
 */
export function json(value: Value, options: JsonOptions, budget: Budget, depth = 0): string {
  if (depth > MAX_NESTING) throw tooDeep();
  budget.step();
  if (typeof value === 'string') return jsonString(value, options.ensureAscii, budget);
  if (value === null) return 'null';
  if (typeof value === 'boolean' || typeof value === 'number') return String(value);
  if (value instanceof Float) return jsonFloat(value.value);
  const inner = (each: Value) => json(each, options, budget, depth + 1);
  if (Array.isArray(value) || value instanceof Tuple) {
    const items = Array.isArray(value) ? value : value.items;
    return bracketed('[', items.map(inner), ']', options, depth, budget);
  }
  if (value instanceof Dict) {
    let entries = Array.from(value.entries(), ([key, each]): [string, Value] => [jsonKey(key), each]);
    if (options.sortKeys) entries = entries.sort(([a], [b]) => (a < b ? -1 : Number(a > b)));
    const members = entries.map(
      ([key, each]) => jsonString(key, options.ensureAscii, budget) + options.keySeparator + inner(each),
    );
    return bracketed('{', members, '}', options, depth, budget);
  }
  throw typeError(`Object of type ${typeName(value)} is not JSON serializable`);
}

function bracketed(
  open: string,
  parts: string[],
  close: string,
  options: JsonOptions,
  depth: number,
  budget: Budget,
): string {
  const { indent, itemSeparator } = options;
  if (parts.length === 0) return open + close;
  if (indent === undefined) return open + joined(parts, itemSeparator, budget) + close;
  budget.text(indent.length * (depth + 1) * (parts.length + 1));
  const line = `\n${indent.repeat(depth + 1)}`;
  return `${open}${line}${joined(parts, itemSeparator + line, budget)}\n${indent.repeat(depth)}${close}`;
}

function jsonKey(key: Value): string {
  if (typeof key === 'string') return key;
  if (key === null) return 'null';
  if (key instanceof Float) return jsonFloat(key.value);
  if (isNumeric(key)) return typeof key === 'boolean' ? String(key) : String(numberOf(key));
  throw typeError(`keys must be str, int, float, bool or None, not ${typeName(key)}`);
}

function jsonFloat(value: number): string {
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value > 0 ? 'Infinity' : '-Infinity';
  return floatText(value);
}

const JSON_ESCAPES: Readonly<Record<string, string>> = {
  '"': '\\"',
  '\\': '\\\\',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
  '\f': '\\f',
  '\b': '\\b',
};

function jsonString(text: string, ensureAscii: boolean, budget: Budget): string {
  budget.text(text.length + 2);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: JSON escapes them
  const special = ensureAscii ? /["\\\x00-\x1f]|[^\x00-\x7e]/g : /["\\\x00-\x1f]/g;
  return `"${text.replace(special, (each) => JSON_ESCAPES[each] ?? `\\u${hex(each.charCodeAt(0), 4)}`)}"`;
}

function tooDeep(): TemplateError {
  return new TemplateError('BudgetError', `values nested over ${MAX_NESTING} deep`);
}
