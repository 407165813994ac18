/**
 * Functions that every template can call: those of jinja2 and the two of transformers.
 *
 * @module
 */

import { bind } from './arguments.js';
import type { Context } from './context.js';
import { TemplateError, typeError } from './errors.js';
import { isInt } from './operators.js';
import { repr, str } from './spelling.js';
import { strftime } from './strftime.js';
import { type Arguments, Callable, Dict, Instance, Range, toList, typeName, type Value } from './values.js';

/** The sandbox of jinja2 refuses longer ranges. */
const MAX_RANGE = 100_000;

/** The functions, by name. */
export function createGlobals(context: Context): Map<string, Value> {
  const functions: Record<string, (args: Arguments) => Value> = {
    range,
    dict: (args) => toDict(args, context),
    namespace: (args) => namespace(toDict(args, context), context),
    cycler,
    joiner,
    lipsum: () => {
      throw new TemplateError('NotSupported', 'lipsum is not supported: it gives another text each time');
    },
    raise_exception: (args) => {
      throw new TemplateError(
        'TemplateError',
        str(bind('raise_exception', ['message'], args).get('message'), context.budget),
      );
    },
    strftime_now: (args) => strftime(bind('strftime_now', ['format'], args).string('format'), context.now),
  };
  return new Map(Object.entries(functions).map(([name, call]) => [name, new Callable(name, call)]));
}

function range({ positional, named }: Arguments): Range {
  if (named.size > 0) throw typeError('range() takes no keyword arguments');
  const numbers = positional.map((value) => {
    if (isInt(value)) return Number(value);
    throw typeError(`'${typeName(value)}' object cannot be interpreted as an integer`);
  });
  if (numbers.length === 0 || numbers.length > 3) {
    throw typeError(`range expected 1 to 3 arguments, got ${numbers.length}`);
  }
  const [start, stop, step = 1] = numbers.length === 1 ? [0, numbers[0]] : numbers;
  if (step === 0) throw new TemplateError('ValueError', 'range() arg 3 must not be zero');
  const made = new Range(start, stop, step);
  if (made.length > MAX_RANGE) {
    const reason = `Range too big. The sandbox blocks ranges larger than MAX_RANGE (${MAX_RANGE}).`;
    throw new TemplateError('OverflowError', reason);
  }
  return made;
}

function toDict({ positional, named }: Arguments, { budget }: Context): Dict {
  if (positional.length > 1) throw typeError(`dict expected at most 1 argument, got ${positional.length}`);
  const dict = new Dict();
  const [source] = positional;
  if (source instanceof Dict) for (const [key, value] of source.entries()) dict.set(key, value);
  else if (source !== undefined) {
    for (const pair of toList(source, budget)) {
      const parts = toList(pair, budget);
      if (parts.length !== 2) {
        throw new TemplateError(
          'ValueError',
          `dictionary update sequence element has length ${parts.length}; 2 is required`,
        );
      }
      dict.set(parts[0], parts[1]);
    }
  }
  for (const [key, value] of named) dict.set(key, value);
  return dict;
}

function namespace(attributes: Dict, { budget }: Context): Instance {
  return new Instance('Namespace', (name) => attributes.get(name), {
    set: (name, value) => attributes.set(name, value),
    text: () => `<Namespace ${repr(attributes, budget)}>`,
  });
}

function cycler({ positional }: Arguments): Instance {
  if (positional.length === 0)
    throw new TemplateError('TemplateRuntimeError', 'at least one item has to be provided');
  let at = 0;
  const methods: Record<string, () => Value> = {
    next: () => {
      const item = positional[at];
      at = (at + 1) % positional.length;
      return item;
    },
    reset: () => {
      at = 0;
      return null;
    },
  };
  return new Instance('Cycler', (name) => {
    if (name === 'current') return positional[at];
    return Object.hasOwn(methods, name) ? new Callable(name, methods[name]) : undefined;
  });
}

function joiner(args: Arguments): Callable {
  const separator = bind('joiner', ['sep'], args).get('sep', ', ');
  let used = false;
  return new Callable('joiner', () => {
    if (used) return separator;
    used = true;
    return '';
  });
}
