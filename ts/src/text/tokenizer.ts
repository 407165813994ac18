/**
 * Text to token ids and back, the same for GGUF files and Hugging Face folders.
 *
 * The pipeline is that of Hugging Face `tokenizers`: added tokens are found, the text between them is normalized, cut
 * into words, and each word is merged (`pipeline/`). Decoding is by bytes (`token-bytes.ts`), because text must come
 * out while it is generated, and no character may be split.
 *
 * It is written here because the library for JavaScript (`@huggingface/tokenizers`) cuts otherwise than the one in
 * Rust in many cases (Split, Digits, Metaspace, added tokens), drops text where a merge has no result, takes quadratic
 * time for long words, and runs regular expressions of files on an engine that nothing can stop.
 *
 * @module xquant/tokenizer
 */

import { FormatError, UnsupportedModelError } from '../errors.js';
import { describeValue } from '../printable.js';
import { endsByName } from './end-tokens.js';
import { buildGgufTokenizer, checkGgufTokenizer } from './gguf-tokenizer.js';
import { AddedTokens } from './pipeline/added-tokens.js';
import { Bpe } from './pipeline/bpe.js';
import { buildNormalizer } from './pipeline/normalizer.js';
import { buildPreTokenizer, type PreTokenizer } from './pipeline/pre-tokenizer.js';
import { StreamDecoder, spellingOf, type TokenSpelling, tokenBytes } from './token-bytes.js';
import { readTokenizerJson, templateIds } from './tokenizer-json.js';
import type { TokenizerSource } from './tokenizer-source.js';

/** Options of {@link Tokenizer.encode}. */
export interface EncodeOptions {
  /**
   * Whether to add the tokens that the model wants before and after a text (usually BOS). Default `true`. A chat
   * template writes these itself: encode its result with `{ addSpecial: false, parseSpecial: true }`.
   */
  readonly addSpecial?: boolean;
  /**
   * Whether the spelling of a special token ("<|im_start|>") means that token. Default `false`: text of a user
   * must not be able to forge them.
   */
  readonly parseSpecial?: boolean;
}

/** Options of {@link Tokenizer.decode} and {@link Tokenizer.createDecoder}. */
export interface DecodeOptions {
  /** Whether special tokens are left out. Default `true`. */
  readonly skipSpecial?: boolean;
}

/**
 * Requires what a tokenizer needs, without the work of building it.
 *
 * @throws {FormatError} names what is missing; having no tokenizer at all is no error here
 * @throws {UnsupportedModelError} names the kind of tokenizer that is not supported
 */
export function checkTokenizerSource(source: TokenizerSource): void {
  if (source.kind === 'gguf') checkGgufTokenizer(source);
  if (source.kind === 'tokenizer.json') {
    const { normalizer, preTokenizer, decoder } = readTokenizerJson(source.json, source.path);
    buildNormalizer(normalizer, source.path);
    buildPreTokenizer(preTokenizer, source.path);
    spellingOf(decoder, source.path);
  }
}

/** A tokenizer. It keeps no state between calls. */
export class Tokenizer {
  /** Beginning of a text; absent if the model has none. */
  readonly bosTokenId: number | undefined;
  /** Tokens that end a text or a turn. */
  readonly eosTokenIds: readonly number[];
  /** As chat templates write it. */
  readonly bosToken: string | undefined;
  /** As chat templates write it. */
  readonly eosToken: string | undefined;
  /** The largest id + 1. The embedding of a model may have more rows. */
  readonly vocabSize: number;

  private readonly tokens: readonly (string | undefined)[];
  private readonly idOf: ReadonlyMap<string, number>;
  private readonly addedIds: ReadonlySet<number>;
  private readonly specialIds: ReadonlySet<number>;
  private readonly spelling: TokenSpelling;
  private readonly prefix: readonly number[];
  private readonly suffix: readonly number[];
  private readonly preTokenize: PreTokenizer;
  private readonly bpe: Bpe;
  /** Without and with the special tokens. */
  private readonly plain: AddedTokens;
  private readonly parsing: AddedTokens;
  /** Whether added tokens are written like the others, as in a tokenizer.json; in GGUF they are plain text. */
  private readonly spellsAdded: boolean;

  /**
   * Builds a tokenizer; that takes up to a second for the largest vocabularies.
   *
   * @throws {FormatError} if there is none, or a part of it is missing; names the part
   * @throws {UnsupportedModelError} names the kind of tokenizer or pre-tokenizer that is not supported
   */
  constructor(source: TokenizerSource) {
    if (source.kind === 'none') throw new FormatError(source.path, 'tokenizer', 'the model has no tokenizer');
    const built = source.kind === 'gguf' ? buildGgufTokenizer(source) : { bosTokenId: undefined, ...source };
    const { path } = source;
    const json = readTokenizerJson(built.json, path);
    this.spelling = spellingOf(json.decoder, path);
    this.spellsAdded = source.kind === 'tokenizer.json';

    const added = json.addedTokens;
    const tokens: (string | undefined)[] = [];
    const idOf = new Map(json.model.vocab);
    for (const [token, id] of json.model.vocab) tokens[id] = token;
    const normalize = buildNormalizer(json.normalizer, path);
    for (const { id, content, normalized } of added) {
      // Hugging Face writes a normalized token as it is found in a text.
      tokens[id] = normalized ? normalize(content) : content;
      if (tokens[id] === '' && content !== '') refuseEmptied(content, path);
      idOf.set(content, id);
    }
    this.idOf = idOf;
    this.tokens = tokens;
    this.vocabSize = tokens.length;
    this.addedIds = new Set(added.map((token) => token.id));
    this.specialIds = new Set(added.filter((token) => token.special).map((token) => token.id));
    const template = templateIds(json.postProcessor, idOf, path);
    this.prefix = template.prefix;
    this.suffix = template.suffix;

    this.bosToken = built.bosToken;
    this.eosToken = built.eosToken;
    this.bosTokenId =
      built.bosTokenId ?? (built.bosToken === undefined ? undefined : idOf.get(built.bosToken));
    const eos = built.eosToken === undefined ? undefined : idOf.get(built.eosToken);
    // A GGUF file has been searched for names of ends already, those of ordinary types included.
    const ends = source.kind === 'gguf' ? [] : endsByName(tokens).filter((id) => this.addedIds.has(id));
    this.eosTokenIds = [...new Set([...built.eosTokenIds, ...(eos === undefined ? [] : [eos]), ...ends])];

    this.preTokenize = buildPreTokenizer(json.preTokenizer, path);
    this.bpe = new Bpe(json.model, path);
    this.parsing = new AddedTokens(added, normalize);
    this.plain = new AddedTokens(
      added.filter((token) => !token.special),
      normalize,
    );
  }

  /**
   * Encodes a text. An empty text gives no ids but those that `addSpecial` adds.
   *
   * @returns fresh
   * @throws {TypeError} if `text` is not a string
   */
  encode(text: string, options: EncodeOptions = {}): number[] {
    if (typeof text !== 'string') throw new TypeError(`"text" must be a string, got ${typeof text}`);
    const { addSpecial = true, parseSpecial = false } = options;
    const ids: number[] = addSpecial ? [...this.prefix] : [];
    // Half a surrogate pair is no character; UTF-8 has no place for it.
    for (const section of (parseSpecial ? this.parsing : this.plain).split(text.toWellFormed())) {
      if ('id' in section) ids.push(section.id);
      else
        for (const word of this.preTokenize([section]))
          for (const id of this.bpe.encode(word.text)) ids.push(id);
    }
    if (addSpecial) ids.push(...this.suffix);
    return ids;
  }

  /**
   * Decodes a whole text.
   *
   * @throws {RangeError} if an id is not a non-negative integer
   */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const decoder = this.createDecoder([], options);
    let text = '';
    for (const id of ids) text += decoder.push(id);
    return text + decoder.flush();
  }

  /**
   * Starts decoding a text that is still growing.
   *
   * @param context ids of what comes before, for instance the prompt; they are not shown, but a leading
   *   space after them stays, and a character begun in them is finished
   */
  createDecoder(context: Iterable<number> = [], options: DecodeOptions = {}): StreamDecoder {
    const { skipSpecial = true } = options;
    const decoder = new StreamDecoder((id) => this.bytesOf(id, skipSpecial), this.spelling.leadingSpace);
    for (const id of context) decoder.push(id);
    return decoder;
  }

  /**
   * The id of a token by its exact spelling in the vocabulary.
   *
   * @returns `undefined` if there is none
   */
  tokenToId(token: string): number | undefined {
    return this.idOf.get(token);
  }

  /**
   * The spelling of a token in the vocabulary, for instance `'Ġthe'`.
   *
   * @returns `undefined` if there is none of that id
   */
  idToToken(id: number): string | undefined {
    return this.tokens[id];
  }

  /** The text of a special token, which decoding leaves out by default; `undefined` for others. */
  hiddenText(id: number): string | undefined {
    return this.specialIds.has(id) ? this.tokens[id] : undefined;
  }

  /** Whether a token is special: it steers the model and is not text. */
  isSpecial(id: number): boolean {
    return this.specialIds.has(id);
  }

  private bytesOf(id: number, skipSpecial: boolean): Uint8Array | undefined {
    if (!Number.isInteger(id) || id < 0)
      throw new RangeError(`"id" must be a token id, got ${describeValue(id)}`);
    const token = this.tokens[id];
    // Rows of the embedding that pad it to a round size have no token and no text.
    if (token === undefined || (skipSpecial && this.specialIds.has(id))) return undefined;
    if (!this.spellsAdded && this.addedIds.has(id)) return new TextEncoder().encode(token);
    return tokenBytes(token, this.spelling);
  }
}

/** A token that its normalizer empties would be everywhere, and cuts a text between all its characters there. */
function refuseEmptied(content: string, path: string): never {
  const feature = `the added token ${describeValue(content)}, of which its normalizer leaves nothing,`;
  throw new UnsupportedModelError(path, feature, 'added tokens with "normalized": false');
}
