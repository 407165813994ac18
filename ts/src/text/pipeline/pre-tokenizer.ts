/**
 * Pre-tokenizers of a tokenizer.json: how a text is cut into words, which are then tokenized one by one.
 *
 * @module
 */

import { toByteCharacters } from '../token-bytes.js';
import { Fields } from './fields.js';
import { BEHAVIORS, type Behavior, cut, type Matcher, patternOf, regularExpression } from './matching.js';
import { MAX_DEPTH } from './normalizer.js';

/** `\w+|[^\w\s]+` with the `\w` of Rust's regular expressions, which this step has in Hugging Face tokenizers. */
const RUST_WORD = String.raw`\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}`;
const WORDS = String.raw`[${RUST_WORD}]+|[^\s${RUST_WORD}]+`;

/** A piece of a text. */
export interface Piece {
  readonly text: string;
  /** Whether it is the beginning of the whole text; Metaspace may put its mark only there. */
  readonly isFirst: boolean;
}

/** Cuts pieces into smaller ones, and may change their text. */
export type PreTokenizer = (pieces: readonly Piece[]) => readonly Piece[];

const GPT2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const PUNCTUATION = String.raw`[!-/:-@\[-\x60{-~\p{P}]`;
const SUPPORTED =
  'Sequence, ByteLevel, Split, Metaspace, Digits, Punctuation, Whitespace, WhitespaceSplit, BertPreTokenizer, ' +
  'CharDelimiterSplit, FixedLength';

/**
 * Builds the pre-tokenizer of a tokenizer.json.
 *
 * @param value the entry; `null` leaves a text in one piece
 * @throws {FormatError} names the place that is wrong
 * @throws {UnsupportedModelError} names the type that is not supported
 */
export function buildPreTokenizer(value: unknown, path: string): PreTokenizer {
  if (value === null || value === undefined) return (pieces) => pieces;
  return build(Fields.of(value, path, 'pre_tokenizer'), 0);
}

function build(part: Fields, depth: number): PreTokenizer {
  const { type, path, place } = part;
  const expression = (source: string) => regularExpression(source, path, place);
  switch (type) {
    case 'Sequence': {
      if (depth >= MAX_DEPTH) throw part.error('pretokenizers', `sequences nest over ${MAX_DEPTH} deep`);
      const steps = part.list('pretokenizers').map((each) => build(each, depth + 1));
      return (pieces) => steps.reduce((cutSoFar, step) => step(cutSoFar), pieces);
    }
    case 'ByteLevel':
      return byteLevel(part);
    case 'Split':
      return cutting(patternOf(part), part.oneOf('behavior', BEHAVIORS), part.boolean('invert', false));
    case 'Metaspace':
      return metaspace(part);
    case 'Digits':
      return cutting(
        expression(String.raw`\p{N}`),
        part.boolean('individual_digits', false) ? 'Isolated' : 'Contiguous',
      );
    case 'Punctuation':
      return cutting(expression(PUNCTUATION), part.oneOf('behavior', BEHAVIORS, 'Isolated'));
    case 'Whitespace':
      return cutting(expression(WORDS), 'Removed', true);
    case 'WhitespaceSplit':
      return cutting(expression(String.raw`\s`), 'Removed');
    case 'BertPreTokenizer': {
      const spaces = cutting(expression(String.raw`\s`), 'Removed');
      const punctuation = cutting(expression(PUNCTUATION), 'Isolated');
      return (pieces) => punctuation(spaces(pieces));
    }
    case 'CharDelimiterSplit': {
      const delimiter = part.string('delimiter');
      return (pieces) => eachPiece(pieces, (text) => text.split(delimiter));
    }
    case 'FixedLength': {
      const length = part.count('length', 5) || 1;
      return (pieces) => eachPiece(pieces, (text) => inParts(text, length));
    }
  }
  throw part.unsupported(`pre-tokenizer "${type}"`, SUPPORTED);
}

function cutting(match: Matcher, behavior: Behavior, invert = false): PreTokenizer {
  return (pieces) => eachPiece(pieces, (text) => cut(text, match, behavior, invert));
}

/** Cuts each piece; empty parts are dropped. */
function eachPiece(pieces: readonly Piece[], parts: (text: string) => readonly string[]): Piece[] {
  const made: Piece[] = [];
  for (const { text, isFirst } of pieces) {
    // What is cut off in front takes the beginning of the text with it.
    const all = parts(text);
    const startsHere = isFirst && all.length > 0 && text.startsWith(all[0]);
    for (const [i, part] of all.entries()) {
      if (part !== '') made.push({ text: part, isFirst: startsHere && i === 0 });
    }
  }
  return made;
}

function inParts(text: string, length: number): string[] {
  const points = Array.from(text);
  const parts: string[] = [];
  for (let at = 0; at < points.length; at += length) parts.push(points.slice(at, at + length).join(''));
  return parts;
}

/** GPT-2's: words with the space before them, written as one character a byte. */
function byteLevel(part: Fields): PreTokenizer {
  const prefix = part.boolean('add_prefix_space', true);
  part.boolean('trim_offsets', true); // of no consequence for ids
  const match = part.boolean('use_regex', true) ? regularExpression(GPT2, part.path, part.place) : undefined;
  return (pieces) =>
    eachPiece(pieces, (text) => {
      const begun = prefix && !text.startsWith(' ') ? ` ${text}` : text;
      return match ? cut(begun, match, 'Isolated') : [begun];
    }).map(({ text, isFirst }) => ({ text: toByteCharacters(text), isFirst }));
}

/** SentencePiece's: "▁" for spaces, and before the first word. */
function metaspace(part: Fields): PreTokenizer {
  const mark = part.string('replacement', '▁');
  if (Array.from(mark).length !== 1) throw part.error('replacement', 'must be one character');
  const legacy = part.boolean('add_prefix_space', true) ? 'always' : 'never';
  const scheme = part.oneOf('prepend_scheme', ['always', 'first', 'never'], legacy);
  const splits = part.boolean('split', true);
  const match: Matcher = function* (text) {
    for (let at = text.indexOf(mark); at >= 0; at = text.indexOf(mark, at + mark.length)) {
      yield { start: at, end: at + mark.length };
    }
  };
  return (pieces) =>
    pieces.flatMap(({ text, isFirst }) => {
      let marked = text.replaceAll(' ', mark);
      const mayPrepend = scheme === 'always' || (scheme === 'first' && isFirst);
      if (mayPrepend && !marked.startsWith(mark)) marked = mark + marked;
      const words = splits ? cut(marked, match, 'MergedWithNext') : [marked];
      return words
        .filter((word) => word !== '')
        .map((word, i) => ({ text: word, isFirst: isFirst && i === 0 }));
    });
}
