/**
 * Builds the content of a Hugging Face `tokenizer.json` from the tokenizer entries of a GGUF file, so that
 * one library tokenizes for both.
 *
 *     tokenizer.ggml.model   gpt2    byte-level BPE: tokens, merges, and the name of the pre-tokenizer
 *                            llama   SentencePiece BPE with byte fallback: tokens and scores
 *
 * @module
 */

import { FormatError, UnsupportedModelError } from '../errors.js';
import { endsByName, isControlName } from './end-tokens.js';
import { PRE_TOKENIZERS, type PreTokenizerRecipe } from './pre-tokenizers.js';
import { mergesFromScores } from './sentencepiece-merges.js';
import type { GgufTokenizerSource } from './tokenizer-source.js';

const KEY = 'tokenizer.ggml.';

/** `tokenizer.ggml.token_type`. */
const TokenType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** Keys of the tokens that end an answer. */
const END_KEYS = [
  'eos_token_id',
  'eot_token_id',
  'eom_token_id',
  'fim_pad_token_id',
  'fim_rep_token_id',
  'fim_sep_token_id',
];

/** What is built for a GGUF file. */
export interface BuiltTokenizer {
  /** The content of a tokenizer.json. */
  readonly json: Record<string, unknown>;
  readonly bosTokenId?: number;
  readonly eosTokenIds: readonly number[];
  readonly bosToken?: string;
  readonly eosToken?: string;
}

/**
 * Requires the entries that a tokenizer needs, without building it.
 *
 * @throws {FormatError} names the key that is missing or contradicts another
 * @throws {UnsupportedModelError} for an unknown kind of tokenizer or pre-tokenizer
 */
export function checkGgufTokenizer(source: GgufTokenizerSource): void {
  const fields = new Fields(source);
  const kind = fields.required('model', 'string');
  const tokens = fields.strings('tokens');
  if (!tokens || tokens.length === 0)
    throw new FormatError(source.path, KEY + 'tokens', 'the list of tokens is missing');
  const types = fields.numbers('token_type');
  if (types && types.length !== tokens.length)
    throw fields.disagree('token_type', types.length, tokens.length);
  if (kind === 'gpt2') {
    if (!fields.strings('merges'))
      throw new FormatError(source.path, KEY + 'merges', 'the list of merges is missing');
    recipeOf(fields);
  } else if (kind === 'llama') {
    const scores = fields.numbers('scores');
    if (!scores) throw new FormatError(source.path, KEY + 'scores', 'the list of scores is missing');
    if (scores.length !== tokens.length) throw fields.disagree('scores', scores.length, tokens.length);
  } else {
    const supported = 'gpt2 (byte-level BPE), llama (SentencePiece BPE)';
    throw new UnsupportedModelError(source.path, `${KEY}model "${kind}"`, supported);
  }
  for (const name of ['bos_token_id', 'unknown_token_id', ...END_KEYS]) {
    const id = fields.optional(name, 'number');
    if (id !== undefined && !(Number.isInteger(id) && id >= 0 && id < tokens.length)) {
      throw new FormatError(source.path, KEY + name, `${id} is not one of the ${tokens.length} tokens`);
    }
  }
}

/**
 * Builds a tokenizer.json.
 *
 * @throws {FormatError | UnsupportedModelError} as {@link checkGgufTokenizer}
 */
export function buildGgufTokenizer(source: GgufTokenizerSource): BuiltTokenizer {
  checkGgufTokenizer(source);
  const fields = new Fields(source);
  const tokens = fields.strings('tokens')!;
  const given = fields.numbers('token_type');
  const types = tokens.map((token, id) =>
    isControlName(token) ? TokenType.control : (given?.[id] ?? TokenType.normal),
  );
  const isSentencePiece = fields.required('model', 'string') === 'llama';

  const model = isSentencePiece
    ? sentencePieceModel(fields, tokens, types)
    : byteLevelModel(fields, tokens, types);
  const addedTokens = tokens.flatMap((content, id) => {
    const special = types[id] === TokenType.control || (isSentencePiece && types[id] === TokenType.unknown);
    if (!special && types[id] !== TokenType.userDefined) return [];
    return [{ id, content, special, single_word: false, lstrip: false, rstrip: false, normalized: false }];
  });

  const bos = fields.optional('bos_token_id', 'number');
  const eos = fields.optional('eos_token_id', 'number');
  const addBos =
    fields.optional('add_bos_token', 'boolean') ?? (isSentencePiece || (recipeOf(fields).addBos ?? false));
  const addEos = fields.optional('add_eos_token', 'boolean') ?? false;
  const template: unknown[] = [{ Sequence: { id: 'A', type_id: 0 } }];
  if (addBos && bos !== undefined) template.unshift({ SpecialToken: { id: tokens[bos], type_id: 0 } });
  if (addEos && eos !== undefined) template.push({ SpecialToken: { id: tokens[eos], type_id: 0 } });

  const ends = END_KEYS.map((name) => fields.optional(name, 'number')).filter((id) => id !== undefined);
  return {
    json: {
      version: '1.0',
      added_tokens: addedTokens,
      ...model,
      post_processor: { type: 'TemplateProcessing', single: template, pair: [], special_tokens: {} },
    },
    ...(bos === undefined ? {} : { bosTokenId: bos, bosToken: tokens[bos] }),
    ...(eos === undefined ? {} : { eosToken: tokens[eos] }),
    eosTokenIds: [...new Set([...ends, ...endsByName(tokens)])],
  };
}

function byteLevelModel(fields: Fields, tokens: readonly string[], types: ArrayLike<number>) {
  const recipe = recipeOf(fields);
  const merges = fields.strings('merges')!.map((merge, i) => {
    // No token contains a plain space (byte-level text has another character for it), except at the very
    // front in a few old files; so the first space after the first character separates the two.
    const at = merge.indexOf(' ', 1);
    if (at < 0) throw new FormatError(fields.path, KEY + 'merges', `merge ${i} "${merge}" is not a pair`);
    return [merge.slice(0, at), merge.slice(at + 1)];
  });
  // The spelling of a special token must not come of a text by merges, unless a merge of the file makes it.
  const special = new Set<number>([TokenType.control, TokenType.userDefined]);
  const merged = new Set(merges.flatMap(([left, right]) => [left, right, left + right]));
  return {
    normalizer: recipe.normalizer ? { type: recipe.normalizer } : null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        ...recipe.patterns.map((pattern) => ({
          type: 'Split',
          pattern: { Regex: pattern },
          behavior: 'Isolated',
          invert: false,
        })),
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    model: {
      type: 'BPE',
      unk_token: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: recipe.ignoreMerges ?? false,
      // fromEntries, not assignment: a token may be called "__proto__".
      vocab: Object.fromEntries(
        tokens.flatMap((token, id) => (special.has(types[id]) && !merged.has(token) ? [] : [[token, id]])),
      ),
      merges,
    },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
  };
}

function sentencePieceModel(fields: Fields, tokens: readonly string[], types: ArrayLike<number>) {
  const unknown = fields.optional('unknown_token_id', 'number') ?? indexOfType(types, TokenType.unknown);
  const prefix = fields.optional('add_space_prefix', 'boolean') ?? true;
  const spaces = { type: 'Replace', pattern: { String: ' ' }, content: '▁' };
  const mergeable = new Set<number>([TokenType.normal, TokenType.unused]);
  const decoders = [
    { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
    ...(prefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
  ];
  return {
    normalizer: {
      type: 'Sequence',
      normalizers: prefix ? [{ type: 'Prepend', prepend: '▁' }, spaces] : [spaces],
    },
    pre_tokenizer: null,
    model: {
      type: 'BPE',
      unk_token: unknown === undefined ? null : tokens[unknown],
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: mergesFromScores(tokens, fields.numbers('scores')!, (id) => mergeable.has(types[id])),
    },
    decoder: { type: 'Sequence', decoders },
  };
}

function indexOfType(types: ArrayLike<number>, type: number): number | undefined {
  const index = Array.prototype.indexOf.call(types, type);
  return index < 0 ? undefined : index;
}

function recipeOf(fields: Fields): PreTokenizerRecipe {
  const name = fields.optional('pre', 'string') ?? 'default';
  if (Object.hasOwn(PRE_TOKENIZERS, name)) return PRE_TOKENIZERS[name];
  const supported = Object.keys(PRE_TOKENIZERS).join(', ');
  throw new UnsupportedModelError(fields.path, `${KEY}pre "${name}"`, supported);
}

interface TypeNames {
  string: string;
  number: number;
  boolean: boolean;
}

/** Typed access to the entries: a wrong type is an error that names the key. */
class Fields {
  readonly path: string;
  private readonly metadata: ReadonlyMap<string, unknown>;

  constructor(source: GgufTokenizerSource) {
    this.path = source.path;
    this.metadata = source.metadata;
  }

  optional<T extends keyof TypeNames>(name: string, type: T): TypeNames[T] | undefined {
    const value = this.metadata.get(KEY + name);
    if (value === undefined || typeof value === type) return value as TypeNames[T] | undefined;
    throw new FormatError(this.path, KEY + name, `must be a ${type}, got ${describe(value)}`);
  }

  required<T extends keyof TypeNames>(name: string, type: T): TypeNames[T] {
    const value = this.optional(name, type);
    if (value === undefined) throw new FormatError(this.path, KEY + name, 'the metadata key is missing');
    return value;
  }

  strings(name: string): readonly string[] | undefined {
    const value = this.metadata.get(KEY + name);
    if (value === undefined) return undefined;
    if (Array.isArray(value) && (value.length === 0 || typeof value[0] === 'string')) return value;
    throw new FormatError(this.path, KEY + name, `must be a list of strings, got ${describe(value)}`);
  }

  numbers(name: string): ArrayLike<number> | undefined {
    const value = this.metadata.get(KEY + name);
    if (value === undefined) return undefined;
    if (
      ArrayBuffer.isView(value) &&
      !(value instanceof BigInt64Array) &&
      !(value instanceof BigUint64Array)
    ) {
      return value as unknown as ArrayLike<number>;
    }
    throw new FormatError(this.path, KEY + name, `must be a list of numbers, got ${describe(value)}`);
  }

  disagree(name: string, length: number, tokens: number): FormatError {
    return new FormatError(this.path, KEY + name, `has ${length} entries for ${tokens} tokens`);
  }
}

function describe(value: unknown): string {
  return typeof value === 'object' ? 'a list of another type' : `a ${typeof value}`;
}
