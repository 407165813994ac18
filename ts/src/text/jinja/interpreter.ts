/**
 * Runs a template.
 *
 * @module
 */

import { Budget, type BudgetLimits } from './budget.js';
import type { Context } from './context.js';
import { TemplateError, typeError } from './errors.js';
import { Evaluator, Scope } from './evaluator.js';
import { applyFilter } from './filters.js';
import { createGlobals } from './globals.js';
import { LoopState, unpack } from './loop.js';
import { parseTemplate } from './parser.js';
import { joined, MAX_NESTING, str } from './spelling.js';
import type { FilterCall, MacroDefinition, Statement, Target } from './syntax.js';
import { applyTest } from './tests.js';
import {
  type Arguments,
  Callable,
  Dict,
  Float,
  Instance,
  int,
  orUndefined,
  Tuple,
  toList,
  truth,
  Undefined,
  type Value,
} from './values.js';

/** Options of a rendering, besides its variables. */
export interface RenderOptions {
  /** What `strftime_now` calls now. */
  readonly now: Date;
  readonly limits?: BudgetLimits;
}

/**
 * Renders a template as jinja2 does with the settings of transformers.
 *
 * @param variables JSON-like values by name; `undefined` counts as not given
 * @throws {TemplateError} with the line
 */
export function renderTemplate(
  template: string,
  variables: Readonly<Record<string, unknown>>,
  options: RenderOptions,
): string {
  let evaluator: Evaluator | undefined;
  try {
    const body = parseTemplate(template);
    const interpreter = new Interpreter(options);
    evaluator = interpreter.evaluator;
    return interpreter.run(body, variables);
  } catch (error) {
    // A stack or a string that would be too large; both are caught before they do harm.
    const reason =
      error instanceof RangeError ? `the template needs too much memory (${error.message})` : undefined;
    const known = reason === undefined ? error : new TemplateError('BudgetError', reason);
    if (known instanceof TemplateError) known.line ??= evaluator?.line;
    throw known;
  }
}

/** A value of JavaScript as one of Python. */
function fromJson(value: unknown, budget: Budget, depth = 0): Value {
  budget.step();
  if (depth > MAX_NESTING) throw new TemplateError('BudgetError', `values nested over ${MAX_NESTING} deep`);
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return value;
  if (typeof value === 'number') return Number.isSafeInteger(value) ? int(value) : new Float(value);
  if (typeof value === 'bigint') return int(Number(value));
  if (Array.isArray(value)) return value.map((each) => fromJson(each ?? null, budget, depth + 1));
  if (typeof value === 'object') {
    const dict = new Dict();
    for (const [key, each] of Object.entries(value)) {
      if (each !== undefined) dict.set(key, fromJson(each, budget, depth + 1));
    }
    return dict;
  }
  throw typeError(`a ${typeof value} cannot be given to a template`);
}

/** How a list of statements ended. */
type Outcome = 'break' | 'continue' | undefined;

class Interpreter {
  readonly evaluator: Evaluator;
  readonly #budget: Budget;
  #output: string[] = [];

  constructor({ now, limits }: RenderOptions) {
    this.#budget = new Budget(limits);
    const context: Context = {
      budget: this.#budget,
      now,
      filter: (name, value, args) => applyFilter(name, value, args, context),
      test: (name, value, args) => applyTest(name, value, args, context),
    };
    this.evaluator = new Evaluator(context);
  }

  run(body: readonly Statement[], variables: Readonly<Record<string, unknown>>): string {
    const scope = new Scope(new Scope(undefined, createGlobals(this.evaluator.context)));
    for (const [name, value] of Object.entries(variables)) {
      if (value !== undefined) scope.set(name, fromJson(value, this.#budget));
    }
    return this.#capture(() => this.#all(body, scope));
  }

  /** The output that is written meanwhile. */
  #capture(run: () => void): string {
    const outside = this.#output;
    this.#output = [];
    try {
      run();
      return joined(this.#output, '', this.#budget);
    } finally {
      this.#output = outside;
    }
  }

  #all(body: readonly Statement[], scope: Scope): Outcome {
    for (const statement of body) {
      const outcome = this.#execute(statement, scope);
      if (outcome) return outcome;
    }
    return undefined;
  }

  #execute(statement: Statement, scope: Scope): Outcome {
    const { evaluator } = this;
    this.#budget.step();
    evaluator.line = statement.line;
    switch (statement.kind) {
      case 'text':
        this.#output.push(statement.text);
        return undefined;
      case 'output':
        this.#output.push(str(evaluator.evaluate(statement.value, scope), this.#budget));
        return undefined;
      case 'for':
        return this.#for(statement, evaluator.evaluate(statement.iterable, scope), scope, 0);
      case 'if':
        return this.#if(statement, scope);
      case 'set':
        this.#assign(statement.target, evaluator.evaluate(statement.value, scope), scope);
        return undefined;
      case 'setBlock':
        return this.#block(statement, scope, (value) => this.#assign(statement.target, value, scope));
      case 'macro':
        scope.set(statement.macro.name, this.#macro(statement.macro, scope));
        return undefined;
      case 'callBlock':
        this.#callBlock(statement, scope);
        return undefined;
      case 'filterBlock':
        return this.#block(statement, scope, (value) => {
          if (typeof value !== 'string') throw typeError('expected str instance from the filters of a block');
          this.#output.push(value);
        });
      case 'with': {
        const inner = new Scope(scope);
        for (const [target, value] of statement.targets)
          this.#assign(target, evaluator.evaluate(value, scope), inner);
        return this.#all(statement.body, inner);
      }
      case 'scope':
        return this.#all(statement.body, new Scope(scope));
      case 'break':
      case 'continue':
        return statement.kind;
    }
  }

  #if({ branches, otherwise }: Statement & { kind: 'if' }, scope: Scope): Outcome {
    for (const [test, body] of branches) {
      if (truth(this.evaluator.evaluate(test, scope))) return this.#all(body, scope);
    }
    return this.#all(otherwise, scope);
  }

  #for(statement: Statement & { kind: 'for' }, iterable: Value, scope: Scope, depth: number): Outcome {
    const { target, filter, body, otherwise, recursive } = statement;
    let items = toList(iterable, this.#budget);
    if (filter) {
      items = items.filter((item) => {
        const inner = new Scope(scope);
        this.#assign(target, item, inner);
        return truth(this.evaluator.evaluate(filter, inner));
      });
    }
    const recurse = (inner: Value) =>
      this.#budget.call(() => this.#capture(() => this.#for(statement, inner, scope, depth + 1)));
    const state = new LoopState(items, depth, recursive ? recurse : undefined, this.#budget);
    const loop = state.toValue();
    // As jinja2 does it, `else` also follows if no iteration got to its end because of break or continue.
    let wasCompleted = false;
    for (const [index, item] of items.entries()) {
      state.index = index;
      const inner = new Scope(scope, [['loop', loop]]);
      this.#assign(target, item, inner);
      const outcome = this.#all(body, inner);
      if (outcome === 'break') break;
      wasCompleted ||= outcome === undefined;
    }
    return wasCompleted ? undefined : this.#all(otherwise, new Scope(scope));
  }

  /** Filters what a body writes. If the body leaves the loop around it, its text is lost, as in jinja2. */
  #block(
    { body, filters }: { readonly body: readonly Statement[]; readonly filters: readonly FilterCall[] },
    scope: Scope,
    use: (value: Value) => void,
  ): Outcome {
    let outcome: Outcome;
    const text = this.#capture(() => {
      outcome = this.#all(body, new Scope(scope));
    });
    if (outcome) return outcome;
    use(filters.reduce((value: Value, filter) => this.evaluator.filter(filter, value, scope), text));
    return undefined;
  }

  #assign(target: Target, value: Value, scope: Scope): void {
    if (target.kind === 'name') scope.set(target.name, value);
    else if (target.kind === 'tuple') {
      const parts = unpack(toList(value, this.#budget), target.items.length);
      for (const [i, each] of target.items.entries()) this.#assign(each, parts[i], scope);
    } else {
      const object = scope.get(target.object);
      if (!(object instanceof Instance) || !object.more.set) {
        throw new TemplateError('TemplateRuntimeError', 'cannot assign attribute on non-namespace object');
      }
      object.more.set(target.name, value);
    }
  }

  #macro(macro: MacroDefinition, scope: Scope): Callable {
    const names = macro.parameters.map(({ name }) => name);
    const attributes = new Map<string, Value>([
      ['name', macro.name],
      ['arguments', new Tuple(names)],
      ['catch_kwargs', macro.uses.has('kwargs')],
      ['catch_varargs', macro.uses.has('varargs')],
      ['caller', macro.uses.has('caller')],
    ]);
    const call = (args: Arguments) =>
      this.#budget.call(() => {
        const inner = this.#bindMacro(macro, names, args, scope);
        return this.#capture(() => this.#all(macro.body, inner));
      });
    return new Callable(macro.name, call, attributes, 'Macro');
  }

  /** The variables that a macro starts with. */
  #bindMacro(macro: MacroDefinition, names: readonly string[], args: Arguments, outer: Scope): Scope {
    const scope = new Scope(outer);
    const named = new Map(args.named);
    const quoted = `macro '${macro.name}'`;
    for (const [i, { name, fallback }] of macro.parameters.entries()) {
      let value = args.positional[i];
      if (value === undefined && named.has(name)) {
        value = named.get(name)!;
        named.delete(name);
      }
      if (value === undefined) {
        value = fallback
          ? this.evaluator.evaluate(fallback, scope)
          : new Undefined(`parameter '${name}' was not provided`);
      }
      scope.set(name, value);
    }
    if (macro.uses.has('caller') && !names.includes('caller')) {
      scope.set(
        'caller',
        orUndefined(named.get('caller'), () => 'No caller defined'),
      );
      named.delete('caller');
    }
    if (macro.uses.has('kwargs')) scope.set('kwargs', new Dict(named));
    else if (named.size > 0) {
      throw typeError(`${quoted} takes no keyword argument '${named.keys().next().value}'`);
    }
    if (macro.uses.has('varargs')) scope.set('varargs', new Tuple(args.positional.slice(names.length)));
    else if (args.positional.length > names.length) {
      throw typeError(`${quoted} takes not more than ${names.length} argument(s)`);
    }
    return scope;
  }

  #callBlock({ call, caller, line }: Statement & { kind: 'callBlock' }, scope: Scope): void {
    if (call.kind !== 'call') return;
    const callee = this.evaluator.evaluate(call.callee, scope);
    const { positional, named } = this.evaluator.arguments(call.args, scope);
    const withCaller = new Map(named).set('caller', this.#macro(caller, scope));
    const result = this.evaluator.call(callee, { positional, named: withCaller }, line);
    this.#output.push(str(result, this.#budget));
  }
}
