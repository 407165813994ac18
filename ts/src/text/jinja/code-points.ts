/**
 * Python's strings are sequences of code points, JavaScript's of UTF-16 code units.
 *
 * @module
 */

/** Whether a text has surrogates, so that code units and code points differ. */
const SURROGATE = /[\ud800-\udfff]/;

/** The code points of a text; the text itself, if they are its code units. */
export function codePoints(text: string): ArrayLike<string> {
  return SURROGATE.test(text) ? Array.from(text) : text;
}

/** A part of a text by code points, for `0 <= start <= stop`. */
export function sliceCodePoints(text: string, start: number, stop: number): string {
  return SURROGATE.test(text) ? Array.from(text).slice(start, stop).join('') : text.slice(start, stop);
}

/** The number of code points. */
export function countCodePoints(text: string): number {
  return codePoints(text).length;
}

/** Python's order of strings: by code points, so that U+FFFF comes before U+10000. */
export function compareCodePoints(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const left = a.charCodeAt(i);
    const right = b.charCodeAt(i);
    if (left !== right) return rank(left) - rank(right);
  }
  return a.length - b.length;
}

/** Moves surrogates, which stand for code points from U+10000 on, above all other code units. */
function rank(unit: number): number {
  return unit >= 0xd800 && unit <= 0xdfff ? unit + 0x10000 : unit;
}

/** White space of `str.isspace` and `str.strip`. JavaScript's `\s` differs in U+001C-1F, U+0085 and U+FEFF. */
export const SPACE = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';

/** One character of white space. */
export function isSpace(character: string): boolean {
  return ONE_SPACE.test(character);
}

const ONE_SPACE = new RegExp(`^[${SPACE}]$`);

/** `str.strip()` and its halves. */
export function stripSpace(text: string, left = true, right = true): string {
  let start = 0;
  let end = text.length;
  if (left) while (start < end && isSpace(text[start])) start++;
  if (right) while (end > start && isSpace(text[end - 1])) end--;
  return text.slice(start, end);
}
