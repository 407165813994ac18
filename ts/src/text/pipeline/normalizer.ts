/**
 * Normalizers of a tokenizer.json: what happens to a text before it is cut.
 *
 * @module
 */

import { Fields } from './fields.js';
import { patternOf } from './matching.js';

/** Changes a text. */
export type Normalizer = (text: string) => string;

const FORMS = ['NFC', 'NFD', 'NFKC', 'NFKD'] as const;
const SUPPORTED = `Sequence, ${FORMS.join(', ')}, Lowercase, Strip, StripAccents, Replace, Prepend`;

/** Sequences inside each other at most. */
export const MAX_DEPTH = 20;

/**
 * Builds the normalizer of a tokenizer.json.
 *
 * @param value the entry; `null` changes nothing
 * @throws {FormatError} names the place that is wrong
 * @throws {UnsupportedModelError} names the type that is not supported
 */
export function buildNormalizer(value: unknown, path: string): Normalizer {
  if (value === null || value === undefined) return (text) => text;
  const room: Room = { length: 0 };
  const normalize = build(Fields.of(value, path, 'normalizer'), 0, room);
  return (text) => {
    room.length = GROWTH * text.length + FREE_LENGTH;
    return normalize(text);
  };
}

/** How long a text may become: 32 times as long as it was and a bit, far more than any language needs. */
interface Room {
  length: number;
}
const GROWTH = 32;
const FREE_LENGTH = 100_000;

function checkedLength(part: Fields, length: number, room: Room): void {
  if (length > room.length) throw part.error('content', `makes a text over ${room.length} characters long`);
}

function build(part: Fields, depth: number, room: Room): Normalizer {
  const { type } = part;
  const form = FORMS.find((each) => each === type);
  if (form) return (text) => text.normalize(form);
  switch (type) {
    case 'Sequence': {
      if (depth >= MAX_DEPTH) throw part.error('normalizers', `sequences nest over ${MAX_DEPTH} deep`);
      const steps = part.list('normalizers').map((each) => build(each, depth + 1, room));
      return (text) => steps.reduce((changed, step) => step(changed), text);
    }
    case 'Lowercase':
      // One character at a time: JavaScript writes a sigma at the end of a word in another way, Rust does not.
      return (text) => Array.from(text, (character) => character.toLowerCase()).join('');
    case 'Strip': {
      const left = part.boolean('strip_left', true);
      const right = part.boolean('strip_right', true);
      const start = left ? /^\p{White_Space}+/u : /^(?!)/;
      const end = /\p{White_Space}/u;
      return (text) => {
        const begun = text.replace(start, '');
        let stop = begun.length;
        while (right && stop > 0 && end.test(begun[stop - 1])) stop--;
        return begun.slice(0, stop);
      };
    }
    case 'StripAccents':
      return (text) => text.replace(/\p{Mn}/gu, '');
    case 'Replace':
      return replacement(part, room);
    case 'Prepend': {
      const prefix = part.string('prepend');
      return (text) => {
        checkedLength(part, text.length + prefix.length, room);
        return text === '' ? '' : prefix + text;
      };
    }
  }
  throw part.unsupported(`normalizer "${type}"`, SUPPORTED);
}

function replacement(part: Fields, room: Room): Normalizer {
  const match = patternOf(part);
  const content = part.string('content');
  return (text) => {
    let changed = '';
    let at = 0;
    for (const { start, end } of match(text)) {
      changed += text.slice(at, start) + content;
      checkedLength(part, changed.length, room);
      at = end;
    }
    return changed + text.slice(at);
  };
}
