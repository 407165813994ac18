/**
 * Methods of Python's `str`.
 *
 * @module
 */

import { type Bound, bind } from './arguments.js';
import { type FieldAccess, formatBraces } from './brace-format.js';
import type { Budget } from './budget.js';
import { codePoints, countCodePoints, isSpace, SPACE, sliceCodePoints, stripSpace } from './code-points.js';
import { TemplateError, typeError } from './errors.js';
import { paddingFor } from './operators.js';
import { pad } from './percent-format.js';
import { isPrintable, joined } from './spelling.js';
import { type Arguments, Dict, Tuple, toList, typeName, type Value } from './values.js';

type Method = (text: string, args: Bound, budget: Budget) => Value;

/** Calls a method of a text, or says with `undefined` that there is none of that name. */
export function stringMethod(
  name: string,
  text: string,
  access: FieldAccess,
  budget: Budget,
): ((args: Arguments) => Value) | undefined {
  if (name === 'format') return (args) => formatBraces(text, args, access, budget);
  if (name === 'format_map') {
    return (args) => {
      const values = bind(name, ['mapping'], args).get('mapping');
      if (!(values instanceof Dict)) throw typeError('format_map() needs a mapping');
      const named = new Map(Array.from(values.entries(), ([key, value]) => [String(key), value]));
      return formatBraces(text, { positional: [], named }, access, budget);
    };
  }
  if (name === 'encode' || name === 'translate' || name === 'maketrans') {
    throw new TemplateError('NotSupported', `the method '${name}' of texts is not supported`);
  }
  if (!Object.hasOwn(METHODS, name)) return undefined;
  const [parameters, method] = METHODS[name];
  return (args) => {
    budget.text(text.length);
    return method(text, bind(name, parameters, args), budget);
  };
}

/** `str.strip(chars)`; without characters, white space. */
export function strip(text: string, characters: Value, left = true, right = true): string {
  if (characters === null) return stripSpace(text, left, right);
  if (typeof characters !== 'string')
    throw typeError(`strip arg must be None or str, not ${typeName(characters)}`);
  const set = new Set(characters);
  const points = Array.from(text);
  let start = 0;
  let end = points.length;
  if (left) while (start < end && set.has(points[start])) start++;
  if (right) while (end > start && set.has(points[end - 1])) end--;
  return points.slice(start, end).join('');
}

/** `str.replace(old, new, count)`; a negative count replaces all. */
export function replace(text: string, old: string, by: string, count: number, budget: Budget): string {
  if (count === 0) return text;
  const pieces = old === '' ? ['', ...Array.from(text), ''] : text.split(old);
  budget.step(pieces.length);
  const times = count < 0 ? pieces.length - 1 : Math.min(count, pieces.length - 1);
  budget.text(text.length + times * by.length);
  const head = pieces.slice(0, times + 1).join(by);
  return [head, ...pieces.slice(times + 1)].join(old);
}

/** Every character that ends a line for `str.splitlines`. */
const LINE_ENDS = '\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029';
const LINE = new RegExp(`[^${LINE_ENDS}]*(?:\\r\\n|[${LINE_ENDS}]|$)`, 'g');
const LINE_END = new RegExp(`(?:\\r\\n|[${LINE_ENDS}])$`);

/** `str.splitlines()`: at every kind of line end, the last of which does not begin a new line. */
export function splitLines(text: string, keepEnds = false): string[] {
  const lines = text.match(LINE) ?? [];
  return lines.filter((line) => line !== '').map((line) => (keepEnds ? line : line.replace(LINE_END, '')));
}

const WORD_BREAK = /[\p{Lu}\p{Ll}\p{Lt}]+/gu;

/** `str.title()`: each run of letters with case begins with a capital. */
function title(text: string): string {
  return text.replace(WORD_BREAK, capitalize);
}

/** `str.capitalize()`. */
export function capitalize(text: string): string {
  const first = sliceCodePoints(text, 0, 1);
  return titleCase(first) + text.slice(first.length).toLowerCase();
}

/** Digraphs have a form of their own at the beginning of a word; other letters their capital. */
function titleCase(character: string): string {
  const digraph = 'ǄǅǆǇǈǉǊǋǌǱǲǳ'.indexOf(character);
  if (digraph >= 0 && character !== '') return 'ǅǅǅǈǈǈǋǋǋǲǲǲ'[digraph];
  const upper = character.toUpperCase();
  return upper.length > character.length ? capitalLigature(upper) : upper;
}

/** "ß" becomes "Ss", "ﬁ" becomes "Fi". */
function capitalLigature(upper: string): string {
  const first = sliceCodePoints(upper, 0, 1);
  return first + upper.slice(first.length).toLowerCase();
}

function split(text: string, args: Bound, budget: Budget, fromRight: boolean): Value {
  const separator = args.get('sep', null);
  const limit = args.int('maxsplit', -1);
  const most = limit < 0 ? Number.POSITIVE_INFINITY : limit;
  if (separator === null) {
    const words = text.split(SPACES).filter((word) => word !== '');
    budget.step(words.length);
    if (words.length <= most + 1 && most > 0) return words;
    return fromRight ? splitWordsRight(text, most) : splitWordsLeft(text, most);
  }
  if (typeof separator !== 'string') throw typeError(`must be str or None, not ${typeName(separator)}`);
  if (separator === '') throw new TemplateError('ValueError', 'empty separator');
  const parts = text.split(separator);
  budget.step(parts.length);
  if (parts.length <= most + 1) return parts;
  if (fromRight) {
    const cut = parts.length - most;
    return [parts.slice(0, cut).join(separator), ...parts.slice(cut)];
  }
  return [...parts.slice(0, most), parts.slice(most).join(separator)];
}

const SPACES = new RegExp(`[${SPACE}]+`);
const WORD = new RegExp(`[^${SPACE}]+`, 'g');

function splitWordsLeft(text: string, most: number): string[] {
  const words: string[] = [];
  const rest = stripSpace(text, true, false);
  WORD.lastIndex = 0;
  for (let match = WORD.exec(rest); match; match = WORD.exec(rest)) {
    if (words.length === most) return [...words, rest.slice(match.index)];
    words.push(match[0]);
  }
  return words;
}

function splitWordsRight(text: string, most: number): string[] {
  const words: string[] = [];
  let rest = stripSpace(text, false);
  while (rest !== '' && words.length < most) {
    let at = rest.length;
    while (at > 0 && !isSpace(rest[at - 1])) at--;
    words.unshift(rest.slice(at));
    rest = stripSpace(rest.slice(0, at), false);
  }
  return rest === '' ? words : [rest, ...words];
}

function partition(text: string, args: Bound, fromRight: boolean): Value {
  const separator = args.string('sep');
  if (separator === '') throw new TemplateError('ValueError', 'empty separator');
  const at = fromRight ? text.lastIndexOf(separator) : text.indexOf(separator);
  if (at < 0) return new Tuple(fromRight ? ['', '', text] : [text, '', '']);
  return new Tuple([text.slice(0, at), separator, text.slice(at + separator.length)]);
}

/** `startswith` and `endswith`, of one text or several. */
function hasAffix(text: string, args: Bound, name: 'startsWith' | 'endsWith'): boolean {
  const affix = args.get('prefix');
  const part = window(text, args).part;
  const affixes = affix instanceof Tuple ? affix.items : [affix];
  return affixes.some((each) => {
    if (typeof each === 'string') return part[name](each);
    throw typeError(`first arg must be str or a tuple of str, not ${typeName(each)}`);
  });
}

/** The part between `start` and `end`, by code points. */
function window(text: string, args: Bound): { part: string; start: number } {
  const length = countCodePoints(text);
  const clamp = (name: string, fallback: number) => {
    const value = args.get(name, null);
    const at = value === null ? fallback : args.int(name);
    return Math.min(Math.max(at < 0 ? at + length : at, 0), length);
  };
  const start = clamp('start', 0);
  return { part: sliceCodePoints(text, start, Math.max(start, clamp('end', length))), start };
}

function find(text: string, args: Bound, last: boolean): number {
  const { part, start } = window(text, args);
  const wanted = args.string('sub');
  const at = last ? part.lastIndexOf(wanted) : part.indexOf(wanted);
  return at < 0 ? -1 : start + countCodePoints(part.slice(0, at));
}

function index(text: string, args: Bound, last: boolean): number {
  const at = find(text, args, last);
  if (at < 0) throw new TemplateError('ValueError', 'substring not found');
  return at;
}

function count(text: string, args: Bound): number {
  const { part } = window(text, args);
  const wanted = args.string('sub');
  return wanted === '' ? countCodePoints(part) + 1 : part.split(wanted).length - 1;
}

function join(separator: string, args: Bound, budget: Budget): string {
  const items = toList(args.get('iterable'), budget).map((item, i) => {
    if (typeof item === 'string') return item;
    throw typeError(`sequence item ${i}: expected str instance, ${typeName(item)} found`);
  });
  return joined(items, separator, budget);
}

function justify(align: '<' | '>' | '^'): Method {
  return (text, args, budget) => {
    const fill = args.string('fillchar', ' ');
    if (countCodePoints(fill) !== 1) throw typeError('The fill character must be exactly one character long');
    const width = args.int('width');
    if (align !== '^') return pad(text, width, align, fill, budget);
    // str.center puts the odd one on the left if the width is odd.
    const missing = paddingFor(text, width, budget);
    const left = Math.floor(missing / 2) + (missing & width & 1);
    return fill.repeat(left) + text + fill.repeat(missing - left);
  };
}

/** Whether a text is not empty and each of its code points fits. */
function all(pattern: RegExp): Method {
  return (text) => text !== '' && Array.from(text).every((character) => pattern.test(character));
}

function isCased(text: string, wanted: RegExp, unwanted: RegExp): boolean {
  return wanted.test(text) && !unwanted.test(text);
}

/** `str.islower` and `str.isupper`, for tests of the same names. */
export function isLower(text: string): boolean {
  return isCased(text, /\p{Lowercase}/u, /[\p{Uppercase}\p{Lt}]/u);
}

export function isUpper(text: string): boolean {
  return isCased(text, /\p{Uppercase}/u, /[\p{Lowercase}\p{Lt}]/u);
}

function expandTabs(text: string, size: number, budget: Budget): string {
  let column = 0;
  let result = '';
  for (const character of text) {
    if (character === '\t') {
      const spaces = size > 0 ? size - (column % size) : 0;
      budget.text(spaces);
      result += ' '.repeat(spaces);
      column += spaces;
    } else {
      result += character;
      column = character === '\n' || character === '\r' ? 0 : column + 1;
    }
  }
  return result;
}

const METHODS: Readonly<Record<string, readonly [readonly string[], Method]>> = {
  capitalize: [[], capitalize],
  casefold: [[], (text) => text.toLowerCase().replaceAll('ß', 'ss')],
  center: [['width', 'fillchar'], justify('^')],
  count: [['sub', 'start', 'end'], count],
  endswith: [['prefix', 'start', 'end'], (text, args) => hasAffix(text, args, 'endsWith')],
  expandtabs: [['tabsize'], (text, args, budget) => expandTabs(text, args.int('tabsize', 8), budget)],
  find: [['sub', 'start', 'end'], (text, args) => find(text, args, false)],
  index: [['sub', 'start', 'end'], (text, args) => index(text, args, false)],
  isalnum: [[], all(/^[\p{L}\p{N}]$/u)],
  isalpha: [[], all(/^\p{L}$/u)],
  // biome-ignore lint/suspicious/noControlCharactersInRegex: ASCII begins with them
  isascii: [[], (text) => /^[\x00-\x7f]*$/.test(text)],
  isdecimal: [[], all(/^\p{Nd}$/u)],
  isdigit: [[], all(/^[\p{Nd}²³¹⁰⁴-⁹₀-₉①-⑨⑴-⑼⒈-⒐⓪⓵-⓽⓿❶-❾➀-➈➊-➒]$/u)],
  isidentifier: [[], (text) => /^[\p{ID_Start}_]\p{ID_Continue}*$/u.test(text)],
  islower: [[], isLower],
  isnumeric: [[], all(/^\p{N}$/u)],
  isprintable: [[], isPrintable],
  isspace: [[], (text) => text !== '' && Array.from(text).every(isSpace)],
  istitle: [[], (text) => /\p{Lu}|\p{Lt}/u.test(text) && title(text) === text],
  isupper: [[], isUpper],
  join: [['iterable'], join],
  ljust: [['width', 'fillchar'], justify('<')],
  lower: [[], (text) => text.toLowerCase()],
  lstrip: [['chars'], (text, args) => strip(text, args.get('chars', null), true, false)],
  partition: [['sep'], (text, args) => partition(text, args, false)],
  removeprefix: [
    ['prefix'],
    (text, args) =>
      text.startsWith(args.string('prefix')) ? text.slice(args.string('prefix').length) : text,
  ],
  removesuffix: [
    ['suffix'],
    (text, args) => {
      const suffix = args.string('suffix');
      return suffix !== '' && text.endsWith(suffix) ? text.slice(0, -suffix.length) : text;
    },
  ],
  replace: [
    ['old', 'new', 'count'],
    (text, args, budget) =>
      replace(text, args.string('old'), args.string('new'), args.int('count', -1), budget),
  ],
  rfind: [['sub', 'start', 'end'], (text, args) => find(text, args, true)],
  rindex: [['sub', 'start', 'end'], (text, args) => index(text, args, true)],
  rjust: [['width', 'fillchar'], justify('>')],
  rpartition: [['sep'], (text, args) => partition(text, args, true)],
  rsplit: [['sep', 'maxsplit'], (text, args, budget) => split(text, args, budget, true)],
  rstrip: [['chars'], (text, args) => strip(text, args.get('chars', null), false, true)],
  split: [['sep', 'maxsplit'], (text, args, budget) => split(text, args, budget, false)],
  splitlines: [['keepends'], (text, args) => splitLines(text, args.int('keepends', 0) !== 0)],
  startswith: [['prefix', 'start', 'end'], (text, args) => hasAffix(text, args, 'startsWith')],
  strip: [['chars'], (text, args) => strip(text, args.get('chars', null))],
  swapcase: [
    [],
    (text) =>
      Array.from(text, (each) =>
        each === each.toUpperCase() ? each.toLowerCase() : each.toUpperCase(),
      ).join(''),
  ],
  title: [[], title],
  upper: [[], (text) => text.toUpperCase()],
  zfill: [['width'], (text, args, budget) => zeroFill(text, args.int('width'), budget)],
};

function zeroFill(text: string, width: number, budget: Budget): string {
  const sign = /^[-+]/.exec(text)?.[0] ?? '';
  return sign + '0'.repeat(paddingFor(text, width, budget)) + text.slice(sign.length);
}

/** A text by code points, for indices and slices. */
export function characterAt(text: string, index: number): string | undefined {
  const points = codePoints(text);
  return points[index < 0 ? index + points.length : index];
}
