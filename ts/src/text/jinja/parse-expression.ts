/**
 * Expressions, by recursive descent in the order of precedence of jinja2:
 *
 *     a if b else c    or    and    not    comparisons, in    + -    ~    * / // %    **    unary - +
 *     then .name [key] (call), and last | filter and `is` test
 *
 * @module
 */

import type { CallArguments, Expression, FilterCall } from './syntax.js';
import type { TokenStream } from './token-stream.js';
import { Float, int } from './values.js';

const NO_ARGUMENTS: CallArguments = { positional: [], named: [] };
const COMPARISONS = ['==', '!=', '<', '<=', '>', '>='];

/** Parses expressions from a stream of tokens. */
export class ExpressionParser {
  constructor(private readonly stream: TokenStream) {}

  /** One expression without top-level commas. */
  parse(withCondition = true): Expression {
    return this.stream.nested(() => (withCondition ? this.condition() : this.or()));
  }

  /** Expressions with commas between them: a tuple, unless it is just one. */
  parseTuple(withCondition = true, parenthesized = false, ends: () => boolean = () => false): Expression {
    const { stream } = this;
    const { line } = stream.current;
    const items: Expression[] = [];
    let isTuple = false;
    while (true) {
      if (items.length > 0) {
        if (!stream.skipOperator(',')) break;
        isTuple = true;
      }
      if (stream.current.kind === 'end' || stream.isOperator(')') || ends()) break;
      items.push(this.parse(withCondition));
    }
    if (!isTuple && items.length === 1) return items[0];
    if (items.length === 0 && !parenthesized) {
      throw stream.error(`Expected an expression, got '${stream.describe()}'`);
    }
    return { kind: 'tuple', items, line };
  }

  /** Filters without a value, as in `{% filter upper | trim %}`. */
  parseFilters(): FilterCall[] {
    const filters = [this.filterCall()];
    while (this.stream.skipOperator('|')) filters.push(this.filterCall());
    return filters;
  }

  private condition(): Expression {
    const { stream } = this;
    let value = this.or();
    while (stream.isName('if')) {
      const { line } = stream.next();
      const test = this.or();
      const no = stream.skipName('else') ? stream.nested(() => this.condition()) : undefined;
      value = { kind: 'condition', test, yes: value, no, line };
    }
    return value;
  }

  private or(): Expression {
    let left = this.and();
    while (this.stream.isName('or')) {
      const { line } = this.stream.next();
      left = { kind: 'binary', operator: 'or', left, right: this.and(), line };
    }
    return left;
  }

  private and(): Expression {
    let left = this.not();
    while (this.stream.isName('and')) {
      const { line } = this.stream.next();
      left = { kind: 'binary', operator: 'and', left, right: this.not(), line };
    }
    return left;
  }

  private not(): Expression {
    if (!this.stream.isName('not')) return this.compare();
    const { line } = this.stream.next();
    return { kind: 'unary', operator: 'not', value: this.stream.nested(() => this.not()), line };
  }

  private compare(): Expression {
    const { stream } = this;
    const { line } = stream.current;
    const first = this.sum();
    const rest: [string, Expression][] = [];
    while (true) {
      const { kind, text } = stream.current;
      if (kind === 'operator' && COMPARISONS.includes(text)) {
        stream.next();
        rest.push([text, this.sum()]);
      } else if (stream.skipName('in')) rest.push(['in', this.sum()]);
      else if (stream.isName('not') && stream.following.kind === 'name' && stream.following.text === 'in') {
        stream.next();
        stream.next();
        rest.push(['not in', this.sum()]);
      } else break;
    }
    return rest.length === 0 ? first : { kind: 'compare', first, rest, line };
  }

  private sum(): Expression {
    return this.leftAssociative(['+', '-'], () => this.concat());
  }

  private concat(): Expression {
    const { line } = this.stream.current;
    const items = [this.product()];
    while (this.stream.skipOperator('~')) items.push(this.product());
    return items.length === 1 ? items[0] : { kind: 'concat', items, line };
  }

  private product(): Expression {
    return this.leftAssociative(['*', '/', '//', '%'], () => this.power());
  }

  private power(): Expression {
    return this.leftAssociative(['**'], () => this.unary(true));
  }

  private leftAssociative(
    operators: readonly ('+' | '-' | '*' | '/' | '//' | '%' | '**')[],
    operand: () => Expression,
  ): Expression {
    let left = operand();
    while (true) {
      const operator = operators.find((each) => this.stream.isOperator(each));
      if (operator === undefined) return left;
      const { line } = this.stream.next();
      left = { kind: 'binary', operator, left, right: operand(), line };
    }
  }

  private unary(withFilters: boolean): Expression {
    const { stream } = this;
    const { line } = stream.current;
    let value: Expression;
    if (stream.isOperator('-') || stream.isOperator('+')) {
      const operator = stream.next().text as '-' | '+';
      value = { kind: 'unary', operator, value: stream.nested(() => this.unary(false)), line };
    } else value = this.primary();
    value = this.postfix(value);
    return withFilters ? this.filtersAndTests(value) : value;
  }

  private primary(): Expression {
    const { stream } = this;
    const { kind, text, line } = stream.current;
    if (kind === 'name') {
      stream.next();
      if (text === 'true' || text === 'True') return { kind: 'constant', value: true, line };
      if (text === 'false' || text === 'False') return { kind: 'constant', value: false, line };
      if (text === 'none' || text === 'None') return { kind: 'constant', value: null, line };
      return { kind: 'name', name: text, line };
    }
    if (kind === 'string') {
      let value = '';
      while (stream.current.kind === 'string') value += stream.next().text;
      return { kind: 'constant', value, line };
    }
    if (kind === 'number') {
      stream.next();
      const digits = text.replaceAll('_', '');
      const isFloat = /^[\d.]+$/.test(digits) ? digits.includes('.') : /^\d[\d.]*e/i.test(digits);
      return { kind: 'constant', value: isFloat ? new Float(Number(digits)) : int(Number(digits)), line };
    }
    if (stream.skipOperator('(')) {
      const value = this.parseTuple(true, true);
      stream.expectOperator(')');
      return value;
    }
    if (stream.skipOperator('[')) return { kind: 'list', items: this.items(']'), line };
    if (stream.skipOperator('{')) return { kind: 'dict', entries: this.entries(), line };
    throw stream.error(`unexpected '${stream.describe()}'`);
  }

  private items(close: string): Expression[] {
    const items: Expression[] = [];
    while (!this.stream.skipOperator(close)) {
      if (items.length > 0) this.stream.expectOperator(',');
      if (this.stream.skipOperator(close)) break;
      items.push(this.parse());
    }
    return items;
  }

  private entries(): [Expression, Expression][] {
    const entries: [Expression, Expression][] = [];
    while (!this.stream.skipOperator('}')) {
      if (entries.length > 0) this.stream.expectOperator(',');
      if (this.stream.skipOperator('}')) break;
      const key = this.parse();
      this.stream.expectOperator(':');
      entries.push([key, this.parse()]);
    }
    return entries;
  }

  /** `.name`, `[key]` and `(arguments)`. */
  private postfix(start: Expression): Expression {
    const { stream } = this;
    let value = start;
    while (true) {
      const { line } = stream.current;
      if (stream.skipOperator('.')) {
        const { kind, text } = stream.next();
        if (kind === 'name') value = { kind: 'attribute', object: value, name: text, line };
        else if (kind === 'number' && /^\d+$/.test(text)) {
          value = { kind: 'item', object: value, key: { kind: 'constant', value: Number(text), line }, line };
        } else throw stream.error('expected name or number');
      } else if (stream.skipOperator('['))
        value = { kind: 'item', object: value, key: this.subscript(), line };
      else if (stream.isOperator('('))
        value = { kind: 'call', callee: value, args: this.callArguments(), line };
      else return value;
    }
  }

  private subscript(): Expression {
    const { line } = this.stream.current;
    const keys: Expression[] = [];
    while (!this.stream.skipOperator(']')) {
      if (keys.length > 0) this.stream.expectOperator(',');
      keys.push(this.keyOrSlice());
    }
    return keys.length === 1 ? keys[0] : { kind: 'tuple', items: keys, line };
  }

  private keyOrSlice(): Expression {
    const { stream } = this;
    const { line } = stream.current;
    const part = () =>
      stream.isOperator(':') || stream.isOperator(']') || stream.isOperator(',') ? undefined : this.parse();
    const start = part();
    if (!stream.skipOperator(':')) {
      if (start === undefined) throw stream.error('expected subscript expression');
      return start;
    }
    const stop = part();
    const step = stream.skipOperator(':') ? part() : undefined;
    return { kind: 'slice', start, stop, step, line };
  }

  private filtersAndTests(start: Expression): Expression {
    const { stream } = this;
    let value = start;
    while (true) {
      const { line } = stream.current;
      if (stream.skipOperator('|')) value = { kind: 'filter', value, filter: this.filterCall(), line };
      else if (stream.isName('is')) value = this.test(value);
      else if (stream.isOperator('('))
        value = { kind: 'call', callee: value, args: this.callArguments(), line };
      else return value;
    }
  }

  private filterCall(): FilterCall {
    const name = this.dottedName();
    return { name, args: this.stream.isOperator('(') ? this.callArguments() : NO_ARGUMENTS };
  }

  private dottedName(): string {
    let name = this.stream.expectName();
    while (this.stream.skipOperator('.')) name += `.${this.stream.expectName()}`;
    return name;
  }

  private test(value: Expression): Expression {
    const { stream } = this;
    const { line } = stream.next();
    const negated = stream.skipName('not');
    const name = this.dottedName();
    let args = NO_ARGUMENTS;
    const { kind } = stream.current;
    if (stream.isOperator('(')) args = this.callArguments();
    else if (
      (['name', 'string', 'number'].includes(kind) || stream.isOperator('[') || stream.isOperator('{')) &&
      !stream.isName('else', 'or', 'and')
    ) {
      if (stream.isName('is')) throw stream.error('You cannot chain multiple tests with is');
      args = { positional: [stream.nested(() => this.postfix(this.primary()))], named: [] };
    }
    const test: Expression = { kind: 'test', value, name, args, line };
    return negated ? { kind: 'unary', operator: 'not', value: test, line } : test;
  }

  /** `(a, b, *c, d=e, **f)` */
  callArguments(): CallArguments {
    const { stream } = this;
    stream.expectOperator('(');
    const positional: Expression[] = [];
    const named: [string, Expression][] = [];
    let spread: Expression | undefined;
    let spreadNamed: Expression | undefined;
    let isFirst = true;
    while (!stream.isOperator(')')) {
      if (!isFirst) {
        stream.expectOperator(',');
        if (stream.isOperator(')')) break;
      }
      isFirst = false;
      if (stream.skipOperator('**')) {
        if (spreadNamed) throw stream.error('invalid syntax for function call expression');
        spreadNamed = this.parse();
      } else if (stream.skipOperator('*')) {
        if (spread || spreadNamed) throw stream.error('invalid syntax for function call expression');
        spread = this.parse();
      } else if (
        stream.current.kind === 'name' &&
        stream.following.text === '=' &&
        stream.following.kind === 'operator'
      ) {
        if (spreadNamed) throw stream.error('invalid syntax for function call expression');
        const name = stream.next().text;
        stream.next();
        named.push([name, this.parse()]);
      } else {
        if (spread || spreadNamed || named.length > 0) {
          throw stream.error('invalid syntax for function call expression');
        }
        positional.push(this.parse());
      }
    }
    stream.next();
    return { positional, named, spread, spreadNamed };
  }
}
