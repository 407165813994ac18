/**
 * Reads what we need of a Hugging Face `tokenizer.json`, and checks it before the library trusts it.
 *
 * @module
 */

import { FormatError, UnsupportedModelError } from '../errors.js';

/** A token that is matched as a whole, before the text is cut into words. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

/** The parts of a tokenizer.json that are looked at here; the others go to the library as they are. */
export interface TokenizerJson {
  readonly added_tokens: readonly AddedToken[];
  readonly model: {
    readonly type: 'BPE';
    readonly vocab: Readonly<Record<string, number>>;
    readonly merges: readonly (string | readonly [string, string])[];
  };
  readonly pre_tokenizer: unknown;
  readonly post_processor: unknown;
  readonly decoder: unknown;
  readonly normalizer: unknown;
}

/**
 * Requires a BPE tokenizer with vocabulary and merges.
 *
 * @returns the same object, typed; absent parts are `null`, as the library wants them
 * @throws {FormatError} names what is missing
 * @throws {UnsupportedModelError} for another kind than BPE
 */
export function checkTokenizerJson(json: Readonly<Record<string, unknown>>, path: string): TokenizerJson {
  const { model } = json;
  if (!isObject(model)) throw new FormatError(path, 'model', 'the tokenizer has no model');
  // Old files leave the type out; a model with merges is BPE.
  const type = model.type ?? (model.merges ? 'BPE' : undefined);
  if (type !== 'BPE') throw new UnsupportedModelError(path, `tokenizer model "${type}"`, 'BPE');
  if (!isObject(model.vocab)) throw new FormatError(path, 'model.vocab', 'the tokenizer has no vocabulary');
  if (!Array.isArray(model.merges))
    throw new FormatError(path, 'model.merges', 'the tokenizer has no merges');
  for (const [token, id] of Object.entries(model.vocab)) {
    if (!isId(id)) throw new FormatError(path, `model.vocab["${token}"]`, `must be a token id, got ${id}`);
  }
  const added = json.added_tokens ?? [];
  if (!Array.isArray(added)) throw new FormatError(path, 'added_tokens', 'must be a list');
  for (const token of added) {
    if (!isObject(token) || !isId(token.id) || typeof token.content !== 'string') {
      throw new FormatError(path, 'added_tokens', `must have id and content, got ${JSON.stringify(token)}`);
    }
  }
  return {
    ...json,
    model: { ...model, type },
    added_tokens: added,
    normalizer: json.normalizer ?? null,
    pre_tokenizer: json.pre_tokenizer ?? null,
    post_processor: json.post_processor ?? null,
    decoder: json.decoder ?? null,
  } as unknown as TokenizerJson;
}

/**
 * What the post-processor puts around a text.
 *
 * @throws {FormatError} if it names a token that does not exist
 */
export function templateIds(
  json: TokenizerJson,
  idOf: ReadonlyMap<string, number>,
  path: string,
): { prefix: number[]; suffix: number[] } {
  const prefix: number[] = [];
  const suffix: number[] = [];
  const lookUp = (token: unknown): number => {
    const id = idOf.get(String(token));
    if (id === undefined) throw new FormatError(path, 'post_processor', `token "${token}" does not exist`);
    return id;
  };
  for (const step of flatten(json.post_processor, 'processors')) {
    if (step.type === 'TemplateProcessing' && Array.isArray(step.single)) {
      let target = prefix;
      for (const item of step.single) {
        if ('Sequence' in item) target = suffix;
        else target.push(lookUp(item.SpecialToken?.id));
      }
    } else if (step.type === 'BertProcessing' || step.type === 'RobertaProcessing') {
      const { cls, sep } = step as { cls?: unknown[]; sep?: unknown[] };
      prefix.push(lookUp(cls?.[0]));
      suffix.push(lookUp(sep?.[0]));
    }
  }
  return { prefix, suffix };
}

/**
 * Rewrites three pre-tokenizers whose behaviour in the library differs from that of Rust `tokenizers`:
 *
 * - `ByteLevel` cuts with a JavaScript pattern, whose `\s` includes U+FEFF and lacks U+0085. As a `Split` the
 *   same pattern is translated faithfully.
 * - `Digits` knows the ten ASCII digits only; it should know every number of Unicode.
 * - `Metaspace` does not cut at all; by default it should, in front of every U+2581.
 */
export function forLibrary(json: TokenizerJson): TokenizerJson {
  return { ...json, pre_tokenizer: rewrite(json.pre_tokenizer) };
}

const GPT2_PATTERN = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

function rewrite(preTokenizer: unknown): unknown {
  if (!isObject(preTokenizer)) return preTokenizer;
  if (preTokenizer.type === 'Sequence' && Array.isArray(preTokenizer.pretokenizers)) {
    return { ...preTokenizer, pretokenizers: preTokenizer.pretokenizers.map(rewrite) };
  }
  if (
    preTokenizer.type === 'ByteLevel' &&
    preTokenizer.use_regex !== false &&
    !preTokenizer.add_prefix_space
  ) {
    return sequence(split(GPT2_PATTERN), { ...preTokenizer, use_regex: false });
  }
  if (preTokenizer.type === 'Digits') return split(preTokenizer.individual_digits ? '\\p{N}' : '\\p{N}+');
  if (preTokenizer.type === 'Metaspace' && preTokenizer.split !== false) {
    return sequence(preTokenizer, split('▁[^▁]*|[^▁]+'));
  }
  return preTokenizer;
}

function sequence(...pretokenizers: unknown[]): unknown {
  return { type: 'Sequence', pretokenizers };
}

function split(pattern: string): unknown {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false };
}

function flatten(step: unknown, key: string): Record<string, unknown>[] {
  if (!isObject(step)) return [];
  const inner = step[key];
  if (step.type === 'Sequence' && Array.isArray(inner)) return inner.flatMap((each) => flatten(each, key));
  return [step];
}

function isId(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 && value < 2 ** 24;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
