/**
 * Reads what we need of a Hugging Face `tokenizer.json`, and checks all of it before it is used: what is not
 * honoured is refused by name.
 *
 * @module
 */

import { FormatError, UnsupportedModelError } from '../errors.js';
import type { AddedToken } from './pipeline/added-tokens.js';
import type { BpeModel } from './pipeline/bpe.js';
import { Fields, isObject, type JsonObject, shown } from './pipeline/fields.js';

/** The parts of a tokenizer.json that are data; the others describe the steps of the pipeline. */
export interface TokenizerJson {
  readonly addedTokens: readonly AddedToken[];
  readonly model: BpeModel;
  readonly normalizer: unknown;
  readonly preTokenizer: unknown;
  readonly postProcessor: unknown;
  readonly decoder: unknown;
}

/** Added tokens are short names; a long one would be searched for at every place of a text. */
const MAX_ADDED_LENGTH = 1024;
const MAX_DEPTH = 20;

/**
 * Reads a BPE tokenizer with vocabulary and merges.
 *
 * @throws {FormatError} names what is missing or of a wrong type
 * @throws {UnsupportedModelError} for another kind than BPE, and options that are not supported
 */
export function readTokenizerJson(json: JsonObject, path: string): TokenizerJson {
  if (!isObject(json)) throw new FormatError(path, 'content', `must be a JSON object, got ${shown(json)}`);
  const model = readModel(json, path);
  return {
    addedTokens: readAddedTokens(json.added_tokens ?? [], model.vocab, path, 'added_tokens'),
    model,
    normalizer: json.normalizer ?? null,
    preTokenizer: json.pre_tokenizer ?? null,
    postProcessor: json.post_processor ?? null,
    decoder: json.decoder ?? null,
  };
}

function readModel(json: JsonObject, path: string): BpeModel {
  if (!isObject(json.model)) throw new FormatError(path, 'model', 'the tokenizer has no model');
  const model = new Fields(json.model, path, 'model');
  // Old files leave the type out; a model with merges is BPE.
  const type = json.model.type ?? (json.model.merges ? 'BPE' : undefined);
  if (type !== 'BPE') throw new UnsupportedModelError(path, `tokenizer model ${shown(type)}`, 'BPE');
  const vocab = readVocab(json.model.vocab, path);
  for (const option of ['continuing_subword_prefix', 'end_of_word_suffix']) {
    const value = json.model[option];
    if (value !== null && value !== undefined && value !== '') {
      throw model.unsupported(`${option} ${shown(value)}`, 'none');
    }
  }
  if (json.model.dropout) throw model.unsupported(`dropout ${shown(json.model.dropout)}`, 'none');
  const unknown = json.model.unk_token === null ? undefined : model.string('unk_token', '');
  const unknownId = unknown ? vocab.get(unknown) : undefined;
  if (unknown && unknownId === undefined)
    throw model.error('unk_token', `${shown(unknown)} is not in the vocabulary`);
  return {
    vocab,
    merges: readMerges(json.model.merges, path),
    unknownId,
    fuseUnknown: model.boolean('fuse_unk', false),
    byteFallback: model.boolean('byte_fallback', false),
    ignoreMerges: model.boolean('ignore_merges', false),
  };
}

function readVocab(value: unknown, path: string): Map<string, number> {
  if (!isObject(value)) throw new FormatError(path, 'model.vocab', 'the tokenizer has no vocabulary');
  const vocab = new Map<string, number>();
  for (const [token, id] of Object.entries(value)) {
    if (!isId(id))
      throw new FormatError(path, `model.vocab[${shown(token)}]`, `must be a token id, got ${shown(id)}`);
    vocab.set(token, id);
  }
  return vocab;
}

/** `["a b", ...]` or `[["a", "b"], ...]`. */
function readMerges(value: unknown, path: string): (readonly [string, string])[] {
  if (!Array.isArray(value)) throw new FormatError(path, 'model.merges', 'the tokenizer has no merges');
  const merges: (readonly [string, string])[] = [];
  for (const [i, merge] of value.entries()) {
    if (typeof merge === 'string' && merge.startsWith('#version')) continue;
    const pair: unknown = typeof merge === 'string' ? merge.split(' ') : merge;
    if (!isPair(pair)) {
      throw new FormatError(path, `model.merges[${i}]`, `must be two tokens, got ${shown(merge)}`);
    }
    merges.push(pair);
  }
  return merges;
}

function isPair(value: unknown): value is readonly [string, string] {
  return Array.isArray(value) && value.length === 2 && value.every((each) => typeof each === 'string');
}

/**
 * Reads a list of added tokens.
 *
 * @throws {FormatError} names the token that is wrong, or contradicts the vocabulary
 */
export function readAddedTokens(
  value: unknown,
  vocab: ReadonlyMap<string, number>,
  path: string,
  place: string,
): AddedToken[] {
  if (!Array.isArray(value)) throw new FormatError(path, place, 'must be a list');
  return value.map((each, i) => {
    const token = Fields.of(each, path, `${place}[${i}]`);
    const { id } = token.json;
    const content = token.string('content');
    if (!isId(id)) throw token.error('id', `must be a token id, got ${shown(id)}`);
    const known = vocab.get(content);
    if (known !== undefined && known !== id) {
      throw token.error('id', `is ${id}, but ${shown(content)} has id ${known} in the vocabulary`);
    }
    if (content.length > MAX_ADDED_LENGTH) {
      throw token.error('content', `has over ${MAX_ADDED_LENGTH} characters: ${shown(content)}`);
    }
    const special = token.boolean('special', false);
    return {
      id,
      content,
      special,
      single_word: token.boolean('single_word', false),
      lstrip: token.boolean('lstrip', false),
      rstrip: token.boolean('rstrip', false),
      normalized: token.boolean('normalized', !special),
    };
  });
}

/**
 * The tokens that the post-processor puts around a text.
 *
 * @throws {FormatError} if it is of a wrong type, or names a token that does not exist
 * @throws {UnsupportedModelError} names a type that is not supported
 */
export function templateIds(
  postProcessor: unknown,
  idOf: ReadonlyMap<string, number>,
  path: string,
): { prefix: number[]; suffix: number[] } {
  const around: { prefix: number[]; suffix: number[] } = { prefix: [], suffix: [] };
  if (postProcessor === null) return around;
  for (const step of flatten(Fields.of(postProcessor, path, 'post_processor'), 0)) {
    const put = (side: 'prefix' | 'suffix', ids: number[]) => {
      if (side === 'prefix') around.prefix.unshift(...ids);
      else around.suffix.push(...ids);
    };
    const lookUp = (name: string, token: unknown): number => {
      const id = typeof token === 'string' ? idOf.get(token) : undefined;
      if (id === undefined) throw step.error(name, `token ${shown(token)} does not exist`);
      return id;
    };
    switch (step.type) {
      case 'TemplateProcessing': {
        const { prefix, suffix } = templateOf(step, lookUp);
        put('prefix', prefix);
        put('suffix', suffix);
        break;
      }
      case 'BertProcessing':
      case 'RobertaProcessing':
        put('prefix', [lookUp('cls', firstOf(step, 'cls'))]);
        put('suffix', [lookUp('sep', firstOf(step, 'sep'))]);
        break;
      case 'ByteLevel':
        break; // changes offsets, not ids
      default:
        throw step.unsupported(
          `post-processor "${step.type}"`,
          'Sequence, TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel',
        );
    }
  }
  return around;
}

/** `"single": [{ "SpecialToken": { "id": "<s>" } }, { "Sequence": { "id": "A" } }]` */
function templateOf(
  step: Fields,
  lookUp: (name: string, token: unknown) => number,
): { prefix: number[]; suffix: number[] } {
  const before: number[] = [];
  const after: number[] = [];
  let sequences = 0;
  for (const item of step.list('single')) {
    const { Sequence, SpecialToken } = item.json;
    if (isObject(Sequence)) sequences++;
    else if (isObject(SpecialToken))
      (sequences ? after : before).push(...specialIds(step, SpecialToken.id, lookUp));
    else throw step.error('single', `must have Sequence or SpecialToken, got ${shown(item.json)}`);
  }
  if (sequences !== 1) throw step.error('single', `must have the text once, has it ${sequences} times`);
  return { prefix: before, suffix: after };
}

/** A name of the template can mean several ids, which `special_tokens` lists. */
function specialIds(step: Fields, name: unknown, lookUp: (name: string, token: unknown) => number): number[] {
  const table = step.json.special_tokens;
  const entry =
    isObject(table) && typeof name === 'string' && Object.hasOwn(table, name) ? table[name] : undefined;
  const ids = isObject(entry) ? entry.ids : undefined;
  return Array.isArray(ids) && ids.length > 0 && ids.every(isId) ? ids : [lookUp('single', name)];
}

function firstOf(step: Fields, name: string): unknown {
  const pair = step.json[name];
  return Array.isArray(pair) ? pair[0] : pair;
}

function flatten(step: Fields, depth: number): Fields[] {
  if (step.type !== 'Sequence') return [step];
  if (depth >= MAX_DEPTH) throw step.error('processors', `sequences nest over ${MAX_DEPTH} deep`);
  return step.list('processors').flatMap((each) => flatten(each, depth + 1));
}

function isId(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 && value < 2 ** 24;
}
