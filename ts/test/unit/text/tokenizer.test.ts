import { readFileSync } from 'node:fs';
import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { FormatError, UnsupportedModelError } from '../../../src/errors.js';
import { mergesFromScores } from '../../../src/text/sentencepiece-merges.js';
import { Tokenizer } from '../../../src/text/tokenizer.js';
import type { TokenizerSource } from '../../../src/text/tokenizer-source.js';

interface Case {
  text: string;
  ids: number[];
  decoded: string;
}

const fixture = (name: string) =>
  JSON.parse(readFileSync(new URL(`../../fixtures/tokenizers/${name}`, import.meta.url), 'utf8'));

const bpe: {
  tokens: string[];
  types: number[];
  merges: string[];
  begin: number;
  end: number;
  cases: Record<string, Case[]>;
  withTemplate: number[];
  tokenizerJson: Record<string, Record<string, unknown>>;
} = fixture('bpe.json');

const sentencePiece: {
  tokens: string[];
  scores: number[];
  types: number[];
  merges: [string, string][];
  cases: (Case & { sentencepiece: number[] })[];
  special: Case[];
  tokenizerJson: Record<string, unknown>;
} = fixture('sentencepiece.json');

const PRE_TOKENIZERS = Object.keys(bpe.cases);

function gguf(entries: Record<string, unknown>): TokenizerSource {
  const full = Object.entries(entries).map(([key, value]): [string, unknown] => [
    `tokenizer.ggml.${key}`,
    value,
  ]);
  return { kind: 'gguf', path: 'm.gguf', metadata: new Map(full.filter(([, value]) => value !== undefined)) };
}

const bpeGguf = (pre: string | undefined, more: Record<string, unknown> = {}) =>
  gguf({
    model: 'gpt2',
    pre,
    tokens: bpe.tokens,
    token_type: Int32Array.from(bpe.types),
    merges: bpe.merges,
    bos_token_id: bpe.begin,
    eos_token_id: bpe.end,
    ...more,
  });

const sentencePieceGguf = (more: Record<string, unknown> = {}) =>
  gguf({
    model: 'llama',
    tokens: sentencePiece.tokens,
    scores: Float32Array.from(sentencePiece.scores),
    token_type: Int32Array.from(sentencePiece.types),
    bos_token_id: 1,
    eos_token_id: 2,
    unknown_token_id: 0,
    ...more,
  });

function bpeJson(pre: string): TokenizerSource {
  const words = bpe.tokens.filter((_, id) => bpe.types[id] === 1);
  const { ignore_merges, ...header } = bpe.tokenizerJson[pre];
  const vocab = Object.fromEntries(words.map((word, id) => [word, id]));
  const merges = bpe.merges.map((merge) => merge.split(' '));
  const json = { ...header, model: { type: 'BPE', vocab, merges, ignore_merges, byte_fallback: false } };
  return { kind: 'tokenizer.json', path: 'tokenizer.json', json, eosTokenIds: [], eosToken: '<|end|>' };
}

function sentencePieceJson(): TokenizerSource {
  const vocab = Object.fromEntries(sentencePiece.tokens.map((token, id) => [token, id]));
  const model = {
    type: 'BPE',
    vocab,
    merges: sentencePiece.merges,
    unk_token: '<unk>',
    fuse_unk: true,
    byte_fallback: true,
  };
  const json = { ...sentencePiece.tokenizerJson, model };
  return { kind: 'tokenizer.json', path: 'tokenizer.json', json, eosTokenIds: [2], bosToken: '<s>' };
}

/** Text as it comes out token by token. */
function stream(tokenizer: Tokenizer, ids: readonly number[], context: readonly number[] = []): string[] {
  const decoder = tokenizer.createDecoder(context);
  return [...ids.map((id) => decoder.push(id)), decoder.flush()];
}

describe.each(PRE_TOKENIZERS)('byte-level BPE, pre-tokenizer %s', (pre) => {
  const tokenizers: [string, Tokenizer][] = [
    ['GGUF', new Tokenizer(bpeGguf(pre))],
    ['tokenizer.json', new Tokenizer(bpeJson(pre))],
  ];

  it.each(tokenizers)('%s: ids and text are those of Python tokenizers', (_, tokenizer) => {
    for (const { text, ids, decoded } of bpe.cases[pre]) {
      const options = { addSpecial: false, parseSpecial: true };
      expect(tokenizer.encode(text, options), JSON.stringify(text)).toEqual(ids);
      expect(tokenizer.decode(ids), JSON.stringify(text)).toBe(decoded);
    }
  });

  it.each(tokenizers)('%s: text in pieces equals text at once', (_, tokenizer) => {
    for (const { ids, decoded } of bpe.cases[pre]) {
      expect(stream(tokenizer, ids).join('')).toBe(decoded);
    }
  });

  const texts = fc.string({ unit: 'binary', maxLength: 60 });
  property.prop([texts])('decoding undoes encoding', (text) => {
    const [, tokenizer] = tokenizers[0];
    const expected = pre === 'qwen2' ? text.normalize('NFC') : text;
    expect(tokenizer.decode(tokenizer.encode(text, { addSpecial: false }))).toBe(expected);
  });

  property.prop([texts])('no piece of a stream has half a character', (text) => {
    const [, tokenizer] = tokenizers[0];
    const pieces = stream(tokenizer, tokenizer.encode(text, { addSpecial: false }));
    for (const piece of pieces) {
      expect(piece).not.toMatch(/\p{Surrogate}/u);
      if (!text.includes('\ufffd')) expect(piece).not.toContain('\ufffd');
    }
  });

  property.prop([texts])('both sources give the same ids', (text) => {
    const [[, a], [, b]] = tokenizers;
    expect(a.encode(text, { addSpecial: false })).toEqual(b.encode(text, { addSpecial: false }));
  });
});

describe('special tokens of byte-level BPE', () => {
  const tokenizer = new Tokenizer(bpeGguf('llama-bpe'));
  const text = 'the <|end|> of <|begin|>';

  it('are text unless asked for, so that a user cannot forge them', () => {
    const ids = tokenizer.encode(text, { addSpecial: false });
    expect(ids).not.toContain(bpe.end);
    expect(tokenizer.decode(ids)).toBe(text);
    expect(tokenizer.encode(text, { addSpecial: false, parseSpecial: true })).toContain(bpe.end);
  });

  it('are left out of decoded text unless asked for', () => {
    const ids = tokenizer.encode(text, { addSpecial: false, parseSpecial: true });
    expect(tokenizer.decode(ids)).toBe('the  of ');
    expect(tokenizer.decode(ids, { skipSpecial: false })).toBe(text);
  });

  it('frame a text as the post-processor says', () => {
    expect(tokenizer.encode('the age')).toEqual(bpe.withTemplate);
    expect(new Tokenizer(bpeJson('llama-bpe')).encode('the age')).toEqual(bpe.withTemplate);
    expect(tokenizer.encode('')).toEqual([bpe.begin]);
    expect(new Tokenizer(bpeGguf('gpt-2')).encode('')).toEqual([]);
    expect(new Tokenizer(bpeGguf('gpt-2', { add_bos_token: true })).encode('')).toEqual([bpe.begin]);
    expect(new Tokenizer(bpeGguf('gpt-2', { add_eos_token: true })).encode('')).toEqual([bpe.end]);
    expect(new Tokenizer(bpeGguf('llama-bpe', { add_bos_token: false })).encode('')).toEqual([]);
  });

  it('are known by id', () => {
    expect(tokenizer.bosTokenId).toBe(bpe.begin);
    expect(tokenizer.bosToken).toBe('<|begin|>');
    expect(tokenizer.eosToken).toBe('<|end|>');
    expect(tokenizer.eosTokenIds).toEqual([bpe.end]);
    expect(new Tokenizer(bpeJson('gpt-2')).eosTokenIds).toEqual([bpe.end]);
    expect(tokenizer.vocabSize).toBe(bpe.tokens.length);
    expect(tokenizer.isSpecial(bpe.end)).toBe(true);
    expect(tokenizer.isSpecial(bpe.end + 1)).toBe(false);
    expect(tokenizer.tokenToId('<|end|>')).toBe(bpe.end);
    expect(tokenizer.idToToken(bpe.end)).toBe('<|end|>');
  });

  it('that end a turn are found by their names, too', () => {
    const tokens = bpe.tokens.with(bpe.begin, '<|eot_id|>');
    expect(new Tokenizer(bpeGguf('gpt-2', { tokens })).eosTokenIds).toEqual([bpe.end, bpe.begin]);
  });

  it.each([1, 3, 4])('end a turn by their names if the file gives them type %i', (type) => {
    const names = ['<|im_end|>', '<end_of_turn>', '<EOT>', '<|fim_pad|>', '<|end|>', '<|im_start|>'];
    const tokens = [...bpe.tokens.with(bpe.end, '<eos>'), ...names];
    const token_type = Int32Array.from([...bpe.types, ...names.map(() => type)]);
    const tokenizer = new Tokenizer(bpeGguf('gpt-2', { tokens, token_type }));
    expect(tokenizer.eosTokenIds.map((id) => tokenizer.idToToken(id))).toEqual([
      '<eos>',
      ...names.slice(0, 5),
    ]);
    const text = 'the<|im_end|>';
    expect(tokenizer.encode(text, { parseSpecial: true }).at(-1)).toBe(bpe.tokens.length);
    expect(tokenizer.encode(text)).not.toContain(bpe.tokens.length);
    expect(tokenizer.decode(tokenizer.encode(text, { parseSpecial: true }))).toBe('the');
  });

  it('end a part of an answer only, in formats that say so', () => {
    const names = ['<|end|>', '<|return|>', '<|call|>'];
    const tokens = [...bpe.tokens.with(bpe.end, '<eos>'), ...names];
    const token_type = Int32Array.from([...bpe.types, 3, 3, 3]);
    const tokenizer = new Tokenizer(bpeGguf('gpt-2', { tokens, token_type }));
    expect(tokenizer.eosTokenIds.map((id) => tokenizer.idToToken(id))).toEqual([
      '<eos>',
      '<|return|>',
      '<|call|>',
    ]);
  });

  it('are all that the keys of a file name', () => {
    const fim = {
      eot_token_id: 5,
      eom_token_id: 6,
      fim_pad_token_id: 7,
      fim_rep_token_id: 8,
      fim_sep_token_id: 9,
    };
    expect(new Tokenizer(bpeGguf('gpt-2', fim)).eosTokenIds).toEqual([bpe.end, 5, 6, 7, 8, 9]);
    expect(() => new Tokenizer(bpeGguf('gpt-2', { fim_sep_token_id: 99999 }))).toThrow(/fim_sep_token_id/);
  });
});

describe('SentencePiece BPE', () => {
  const tokenizers: [string, Tokenizer][] = [
    ['GGUF', new Tokenizer(sentencePieceGguf())],
    ['tokenizer.json', new Tokenizer(sentencePieceJson())],
  ];

  it.each(tokenizers)('%s: ids are those of sentencepiece and of Python tokenizers', (_, tokenizer) => {
    for (const { text, ids, decoded, sentencepiece } of sentencePiece.cases) {
      expect(tokenizer.encode(text, { addSpecial: false }), JSON.stringify(text)).toEqual(ids);
      expect(ids).toEqual(sentencepiece);
      expect(tokenizer.decode(ids)).toBe(decoded);
      expect(stream(tokenizer, ids).join('')).toBe(decoded);
    }
    for (const { text, ids } of sentencePiece.special) {
      expect(tokenizer.encode(text, { addSpecial: false, parseSpecial: true }), text).toEqual(ids);
    }
  });

  it('makes the merges that transformers makes', () => {
    const { scores, tokens, types } = sentencePiece;
    const made = mergesFromScores(tokens, scores, (id) => types[id] === 1);
    expect(made).toEqual(sentencePiece.merges);
    expect(scores).toHaveLength(tokens.length);
    expect(types[1]).toBe(3);
  });

  it('begins with BOS by default', () => {
    expect(tokenizers[0][1].encode('the')[0]).toBe(1);
    expect(new Tokenizer(sentencePieceGguf({ add_bos_token: false })).encode('the')[0]).not.toBe(1);
  });

  it('drops the space at the very beginning and no other', () => {
    const [, tokenizer] = tokenizers[0];
    const the = tokenizer.encode('the', { addSpecial: false });
    expect(stream(tokenizer, the).join('')).toBe('the');
    expect(stream(tokenizer, the, tokenizer.encode('of')).join('')).toBe(' the');
    expect(stream(tokenizer, the, [1]).join('')).toBe('the');
    const without = new Tokenizer(sentencePieceGguf({ add_space_prefix: false }));
    expect(without.decode(without.encode(' the'))).toBe(' the');
    expect(without.encode('the', { addSpecial: false })).not.toEqual(the);
  });

  it('holds bytes back until they are a character', () => {
    const [, tokenizer] = tokenizers[0];
    const ids = tokenizer.encode('🎊', { addSpecial: false });
    expect(ids).toHaveLength(5); // "▁" and four bytes
    expect(stream(tokenizer, ids)).toEqual(['', '', '', '', '🎊', '']);
    expect(stream(tokenizer, ids.slice(0, -1)).at(-1)).toBe('\ufffd');
    expect(stream(tokenizer, ids.slice(3), ids.slice(0, 3)).join('')).toBe('🎊');
  });

  property.prop([fc.string({ unit: 'binary', maxLength: 40 })])('decoding undoes encoding', (text) => {
    // U+2581 itself is the one character that SentencePiece cannot keep.
    fc.pre(!text.includes('▁'));
    for (const [, tokenizer] of tokenizers) {
      expect(tokenizer.decode(tokenizer.encode(text, { addSpecial: false }))).toBe(text);
    }
  });
});

describe('Metaspace tokenizers (Mistral)', () => {
  const withScheme = (prepend_scheme: string, split: boolean) => {
    const source = sentencePieceJson() as Extract<TokenizerSource, { kind: 'tokenizer.json' }>;
    const metaspace = { type: 'Metaspace', replacement: '▁', prepend_scheme, split };
    const json = { ...source.json, normalizer: null, pre_tokenizer: metaspace, decoder: metaspace };
    return new Tokenizer({ ...source, json });
  };

  it('cut at spaces only when they should', () => {
    const legacy = new Tokenizer(sentencePieceJson());
    const text = 'the age  of wisdom';
    expect(withScheme('always', false).encode(text)).toEqual(legacy.encode(text));
    const ids = withScheme('always', true).encode(text);
    expect(withScheme('always', true).decode(ids)).toBe(text);
  });

  it('keep a leading space where none is put in front', () => {
    const tokenizer = withScheme('never', false);
    expect(tokenizer.decode(tokenizer.encode(' the'))).toBe(' the');
  });
});

describe('a tokenizer that cannot be used', () => {
  it.each<[string, TokenizerSource, new (...args: never[]) => Error, RegExp]>([
    ['has no merges', bpeGguf('gpt-2', { merges: undefined }), FormatError, /tokenizer\.ggml\.merges/],
    [
      'has a merge of one part',
      bpeGguf('gpt-2', { merges: ['ab'] }),
      FormatError,
      /merge 0 "ab" is not a pair/,
    ],
    ['has no tokens', bpeGguf('gpt-2', { tokens: undefined }), FormatError, /tokenizer\.ggml\.tokens/],
    [
      'has tokens of the wrong kind',
      bpeGguf('gpt-2', { tokens: Int32Array.of(1) }),
      FormatError,
      /list of strings/,
    ],
    [
      'has too few types',
      bpeGguf('gpt-2', { token_type: Int32Array.of(1) }),
      FormatError,
      /1 entries for 643/,
    ],
    [
      'has an end token out of range',
      bpeGguf('gpt-2', { eos_token_id: 643 }),
      FormatError,
      /643 is not one of/,
    ],
    ['has an unknown pre-tokenizer', bpeGguf('martian'), UnsupportedModelError, /"martian"/],
    ['is called toString', bpeGguf('toString'), UnsupportedModelError, /"toString"/],
    ['is of another kind', gguf({ model: 't5', tokens: ['a'] }), UnsupportedModelError, /"t5"/],
    ['has no scores', sentencePieceGguf({ scores: undefined }), FormatError, /tokenizer\.ggml\.scores/],
    [
      'has too few scores',
      sentencePieceGguf({ scores: Float32Array.of(0) }),
      FormatError,
      /1 entries for 560/,
    ],
    ['is not there', { kind: 'none', path: 'm' }, FormatError, /no tokenizer/],
    ['is empty', { kind: 'tokenizer.json', path: 't', json: {}, eosTokenIds: [] }, FormatError, /no model/],
  ])('%s', (_, source, errorClass, message) => {
    expect(() => new Tokenizer(source)).toThrow(errorClass);
    expect(() => new Tokenizer(source)).toThrow(message);
  });

  const withModel = (change: (json: Record<string, never>) => Record<string, unknown>) => {
    const source = bpeJson('gpt-2') as Extract<TokenizerSource, { kind: 'tokenizer.json' }>;
    return { ...source, json: change(source.json as Record<string, never>) };
  };

  it.each<[string, TokenizerSource, new (...args: never[]) => Error, RegExp]>([
    [
      'JSON without merges',
      withModel((json) => ({ ...json, model: { ...(json.model as object), merges: undefined } })),
      FormatError,
      /model\.merges: the tokenizer has no merges/,
    ],
    [
      'Unigram',
      withModel((json) => ({ ...json, model: { type: 'Unigram' } })),
      UnsupportedModelError,
      /"Unigram"/,
    ],
    [
      'WordPiece decoder',
      withModel((json) => ({ ...json, decoder: { type: 'WordPiece' } })),
      UnsupportedModelError,
      /WordPiece/,
    ],
    [
      'unknown normalizer',
      withModel((json) => ({ ...json, normalizer: { type: 'Martian' } })),
      UnsupportedModelError,
      /Martian/,
    ],
    [
      'template of a missing token',
      withModel((json) => ({
        ...json,
        post_processor: { type: 'TemplateProcessing', single: [{ SpecialToken: { id: '<x>' } }] },
      })),
      FormatError,
      /"<x>" does not exist/,
    ],
  ])('%s', (_, source, errorClass, message) => {
    expect(() => new Tokenizer(source)).toThrow(errorClass);
    expect(() => new Tokenizer(source)).toThrow(message);
  });

  it('wrong arguments', () => {
    const tokenizer = new Tokenizer(bpeGguf('gpt-2'));
    expect(() => tokenizer.encode(7 as never)).toThrow(TypeError);
    expect(() => tokenizer.decode([-1])).toThrow(RangeError);
    expect(() => tokenizer.decode([1.5])).toThrow(RangeError);
    expect(tokenizer.decode([99999])).toBe(''); // a row that pads the embedding
  });
});
