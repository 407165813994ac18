/**
 * A model from a Hugging Face folder: config.json, safetensors (one file or shards), tokenizer.json.
 *
 * @module
 */

import { FormatError, UnsupportedModelError } from '../errors.js';
import { ARCHITECTURES, type Architecture, type ModelConfig } from '../model/config.js';
import { describeValue, messageOf } from '../printable.js';
import { checkTokenizerSource } from '../text/tokenizer.js';
import type { TokenizerSource } from '../text/tokenizer-source.js';
import { type StoredTensor, selectTensors, type TensorNames } from './assemble.js';
import { checkConfig, checkHeadDim } from './check-config.js';
import { summarizeTypes, type TensorInfo } from './model-file.js';
import type { OpenModel } from './open-model.js';
import { ropeDivisorsOf } from './rope-scaling.js';
import { readSafetensorsHeader } from './safetensors.js';
import { type ByteSource, type FileFolder, isPlainName, readText } from './source.js';

/** Hugging Face's names of the tensors. */
const NAMES: TensorNames = {
  embedding: 'model.embed_tokens.weight',
  outputNorm: 'model.norm.weight',
  output: 'lm_head.weight',
  layerPrefix: (layer) => `model.layers.${layer}.`,
  layer: {
    attentionNorm: 'input_layernorm.weight',
    wQ: 'self_attn.q_proj.weight',
    wK: 'self_attn.k_proj.weight',
    wV: 'self_attn.v_proj.weight',
    wO: 'self_attn.o_proj.weight',
    bQ: 'self_attn.q_proj.bias',
    bK: 'self_attn.k_proj.bias',
    bV: 'self_attn.v_proj.bias',
    queryNorm: 'self_attn.q_norm.weight',
    keyNorm: 'self_attn.k_norm.weight',
    mlpNorm: 'post_attention_layernorm.weight',
    wGate: 'mlp.gate_proj.weight',
    wUp: 'mlp.up_proj.weight',
    wDown: 'mlp.down_proj.weight',
  },
};

/** The file that makes a folder a model. */
export const CONFIG_FILE = 'config.json';

const SINGLE_FILE = 'model.safetensors';
const INDEX_FILE = 'model.safetensors.index.json';

/** Files that an index may name; the largest models have some hundred. */
const MAX_SHARDS = 1000;

/** Buffers that old checkpoints of Llama carry; they follow from the config. */
const ROTARY_BUFFER = /\.rotary_emb\.inv_freq$/;

type Json = Readonly<Record<string, unknown>>;

/**
 * Opens a folder: reads and checks everything but the weights.
 *
 * @param opened collects the files that stay open; the caller closes them
 * @throws {FormatError | ShapeError} if the files contradict each other; names file and place
 * @throws {UnsupportedModelError} names the architecture, option or tensor
 * @throws {LoadError} if a file cannot be read
 */
export async function openHuggingFace(folder: FileFolder, opened: ByteSource[]): Promise<OpenModel> {
  const json = await readJson(folder, CONFIG_FILE);
  if (!json) throw new FormatError(folder.name, CONFIG_FILE, 'the file is missing');
  const path = `${folder.name}/${CONFIG_FILE}`;
  const config = readConfig(json, path);
  const tokenizer = await readTokenizer(folder, json);
  checkTokenizerSource(tokenizer.source);

  const { tensors, byteLength } = await openWeights(folder, opened);
  const ignored = (name: string) =>
    ROTARY_BUFFER.test(name) || (config.tieWordEmbeddings && name === NAMES.output);
  const selected = selectTensors(tensors, config, NAMES, folder.name, ignored);
  const infos: TensorInfo[] = tensors.map(({ name, type, shape, byteLength }) => ({
    name,
    type,
    shape,
    byteLength,
  }));
  return {
    header: {
      name: folder.name.split('/').filter(Boolean).pop() ?? folder.name,
      format: 'hugging-face',
      config,
      tokenizer: tokenizer.source,
      ...(tokenizer.chatTemplate === undefined ? {} : { chatTemplate: tokenizer.chatTemplate }),
      tensors: infos,
      weightTypes: summarizeTypes(infos),
      parameterCount: selected.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
      byteLength,
    },
    selected,
    names: NAMES,
  };
}

/**
 * Reads a config.json.
 *
 * @param json parsed
 * @param path for messages
 * @throws {FormatError} names the key that is missing or wrong
 * @throws {UnsupportedModelError} names the architecture or option
 */
export function readConfig(json: Json, path: string): ModelConfig {
  const architecture = json.model_type;
  if (!(ARCHITECTURES as readonly unknown[]).includes(architecture)) {
    throw new UnsupportedModelError(
      path,
      `architecture ${describeValue(architecture)}`,
      ARCHITECTURES.join(', '),
    );
  }
  refuseOptions(json, path);
  const number = (key: string, fallback?: number): number => {
    const value = json[key] ?? fallback;
    if (typeof value === 'number' && Number.isFinite(value)) return value;
    if (value === undefined) throw new FormatError(path, key, 'the key is missing');
    throw new FormatError(path, key, `must be a number, got ${describeValue(value)}`);
  };

  const hiddenSize = number('hidden_size');
  const numAttentionHeads = number('num_attention_heads');
  const headDim = number('head_dim', hiddenSize / numAttentionHeads);
  checkHeadDim(headDim, path);
  // transformers 5 moved theta and scaling into one object.
  const scaling = json.rope_parameters ?? json.rope_scaling;
  const scalingTheta = isObject(scaling) ? scaling.rope_theta : undefined;
  const ropeTheta = typeof scalingTheta === 'number' ? scalingTheta : number('rope_theta', 10000);
  const divisors = ropeDivisorsOf(scaling, headDim, ropeTheta, path);
  const context = number('max_position_embeddings');
  const config: ModelConfig = {
    architecture: architecture as Architecture,
    hiddenSize,
    intermediateSize: number('intermediate_size'),
    numHiddenLayers: number('num_hidden_layers'),
    numAttentionHeads,
    numKeyValueHeads: number('num_key_value_heads', numAttentionHeads),
    headDim,
    vocabSize: number('vocab_size'),
    maxPositionEmbeddings: Math.min(context, slidingWindow(json, path) ?? context),
    rmsNormEps: number('rms_norm_eps', 1e-6),
    ropeTheta,
    ropeLayout: 'half',
    ...(divisors ? { ropeFrequencyDivisors: divisors } : {}),
    tieWordEmbeddings: json.tie_word_embeddings === true,
  };
  return checkConfig(config, path);
}

/**
 * The window of sliding attention, if the model uses it. Inside its window it is full attention; beyond it this
 * package would attend to more than the model was trained on, so the window is the limit of the context.
 */
function slidingWindow(json: Json, path: string): number | undefined {
  const window = json.sliding_window;
  if (window === undefined || window === null) return undefined;
  if (typeof window !== 'number' || !Number.isSafeInteger(window) || window < 1) {
    throw new FormatError(path, 'sliding_window', `must be a count of tokens, got ${describeValue(window)}`);
  }
  // Qwen files state a window and switch it off beside it.
  return json.model_type === 'mistral' || json.use_sliding_window === true ? window : undefined;
}

function refuseOptions(json: Json, path: string): void {
  const activation = json.hidden_act ?? 'silu';
  if (activation !== 'silu')
    throw new UnsupportedModelError(path, `hidden_act ${describeValue(activation)}`, 'silu');
  const partial = json.partial_rotary_factor;
  if (partial !== undefined && partial !== null && partial !== 1) {
    throw new UnsupportedModelError(path, `partial_rotary_factor ${describeValue(partial)}`, '1');
  }
  for (const key of ['attention_bias', 'mlp_bias']) {
    if (json[key] === true) throw new UnsupportedModelError(path, `"${key}": true`, 'biases of Qwen2 only');
  }
  const quantization = json.quantization_config;
  if (isObject(quantization)) {
    const method = quantization.quant_method ?? 'unknown';
    throw new UnsupportedModelError(
      path,
      `weights quantized by ${describeValue(method)}`,
      'F32, F16, BF16, or GGUF',
    );
  }
}

async function readTokenizer(
  folder: FileFolder,
  config: Json,
): Promise<{ source: TokenizerSource; chatTemplate?: string }> {
  const tokenizerConfig = (await readJson(folder, 'tokenizer_config.json')) ?? {};
  const generation = (await readJson(folder, 'generation_config.json')) ?? {};
  const template = await openText(folder, 'chat_template.jinja');
  const chatTemplate = template ?? defaultTemplate(tokenizerConfig.chat_template);
  const json = await readJson(folder, 'tokenizer.json');
  if (!json) return { source: { kind: 'none', path: folder.name }, chatTemplate };

  const bosToken = tokenText(tokenizerConfig.bos_token);
  const eosToken = tokenText(tokenizerConfig.eos_token);
  const eosTokenIds = new Set([...idList(generation.eos_token_id), ...idList(config.eos_token_id)]);
  return {
    source: {
      kind: 'tokenizer.json',
      path: `${folder.name}/tokenizer.json`,
      json,
      ...(bosToken === undefined ? {} : { bosToken }),
      ...(eosToken === undefined ? {} : { eosToken }),
      eosTokenIds: [...eosTokenIds],
    },
    chatTemplate,
  };
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

function idList(value: unknown): number[] {
  const list = Array.isArray(value) ? value : [value];
  return list.filter((id) => typeof id === 'number' && Number.isSafeInteger(id) && id >= 0);
}

async function openWeights(
  folder: FileFolder,
  opened: ByteSource[],
): Promise<{ tensors: StoredTensor[]; byteLength: number }> {
  const index = await readJson(folder, INDEX_FILE);
  const files = index ? shardNames(index, `${folder.name}/${INDEX_FILE}`) : [SINGLE_FILE];
  const tensors: StoredTensor[] = [];
  const names = new Map<string, string>();
  let byteLength = 0;
  for (const file of files) {
    const source = await folder.open(file);
    if (!source) throw new FormatError(folder.name, file, await explainMissing(folder, file));
    opened.push(source);
    byteLength += source.size;
    const header = await readSafetensorsHeader(source);
    for (const { name, dtype, shape, offset, byteLength } of header.tensors) {
      const before = names.get(name);
      if (before) throw new FormatError(source.name, name, `the tensor is in "${before}", too`);
      names.set(name, file);
      tensors.push({ name, type: dtype, shape, offset, byteLength, source });
    }
  }
  return { tensors, byteLength };
}

async function explainMissing(folder: FileFolder, file: string): Promise<string> {
  const others = (await folder.list())?.filter((name) => /\.(bin|pt|pth|h5|msgpack)$/.test(name)) ?? [];
  const hint = others.length > 0 ? ` (there is ${others.join(', ')}, but only safetensors are read)` : '';
  return `the file ${file} is missing${hint}`;
}

function shardNames(index: Json, path: string): string[] {
  const map = index.weight_map;
  if (!isObject(map)) throw new FormatError(path, 'weight_map', 'must map tensor names to files');
  const files = new Set<string>();
  for (const [tensor, file] of Object.entries(map)) {
    // A name with a directory, a scheme or a query could point anywhere, on the disk or at another host.
    if (!isPlainName(file) || !file.endsWith('.safetensors')) {
      const reason = `must name a .safetensors file of the folder, got ${describeValue(file)}`;
      throw new FormatError(path, tensor, reason);
    }
    files.add(file);
  }
  if (files.size > MAX_SHARDS) {
    throw new FormatError(path, 'weight_map', `names ${files.size} files, more than ${MAX_SHARDS}`);
  }
  return [...files].sort();
}

async function readJson(folder: FileFolder, file: string): Promise<Json | undefined> {
  const text = await openText(folder, file);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(`${folder.name}/${file}`, 'content', `is not JSON: ${messageOf(cause)}`, {
      cause,
    });
  }
  if (!isObject(value)) throw new FormatError(`${folder.name}/${file}`, 'content', 'must be a JSON object');
  return value;
}

async function openText(folder: FileFolder, file: string): Promise<string | undefined> {
  const source = await folder.open(file);
  if (!source) return undefined;
  try {
    return await readText(source);
  } finally {
    await source.close();
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
