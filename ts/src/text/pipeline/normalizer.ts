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
  return build(Fields.of(value, path, 'normalizer'), 0);
}

function build(part: Fields, depth: number): Normalizer {
  const { type } = part;
  const form = FORMS.find((each) => each === type);
  if (form) return (text) => text.normalize(form);
  switch (type) {
    case 'Sequence': {
      if (depth >= MAX_DEPTH) throw part.error('normalizers', `sequences nest over ${MAX_DEPTH} deep`);
      const steps = part.list('normalizers').map((each) => build(each, depth + 1));
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
      return replacement(part);
    case 'Prepend': {
      const prefix = part.string('prepend');
      return (text) => (text === '' ? '' : prefix + text);
    }
  }
  throw part.unsupported(`normalizer "${type}"`, SUPPORTED);
}

function replacement(part: Fields): Normalizer {
  const match = patternOf(part);
  const content = part.string('content');
  return (text) => {
    let changed = '';
    let at = 0;
    for (const { start, end } of match(text)) {
      changed += text.slice(at, start) + content;
      at = end;
    }
    return changed + text.slice(at);
  };
}
