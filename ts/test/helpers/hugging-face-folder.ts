/**
 * Tiny random models as Hugging Face folders, for tests.
 *
 * @module
 */

import {
  type SafeTensor,
  type SafetensorsDtype,
  toSafeTensor,
  writeSafetensors,
} from '../../src/io/safetensors.js';
import { encodeFloat16 } from '../../src/numerics/float16.js';
import { byteCharacters, generator } from './gguf-writer.js';

/** What the folder holds. */
export interface TinyFolderOptions {
  /** Over those of the default model: Llama, 2 layers of width 64. */
  config?: Record<string, unknown>;
  dtype?: 'F32' | 'F16' | 'BF16';
  /** Files that the weights are spread over. */
  shards?: number;
  seed?: number;
  /** Changes the tensors before they are written, for tests of bad files. */
  edit?: (tensors: Map<string, SafeTensor>) => void;
}

const DEFAULTS = {
  model_type: 'llama',
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 288,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
  hidden_act: 'silu',
  eos_token_id: 0,
};

/** Files by name. */
export function tinyFolder(options: TinyFolderOptions = {}): Map<string, Uint8Array> {
  const config = { ...DEFAULTS, ...options.config };
  const { dtype = 'F16', shards = 1 } = options;
  const random = generator(options.seed ?? 1);
  const tensors = new Map<string, SafeTensor>();
  const add = (name: string, shape: number[], center = 0) => {
    const length = shape.reduce((a, b) => a * b);
    const values = Float32Array.from({ length }, () => center + 0.2 * (random() - 0.5));
    tensors.set(name, encode(values, shape, dtype));
  };

  const { hidden_size: hidden, intermediate_size: ffn, num_attention_heads: heads } = config;
  const headDim = (options.config?.head_dim as number | undefined) ?? hidden / heads;
  const [queryDim, kvDim] = [heads * headDim, config.num_key_value_heads * headDim];
  add('model.embed_tokens.weight', [config.vocab_size, hidden]);
  for (let i = 0; i < config.num_hidden_layers; i++) {
    const at = `model.layers.${i}.`;
    add(`${at}input_layernorm.weight`, [hidden], 1);
    add(`${at}self_attn.q_proj.weight`, [queryDim, hidden]);
    add(`${at}self_attn.k_proj.weight`, [kvDim, hidden]);
    add(`${at}self_attn.v_proj.weight`, [kvDim, hidden]);
    add(`${at}self_attn.o_proj.weight`, [hidden, queryDim]);
    if (config.model_type === 'qwen2') {
      add(`${at}self_attn.q_proj.bias`, [queryDim]);
      add(`${at}self_attn.k_proj.bias`, [kvDim]);
      add(`${at}self_attn.v_proj.bias`, [kvDim]);
    }
    if (config.model_type === 'qwen3') {
      add(`${at}self_attn.q_norm.weight`, [headDim], 1);
      add(`${at}self_attn.k_norm.weight`, [headDim], 1);
    }
    add(`${at}post_attention_layernorm.weight`, [hidden], 1);
    add(`${at}mlp.gate_proj.weight`, [ffn, hidden]);
    add(`${at}mlp.up_proj.weight`, [ffn, hidden]);
    add(`${at}mlp.down_proj.weight`, [hidden, ffn]);
  }
  add('model.norm.weight', [hidden], 1);
  if (!config.tie_word_embeddings) add('lm_head.weight', [config.vocab_size, hidden]);
  options.edit?.(tensors);

  const files = new Map<string, Uint8Array>([
    ['config.json', json(config)],
    ['tokenizer.json', json(TOKENIZER)],
  ]);
  if (shards === 1) {
    files.set('model.safetensors', writeSafetensors(tensors));
    return files;
  }
  const weightMap: Record<string, string> = {};
  for (let s = 0; s < shards; s++) {
    const file = `model-0000${s + 1}-of-0000${shards}.safetensors`;
    const part = [...tensors].filter((_, i) => i % shards === s);
    files.set(file, writeSafetensors(new Map(part)));
    for (const [name] of part) weightMap[name] = file;
  }
  files.set('model.safetensors.index.json', json({ metadata: {}, weight_map: weightMap }));
  return files;
}

/** Any value as the bytes of a JSON file. */
export function json(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

/** Files as a browser gives them for a folder that was picked. */
export function asFiles(files: ReadonlyMap<string, Uint8Array>): File[] {
  return [...files].map(([name, bytes]) => new File([bytes as Uint8Array<ArrayBuffer>], name));
}

function encode(values: Float32Array, shape: number[], dtype: SafetensorsDtype): SafeTensor {
  if (dtype === 'F32') return toSafeTensor(values, shape);
  if (dtype === 'F16') return toSafeTensor(encodeFloat16(values), shape, 'F16');
  const bits = Uint16Array.from(new Uint32Array(values.buffer), (word) => word >>> 16);
  return toSafeTensor(bits, shape, 'BF16');
}

const TOKENIZER = {
  version: '1.0',
  added_tokens: [{ id: 0, content: '<|endoftext|>', special: true, normalized: false }],
  normalizer: null,
  pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
  post_processor: null,
  decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
  model: {
    type: 'BPE',
    vocab: Object.fromEntries(
      ['<|endoftext|>', ...byteCharacters(), 'he', 'the'].map((token, id) => [token, id]),
    ),
    merges: ['h e', 't he'],
  },
};
