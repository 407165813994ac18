/**
 * The files of a Hugging Face folder about text: tokenizer.json, tokenizer_config.json,
 * special_tokens_map.json, generation_config.json and chat templates.
 *
 * @module
 */

import { FormatError } from '../errors.js';
import { Fields, isObject, type JsonObject, shown } from '../text/pipeline/fields.js';
import { readAddedTokens } from '../text/tokenizer-json.js';
import type { TokenizerSource } from '../text/tokenizer-source.js';

/** The parsed files; absent where there is none. */
export interface TokenizerFiles {
  /** Folder, for messages. */
  readonly folder: string;
  /** config.json */
  readonly config: JsonObject;
  readonly tokenizer?: JsonObject;
  readonly tokenizerConfig?: JsonObject;
  readonly specialTokensMap?: JsonObject;
  readonly generationConfig?: JsonObject;
  /** chat_template.jinja */
  readonly template?: string;
}

/**
 * Puts together what a tokenizer is built from, as transformers does: the configuration adds tokens and names to
 * tokenizer.json. Its flags add_bos_token and add_eos_token are without effect there, and so they are here.
 *
 * @throws {FormatError} names the file and the place that is wrong
 */
export function tokenizerSource(files: TokenizerFiles): { source: TokenizerSource; chatTemplate?: string } {
  const { folder, tokenizer, tokenizerConfig = {}, specialTokensMap = {}, template } = files;
  const chatTemplate = template ?? defaultTemplate(tokenizerConfig.chat_template);
  const shownTemplate = chatTemplate === undefined ? {} : { chatTemplate };
  if (!tokenizer) return { source: { kind: 'none', path: folder }, ...shownTemplate };

  const path = `${folder}/tokenizer.json`;
  const named = (name: string) => tokenText(tokenizerConfig[name]) ?? tokenText(specialTokensMap[name]);
  const bosToken = named('bos_token');
  const eosToken = named('eos_token');
  const source: TokenizerSource = {
    kind: 'tokenizer.json',
    path,
    json: withConfiguration(tokenizer, tokenizerConfig, specialTokensMap, folder),
    ...(bosToken === undefined ? {} : { bosToken }),
    ...(eosToken === undefined ? {} : { eosToken }),
    eosTokenIds: endIds(files),
  };
  return { source, ...shownTemplate };
}

/** Ids that end a text, of generation_config.json and config.json. */
function endIds({ folder, config, generationConfig = {} }: TokenizerFiles): number[] {
  const ids = [
    ...idList(generationConfig.eos_token_id, `${folder}/generation_config.json`),
    ...idList(config.eos_token_id, `${folder}/config.json`),
  ];
  return [...new Set(ids)];
}

function idList(value: unknown, path: string): number[] {
  if (value === undefined || value === null) return [];
  const list: unknown[] = Array.isArray(value) ? value : [value];
  return list.map((id) => {
    if (typeof id === 'number' && Number.isSafeInteger(id) && id >= 0) return id;
    throw new FormatError(path, 'eos_token_id', `must be a token id or a list of them, got ${shown(value)}`);
  });
}

/** One template, or a list of named ones of which we take the default. */
function defaultTemplate(value: unknown): string | undefined {
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) return undefined;
  const found = value.find((each) => isObject(each) && each.name === 'default') ?? value[0];
  return isObject(found) && typeof found.template === 'string' ? found.template : undefined;
}

/** `"</s>"` or `{ "content": "</s>", ... }`. */
function tokenText(value: unknown): string | undefined {
  const text = isObject(value) ? value.content : value;
  return typeof text === 'string' ? text : undefined;
}

const NAMED_TOKENS = [
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
];

/** A tokenizer.json with what the configuration adds. */
function withConfiguration(
  json: JsonObject,
  config: JsonObject,
  map: JsonObject,
  folder: string,
): Record<string, unknown> {
  const vocab = isObject(json.model) && isObject(json.model.vocab) ? json.model.vocab : {};
  const listed = Array.isArray(json.added_tokens) ? json.added_tokens : [];
  if (json.added_tokens !== undefined && !Array.isArray(json.added_tokens)) return { ...json };
  const known = new Set(listed.map((token) => (isObject(token) ? token.content : undefined)));
  const added: unknown[] = [...listed];
  const add = (token: { content: string }) => {
    if (known.has(token.content)) return;
    known.add(token.content);
    added.push(token);
  };
  for (const token of decoderTokens(config.added_tokens_decoder, folder)) add(token);
  const extra = [
    config.additional_special_tokens ?? map.additional_special_tokens,
    config.extra_special_tokens,
  ];
  const values = [
    ...NAMED_TOKENS.map((name) => config[name] ?? map[name]),
    ...extra.flatMap((value) => (isObject(value) ? Object.values(value) : Array.isArray(value) ? value : [])),
  ];
  for (const value of values) {
    const content = tokenText(value);
    // A named token that no file gives an id cannot be in the embedding either.
    const id = content !== undefined && Object.hasOwn(vocab, content) ? vocab[content] : undefined;
    if (id !== undefined) add({ ...flagsOf(value), id, content, special: true } as { content: string });
  }
  return withPrefixSpace({ ...json, added_tokens: added }, config);
}

function flagsOf(value: unknown): object {
  if (!isObject(value)) return { normalized: false };
  const { single_word, lstrip, rstrip, normalized } = value;
  return { single_word, lstrip, rstrip, normalized };
}

/** `{ "347": { "content": "<|im_end|>", ... } }` */
function decoderTokens(value: unknown, folder: string): { content: string }[] {
  if (value === undefined || value === null) return [];
  const path = `${folder}/tokenizer_config.json`;
  const place = 'added_tokens_decoder';
  const table = Fields.of(value, path, place).json;
  const list = Object.entries(table).map(([id, token]) => ({
    ...Fields.of(token, path, `${place}["${id}"]`).json,
    id: /^\d+$/.test(id) ? Number(id) : id,
  }));
  return readAddedTokens(list, new Map(), path, place);
}

const LLAMA_CLASSES: readonly unknown[] = ['LlamaTokenizer', 'LlamaTokenizerFast'];

/**
 * transformers gives SentencePiece tokenizers of the class LlamaTokenizer their own first step, whatever
 * tokenizer.json says: a space in front of every part of the text (`legacy`), of the first (the default), or of none
 * (`add_prefix_space: false`).
 */
function withPrefixSpace(json: Record<string, unknown>, config: JsonObject): Record<string, unknown> {
  const written = JSON.stringify(json.decoder ?? null);
  const isSentencePiece = written.includes('"▁"') && !written.includes('"ByteLevel"');
  if (!LLAMA_CLASSES.includes(config.tokenizer_class) || !isSentencePiece) return json;
  const hasPrefix = config.add_prefix_space !== false;
  const scheme = !hasPrefix ? 'never' : config.legacy === true ? 'always' : 'first';
  const decoders = [
    { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
    ...(hasPrefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
  ];
  return {
    ...json,
    normalizer: null,
    pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: scheme, split: false },
    decoder: { type: 'Sequence', decoders },
  };
}
