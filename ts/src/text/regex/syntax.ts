/**
 * Regular expressions as Oniguruma writes them, the engine of Hugging Face `tokenizers`.
 *
 * Reads the syntax that a tokenizer may use: classes with properties and intersections, groups, quantifiers of all
 * three kinds, anchors, and lookaround. Backreferences, conditions, recursion and the like are refused by name.
 *
 * @module
 */

/** A regular expression that is broken, or uses something that is not supported. */
export class PatternError extends Error {}

/** A part of a pattern. */
export type PatternNode =
  /** One character of a class, in the syntax of JavaScript's flag `v`. */
  | { readonly kind: 'set'; readonly source: string; readonly ignoreCase: boolean }
  | { readonly kind: 'sequence'; readonly items: readonly PatternNode[] }
  | { readonly kind: 'alternatives'; readonly items: readonly PatternNode[] }
  | {
      readonly kind: 'repeat';
      readonly item: PatternNode;
      readonly min: number;
      readonly max: number;
      readonly mode: 'greedy' | 'lazy' | 'possessive';
    }
  | { readonly kind: 'atomic'; readonly item: PatternNode }
  | {
      readonly kind: 'look';
      readonly item: PatternNode;
      readonly behind: boolean;
      readonly negative: boolean;
    }
  | { readonly kind: 'anchor'; readonly anchor: Anchor };

/** Places between characters. */
export type Anchor = 'lineStart' | 'lineEnd' | 'textStart' | 'textEnd' | 'lastLineEnd' | 'word' | 'notWord';

/** Groups inside each other, and characters of a pattern, at most. */
const MAX_DEPTH = 100;
const MAX_LENGTH = 50_000;
const MAX_COUNT = 1000;

const CLASSES: Readonly<Record<string, string>> = {
  d: String.raw`\p{Nd}`,
  D: String.raw`\P{Nd}`,
  s: String.raw`\p{White_Space}`,
  S: String.raw`\P{White_Space}`,
  w: String.raw`[\p{L}\p{M}\p{N}\p{Pc}]`,
  W: String.raw`[^\p{L}\p{M}\p{N}\p{Pc}]`,
  h: '[0-9a-fA-F]',
  H: '[^0-9a-fA-F]',
};

const POSIX: Readonly<Record<string, string>> = {
  alnum: String.raw`\p{Alphabetic}\p{M}\p{Nd}`,
  alpha: String.raw`\p{Alphabetic}\p{M}`,
  ascii: String.raw`\x00-\x7f`,
  blank: String.raw`\p{Zs}\t`,
  cntrl: String.raw`\p{C}`,
  digit: String.raw`\p{Nd}`,
  lower: String.raw`\p{Lowercase}`,
  punct: String.raw`\p{P}\p{S}`,
  space: String.raw`\p{White_Space}`,
  upper: String.raw`\p{Uppercase}`,
  word: String.raw`\p{L}\p{M}\p{N}\p{Pc}`,
  xdigit: '0-9a-fA-F',
};

const CONTROLS: Readonly<Record<string, number>> = { a: 7, e: 27, f: 12, n: 10, r: 13, t: 9, v: 11 };

const ANCHORS: Readonly<Record<string, Anchor>> = {
  A: 'textStart',
  Z: 'lastLineEnd',
  z: 'textEnd',
  b: 'word',
  B: 'notWord',
};

/**
 * Parses a pattern.
 *
 * @throws {PatternError} says what is wrong or not supported
 */
export function parsePattern(pattern: string): PatternNode {
  if (pattern.length > MAX_LENGTH) throw new PatternError(`is longer than ${MAX_LENGTH} characters`);
  return new PatternParser(pattern).run();
}

interface Flags {
  readonly ignoreCase: boolean;
  /** Oniguruma's `m`: the point matches line feeds, too. */
  readonly dotAll: boolean;
}

class PatternParser {
  readonly #pattern: string;
  #at = 0;
  #depth = 0;
  #flags: Flags = { ignoreCase: false, dotAll: false };

  constructor(pattern: string) {
    this.#pattern = pattern;
  }

  run(): PatternNode {
    const node = this.#alternatives();
    if (this.#at < this.#pattern.length) throw new PatternError('has a ) too many');
    return node;
  }

  #alternatives(): PatternNode {
    if (++this.#depth > MAX_DEPTH) throw new PatternError(`nests groups over ${MAX_DEPTH} deep`);
    const flags = this.#flags;
    const items = [this.#sequence()];
    while (this.#skip('|')) items.push(this.#sequence());
    this.#flags = flags;
    this.#depth--;
    return items.length === 1 ? items[0] : { kind: 'alternatives', items };
  }

  #sequence(): PatternNode {
    const items: PatternNode[] = [];
    while (this.#at < this.#pattern.length && !this.#looksAt('|') && !this.#looksAt(')')) {
      const item = this.#atom();
      if (item) items.push(this.#quantified(item));
    }
    return items.length === 1 ? items[0] : { kind: 'sequence', items };
  }

  #quantified(start: PatternNode): PatternNode {
    let item = start;
    while (true) {
      const bounds = this.#bounds();
      if (!bounds) return item;
      if (item.kind === 'anchor' || item.kind === 'look')
        throw new PatternError('repeats an anchor or lookaround');
      const { min, max, isInterval } = bounds;
      let mode: 'greedy' | 'lazy' | 'possessive' = 'greedy';
      if (this.#skip('?')) mode = 'lazy';
      // "{1,3}+" repeats the interval once more; only "*+", "++" and "?+" are possessive.
      else if (!isInterval && this.#skip('+')) mode = 'possessive';
      item = { kind: 'repeat', item, min, max, mode };
    }
  }

  #bounds(): { min: number; max: number; isInterval: boolean } | undefined {
    if (this.#skip('*')) return { min: 0, max: Number.POSITIVE_INFINITY, isInterval: false };
    if (this.#skip('+')) return { min: 1, max: Number.POSITIVE_INFINITY, isInterval: false };
    if (this.#skip('?')) return { min: 0, max: 1, isInterval: false };
    const match = this.#match(/\{(\d*)(,?)(\d*)\}/y);
    if (!match) return undefined;
    const [whole, low, comma, high] = match;
    if (low === '' && high === '') {
      this.#at -= whole.length; // "{}" and "{,}" are text
      return undefined;
    }
    const min = Number(low || 0);
    const max = comma === '' ? min : high === '' ? Number.POSITIVE_INFINITY : Number(high);
    if (min > max) throw new PatternError(`has the interval ${whole}, whose ends are exchanged`);
    if (min > MAX_COUNT || (Number.isFinite(max) && max > MAX_COUNT)) {
      throw new PatternError(`repeats something over ${MAX_COUNT} times`);
    }
    return { min, max, isInterval: true };
  }

  /** `undefined` for comments and flags, which match nothing of their own. */
  #atom(): PatternNode | undefined {
    if (this.#skip('(')) return this.#group();
    if (this.#skip('[')) return this.#set(this.#class());
    if (this.#skip('.')) return this.#set(this.#flags.dotAll ? '[^]' : String.raw`[^\n]`);
    if (this.#skip('^')) return { kind: 'anchor', anchor: 'lineStart' };
    if (this.#skip('$')) return { kind: 'anchor', anchor: 'lineEnd' };
    if (this.#looksAt('\\')) return this.#escape();
    const character = this.#character();
    if ('*+?'.includes(character)) throw new PatternError(`has a ${character} without anything to repeat`);
    return this.#set(`[${literal(character)}]`);
  }

  #set(source: string): PatternNode {
    return { kind: 'set', source, ignoreCase: this.#flags.ignoreCase };
  }

  #group(): PatternNode | undefined {
    const comment = this.#match(/\?#[^)]*\)/y);
    if (comment) return undefined;
    const flags = this.#match(/\?([imx]*)(?:-([imx]*))?([:)])/y);
    if (flags) return this.#flagGroup(flags[1], flags[2] ?? '', flags[3] === ')');
    const look = this.#match(/\?(<?)([=!])/y);
    if (look) {
      const item = this.#closed();
      return { kind: 'look', item, behind: look[1] === '<', negative: look[2] === '!' };
    }
    if (this.#match(/\?>/y)) return { kind: 'atomic', item: this.#closed() };
    if (this.#match(/\?<\w+>/y)) return this.#closed();
    const special = this.#match(/[?*]\S{0,2}/y);
    if (special) throw new PatternError(`uses (${special[0]}, which is not supported`);
    return this.#closed();
  }

  #flagGroup(on: string, off: string, isOpen: boolean): PatternNode | undefined {
    if (on.includes('x') || off.includes('x'))
      throw new PatternError('uses the flag x, which is not supported');
    const outside = this.#flags;
    const has = (flag: string, before: boolean) => (on.includes(flag) || before) && !off.includes(flag);
    this.#flags = { ignoreCase: has('i', outside.ignoreCase), dotAll: has('m', outside.dotAll) };
    if (isOpen) {
      // "(?i)" holds up to the end of the group, whatever alternatives there are.
      const rest = this.#alternatives();
      this.#flags = outside;
      return rest;
    }
    const item = this.#closed();
    this.#flags = outside;
    return item;
  }

  #closed(): PatternNode {
    const item = this.#alternatives();
    if (!this.#skip(')')) throw new PatternError('has a group without its )');
    return item;
  }

  #escape(): PatternNode {
    const anchor = this.#match(/\\([AZzbB])/y);
    if (anchor) return { kind: 'anchor', anchor: ANCHORS[anchor[1]] };
    if (this.#match(/\\N/y)) return this.#set(String.raw`[^\n]`);
    if (this.#match(/\\O/y)) return this.#set('[^]');
    return this.#set(`[${this.#escapedItem()}]`);
  }

  /** A class after its `[`, up to its `]`. */
  #class(): string {
    if (++this.#depth > MAX_DEPTH) throw new PatternError(`nests classes over ${MAX_DEPTH} deep`);
    const negated = this.#skip('^');
    const operands: string[] = [];
    let items = '';
    let isFirst = true;
    while (isFirst || !this.#looksAt(']')) {
      if (this.#at >= this.#pattern.length) throw new PatternError('has a class without its ]');
      if (this.#match(/&&/y)) {
        operands.push(`[${items}]`);
        items = '';
      } else items += this.#classItem();
      isFirst = false;
    }
    this.#at++;
    this.#depth--;
    if (operands.length === 0) return `[${negated ? '^' : ''}${items}]`;
    return `[${negated ? '^' : ''}${[...operands, `[${items}]`].join('&&')}]`;
  }

  #classItem(): string {
    const posix = this.#match(/\[:(\^?)(\w+):\]/y);
    if (posix) {
      const [, negation, name] = posix;
      if (!Object.hasOwn(POSIX, name)) throw new PatternError(`has the unknown class [:${name}:]`);
      return `[${negation}${POSIX[name]}]`;
    }
    if (this.#skip('[')) return this.#class();
    const first = this.#looksAt('\\') ? this.#escapedItem() : literal(this.#character());
    if (!/^\\u\{[\da-f]+\}$/.test(first) || !this.#match(/-(?!\]|&&|\[)/y)) return first;
    const last = this.#looksAt('\\') ? this.#escapedItem() : literal(this.#character());
    if (!/^\\u\{[\da-f]+\}$/.test(last)) return `${first}${literal('-')}${last}`;
    if (pointOf(first) > pointOf(last))
      throw new PatternError('has a range of characters that ends before it begins');
    return `${first}-${last}`;
  }

  /** The meaning of a backslash inside a class. */
  #escapedItem(): string {
    const property = this.#match(/\\([pP])\{(\^?)([\w -]+)\}/y);
    if (property) return propertyItem(property[3], (property[1] === 'P') !== (property[2] === '^'));
    const shorthand = this.#match(/\\([dDsSwWhH])/y);
    if (shorthand) return CLASSES[shorthand[1]];
    const code = this.#match(
      /\\(?:x\{([\da-fA-F]{1,6})\}|x([\da-fA-F]{1,2})|u([\da-fA-F]{4})|(0[0-7]{0,2}))/y,
    );
    if (code) {
      const [, braced, byte, unit, octal] = code;
      const point =
        octal === undefined ? Number.parseInt(braced ?? byte ?? unit, 16) : Number.parseInt(octal, 8);
      if (point > 0x10ffff) throw new PatternError(`has ${code[0]}, which is no character`);
      return `\\u{${point.toString(16)}}`;
    }
    this.#at++;
    if (this.#at >= this.#pattern.length) throw new PatternError('ends with a backslash');
    const character = this.#character();
    const control = CONTROLS[character];
    if (control !== undefined) return `\\u{${control.toString(16)}}`;
    if (/[\p{L}\p{N}]/u.test(character))
      throw new PatternError(`uses \\${character}, which is not supported`);
    return literal(character);
  }

  #character(): string {
    const character = String.fromCodePoint(this.#pattern.codePointAt(this.#at)!);
    this.#at += character.length;
    return character;
  }

  #looksAt(text: string): boolean {
    return this.#pattern.startsWith(text, this.#at);
  }

  #skip(text: string): boolean {
    if (!this.#looksAt(text)) return false;
    this.#at += text.length;
    return true;
  }

  #match(expression: RegExp): RegExpExecArray | null {
    expression.lastIndex = this.#at;
    const match = expression.exec(this.#pattern);
    if (match) this.#at += match[0].length;
    return match;
  }
}

function literal(character: string): string {
  return `\\u{${character.codePointAt(0)!.toString(16)}}`;
}

function pointOf(item: string): number {
  return Number.parseInt(item.slice(3, -1), 16);
}

/** A Unicode property under the name that Oniguruma gives it: a category, a script, or another property. */
function propertyItem(name: string, negated: boolean): string {
  const plain = name.replaceAll(' ', '_');
  if (/^any$/i.test(plain)) return negated ? '[]' : '[^]';
  const posix = POSIX[plain.toLowerCase()];
  if (posix !== undefined) return `[${negated ? '^' : ''}${posix}]`;
  const capital = plain.charAt(0).toUpperCase() + plain.slice(1);
  for (const written of [plain, capital, `Script=${plain}`, `Script=${capital}`]) {
    const source = `\\${negated ? 'P' : 'p'}{${written}}`;
    if (isValid(source)) return source;
  }
  throw new PatternError(`has the unknown property \\p{${name}}`);
}

function isValid(source: string): boolean {
  try {
    new RegExp(source, 'u');
    return true;
  } catch {
    return false; // a property that JavaScript does not know
  }
}
