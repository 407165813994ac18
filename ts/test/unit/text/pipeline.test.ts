import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { FormatError, UnsupportedModelError, XQuantError } from '../../../src/errors.js';
import { cut, regularExpression } from '../../../src/text/pipeline/matching.js';
import { Tokenizer } from '../../../src/text/tokenizer.js';

interface Config {
  readonly model: string;
  readonly cases: readonly (readonly [text: string, ids: number[], decoded: string])[];
}

/** Made by Hugging Face tokenizers, see pipeline.py beside it. */
const fixture: {
  readonly models: Readonly<Record<string, Record<string, unknown>>>;
  readonly configs: Readonly<Record<string, Config>>;
  readonly patterns: Readonly<Record<string, readonly (readonly [text: string, pieces: string[]])[]>>;
} = JSON.parse(readFileSync(new URL('../../fixtures/tokenizers/pipeline.json', import.meta.url), 'utf8'));

function tokenizer(json: Record<string, unknown>): Tokenizer {
  return new Tokenizer({ kind: 'tokenizer.json', path: 'tokenizer.json', json, eosTokenIds: [] });
}

const BASE = {
  ...fixture.configs['byte level'],
  model: fixture.models.byteLevel,
} as unknown as Record<string, unknown> & { model: Record<string, unknown> };

describe('every part of a tokenizer.json', () => {
  it.each(Object.entries(fixture.configs))(
    '%s: ids and texts are those of Hugging Face tokenizers',
    (_, config) => {
      const { cases, ...json } = config;
      const made = tokenizer({ ...json, model: fixture.models[config.model] });
      for (const [text, ids, decoded] of cases) {
        expect(made.encode(text, { parseSpecial: true }), JSON.stringify(text)).toEqual(ids);
        // Bytes that are no UTF-8 become U+FFFD one by one there, and by whole sequences here.
        if (!decoded.includes('\ufffd')) expect(made.decode(ids), JSON.stringify(text)).toBe(decoded);
      }
    },
  );
});

describe('beside Hugging Face tokenizers 0.23.3', () => {
  const bytes = { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: false };
  const token = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: false };
  const added = (id: number, content: string, flags: object) => ({ id, content, ...token, ...flags });

  it.each([
    ['x\u200dl', [220, 87, 158, 222, 235, 75]],
    ['\u2581\u00b2!', [220, 158, 244, 223, 126, 110, 0]],
    ['a\u0301_\u0663 \u00b2', [266, 136, 223, 62, 149, 96, 220, 126, 110]],
  ])('words are those of Rust: %j', (text, ids) => {
    const pre_tokenizer = { type: 'Sequence', pretokenizers: [{ type: 'Whitespace' }, bytes] };
    expect(tokenizer({ ...BASE, pre_tokenizer }).encode(text)).toEqual(ids);
  });

  it.each([
    ['\n\n', [270]],
    ['a\n\n \nb', [64, 270, 65]],
    ['\n a', [270, 64]],
  ])('a token of white space takes its neighbours with it: %j', (text, ids) => {
    const added_tokens = [added(270, '\n', { lstrip: true, rstrip: true })];
    const pre_tokenizer = { ...bytes, add_prefix_space: false };
    expect(tokenizer({ ...BASE, added_tokens, pre_tokenizer }).encode(text)).toEqual(ids);
  });

  it('of two tokens with one spelling the special one is found', () => {
    const { he } = fixture.models.byteLevel.vocab as Record<string, number>;
    const added_tokens = [
      added(he, 'he', { normalized: true, special: true }),
      added(270, 'HE', { normalized: true }),
    ];
    const json = { ...BASE, added_tokens: added_tokens.toReversed(), normalizer: { type: 'Lowercase' } };
    expect(tokenizer(json).encode('HEhe', { parseSpecial: true })).toEqual([he, he]);
  });

  it('a token of which the normalizer leaves nothing is refused by name', () => {
    const normalizer = { type: 'Strip', strip_left: true, strip_right: true };
    const json = { ...BASE, normalizer, added_tokens: [added(270, '\n', { normalized: true })] };
    expect(() => tokenizer(json)).toThrow(/added token "\\u\{a\}", of which its normalizer leaves nothing/);
  });
});

describe('regular expressions', () => {
  it.each(Object.entries(fixture.patterns))('%s cuts as Oniguruma does', (pattern, cases) => {
    const match = regularExpression(pattern, 'tokenizer.json', 'pattern');
    for (const [text, pieces] of cases)
      expect(cut(text, match, 'Isolated'), JSON.stringify(text)).toEqual(pieces);
  });

  it.each([
    '(',
    ')',
    '[',
    '*a',
    'a{3,2}',
    'a{2000}',
    '(a)\\1',
    '\\p{Martian}',
    '(?x)a',
    '(?<=a+)b',
    '\\X',
    '\\',
    '(?:a*)*',
    '((((a{100}){100}){100}){100})',
    '[b-a]',
    '('.repeat(1000),
    `${'('.repeat(200)}${')'.repeat(200)}`,
    '(?(1)a)',
    '^*',
  ])('%s is refused', (pattern) => {
    expect(() => regularExpression(pattern, 't.json', 'place')).toThrow(FormatError);
  });

  it.each([
    ['(a+)+$', `${'a'.repeat(10_000)}!`],
    ['(a|a)*$', `${'a'.repeat(10_000)}!`],
    ['(?:a|aa)+b', 'a'.repeat(10_000)],
    ['(?=(?:a+)+$)b', 'a'.repeat(10_000)],
    ['a*a*a*a*a*b', 'a'.repeat(10_000)],
    ['(?:.*,){12}P', ','.repeat(3000)],
    ['\\s+$', ' '.repeat(20_000)],
  ])('%s answers soon, or says that it cannot', (pattern, text) => {
    const match = regularExpression(pattern, 't.json', 'place');
    const started = performance.now();
    try {
      cut(text, match, 'Isolated');
    } catch (error) {
      expect(error).toBeInstanceOf(FormatError);
      expect((error as Error).message).toMatch(/takes too long/);
    }
    expect(performance.now() - started).toBeLessThan(5000);
  });
});

describe('long words', () => {
  it.each([
    ['a letter', 'a'],
    ['spaces', ' '],
    ['a word', 'hello'],
    ['digits', '123'],
  ])('of %s take time in proportion to their length', (_, unit) => {
    const made = tokenizer({
      ...fixture.configs['byte level in one piece'],
      model: fixture.models.byteLevel,
    });
    const text = unit.repeat(150_000 / unit.length);
    const started = performance.now();
    expect(made.decode(made.encode(text))).toBe(text);
    expect(performance.now() - started).toBeLessThan(3000);
  });
});

describe('a tokenizer.json of wrong types', () => {
  const places = ['added_tokens', 'normalizer', 'pre_tokenizer', 'post_processor', 'decoder', 'model'];
  const values = [1, 'text', [], [null], { type: 'Martian' }, {}, true, { type: ['Sequence'] }];
  it.each(places.flatMap((place) => values.map((value) => [place, JSON.stringify(value), value] as const)))(
    '%s %s gives an error of ours, or works',
    (place, _, value) => {
      try {
        tokenizer({ ...BASE, [place]: value });
      } catch (error) {
        expect(error).toBeInstanceOf(XQuantError);
      }
    },
  );

  it.each<[string, Record<string, unknown>, new (...args: never[]) => Error, RegExp]>([
    [
      'a merge without result',
      { merges: [['h', 'i']] },
      FormatError,
      /merge 0, "h" and "i": there is no token "hi"/,
    ],
    ['a merge of one part', { merges: [['h']] }, FormatError, /merges\[0\]: must be two tokens/],
    ['no merge at all', { merges: [null] }, FormatError, /merges\[0\]: must be two tokens, got null/],
    [
      'an unknown token that is none',
      { unk_token: '<none>' },
      FormatError,
      /"<none>" is not in the vocabulary/,
    ],
    ['a suffix of words', { end_of_word_suffix: '</w>' }, UnsupportedModelError, /end_of_word_suffix/],
    ['dropout', { dropout: 0.1 }, UnsupportedModelError, /dropout/],
    ['an id that is none', { vocab: { a: -1 } }, FormatError, /vocab\["a"\]/],
  ])('%s', (_, change, errorClass, message) => {
    const json = { ...BASE, model: { ...BASE.model, ...change } };
    expect(() => tokenizer(json)).toThrow(errorClass);
    expect(() => tokenizer(json)).toThrow(message);
  });

  it('an added token that contradicts the vocabulary', () => {
    const json = { ...BASE, added_tokens: [{ id: 999, content: 'hello' }] };
    expect(() => tokenizer(json)).toThrow(/added_tokens\[0\]\.id: is 999, but "hello" has id \d+/);
  });

  it('sequences without end', () => {
    let normalizer: unknown = { type: 'NFC' };
    for (let i = 0; i < 5000; i++) normalizer = { type: 'Sequence', normalizers: [normalizer] };
    expect(() => tokenizer({ ...BASE, normalizer })).toThrow(/nest over 20 deep/);
  });

  it('a normalizer that makes a text grow without end', () => {
    const double = { type: 'Replace', pattern: { String: 'a' }, content: 'aaaaaaaa' };
    const made = tokenizer({
      ...BASE,
      normalizer: { type: 'Sequence', normalizers: Array(40).fill(double) },
    });
    expect(made.encode('b')).toHaveLength(1);
    expect(() => made.encode('a')).toThrow(/makes a text over 100032 characters long/);
  });

  it.each([
    ['normalizer', { type: 'Precompiled', precompiled_charsmap: '' }],
    ['pre_tokenizer', { type: 'UnicodeScripts' }],
    ['post_processor', { type: 'Martian' }],
    ['decoder', { type: 'WordPiece' }],
    ['decoder', null],
  ])('%s %o is refused by name', (place, value) => {
    const json = { ...BASE, [place]: value };
    expect(() => tokenizer(json)).toThrow(UnsupportedModelError);
    if (value) expect(() => tokenizer(json)).toThrow(value.type);
  });
});
