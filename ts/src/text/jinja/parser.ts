/**
 * Statements of a template.
 *
 * @module
 */

import { TemplateError } from './errors.js';
import { tokenize } from './lexer.js';
import { ExpressionParser } from './parse-expression.js';
import type { Expression, MacroDefinition, Parameter, Statement, Target, Token } from './syntax.js';
import { TokenStream } from './token-stream.js';

/** Right for jinja2, but they need other templates, which a model does not have. */
const NEED_A_LOADER = ['include', 'import', 'from', 'extends'];

/** Names that a macro may use without declaring them. */
const IMPLICIT = ['caller', 'varargs', 'kwargs'];

/**
 * Parses a template.
 *
 * @throws {TemplateError} TemplateSyntaxError with the line
 */
export function parseTemplate(template: string): Statement[] {
  return new Parser(tokenize(template)).run();
}

class Parser {
  readonly #tokens: readonly Token[];
  readonly #stream: TokenStream;
  readonly #expressions: ExpressionParser;
  /** `break` and `continue` are allowed in loops only. */
  #loops = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
    this.#stream = new TokenStream(tokens);
    this.#expressions = new ExpressionParser(this.#stream);
  }

  run(): Statement[] {
    const body = this.#body([]);
    if (this.#stream.current.kind !== 'eof') {
      throw this.#stream.error(`Encountered unknown tag '${this.#stream.describe()}'.`);
    }
    return body;
  }

  /** Statements up to one of these tags, whose name is then the current token. */
  #body(ends: readonly string[]): Statement[] {
    const stream = this.#stream;
    return stream.nested(() => {
      const body: Statement[] = [];
      while (stream.current.kind !== 'eof') {
        const { kind, text, line } = stream.next();
        if (kind === 'data') body.push({ kind: 'text', text, line });
        else if (text === '{{') {
          body.push({ kind: 'output', value: this.#expressions.parseTuple(), line });
          stream.expectEnd('}}');
        } else {
          if (stream.isName(...ends)) return body;
          body.push(this.#statement());
        }
      }
      if (ends.length === 0) return body;
      throw stream.error(`Unexpected end of template. The innermost block must end with '${ends.at(-1)}'.`);
    });
  }

  /** A body up to its end tag, which is read, too. */
  #bodyUntil(end: string): Statement[] {
    this.#stream.expectEnd('%}');
    const body = this.#body([end]);
    this.#stream.next();
    return body;
  }

  #statement(): Statement {
    const statement = this.#statementWithoutEnd();
    this.#stream.expectEnd('%}');
    return statement;
  }

  #statementWithoutEnd(): Statement {
    const stream = this.#stream;
    const { line } = stream.current;
    const name = stream.expectName();
    switch (name) {
      case 'for':
        return this.#for(line);
      case 'if':
        return this.#if(line);
      case 'set':
        return this.#set(line);
      case 'macro': {
        const macro = this.#macroBody(stream.expectName(), this.#parameters(), 'endmacro');
        return { kind: 'macro', macro, line };
      }
      case 'call':
        return this.#call(line);
      case 'filter':
        return {
          kind: 'filterBlock',
          filters: this.#expressions.parseFilters(),
          body: this.#bodyUntil('endfilter'),
          line,
        };
      case 'with':
        return this.#with(line);
      case 'generation':
        return { kind: 'scope', body: this.#bodyUntil('endgeneration'), line };
      case 'block': {
        const block = stream.expectName();
        const body = this.#bodyUntil('endblock');
        stream.skipName(block);
        return { kind: 'scope', body, line };
      }
      case 'break':
      case 'continue':
        if (this.#loops === 0) throw stream.error(`'${name}' outside loop`);
        return { kind: name, line };
    }
    if (NEED_A_LOADER.includes(name) || name === 'autoescape') {
      throw new TemplateError('NotSupported', `the tag '${name}' is not supported`, line);
    }
    throw stream.error(`Encountered unknown tag '${name}'.`);
  }

  #for(line: number): Statement {
    const stream = this.#stream;
    const target = this.#target(() => stream.isName('in'));
    stream.expectName('in');
    const iterable = this.#expressions.parseTuple(false, false, () => stream.isName('recursive'));
    const filter = stream.skipName('if') ? this.#expressions.parse() : undefined;
    const recursive = stream.skipName('recursive');
    stream.expectEnd('%}');
    this.#loops++;
    const body = this.#body(['else', 'endfor']);
    this.#loops--;
    const otherwise = stream.next().text === 'else' ? this.#bodyUntil('endfor') : [];
    return { kind: 'for', target, iterable, filter, recursive, body, otherwise, line };
  }

  #if(line: number): Statement {
    const stream = this.#stream;
    const branches: [Expression, Statement[]][] = [];
    while (true) {
      const test = this.#expressions.parseTuple(false);
      stream.expectEnd('%}');
      branches.push([test, this.#body(['elif', 'else', 'endif'])]);
      const tag = stream.next().text;
      if (tag === 'elif') continue;
      return { kind: 'if', branches, otherwise: tag === 'else' ? this.#bodyUntil('endif') : [], line };
    }
  }

  #set(line: number): Statement {
    const stream = this.#stream;
    const target = this.#target(() => stream.isOperator('='));
    if (stream.skipOperator('=')) {
      return { kind: 'set', target, value: this.#expressions.parseTuple(), line };
    }
    const filters = stream.skipOperator('|') ? this.#expressions.parseFilters() : [];
    return { kind: 'setBlock', target, filters, body: this.#bodyUntil('endset'), line };
  }

  /** Names with commas between them, perhaps in parentheses, up to what ends them. */
  #target(ends: () => boolean): Target {
    const stream = this.#stream;
    const items: Target[] = [];
    let isTuple = false;
    while (true) {
      items.push(this.#oneTarget());
      if (!stream.skipOperator(',')) break;
      isTuple = true;
      if (ends() || stream.isOperator(')')) break;
    }
    return isTuple ? { kind: 'tuple', items } : items[0];
  }

  #oneTarget(): Target {
    const stream = this.#stream;
    if (stream.skipOperator('(')) {
      const target = stream.nested(() => this.#target(() => false));
      stream.expectOperator(')');
      return target;
    }
    const name = stream.expectName();
    if (['true', 'false', 'none', 'True', 'False', 'None'].includes(name)) {
      throw stream.error(`can't assign to '${name}'`);
    }
    return stream.skipOperator('.')
      ? { kind: 'member', object: name, name: stream.expectName() }
      : { kind: 'name', name };
  }

  #call(line: number): Statement {
    const stream = this.#stream;
    const parameters = stream.isOperator('(') ? this.#parameters() : [];
    const call = this.#expressions.parse();
    if (call.kind !== 'call') throw stream.error('expected call');
    return { kind: 'callBlock', call, caller: this.#macroBody('caller', parameters, 'endcall'), line };
  }

  #macroBody(name: string, parameters: readonly Parameter[], end: string): MacroDefinition {
    const from = this.#stream.current;
    const loops = this.#loops;
    this.#loops = 0;
    const body = this.#bodyUntil(end);
    this.#loops = loops;
    return { name, parameters, body, uses: this.#used(from) };
  }

  /** The implicit names between a token and here. */
  #used(from: Token): Set<string> {
    const start = this.#tokens.indexOf(from);
    const end = this.#tokens.indexOf(this.#stream.current, start);
    const names = this.#tokens.slice(start, end).filter((token) => token.kind === 'name');
    return new Set(names.map((token) => token.text).filter((text) => IMPLICIT.includes(text)));
  }

  #parameters(): Parameter[] {
    const stream = this.#stream;
    stream.expectOperator('(');
    const parameters: Parameter[] = [];
    while (!stream.skipOperator(')')) {
      if (parameters.length > 0) stream.expectOperator(',');
      if (stream.skipOperator(')')) break;
      const name = stream.expectName();
      const fallback = stream.skipOperator('=') ? this.#expressions.parse() : undefined;
      if (!fallback && parameters.at(-1)?.fallback) {
        throw stream.error('non-default argument follows default argument');
      }
      parameters.push({ name, fallback });
    }
    return parameters;
  }

  #with(line: number): Statement {
    const stream = this.#stream;
    const targets: [Target, Expression][] = [];
    while (stream.current.kind !== 'end') {
      if (targets.length > 0) stream.expectOperator(',');
      const target = this.#target(() => stream.isOperator('='));
      stream.expectOperator('=');
      targets.push([target, this.#expressions.parse()]);
    }
    return { kind: 'with', targets, body: this.#bodyUntil('endwith'), line };
  }
}
