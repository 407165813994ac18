/**
 * Cuts a template into tokens as jinja2 does with `trim_blocks` and `lstrip_blocks`, the settings of transformers.
 *
 * @module
 */

import { SPACE, stripSpace } from './code-points.js';
import { TemplateError } from './errors.js';
import type { Token } from './syntax.js';

const BEGIN = /\{%([-+]?)[SPACE]*raw[SPACE]*(?:-%\}[SPACE]*|%\})|\{([%#{])([-+]?)/g;
const PATTERNS = {
  begin: sticky(BEGIN.source, 'g'),
  commentEnd: sticky(String.raw`(?:\+#\}|-#\}[SPACE]*|#\}\n?)`, 'g'),
  rawEnd: sticky(String.raw`\{%([-+]?)[SPACE]*endraw[SPACE]*(?:\+%\}|-%\}[SPACE]*|%\}\n?)`, 'g'),
  blockEnd: sticky(String.raw`(?:\+%\}|-%\}[SPACE]*|%\}\n?)`),
  variableEnd: sticky(String.raw`(?:-\}\}[SPACE]*|\}\})`),
  space: sticky('[SPACE]+'),
  float: sticky(String.raw`(?<!\.)(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?[eE][+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)`),
  integer: sticky(
    String.raw`0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0[xX](?:_?[\da-fA-F])+|[1-9](?:_?\d)*|0(?:_?0)*`,
  ),
  name: sticky(String.raw`[\p{L}\p{N}\p{M}_]+`, 'yu'),
  string: sticky(String.raw`'[^'\\]*(?:\\[\s\S][^'\\]*)*'|"[^"\\]*(?:\\[\s\S][^"\\]*)*"`),
  operator: sticky(String.raw`\*\*|\/\/|==|!=|>=|<=|[-+/*%~[\](){}><=.:|,;]`),
};
const IDENTIFIER = /^[\p{ID_Start}_]\p{ID_Continue}*$/u;
const OPENERS: Readonly<Record<string, string>> = { '(': ')', '[': ']', '{': '}' };

function sticky(source: string, flags = 'y'): RegExp {
  return new RegExp(source.replaceAll('[SPACE]', `[${SPACE}]`), flags);
}

/**
 * Cuts a template into tokens, the last of which is `eof`.
 *
 * @throws {TemplateError} TemplateSyntaxError with the line
 */
export function tokenize(template: string): Token[] {
  return new Lexer(template).run();
}

class Lexer {
  readonly #source: string;
  readonly #tokens: Token[] = [];
  #at = 0;
  #line = 1;
  #lineAt = 0;
  /** Whether what was read last ended a line. */
  #lineStarting = true;

  constructor(template: string) {
    // jinja2 reads every kind of line end as "\n", and drops one at the very end.
    this.#source = template.replace(/\r\n?/g, '\n').replace(/\n$/, '');
  }

  run(): Token[] {
    while (this.#at < this.#source.length) this.#readText();
    this.#push('eof', '');
    return this.#tokens;
  }

  /** Text up to the next tag, and the tag. */
  #readText(): void {
    const { begin } = PATTERNS;
    begin.lastIndex = this.#at;
    const match = begin.exec(this.#source);
    if (!match) {
      this.#push('data', this.#source.slice(this.#at));
      this.#at = this.#source.length;
      return;
    }
    const [whole, rawSign, tag, sign] = match;
    this.#pushData(this.#source.slice(this.#at, match.index), rawSign ?? sign, tag !== '{');
    this.#advance(match.index, whole);
    if (tag === '#') this.#readComment();
    else if (tag === undefined) this.#readRaw();
    else this.#readTag(tag === '%' ? 'blockEnd' : 'variableEnd', `{${tag}`);
  }

  /** Text in front of a tag, without the white space that the tag takes away. */
  #pushData(text: string, sign: string, mayStripLine: boolean): void {
    let kept = text;
    if (sign === '-') kept = stripSpace(text, false);
    else if (sign !== '+' && mayStripLine) {
      const lineStart = text.lastIndexOf('\n') + 1;
      const opens = lineStart > 0 || this.#lineStarting;
      if (opens && stripSpace(text.slice(lineStart)) === '') kept = text.slice(0, lineStart);
    }
    if (kept !== '') this.#push('data', kept);
  }

  #readComment(): void {
    this.#find('commentEnd', 'Missing end of comment tag');
  }

  #readRaw(): void {
    const start = this.#at;
    const match = this.#find('rawEnd', 'Missing end of raw directive');
    this.#pushData(this.#source.slice(start, match.index), match[1], true);
  }

  #find(pattern: 'commentEnd' | 'rawEnd', missing: string): RegExpExecArray {
    PATTERNS[pattern].lastIndex = this.#at;
    const match = PATTERNS[pattern].exec(this.#source);
    if (!match) throw this.#error(missing);
    this.#advance(match.index, match[0]);
    return match;
  }

  #readTag(end: 'blockEnd' | 'variableEnd', tag: string): void {
    this.#push('begin', tag);
    const open: string[] = [];
    while (true) {
      if (this.#at >= this.#source.length) {
        throw this.#error(`unexpected end of template, expected '${tag === '{%' ? '%}' : '}}'}'`);
      }
      // Inside brackets "}}" closes two dicts.
      const closing = open.length === 0 ? this.#match(end) : undefined;
      if (closing !== undefined) {
        this.#push('end', tag === '{%' ? '%}' : '}}');
        this.#advance(this.#at, closing);
        return;
      }
      this.#readToken(open);
    }
  }

  #readToken(open: string[]): void {
    const space = this.#match('space');
    if (space !== undefined) {
      this.#advance(this.#at, space);
      return;
    }
    for (const kind of ['float', 'integer', 'name', 'string', 'operator'] as const) {
      const text = this.#match(kind);
      if (text === undefined) continue;
      if (kind === 'operator') this.#balance(text, open);
      if (kind === 'name' && !IDENTIFIER.test(text)) throw this.#error('Invalid character in identifier');
      const value = kind === 'string' ? this.#unescape(text.slice(1, -1)) : text;
      this.#push(kind === 'float' || kind === 'integer' ? 'number' : kind, value);
      this.#advance(this.#at, text);
      return;
    }
    throw this.#error(
      `unexpected char ${JSON.stringify(String.fromCodePoint(this.#source.codePointAt(this.#at)!))}`,
    );
  }

  #balance(operator: string, open: string[]): void {
    if (OPENERS[operator]) open.push(OPENERS[operator]);
    else if (operator === ')' || operator === ']' || operator === '}') {
      const expected = open.pop();
      if (expected === undefined) throw this.#error(`unexpected '${operator}'`);
      if (expected !== operator) throw this.#error(`unexpected '${operator}', expected '${expected}'`);
    }
  }

  /** Python's escapes; an unknown one is left as it is. */
  #unescape(text: string): string {
    const sequence =
      /\\(?:([0-7]{1,3})|x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([xuUN])|([\s\S]))/g;
    return text.replace(sequence, (whole, octal, byte, unit, long, cut, character) => {
      if (cut !== undefined)
        throw this.#error(`the escape \\${cut} in a string is cut short or not supported`);
      if (octal !== undefined) return String.fromCodePoint(Number.parseInt(octal, 8));
      const code = byte ?? unit ?? long;
      if (code === undefined) return ESCAPED[character] ?? whole;
      const point = Number.parseInt(code, 16);
      if (point > 0x10ffff) throw this.#error(`the escape ${whole} is no character`);
      return String.fromCodePoint(point);
    });
  }

  #match(pattern: keyof typeof PATTERNS): string | undefined {
    const expression = PATTERNS[pattern];
    expression.lastIndex = this.#at;
    return expression.exec(this.#source)?.[0];
  }

  #advance(at: number, matched: string): void {
    this.#at = at + matched.length;
    this.#lineStarting = matched.endsWith('\n');
  }

  #push(kind: Token['kind'], text: string): void {
    this.#tokens.push({ kind, text, line: this.#currentLine() });
  }

  #currentLine(): number {
    for (; this.#lineAt < this.#at; this.#lineAt++) if (this.#source[this.#lineAt] === '\n') this.#line++;
    return this.#line;
  }

  #error(message: string): TemplateError {
    return new TemplateError('TemplateSyntaxError', message, this.#currentLine());
  }
}

const ESCAPED: Readonly<Record<string, string>> = {
  '\n': '',
  '\\': '\\',
  "'": "'",
  '"': '"',
  a: '\x07',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
};
