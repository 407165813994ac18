/**
 * Added tokens: found in a text as a whole, before it is cut into words.
 *
 * Tokens that are not `normalized` are found in the text as it is, then the rest is normalized, and the others are
 * found there, by their normalized spelling. The longest of several that begin at the same place counts.
 *
 * @module
 */

import type { Normalizer } from './normalizer.js';

/** A token of `added_tokens`. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Whether it steers the model and is no text. */
  readonly special: boolean;
  /** Found only where no letter or digit touches it. */
  readonly single_word: boolean;
  /** Takes the white space before it. */
  readonly lstrip: boolean;
  /** Takes the white space after it. */
  readonly rstrip: boolean;
  readonly normalized: boolean;
}

/** A part of a text: a token, or text between tokens. */
export type Section = { readonly id: number } | { readonly text: string; readonly isFirst: boolean };

interface TrieNode {
  readonly next: Map<number, TrieNode>;
  token?: AddedToken;
}

const STARTS_WITH_WORD = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;
const ENDS_WITH_WORD = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;
const SPACE = /\p{White_Space}/u;

/** Finds added tokens. */
export class AddedTokens {
  readonly #plain: TrieNode;
  readonly #normalized: TrieNode;
  readonly #normalize: Normalizer;

  constructor(given: readonly AddedToken[], normalize: Normalizer) {
    this.#normalize = normalize;
    // Of several with one spelling, once normalized, a special one is meant.
    const tokens = given.toSorted((a, b) => Number(b.special) - Number(a.special));
    this.#plain = trieOf(tokens.filter((token) => !token.normalized).map((token) => [token.content, token]));
    const others = tokens.filter((token) => token.normalized);
    this.#normalized = trieOf(others.map((token) => [normalize(token.content), token]));
  }

  /** The tokens of a text in order, and the normalized text between them. */
  split(text: string): Section[] {
    const sections: Section[] = [];
    for (const section of find(text, true, this.#plain)) {
      if ('id' in section) sections.push(section);
      else sections.push(...find(this.#normalize(section.text), section.isFirst, this.#normalized));
    }
    return sections;
  }
}

function trieOf(entries: readonly (readonly [string, AddedToken])[]): TrieNode {
  const root: TrieNode = { next: new Map() };
  for (const [spelling, token] of entries) {
    if (spelling === '') continue; // would be everywhere; Hugging Face ignores it, too
    let node = root;
    for (let i = 0; i < spelling.length; i++) {
      const unit = spelling.charCodeAt(i);
      let next = node.next.get(unit);
      if (!next) {
        next = { next: new Map() };
        node.next.set(unit, next);
      }
      node = next;
    }
    node.token ??= token;
  }
  return root;
}

function find(text: string, isFirst: boolean, root: TrieNode): Section[] {
  const sections: Section[] = [];
  let done = 0;
  const pushText = (end: number) => {
    if (end > done) sections.push({ text: text.slice(done, end), isFirst: isFirst && done === 0 });
  };
  if (root.next.size > 0) {
    for (let at = 0; at < text.length; ) {
      const match = longest(text, at, root);
      if (!match) {
        at++;
        continue;
      }
      const { token, end } = match;
      at = end;
      const start = end - match.length;
      if (token.single_word && touchesWord(text, start, end)) continue;
      let from = start;
      if (token.lstrip) {
        from = Math.max(from, done);
        while (from > done && SPACE.test(text[from - 1])) from--;
      }
      let to = end;
      if (token.rstrip) while (to < text.length && SPACE.test(text[to])) to++;
      if (from >= to) continue; // a token of white space, all of which the one before it took
      pushText(from);
      sections.push({ id: token.id });
      done = to;
    }
  }
  pushText(text.length);
  return sections;
}

function longest(
  text: string,
  start: number,
  root: TrieNode,
): { token: AddedToken; end: number; length: number } | undefined {
  let found: { token: AddedToken; end: number; length: number } | undefined;
  let node: TrieNode | undefined = root;
  for (let at = start; at < text.length; at++) {
    node = node.next.get(text.charCodeAt(at));
    if (!node) break;
    if (node.token) found = { token: node.token, end: at + 1, length: at + 1 - start };
  }
  return found;
}

function touchesWord(text: string, start: number, end: number): boolean {
  return (
    ENDS_WITH_WORD.test(text.slice(Math.max(0, start - 2), start)) ||
    STARTS_WITH_WORD.test(text.slice(end, end + 2))
  );
}
