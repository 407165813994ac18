/**
 * jinja2's filters on lists, dicts and generators.
 *
 * @module
 */

import { type Bound, bind } from './arguments.js';
import type { Budget } from './budget.js';
import type { Context } from './context.js';
import { TemplateError, typeError } from './errors.js';
import { itemOf } from './members.js';
import { arithmetic, isInt } from './operators.js';
import { joined, str } from './spelling.js';
import {
  type Arguments,
  compare,
  Dict,
  equal,
  iterate,
  Lazy,
  orUndefined,
  Range,
  Tuple,
  toList,
  truth,
  typeName,
  Undefined,
  type Value,
  View,
} from './values.js';

type ListFilter = (value: Value, args: Arguments, context: Context) => Value;

/** Reads a part of each element, `'a.b'` or an index; without one the element itself. */
function getter(attribute: Value, fallback: Value, budget: Budget): (value: Value) => Value {
  const parts: Value[] =
    attribute === null
      ? []
      : typeof attribute === 'string'
        ? attribute.split('.').map((part) => (/^\d+$/.test(part) ? Number(part) : part))
        : [attribute];
  return (value) =>
    parts.reduce((object: Value, part) => {
      const found = itemOf(object, part, budget);
      return found instanceof Undefined && fallback !== null ? fallback : found;
    }, value);
}

/** Texts compare without case unless asked otherwise. */
function folded(value: Value, caseSensitive: boolean): Value {
  return typeof value === 'string' && !caseSensitive ? value.toLowerCase() : value;
}

/** A stable sort that calls the comparison of Python. */
function sorted(
  values: readonly Value[],
  keyOf: (value: Value) => Value,
  reverse: boolean,
  budget: Budget,
): Value[] {
  const keyed = values.map((value) => ({ value, key: keyOf(value) }));
  const order = reverse ? -1 : 1;
  return keyed.sort((a, b) => order * compare(a.key, b.key, '<', budget)).map(({ value }) => value);
}

function sort(value: Value, args: Bound, { budget }: Context): Value {
  const caseSensitive = truth(args.get('case_sensitive', false));
  const attribute = args.get('attribute', null);
  const names = typeof attribute === 'string' ? attribute.split(',') : [attribute];
  const getters = names.map((name) => getter(name, null, budget));
  const keyOf = (each: Value) => new Tuple(getters.map((get) => folded(get(each), caseSensitive)));
  return sorted(toList(value, budget), keyOf, truth(args.get('reverse', false)), budget);
}

function dictSort(value: Value, args: Bound, { budget }: Context): Value {
  if (value instanceof Undefined) value.fail();
  if (!(value instanceof Dict)) throw typeError(`'${typeName(value)}' object has no attribute 'items'`);
  const by = args.get('by', 'key');
  if (by !== 'key' && by !== 'value') {
    throw new TemplateError('TemplateRuntimeError', 'You can only sort by either "key" or "value"');
  }
  const caseSensitive = truth(args.get('case_sensitive', false));
  const items = toList(new View('dict_items', value), budget);
  const keyOf = (item: Value) => folded((item as Tuple).items[by === 'key' ? 0 : 1], caseSensitive);
  return sorted(items, keyOf, truth(args.get('reverse', false)), budget);
}

function groupBy(value: Value, args: Bound, { budget }: Context): Value {
  const caseSensitive = truth(args.get('case_sensitive', false));
  const get = getter(args.get('attribute'), args.get('default', null), budget);
  const keyOf = (each: Value) => folded(get(each), caseSensitive);
  const groups: Tuple[] = [];
  let last: Value | undefined;
  for (const each of sorted(toList(value, budget), keyOf, false, budget)) {
    const key = keyOf(each);
    if (last === undefined || !equal(last, key, budget)) {
      groups.push(new Tuple([get(each), []], ['grouper', 'list']));
      last = key;
    }
    (groups.at(-1)!.items[1] as Value[]).push(each);
  }
  return groups;
}

function extreme(order: 1 | -1): (value: Value, args: Bound, context: Context) => Value {
  return (value, args, { budget }) => {
    const caseSensitive = truth(args.get('case_sensitive', false));
    const get = getter(args.get('attribute', null), null, budget);
    let best: { value: Value; key: Value } | undefined;
    for (const each of iterate(value, budget)) {
      const key = folded(get(each), caseSensitive);
      const sign = order < 0 ? '<' : '>';
      if (!best || order * compare(key, best.key, sign, budget) > 0) best = { value: each, key };
    }
    return best ? best.value : new Undefined('No aggregated item, sequence was empty.');
  };
}

function* unique(value: Value, args: Bound, { budget }: Context): IterableIterator<Value> {
  const caseSensitive = truth(args.get('case_sensitive', false));
  const get = getter(args.get('attribute', null), null, budget);
  const seen = new Dict();
  for (const each of iterate(value, budget)) {
    const key = folded(get(each), caseSensitive);
    if (seen.has(key)) continue;
    seen.set(key, true);
    yield each;
  }
}

function sum(value: Value, args: Bound, { budget }: Context): Value {
  const attribute = args.get('attribute', null);
  const get = getter(attribute, null, budget);
  let total = args.get('start', 0);
  if (typeof total === 'string') throw typeError("sum() can't sum strings [use ''.join(seq) instead]");
  for (const each of iterate(value, budget)) total = arithmetic('+', total, get(each), budget);
  return total;
}

function join(value: Value, args: Bound, { budget }: Context): string {
  const get = getter(args.get('attribute', null), null, budget);
  const separator = str(args.get('d', ''), budget);
  const parts = toList(value, budget).map((each) => str(get(each), budget));
  return joined(parts, separator, budget);
}

function first(value: Value, _: Bound, { budget }: Context): Value {
  const { done, value: found } = iterate(value, budget).next();
  return done ? new Undefined('No first item, sequence was empty.') : found;
}

function last(value: Value, _: Bound, { budget }: Context): Value {
  if (value instanceof Lazy || value === null || isInt(value)) {
    throw typeError(`'${typeName(value)}' object is not reversible`);
  }
  if (value instanceof Range)
    return value.length > 0 ? value.at(value.length - 1) : first([], _, { budget } as Context);
  return orUndefined(toList(value, budget).at(-1), () => 'No last item, sequence was empty.');
}

function reverse(value: Value, _: Bound, { budget }: Context): Value {
  const reversed = toList(value, budget).reverse();
  return typeof value === 'string' ? reversed.join('') : new Lazy(reversed.values(), 'list_reverseiterator');
}

function* items(value: Value, _: Bound, { budget }: Context): IterableIterator<Value> {
  if (value instanceof Undefined) return;
  if (!(value instanceof Dict)) throw typeError('Can only get item pairs from a mapping.');
  yield* iterate(new View('dict_items', value), budget);
}

function* batch(value: Value, args: Bound, { budget }: Context): IterableIterator<Value> {
  const size = args.int('linecount');
  const fill = args.get('fill_with', null);
  let row: Value[] = [];
  for (const each of iterate(value, budget)) {
    if (row.length === size) {
      yield row;
      row = [];
    }
    row.push(each);
  }
  if (row.length === 0) return;
  if (fill !== null && row.length < size) {
    budget.step(size - row.length);
    while (row.length < size) row.push(fill);
  }
  yield row;
}

function* slice(value: Value, args: Bound, { budget }: Context): IterableIterator<Value> {
  const all = toList(value, budget);
  const count = args.int('slices');
  const fill = args.get('fill_with', null);
  if (count === 0) throw new TemplateError('ZeroDivisionError', 'integer division or modulo by zero');
  const short = Math.floor(all.length / count);
  const longer = all.length % count;
  for (let i = 0, at = 0; i < count; i++) {
    budget.step();
    const size = short + Number(i < longer);
    const part = all.slice(at, at + size);
    at += size;
    if (fill !== null && i >= longer) part.push(fill);
    yield part;
  }
}

/** Arguments without the first `count` positional ones. */
function rest({ positional, named }: Arguments, count: number): Arguments {
  return { positional: positional.slice(count), named };
}

function* map(value: Value, args: Arguments, context: Context): IterableIterator<Value> {
  const { budget } = context;
  if (!truth(value)) return;
  const [name] = args.positional;
  let apply: (each: Value) => Value;
  if (name === undefined && args.named.has('attribute')) {
    const bound = bind('map', ['attribute', 'default'], args);
    apply = getter(bound.get('attribute'), bound.get('default', null), budget);
  } else {
    if (typeof name !== 'string') {
      throw new TemplateError('TemplateRuntimeError', 'map requires a filter argument');
    }
    const more = rest(args, 1);
    apply = (each) => context.filter(name, each, more);
  }
  for (const each of iterate(value, budget)) yield apply(each);
}

/** `select`, `reject`, and the same by attribute. */
function choose(wanted: boolean, byAttribute: boolean): ListFilter {
  return (value, args, context) => new Lazy(chosen(value, args, context, wanted, byAttribute));
}

function* chosen(
  value: Value,
  args: Arguments,
  context: Context,
  wanted: boolean,
  byAttribute: boolean,
): IterableIterator<Value> {
  const { budget } = context;
  if (!truth(value)) return;
  if (byAttribute && args.positional.length === 0) {
    throw new TemplateError('TemplateRuntimeError', 'Missing parameter for attribute name');
  }
  const get = byAttribute ? getter(args.positional[0], null, budget) : (each: Value) => each;
  const more = rest(args, byAttribute ? 1 : 0);
  const [name] = more.positional;
  const test: (each: Value) => boolean =
    name === undefined ? truth : (each) => context.test(str(name, budget), each, rest(more, 1));
  for (const each of iterate(value, budget)) if (test(get(each)) === wanted) yield each;
}

function bound(
  name: string,
  parameters: readonly string[],
  apply: (value: Value, args: Bound, context: Context) => Value,
): ListFilter {
  return (value, args, context) => apply(value, bind(name, parameters, args), context);
}

/** A filter that gives a generator. */
function lazy(
  name: string,
  parameters: readonly string[],
  apply: (value: Value, args: Bound, context: Context) => Iterator<Value>,
): ListFilter {
  return bound(name, parameters, (value, args, context) => new Lazy(apply(value, args, context)));
}

/** Filters by name. */
export const LIST_FILTERS: Readonly<Record<string, ListFilter>> = {
  batch: lazy('batch', ['linecount', 'fill_with'], batch),
  dictsort: bound('dictsort', ['case_sensitive', 'by', 'reverse'], dictSort),
  first: bound('first', [], first),
  groupby: bound('groupby', ['attribute', 'default', 'case_sensitive'], groupBy),
  items: lazy('items', [], items),
  join: bound('join', ['d', 'attribute'], join),
  last: bound('last', [], last),
  list: bound('list', [], (value, _, { budget }) => toList(value, budget)),
  map: (value, args, context) => new Lazy(map(value, args, context)),
  max: bound('max', ['case_sensitive', 'attribute'], extreme(1)),
  min: bound('min', ['case_sensitive', 'attribute'], extreme(-1)),
  reject: choose(false, false),
  rejectattr: choose(false, true),
  reverse: bound('reverse', [], reverse),
  select: choose(true, false),
  selectattr: choose(true, true),
  slice: lazy('slice', ['slices', 'fill_with'], slice),
  sort: bound('sort', ['reverse', 'case_sensitive', 'attribute'], sort),
  sum: bound('sum', ['attribute', 'start'], sum),
  unique: lazy('unique', ['case_sensitive', 'attribute'], unique),
};
