/**
 * Text and values of others, made fit to be shown: in a message, a terminal, a page.
 *
 * Names of tensors, models and files, keys of metadata and errors of templates come from files that anybody may
 * have written. A terminal obeys control characters in them (it can be made to clear the screen, set its title or
 * overwrite a line), and both terminals and pages obey marks that reverse the direction of text.
 *
 * @module
 */

/** C0 and C1 controls, marks of direction, line separators, half a surrogate pair; line feed stays. */
const UNSAFE_IN_TEXT =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]|\p{Cs}/gu;

/** The same with line feed. */
const UNSAFE_IN_NAME =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]|\p{Cs}/gu;

/** What a terminal obeys. Marks of direction stay: text in some languages needs them. A line may end with CR LF. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const UNSAFE_IN_TERMINAL = /\r(?!\n)|[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/g;

/** Longest value that a message quotes, in characters. */
const MAX_QUOTED = 120;

/** How deep and how far into a list or an object a message looks. */
const MAX_DEPTH = 3;
const MAX_ITEMS = 8;

/**
 * A name on one line: each character that would steer a terminal becomes its code, for instance `\u{1b}`.
 *
 * @param name of a tensor, model, file
 */
export function printableName(name: string): string {
  return name.replace(UNSAFE_IN_NAME, codeOf);
}

/** The same for text of several lines: line feeds stay. */
export function printableText(text: string): string {
  return text.replace(UNSAFE_IN_TEXT, codeOf);
}

/**
 * Text of a model, or of anybody, for a terminal: characters that would steer it become their codes. Pieces of a stream
 * can be given one by one, since no sequence that steers can begin.
 */
export function terminalText(text: string): string {
  return text.replace(UNSAFE_IN_TERMINAL, codeOf);
}

/**
 * Any value as a few words for a message. Runs no code of the value (`toString`, `toJSON`), whatever it is, and
 * looks only at its beginning, however deep or long it is.
 */
export function describeValue(value: unknown): string {
  const text = describe(value, MAX_DEPTH);
  return text.length > 2 * MAX_QUOTED ? `${text.slice(0, 2 * MAX_QUOTED)}...` : text;
}

/** The message of whatever was thrown, on one line: a parser quotes the file in it. */
export function messageOf(cause: unknown): string {
  if (!(cause instanceof Error)) return describeValue(cause);
  // `fetch failed` says nothing; its cause names the host and the reason.
  const inner = cause.cause instanceof Error ? cause.cause.message : '';
  return printableName(inner ? `${cause.message}: ${inner}` : cause.message);
}

function describe(value: unknown, depth: number): string {
  if (typeof value === 'string') {
    const start = value.length > MAX_QUOTED ? `${value.slice(0, MAX_QUOTED)}...` : value;
    return `"${printableName(start)}"`;
  }
  if (typeof value === 'function') return 'a function';
  if (typeof value === 'symbol') return 'a symbol';
  if (typeof value !== 'object' || value === null) return String(value);
  if (ArrayBuffer.isView(value)) return `a ${nameOfView(value)} of ${value.byteLength} bytes`;
  if (Array.isArray(value)) {
    if (depth === 0) return `a list of ${value.length}`;
    const items = value.slice(0, MAX_ITEMS).map((item) => describe(item, depth - 1));
    return `[${items.join(', ')}${value.length > MAX_ITEMS ? ', ...' : ''}]`;
  }
  if (depth === 0) return 'an object';
  const keys = Object.keys(value);
  const entries = keys.slice(0, MAX_ITEMS).map((key) => {
    const { value: own } = Object.getOwnPropertyDescriptor(value, key) ?? {};
    return `${describe(key, 0)}: ${describe(own, depth - 1)}`;
  });
  return `{${entries.join(', ')}${keys.length > MAX_ITEMS ? ', ...' : ''}}`;
}

function nameOfView(value: ArrayBufferView): string {
  return Object.prototype.toString.call(value).slice(8, -1);
}

function codeOf(character: string): string {
  return `\\u{${character.codePointAt(0)?.toString(16)}}`;
}
