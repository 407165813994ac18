/**
 * How byte-level BPE vocabularies cut text into words before merging: the `tokenizer.ggml.pre` names of GGUF,
 * each with the pattern of the model's own tokenizer.json.
 *
 * Where llama.cpp had to rewrite a pattern for its regex engine, the original is here. A name that is
 * not in this table is refused: a nearly right pattern gives nearly right tokens, and nobody would notice.
 *
 * @module
 */

/** The meaning of a pre-tokenizer name. */
export interface PreTokenizerRecipe {
  /** Applied one after the other; each cuts the pieces of the one before. Text between matches is a piece, too. */
  readonly patterns: readonly string[];
  /** A piece that is a token as a whole is not merged from its parts. */
  readonly ignoreMerges?: boolean;
  /** Whether a text begins with BOS when the file does not say. */
  readonly addBos?: boolean;
  /** Unicode normalization before all else. */
  readonly normalizer?: 'NFC';
}

const GPT2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const LLAMA3 = String.raw`${CONTRACTIONS}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const QWEN2 = LLAMA3.replace(String.raw`\p{N}{1,3}`, String.raw`\p{N}`);
const UPPER = String.raw`\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}`;
const LOWER = String.raw`\p{Ll}\p{Lm}\p{Lo}\p{M}`;
const TEKKEN = String.raw`[^\r\n\p{L}\p{N}]?[${UPPER}]*[${LOWER}]+|[^\r\n\p{L}\p{N}]?[${UPPER}]+[${LOWER}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const GPT4O = String.raw`[^\r\n\p{L}\p{N}]?[${UPPER}]*[${LOWER}]+${CONTRACTIONS}?|[^\r\n\p{L}\p{N}]?[${UPPER}]+[${LOWER}]*${CONTRACTIONS}?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const DEEPSEEK3 = String.raw`[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_\x60{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const DIGIT = String.raw`\p{N}`;

const SEED_CODER = String.raw`${CONTRACTIONS}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+`;

const gpt2: PreTokenizerRecipe = { patterns: [GPT2] };
const llama3: PreTokenizerRecipe = { patterns: [LLAMA3], ignoreMerges: true, addBos: true };
const qwen2: PreTokenizerRecipe = { patterns: [QWEN2], normalizer: 'NFC' };
const gpt4o: PreTokenizerRecipe = { patterns: [GPT4O] };
const deepseek3: PreTokenizerRecipe = {
  patterns: [String.raw`\p{N}{1,3}`, '[一-龥\u3040-ゟ゠-ヿ]+', DEEPSEEK3],
};
const singleDigits: PreTokenizerRecipe = { patterns: [DIGIT, GPT2] };

/** Recipes by `tokenizer.ggml.pre`. */
export const PRE_TOKENIZERS: Readonly<Record<string, PreTokenizerRecipe>> = {
  // What llama.cpp does for files older than the key.
  default: { patterns: [String.raw`[\p{P}\$\+<=>\^~\|]+`, GPT2, String.raw`\p{N}+`, '[0-9][0-9][0-9]'] },
  'gpt-2': gpt2,
  gpt2,
  olmo: gpt2,
  mpt: gpt2,
  'phi-2': gpt2,
  jais: gpt2,
  trillion: gpt2,
  gigachat: gpt2,
  mellum: gpt2,
  'a.x-4.0': gpt2,
  'granite-docling': gpt2,
  'llama-bpe': llama3,
  llama3,
  'llama-v3': llama3,
  falcon3: llama3,
  'falcon-h1': llama3,
  pixtral: llama3,
  lfm2: llama3,
  'midm-2.0': llama3,
  dbrx: { patterns: [LLAMA3] },
  'smaug-bpe': { patterns: [LLAMA3] },
  glm4: { patterns: [LLAMA3] },
  'chatglm-bpe': { patterns: [LLAMA3] },
  qwen2,
  'deepseek-r1-qwen': qwen2,
  kormo: qwen2,
  stablelm2: { patterns: [QWEN2] },
  smollm: singleDigits,
  starcoder: singleDigits,
  refact: singleDigits,
  'command-r': singleDigits,
  codeshell: singleDigits,
  exaone: singleDigits,
  'minerva-7b': singleDigits,
  mellum2: singleDigits,
  exaone4: gpt2,
  'gpt-4o': gpt4o,
  llama4: gpt4o,
  kanana2: gpt4o,
  'deepseek-v3': deepseek3,
  'hunyuan-dense': deepseek3,
  'joyai-llm': deepseek3,
  'seed-coder': { patterns: [SEED_CODER] },
  megrez: qwen2,
  tekken: { patterns: [TEKKEN], ignoreMerges: true, addBos: true },
  'deepseek-coder': {
    patterns: ['[\r\n]', String.raw`\s?\p{L}+`, String.raw`\s?\p{P}+`, '[一-龥ࠀ-一가-퟿]+', DIGIT],
  },
};
