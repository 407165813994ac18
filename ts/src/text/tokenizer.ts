/**
 * Text to token ids and back, the same for GGUF files and Hugging Face folders.
 *
 * Encoding is done by `@huggingface/tokenizers`. Decoding is our own (`token-bytes.ts`), because text must
 * come out while it is generated, and no character may be split.
 *
 * @module xquant/tokenizer
 */

import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import { FormatError, UnsupportedModelError } from '../errors.js';
import { buildGgufTokenizer, checkGgufTokenizer } from './gguf-tokenizer.js';
import { StreamDecoder, spellingOf, type TokenSpelling, tokenBytes } from './token-bytes.js';
import { checkTokenizerJson, forLibrary, type TokenizerJson, templateIds } from './tokenizer-json.js';
import type { TokenizerSource } from './tokenizer-source.js';

/** What {@link Tokenizer.encode} takes. */
export interface EncodeOptions {
  /**
   * Whether to put what the model wants in front of and behind a text (usually BOS). Default `true`. A chat
   * template writes these itself: encode its result with `{ addSpecial: false, parseSpecial: true }`.
   */
  readonly addSpecial?: boolean;
  /**
   * Whether the spelling of a special token ("<|im_start|>") means that token. Default `false`: text of a user
   * must not be able to forge them.
   */
  readonly parseSpecial?: boolean;
}

/** What {@link Tokenizer.decode} and {@link Tokenizer.createDecoder} take. */
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
    checkTokenizerJson(source.json, source.path);
    spellingOf(source.json.decoder, source.path);
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
  private readonly addedIds: ReadonlySet<number>;
  private readonly specialIds: ReadonlySet<number>;
  private readonly spelling: TokenSpelling;
  private readonly prefix: readonly number[];
  private readonly suffix: readonly number[];
  private readonly plain: LibraryTokenizer;
  private readonly parsing: LibraryTokenizer;

  /**
   * Builds a tokenizer; that takes up to a second for the largest vocabularies.
   *
   * @throws {FormatError} if there is none, or a part of it is missing; names the part
   * @throws {UnsupportedModelError} names the kind of tokenizer or pre-tokenizer that is not supported
   */
  constructor(source: TokenizerSource) {
    checkTokenizerSource(source);
    if (source.kind === 'none') throw new FormatError(source.path, 'tokenizer', 'the model has no tokenizer');
    const built = source.kind === 'gguf' ? buildGgufTokenizer(source) : { bosTokenId: undefined, ...source };
    const json = checkTokenizerJson(built.json, source.path);
    this.spelling = spellingOf(json.decoder, source.path);

    const added = json.added_tokens;
    const tokens: (string | undefined)[] = [];
    const idOf = new Map<string, number>();
    for (const [token, id] of Object.entries(json.model.vocab)) {
      tokens[id] = token;
      idOf.set(token, id);
    }
    for (const { id, content } of added) {
      tokens[id] = content;
      idOf.set(content, id);
    }
    this.tokens = tokens;
    this.vocabSize = tokens.length;
    this.addedIds = new Set(added.map((token) => token.id));
    this.specialIds = new Set(added.filter((token) => token.special).map((token) => token.id));
    const template = templateIds(json, idOf, source.path);
    this.prefix = template.prefix;
    this.suffix = template.suffix;

    this.bosToken = built.bosToken;
    this.eosToken = built.eosToken;
    this.bosTokenId =
      built.bosTokenId ?? (built.bosToken === undefined ? undefined : idOf.get(built.bosToken));
    const eos = built.eosToken === undefined ? undefined : idOf.get(built.eosToken);
    this.eosTokenIds = [...new Set([...built.eosTokenIds, ...(eos === undefined ? [] : [eos])])];

    [this.plain, this.parsing] = libraryTokenizers(json, source.path);
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
    const library = parseSpecial ? this.parsing : this.plain;
    const ids: number[] = library.encode(text, { add_special_tokens: false }).ids;
    return addSpecial ? [...this.prefix, ...ids, ...this.suffix] : ids;
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
   *   space behind them stays, and a character begun in them is finished
   */
  createDecoder(context: Iterable<number> = [], options: DecodeOptions = {}): StreamDecoder {
    const { skipSpecial = true } = options;
    const decoder = new StreamDecoder((id) => this.bytesOf(id, skipSpecial), this.spelling.stripLeadingSpace);
    for (const id of context) decoder.push(id);
    return decoder;
  }

  /**
   * The id of a token by its exact spelling in the vocabulary.
   *
   * @returns `undefined` if there is none
   */
  tokenToId(token: string): number | undefined {
    const id = this.tokens.indexOf(token);
    return id < 0 ? undefined : id;
  }

  /**
   * The spelling of a token in the vocabulary, for instance `'Ġthe'`.
   *
   * @returns `undefined` if there is none of that id
   */
  idToToken(id: number): string | undefined {
    return this.tokens[id];
  }

  /** Whether a token is special: it steers the model and is not text. */
  isSpecial(id: number): boolean {
    return this.specialIds.has(id);
  }

  private bytesOf(id: number, skipSpecial: boolean): Uint8Array | undefined {
    if (!Number.isInteger(id) || id < 0) throw new RangeError(`"id" must be a token id, got ${id}`);
    const token = this.tokens[id];
    // Rows of the embedding that pad it to a round size have no token and no text.
    if (token === undefined || (skipSpecial && this.specialIds.has(id))) return undefined;
    if (this.addedIds.has(id)) return new TextEncoder().encode(token);
    return tokenBytes(token, this.spelling);
  }
}

/**
 * Two tokenizers of the library over one model: one that does not know the special tokens, and one that finds
 * their spelling in the text. They share the merges, which are most of the memory.
 */
function libraryTokenizers(json: TokenizerJson, path: string): [LibraryTokenizer, LibraryTokenizer] {
  const prepared = forLibrary(json);
  try {
    const config = { clean_up_tokenization_spaces: false };
    const ordinary = prepared.added_tokens.filter((token) => !token.special);
    const plain = new LibraryTokenizer({ ...prepared, added_tokens: ordinary }, config);
    const empty = { ...prepared.model, vocab: {}, merges: [] };
    const parsing = new LibraryTokenizer({ ...prepared, model: empty }, config);
    parsing.model = plain.model;
    return [plain, parsing];
  } catch (cause) {
    // The library refuses parts that it does not know with a plain Error that names them.
    const { message } = cause as Error;
    throw new UnsupportedModelError(path, `tokenizer (${message})`, 'byte-level BPE, SentencePiece BPE');
  }
}
