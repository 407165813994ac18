/**
 * Every error this package throws on purpose. A caller can tell them apart by class or by `code`.
 *
 * A wrong JavaScript type is a plain `TypeError`, a number outside its range a plain `RangeError`;
 * everything below needs to know what the package is about.
 *
 * @module
 */

import { describeValue, printableText } from './printable.js';

/** Longest message, in characters: names and values in it come from files. */
const MAX_MESSAGE = 4000;

/** Base class: `code` is stable across versions, the message is for people and has no control characters. */
export class XQuantError extends Error {
  /** Stable machine-readable kind, for instance `'SHAPE'`. */
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    const shown = message.length > MAX_MESSAGE ? `${message.slice(0, MAX_MESSAGE)}...` : message;
    super(printableText(shown), options);
    this.name = new.target.name;
    this.code = code;
    // Until it is asked for, a stack holds the objects whose functions are on it, an engine with its memory among
    // them; who keeps an error should keep no more than a text.
    void this.stack;
  }
}

/** Two sizes that must agree do not. */
export class ShapeError extends XQuantError {
  constructor(
    /** The function that found out. */
    readonly op: string,
    /** The argument or tensor at fault. */
    readonly argument: string,
    /** The size it should have, for instance `[128, 256]`. */
    readonly expected: readonly (number | string)[],
    /** The size it has. */
    readonly actual: readonly number[],
  ) {
    super('SHAPE', `${op}: "${argument}" must be [${expected.join(', ')}], got [${actual.join(', ')}]`);
  }
}

/** An option outside its set, or options that contradict each other. */
export class ConfigError extends XQuantError {
  constructor(
    /** The option as the user writes it. */
    readonly option: string,
    /** What was given. */
    readonly value: unknown,
    /** What would have been accepted, in words. */
    readonly allowed: string,
    /** The accepted name that was probably meant, if `value` looks mistyped. */
    readonly suggestion?: string,
    /** `message` takes the place of the usual one. */
    options?: ErrorOptions & { readonly message?: string },
  ) {
    const question = suggestion === undefined ? '' : `; did you mean "${suggestion}"?`;
    const usual = `"${option}" must be ${allowed}, got ${describeValue(value)}${question}`;
    super('CONFIG', options?.message ?? usual, options);
  }
}

/** A chat template cannot be rendered, or refuses the conversation. */
export class ChatTemplateError extends ConfigError {
  constructor(
    /** Whether the template is to be mended or the messages. */
    readonly fault: 'template' | 'messages',
    /** What is wrong, with the name that Python gives it: `'TypeError: ...'`. */
    readonly reason: string,
    /** Line of the template, from 1; absent if none is at fault. */
    readonly line: number | undefined,
    options?: ErrorOptions,
  ) {
    const isTemplate = fault === 'template';
    const place = line === undefined ? '' : `, line ${line}`;
    const verdict = isTemplate ? 'cannot be rendered' : 'does not accept the messages';
    super(
      isTemplate ? 'chatTemplate' : 'messages',
      reason,
      isTemplate ? 'a template that can be rendered' : 'a conversation that the chat template accepts',
      undefined,
      { ...options, message: `the chat template ${verdict}${place}: ${reason}` },
    );
  }
}

/** A file or a byte string is not what it claims to be. */
export class FormatError extends XQuantError {
  constructor(
    /** File, URL or other name of the source. */
    readonly path: string,
    /** The place: a byte offset, a metadata key or a tensor name. */
    readonly place: string,
    /** What is wrong there. */
    readonly reason: string,
    options?: ErrorOptions,
  ) {
    super('FORMAT', `${path}: ${place}: ${reason}`, options);
  }
}

/** The model is well formed, but of a kind this package does not run. */
export class UnsupportedModelError extends XQuantError {
  constructor(
    /** File, folder or URL. */
    readonly path: string,
    /** The architecture, tensor or type that is not supported. */
    readonly feature: string,
    /** What is supported instead. */
    readonly supported: string,
  ) {
    super('UNSUPPORTED_MODEL', `${path}: ${feature} is not supported (supported: ${supported})`);
  }
}

/** The right call at the wrong moment: a cut inside a sealed block, layers out of order, a full cache. */
export class CacheStateError extends XQuantError {
  constructor(
    /** The cache variant, for instance `'xquant-cl'`. */
    readonly cache: string,
    /** Tokens stored when it happened. */
    readonly length: number,
    /** What was asked for. */
    readonly requested: string,
    /** Why that cannot be. */
    readonly reason: string,
  ) {
    super('CACHE_STATE', `${cache} cache of ${length} tokens: cannot ${requested}: ${reason}`);
  }
}

/** A value that cannot be stored: NaN, an infinity, or a range that f16 cannot hold. */
export class NumericError extends XQuantError {
  constructor(
    /** What was being computed, for instance `'quantize'`. */
    readonly op: string,
    /** The value at fault. */
    readonly value: number,
    /** Its place: layer, token, channel, as far as known. */
    readonly place: { layer?: number; token?: number; channel?: number; group?: number; tensor?: string },
    /** What is wrong with it. */
    readonly reason: string,
  ) {
    const where = Object.entries(place)
      .filter(([, at]) => at !== undefined)
      .map(([name, at]) => `${name} ${at}`)
      .join(', ');
    super('NUMERIC', `${op}: ${reason}: ${value} at ${where || 'an unknown place'}`);
  }
}

/** A WebAssembly kernel is missing, was refused by the runtime, or trapped. */
export class KernelError extends XQuantError {
  constructor(
    /** The kernel or the build. */
    readonly kernel: string,
    reason: string,
    options?: ErrorOptions,
  ) {
    super('KERNEL', `${kernel}: ${reason}`, options);
  }
}

/** Memory for weights, cache or scratch cannot be allocated within the limit. */
export class MemoryError extends XQuantError {
  constructor(
    /** What it was for. */
    readonly purpose: string,
    /** Bytes asked for. */
    readonly requestedBytes: number,
    /** Bytes allowed in all. */
    readonly limitBytes: number,
    options?: ErrorOptions,
  ) {
    super(
      'MEMORY',
      `${purpose}: ${requestedBytes} bytes do not fit in the limit of ${limitBytes} bytes`,
      options,
    );
  }
}

/** A network request or a file read failed. */
export class LoadError extends XQuantError {
  /** HTTP status of the answer, if there was one and it is what was wrong. */
  readonly status: number | undefined;

  constructor(
    /** What was being read. */
    readonly path: string,
    reason: string,
    options?: ErrorOptions & { readonly status?: number },
  ) {
    super('LOAD', `${path}: ${reason}`, options);
    this.status = options?.status;
  }
}

/** An object was used after `dispose()`. */
export class DisposedError extends XQuantError {
  constructor(
    /** The object. */
    readonly object: string,
  ) {
    super('DISPOSED', `${object} was used after dispose()`);
  }
}

/**
 * Requires a positive safe integer.
 *
 * @throws {TypeError} if `value` is not a number
 * @throws {RangeError} if it is not a positive integer
 */
export function assertPositiveInteger(value: unknown, name: string): asserts value is number {
  if (typeof value !== 'number') throw new TypeError(`"${name}" must be a number, got ${typeof value}`);
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new RangeError(`"${name}" must be a positive integer, got ${value}`);
  }
}

/**
 * Requires an integer in `[0, limit]`.
 *
 * @throws {TypeError} if `value` is not a number
 * @throws {RangeError} if it is outside
 */
export function assertIndex(value: unknown, limit: number, name: string): asserts value is number {
  if (typeof value !== 'number') throw new TypeError(`"${name}" must be a number, got ${typeof value}`);
  if (!Number.isSafeInteger(value) || value < 0 || value > limit) {
    throw new RangeError(`"${name}" must be an integer from 0 to ${limit}, got ${value}`);
  }
}
