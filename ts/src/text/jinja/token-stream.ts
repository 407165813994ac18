/**
 * Tokens one after the other, with what both parsers need to look at them.
 *
 * @module
 */

import { TemplateError } from './errors.js';
import type { Token } from './syntax.js';

/** Expressions and blocks inside each other at most. CPython gives up at about the same depth. */
const MAX_DEPTH = 100;

/** A position in a list of tokens. */
export class TokenStream {
  readonly #tokens: readonly Token[];
  #at = 0;
  #depth = 0;

  /** @param tokens the last one is `eof` */
  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  get current(): Token {
    return this.#tokens[this.#at];
  }

  /** The token after the current one. */
  get following(): Token {
    return this.#tokens[Math.min(this.#at + 1, this.#tokens.length - 1)];
  }

  next(): Token {
    const token = this.current;
    if (token.kind !== 'eof') this.#at++;
    return token;
  }

  isOperator(text: string): boolean {
    return this.current.kind === 'operator' && this.current.text === text;
  }

  isName(...names: readonly string[]): boolean {
    return this.current.kind === 'name' && names.includes(this.current.text);
  }

  skipOperator(text: string): boolean {
    if (!this.isOperator(text)) return false;
    this.next();
    return true;
  }

  skipName(name: string): boolean {
    if (!this.isName(name)) return false;
    this.next();
    return true;
  }

  expectOperator(text: string): void {
    if (!this.skipOperator(text)) throw this.error(`expected token '${text}', got '${this.describe()}'`);
  }

  expectName(name?: string): string {
    const { kind, text } = this.current;
    if (kind !== 'name' || (name !== undefined && text !== name)) {
      throw this.error(`expected token '${name ?? 'name'}', got '${this.describe()}'`);
    }
    this.next();
    return text;
  }

  /** @param tag `%}` or `}}` */
  expectEnd(tag: string): void {
    if (this.current.kind !== 'end' || this.current.text !== tag) {
      const hint = tag === '%}' ? 'end of statement block' : 'end of print statement';
      throw this.error(`expected token '${hint}', got '${this.describe()}'`);
    }
    this.next();
  }

  /** Parses something that may contain its own kind. */
  nested<T>(parse: () => T): T {
    if (++this.#depth > MAX_DEPTH) throw this.error(`expressions or blocks nested over ${MAX_DEPTH} deep`);
    const result = parse();
    this.#depth--;
    return result;
  }

  error(message: string): TemplateError {
    return new TemplateError('TemplateSyntaxError', message, this.current.line);
  }

  describe(): string {
    const { kind, text } = this.current;
    return kind === 'eof' ? 'end of template' : text;
  }
}
