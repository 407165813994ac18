/**
 * The source of a tokenizer: the part of a model file that is about text.
 *
 * @module
 */

/** A Hugging Face `tokenizer.json` and what other files of the folder add to it. */
export interface JsonTokenizerSource {
  readonly kind: 'tokenizer.json';
  /** File or folder, for messages. */
  readonly path: string;
  /** Parsed `tokenizer.json`. */
  readonly json: Readonly<Record<string, unknown>>;
  /** As chat templates write it, for instance `'<s>'`. */
  readonly bosToken?: string;
  /** As chat templates write it, for instance `'</s>'`. */
  readonly eosToken?: string;
  /** Ids that end a text, of `generation_config.json` and `config.json`. */
  readonly eosTokenIds: readonly number[];
}

/** The `tokenizer.ggml.*` entries of a GGUF file. */
export interface GgufTokenizerSource {
  readonly kind: 'gguf';
  /** File or URL, for messages. */
  readonly path: string;
  /** By full key, for instance `'tokenizer.ggml.tokens'`. */
  readonly metadata: ReadonlyMap<string, unknown>;
}

/** A model file without a tokenizer. */
export interface NoTokenizerSource {
  readonly kind: 'none';
  /** File or folder, for messages. */
  readonly path: string;
}

/** The source of a tokenizer. */
export type TokenizerSource = JsonTokenizerSource | GgufTokenizerSource | NoTokenizerSource;
