/**
 * Values of expressions.
 *
 * @module
 */

import type { Context } from './context.js';
import { TemplateError, typeError } from './errors.js';
import { attributeOf, itemOf, Slice } from './members.js';
import { arithmetic, comparison, sign } from './operators.js';
import { joined, str } from './spelling.js';
import type { CallArguments, Expression, FilterCall } from './syntax.js';
import {
  type Arguments,
  Callable,
  Dict,
  Instance,
  orUndefined,
  Tuple,
  toList,
  truth,
  typeName,
  Undefined,
  type Value,
} from './values.js';

/** Variables of a block; what is not found here is looked for outside. */
export class Scope {
  readonly #variables: Map<string, Value>;
  readonly #outer: Scope | undefined;

  constructor(outer?: Scope, variables: Iterable<readonly [string, Value]> = []) {
    this.#outer = outer;
    this.#variables = new Map(variables);
  }

  get(name: string): Value | undefined {
    for (let scope: Scope | undefined = this; scope; scope = scope.#outer) {
      const value = scope.#variables.get(name);
      if (value !== undefined) return value;
    }
    return undefined;
  }

  set(name: string, value: Value): void {
    this.#variables.set(name, value);
  }
}

/** Evaluates expressions. */
export class Evaluator {
  /** Line of what is evaluated, for errors. */
  line = 1;

  constructor(readonly context: Context) {}

  /** @throws {TemplateError} as jinja2 does */
  evaluate(expression: Expression, scope: Scope): Value {
    this.context.budget.step();
    this.line = expression.line;
    switch (expression.kind) {
      case 'constant':
        return expression.value;
      case 'name':
        return orUndefined(scope.get(expression.name), () => `'${expression.name}' is undefined`);
      case 'list':
        return this.#all(expression.items, scope);
      case 'tuple':
        return new Tuple(this.#all(expression.items, scope));
      case 'dict':
        return this.#dict(expression.entries, scope);
      case 'attribute':
        return attributeOf(this.evaluate(expression.object, scope), expression.name, this.context.budget);
      case 'item':
        return this.#item(expression.object, expression.key, scope);
      case 'slice':
        throw new TemplateError('TemplateSyntaxError', 'a slice can be used as a key only');
      case 'call': {
        const callee = this.evaluate(expression.callee, scope);
        return this.call(callee, this.arguments(expression.args, scope), expression.line);
      }
      case 'filter':
        return this.filter(expression.filter, this.evaluate(expression.value, scope), scope);
      case 'test': {
        const value = this.evaluate(expression.value, scope);
        return this.context.test(expression.name, value, this.arguments(expression.args, scope));
      }
      case 'unary': {
        const value = this.evaluate(expression.value, scope);
        return expression.operator === 'not' ? !truth(value) : sign(expression.operator, value);
      }
      case 'binary':
        return this.#binary(expression, scope);
      case 'concat': {
        const { budget } = this.context;
        return joined(
          this.#all(expression.items, scope).map((value) => str(value, budget)),
          '',
          budget,
        );
      }
      case 'compare':
        return this.#compare(expression.first, expression.rest, scope);
      case 'condition':
        return this.#condition(expression, scope);
    }
  }

  filter({ name, args }: FilterCall, value: Value, scope: Scope): Value {
    return this.context.filter(name, value, this.arguments(args, scope));
  }

  arguments(args: CallArguments, scope: Scope): Arguments {
    const positional = this.#all(args.positional, scope);
    if (args.spread) positional.push(...toList(this.evaluate(args.spread, scope), this.context.budget));
    const named = new Map(args.named.map(([name, value]) => [name, this.evaluate(value, scope)]));
    if (args.spreadNamed) {
      const more = this.evaluate(args.spreadNamed, scope);
      if (!(more instanceof Dict))
        throw typeError(`argument after ** must be a mapping, not ${typeName(more)}`);
      for (const [key, value] of more.entries()) {
        if (typeof key !== 'string') throw typeError('keywords must be strings');
        if (named.has(key)) throw typeError(`got multiple values for keyword argument '${key}'`);
        named.set(key, value);
      }
    }
    return { positional, named };
  }

  call(callee: Value, args: Arguments, line: number): Value {
    this.line = line;
    if (callee instanceof Undefined) callee.fail();
    if (callee instanceof Callable) return callee.call(args);
    if (callee instanceof Instance && callee.more.call) return callee.more.call(args);
    throw typeError(`'${typeName(callee)}' object is not callable`);
  }

  #all(expressions: readonly Expression[], scope: Scope): Value[] {
    return expressions.map((each) => this.evaluate(each, scope));
  }

  #dict(entries: readonly (readonly [Expression, Expression])[], scope: Scope): Dict {
    const dict = new Dict();
    for (const [key, value] of entries) dict.set(this.evaluate(key, scope), this.evaluate(value, scope));
    return dict;
  }

  #item(object: Expression, key: Expression, scope: Scope): Value {
    const value = this.evaluate(object, scope);
    if (key.kind !== 'slice') return itemOf(value, this.evaluate(key, scope), this.context.budget);
    const part = (each: Expression | undefined) => (each ? this.evaluate(each, scope) : null);
    return itemOf(value, new Slice(part(key.start), part(key.stop), part(key.step)), this.context.budget);
  }

  #binary({ operator, left, right }: Expression & { kind: 'binary' }, scope: Scope): Value {
    const value = this.evaluate(left, scope);
    if (operator === 'and') return truth(value) ? this.evaluate(right, scope) : value;
    if (operator === 'or') return truth(value) ? value : this.evaluate(right, scope);
    return arithmetic(operator, value, this.evaluate(right, scope), this.context.budget);
  }

  /** `a < b < c` compares each with the next. */
  #compare(first: Expression, rest: readonly (readonly [string, Expression])[], scope: Scope): boolean {
    let left = this.evaluate(first, scope);
    for (const [operator, expression] of rest) {
      const right = this.evaluate(expression, scope);
      if (!comparison(operator, left, right, this.context.budget)) return false;
      left = right;
    }
    return true;
  }

  #condition({ test, yes, no }: Expression & { kind: 'condition' }, scope: Scope): Value {
    if (truth(this.evaluate(test, scope))) return this.evaluate(yes, scope);
    if (no) return this.evaluate(no, scope);
    return new Undefined('the inline if-expression evaluated to false and no else section was defined.');
  }
}
