/**
 * Tokens and syntax tree of a template.
 *
 * @module
 */

import type { Value } from './values.js';

/** A piece of a template. Text between tags is one token of kind `data`. */
export interface Token {
  readonly kind: 'data' | 'begin' | 'end' | 'name' | 'string' | 'number' | 'operator' | 'eof';
  /** The tag of `begin` and `end`: `{{`, `{%`, `}}`, `%}`; the source of numbers. */
  readonly text: string;
  readonly line: number;
}

/** Arguments as written in a call. */
export interface CallArguments {
  readonly positional: readonly Expression[];
  readonly named: readonly (readonly [string, Expression])[];
  /** `*args` */
  readonly spread?: Expression;
  /** `**kwargs` */
  readonly spreadNamed?: Expression;
}

/** A filter without the value that it is applied to. */
export interface FilterCall {
  readonly name: string;
  readonly args: CallArguments;
}

/** The target of an assignment: a name, a part of a namespace, or several of these. */
export type Target =
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'member'; readonly object: string; readonly name: string }
  | { readonly kind: 'tuple'; readonly items: readonly Target[] };

/** An expression. */
export type Expression = { readonly line: number } & (
  | { readonly kind: 'constant'; readonly value: Value }
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'list' | 'tuple'; readonly items: readonly Expression[] }
  | { readonly kind: 'dict'; readonly entries: readonly (readonly [Expression, Expression])[] }
  | { readonly kind: 'attribute'; readonly object: Expression; readonly name: string }
  | { readonly kind: 'item'; readonly object: Expression; readonly key: Expression }
  | {
      readonly kind: 'slice';
      readonly start: Expression | undefined;
      readonly stop: Expression | undefined;
      readonly step: Expression | undefined;
    }
  | { readonly kind: 'call'; readonly callee: Expression; readonly args: CallArguments }
  | { readonly kind: 'filter'; readonly value: Expression; readonly filter: FilterCall }
  | { readonly kind: 'test'; readonly value: Expression; readonly name: string; readonly args: CallArguments }
  | { readonly kind: 'unary'; readonly operator: '-' | '+' | 'not'; readonly value: Expression }
  | {
      readonly kind: 'binary';
      readonly operator: '+' | '-' | '*' | '/' | '//' | '%' | '**' | 'and' | 'or';
      readonly left: Expression;
      readonly right: Expression;
    }
  | { readonly kind: 'concat'; readonly items: readonly Expression[] }
  | {
      readonly kind: 'compare';
      readonly first: Expression;
      readonly rest: readonly (readonly [string, Expression])[];
    }
  | {
      readonly kind: 'condition';
      readonly test: Expression;
      readonly yes: Expression;
      readonly no: Expression | undefined;
    }
);

/** Parameters of a macro or call block. */
export interface Parameter {
  readonly name: string;
  readonly fallback: Expression | undefined;
}

/** A macro, or the block of a `call`. */
export interface MacroDefinition {
  readonly name: string;
  readonly parameters: readonly Parameter[];
  readonly body: readonly Statement[];
  /** Names among `caller`, `varargs` and `kwargs` that the body uses; others are not accepted. */
  readonly uses: ReadonlySet<string>;
}

/** A statement. */
export type Statement = { readonly line: number } & (
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'output'; readonly value: Expression }
  | {
      readonly kind: 'for';
      readonly target: Target;
      readonly iterable: Expression;
      readonly filter: Expression | undefined;
      readonly recursive: boolean;
      readonly body: readonly Statement[];
      readonly otherwise: readonly Statement[];
    }
  | {
      readonly kind: 'if';
      readonly branches: readonly (readonly [Expression, readonly Statement[]])[];
      readonly otherwise: readonly Statement[];
    }
  | { readonly kind: 'set'; readonly target: Target; readonly value: Expression }
  | {
      readonly kind: 'setBlock';
      readonly target: Target;
      readonly filters: readonly FilterCall[];
      readonly body: readonly Statement[];
    }
  | { readonly kind: 'macro'; readonly macro: MacroDefinition }
  | { readonly kind: 'callBlock'; readonly call: Expression; readonly caller: MacroDefinition }
  | {
      readonly kind: 'filterBlock';
      readonly filters: readonly FilterCall[];
      readonly body: readonly Statement[];
    }
  | {
      readonly kind: 'with';
      readonly targets: readonly (readonly [Target, Expression])[];
      readonly body: readonly Statement[];
    }
  /** `block` and `generation`: their content, in a scope of its own. */
  | { readonly kind: 'scope'; readonly body: readonly Statement[] }
  | { readonly kind: 'break' | 'continue' }
);
