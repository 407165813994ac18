import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { FormatError } from '../../../src/errors.js';
import { type TokenizerFiles, tokenizerSource } from '../../../src/io/tokenizer-files.js';
import { Tokenizer } from '../../../src/text/tokenizer.js';

const { models, configs } = JSON.parse(
  readFileSync(new URL('../../fixtures/tokenizers/pipeline.json', import.meta.url), 'utf8'),
);
const { cases: _, ...sentencePiece } = configs.sentencepiece;
const size = Object.keys(models.sentencePiece.vocab).length;

/** A folder whose tokenizer.json has <s> and </s>. */
function files(more: Partial<TokenizerFiles>): TokenizerFiles {
  const tokenizer = { ...sentencePiece, model: models.sentencePiece };
  return { folder: 'm', config: {}, tokenizer, ...more };
}

const built = (more: Partial<TokenizerFiles>) => new Tokenizer(tokenizerSource(files(more)).source);
const encode = (tokenizer: Tokenizer, text: string) =>
  tokenizer.encode(text, { parseSpecial: true, addSpecial: false });

describe('added_tokens_decoder', () => {
  const token = { content: '<|im_end|>', special: true, normalized: false };
  const tokenizerConfig = { eos_token: '<|im_end|>', added_tokens_decoder: { [size]: token } };

  it('adds tokens that tokenizer.json does not have', () => {
    const tokenizer = built({ tokenizerConfig });
    expect(encode(tokenizer, 'hello<|im_end|>').at(-1)).toBe(size);
    expect(tokenizer.eosToken).toBe('<|im_end|>');
    expect(tokenizer.eosTokenIds).toContain(size);
    expect(tokenizer.decode([size])).toBe('');
  });

  it('leaves those alone that it has', () => {
    const other = { content: '</s>', special: false };
    const tokenizer = built({ tokenizerConfig: { added_tokens_decoder: { 2: other } } });
    expect(tokenizer.isSpecial(2)).toBe(true);
  });

  it.each([
    [7, /added_tokens_decoder: must be an object/],
    [{ x: token }, /added_tokens_decoder\[0\]\.id: must be a token id, got "x"/],
    [{ 400: 'text' }, /added_tokens_decoder\["400"\]: must be an object/],
    [{ 400: { content: 1 } }, /content: must be a text/],
  ])('of a wrong type is refused: %o', (added_tokens_decoder, message) => {
    expect(() => built({ tokenizerConfig: { added_tokens_decoder } })).toThrow(FormatError);
    expect(() => built({ tokenizerConfig: { added_tokens_decoder } })).toThrow(message);
  });
});

describe('names of special tokens', () => {
  it('are those of tokenizer_config.json before those of special_tokens_map.json', () => {
    const specialTokensMap = { bos_token: '<s>', eos_token: { content: '</s>' } };
    expect(built({ specialTokensMap })).toMatchObject({ bosToken: '<s>', eosToken: '</s>', bosTokenId: 1 });
    const tokenizer = built({ specialTokensMap, tokenizerConfig: { eos_token: 'hello' } });
    expect(tokenizer).toMatchObject({ bosToken: '<s>', eosToken: 'hello' });
    expect(encode(tokenizer, 'hello')).toEqual([models.sentencePiece.vocab.hello]);
  });

  it('make tokens of the vocabulary special', () => {
    const tokenizer = built({ tokenizerConfig: { additional_special_tokens: ['ab', '<nowhere>'] } });
    const { ab } = models.sentencePiece.vocab;
    expect(tokenizer.isSpecial(ab)).toBe(true);
    expect(encode(tokenizer, 'ab')).toEqual([ab]);
    expect(tokenizer.tokenToId('<nowhere>')).toBeUndefined();
  });
});

describe('ids that end a text', () => {
  it('are all of generation_config.json and config.json, once', () => {
    const tokenizer = built({ config: { eos_token_id: [2, 7] }, generationConfig: { eos_token_id: [5, 2] } });
    expect(tokenizer.eosTokenIds.slice(0, 3)).toEqual([5, 2, 7]);
  });

  it('must be ids', () => {
    expect(() => built({ config: { eos_token_id: ['2'] } })).toThrow(
      /config\.json: eos_token_id: must be a token id/,
    );
  });
});

describe('tokenizers of the class LlamaTokenizer', () => {
  // Ids are those of transformers 5.24 for the same files.
  const { vocab } = models.sentencePiece;
  const ids = (config: Record<string, unknown>, text: string) =>
    encode(built({ tokenizerConfig: { tokenizer_class: 'LlamaTokenizerFast', ...config } }), text);
  const hello = vocab['▁hello'];

  it('put a space in front of the first part only, unless they are legacy or do without', () => {
    expect(ids({}, 'hello</s>hello')).toEqual([hello, 2, vocab.hello]);
    expect(ids({}, ' hello')).toEqual([hello]);
    expect(ids({ legacy: true }, 'hello</s>hello')).toEqual([hello, 2, hello]);
    expect(ids({ add_prefix_space: false }, 'hello')).toEqual([vocab.hello]);
  });

  it('are taken as they are if they have another class', () => {
    const tokenizer = built({
      tokenizerConfig: { tokenizer_class: 'PreTrainedTokenizerFast', add_prefix_space: false },
    });
    expect(encode(tokenizer, 'hello')).toEqual([hello]);
  });
});
