/**
 * Patterns of a tokenizer.json (`{ "String": ... }` or `{ "Regex": ... }`), and how a text is cut at their matches.
 *
 * @module
 */

import { FormatError } from '../../errors.js';
import { Pattern, type Span } from '../regex/pattern.js';
import { PatternError } from '../regex/syntax.js';
import { type Fields, shown } from './fields.js';

/** Finds matches from left to right. */
export type Matcher = (text: string) => Iterable<Span>;

/** The ways to treat matches when a text is cut. */
export const BEHAVIORS = [
  'Removed',
  'Isolated',
  'MergedWithPrevious',
  'MergedWithNext',
  'Contiguous',
] as const;
export type Behavior = (typeof BEHAVIORS)[number];

/**
 * Reads `pattern` of a part.
 *
 * @throws {FormatError} if it is neither a text nor a regular expression that is supported
 */
export function patternOf(part: Fields): Matcher {
  const { pattern } = part.json;
  const { String: text, Regex: source } = (pattern ?? {}) as { String?: unknown; Regex?: unknown };
  if (typeof text === 'string') return text === '' ? () => [] : occurrences(text);
  if (typeof source === 'string') return regularExpression(source, part.path, `${part.place}.pattern`);
  throw part.error('pattern', `must be {"String": text} or {"Regex": text}, got ${shown(pattern)}`);
}

/**
 * Compiles a regular expression.
 *
 * @returns finds matches; throws a FormatError for a text on which the expression takes too long
 * @throws {FormatError} if it is broken, or uses what is not supported
 */
export function regularExpression(source: string, path: string, place: string): Matcher {
  const guarded = <T>(action: () => T): T => {
    try {
      return action();
    } catch (cause) {
      if (!(cause instanceof PatternError)) throw cause;
      throw new FormatError(path, place, `the regular expression ${shown(source)} ${cause.message}`, {
        cause,
      });
    }
  };
  const pattern = guarded(() => new Pattern(source));
  return (text) => guarded(() => [...pattern.matches(text)]);
}

function occurrences(wanted: string): Matcher {
  return function* (text) {
    for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length)) {
      yield { start: at, end: at + wanted.length };
    }
  };
}

/** A span between or at matches. */
interface Section extends Span {
  readonly isMatch: boolean;
}

/** The whole text: matches, and what is between them. */
function sections(text: string, match: Matcher): Section[] {
  const found: Section[] = [];
  let end = 0;
  for (const span of match(text)) {
    if (span.start > end) found.push({ start: end, end: span.start, isMatch: false });
    found.push({ ...span, isMatch: true });
    end = span.end;
  }
  if (end < text.length) found.push({ start: end, end: text.length, isMatch: false });
  return found;
}

/**
 * Cuts a text.
 *
 * @param invert whether what is between the matches counts as match
 * @returns pieces that are not empty
 */
export function cut(text: string, match: Matcher, behavior: Behavior, invert = false): string[] {
  const all = sections(text, match).map((section) => ({ ...section, isMatch: section.isMatch !== invert }));
  const spans = behavior === 'MergedWithNext' ? mergeWithNext(all) : merge(all, behavior);
  return spans.filter(({ start, end }) => end > start).map(({ start, end }) => text.slice(start, end));
}

function merge(all: readonly Section[], behavior: Behavior): Span[] {
  if (behavior === 'Removed') return all.filter(({ isMatch }) => !isMatch);
  if (behavior === 'Isolated') return [...all];
  const merged: { start: number; end: number }[] = [];
  let wasMatch = false;
  for (const { start, end, isMatch } of all) {
    const joins = behavior === 'Contiguous' ? isMatch === wasMatch : isMatch && !wasMatch;
    const last = merged.at(-1);
    if (joins && last) last.end = end;
    else merged.push({ start, end });
    wasMatch = isMatch;
  }
  return merged;
}

function mergeWithNext(all: readonly Section[]): Span[] {
  const merged: { start: number; end: number }[] = [];
  let wasMatch = false;
  for (const { start, end, isMatch } of all.toReversed()) {
    const next = merged.at(-1);
    if (isMatch && !wasMatch && next) next.start = start;
    else merged.push({ start, end });
    wasMatch = isMatch;
  }
  return merged.reverse();
}
