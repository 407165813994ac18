/**
 * Llama and the models that are built like it.
 *
 * @module
 */

import { limitedContext } from '../rope-scaling.js';
import type { Family } from './family.js';
import { layersOf } from './family.js';

/** Llama 2 and 3, TinyLlama, SmolLM2. GGUF files of Mistral carry the name, too. */
export const LLAMA: Family = {
  name: 'llama',
  models: 'Llama, TinyLlama, SmolLM2',
  modelTypes: ['llama'],
  ggufArchitectures: ['llama'],
  ropeLayout: { huggingFace: 'half', gguf: 'interleaved' },
  fromConfig: (json) => ({
    ...(json.flag('attention_bias') ? { qkvBias: true, outputBias: true } : {}),
    ...(json.flag('mlp_bias') ? { mlpBias: true } : {}),
  }),
};

/** Mistral 7B: sliding windows in all layers, 4096 where config.json does not say. */
export const MISTRAL: Family = {
  name: 'mistral',
  models: 'Mistral',
  modelTypes: ['mistral'],
  ggufArchitectures: [],
  ropeLayout: { huggingFace: 'half', gguf: 'interleaved' },
  fromConfig: (json) => ({
    slidingWindow: json.json.sliding_window === undefined ? 4096 : json.count('sliding_window'),
  }),
};

const GROWING_QUERIES = 'queries grow with the position, which is not supported';

/**
 * Ministral 3. Beyond the context that YaRN starts from, its queries grow with the position; the context ends there.
 */
export const MINISTRAL3: Family = {
  name: 'ministral3',
  models: 'Ministral 3',
  modelTypes: ['ministral3'],
  ggufArchitectures: ['mistral3'],
  ggufFactors: ['attention.temperature_scale'],
  ropeLayout: { huggingFace: 'half', gguf: 'interleaved' },
  defaults: { rmsNormEps: 1e-5, headDim: 128 },
  fromConfig: (json, { maxPositionEmbeddings }) => {
    const rope = json.object('rope_scaling') ?? json.object('rope_parameters');
    const context = rope?.has('llama_4_scaling_beta')
      ? rope.count('original_max_position_embeddings')
      : undefined;
    return {
      slidingWindow: json.count('sliding_window'),
      ...limitedContext(context ?? maxPositionEmbeddings, maxPositionEmbeddings, GROWING_QUERIES),
    };
  },
  fromGguf: (metadata, { maxPositionEmbeddings }) => {
    const grows = metadata.factor('attention.temperature_scale') !== undefined;
    const context = grows ? metadata.size('rope.scaling.original_context_length') : undefined;
    return limitedContext(context || maxPositionEmbeddings, maxPositionEmbeddings, GROWING_QUERIES);
  },
};

/** SmolLM3: every fourth layer has no RoPE (NoPE). */
export const SMOLLM3: Family = {
  name: 'smollm3',
  models: 'SmolLM3',
  modelTypes: ['smollm3'],
  ggufArchitectures: ['smollm3'],
  ropeLayout: { huggingFace: 'half', gguf: 'interleaved' },
  defaults: { ropeTheta: 2_000_000, tieWordEmbeddings: true },
  fromConfig: (json, base) => {
    const interval = json.count('no_rope_layer_interval') ?? 4;
    const listed = json.list<number>('no_rope_layers', base.numHiddenLayers, 'number');
    json.only('use_sliding_window', false);
    return {
      ...(json.flag('attention_bias') ? { qkvBias: true, outputBias: true } : {}),
      ...(json.flag('mlp_bias') ? { mlpBias: true } : {}),
      ...layersOf(base, (i) =>
        (listed ? listed[i] === 1 : (i + 1) % interval !== 0) ? {} : { rope: 'none' },
      ),
    };
  },
  fromGguf: (_, base) => layersOf(base, (i) => ((i + 1) % 4 !== 0 ? {} : { rope: 'none' })),
};

/** Granite 3: factors on embeddings, scores, what is added to the stream, and logits. */
export const GRANITE: Family = {
  name: 'granite',
  models: 'Granite 3',
  modelTypes: ['granite'],
  ggufArchitectures: ['granite'],
  ggufFactors: ['embedding_scale', 'attention.scale', 'residual_scale', 'logit_scale'],
  ropeLayout: { huggingFace: 'half', gguf: 'interleaved' },
  fromConfig: (json) => ({
    embeddingScale: json.positive('embedding_multiplier', 1),
    attentionScale: json.positive('attention_multiplier', 1),
    residualScale: json.positive('residual_multiplier', 1),
    logitScale: 1 / json.positive('logits_scaling', 1),
    ...(json.flag('attention_bias') ? { qkvBias: true, outputBias: true } : {}),
    ...(json.flag('mlp_bias') ? { mlpBias: true } : {}),
  }),
  fromGguf: (metadata) => ({
    embeddingScale: metadata.factor('embedding_scale'),
    attentionScale: metadata.factor('attention.scale'),
    residualScale: metadata.factor('residual_scale'),
    logitScale: 1 / (metadata.factor('logit_scale') ?? 1),
  }),
};

/** MiniCPM 1 and 2: factors as in Granite, under other names. */
export const MINICPM: Family = {
  name: 'minicpm',
  models: 'MiniCPM',
  modelTypes: ['minicpm'],
  ggufArchitectures: ['minicpm'],
  ggufFactors: ['embedding_scale', 'residual_scale', 'logit_scale'],
  ropeLayout: { huggingFace: 'half', gguf: 'interleaved' },
  defaults: { tieWordEmbeddings: true },
  fromConfig: (json, { hiddenSize, numHiddenLayers }) => ({
    embeddingScale: json.positive('scale_emb', 1),
    residualScale: json.positive('scale_depth', 1) / Math.sqrt(numHiddenLayers),
    logitScale: json.positive('dim_model_base', 1) / hiddenSize,
  }),
  // Files of older converters lack the factors; llama.cpp has those of MiniCPM 2B for them.
  fromGguf: (metadata, { hiddenSize, numHiddenLayers }) => ({
    embeddingScale: metadata.factor('embedding_scale') ?? 12,
    residualScale: metadata.factor('residual_scale') ?? 1.4 / Math.sqrt(numHiddenLayers),
    logitScale: 1 / (metadata.factor('logit_scale') ?? hiddenSize / 256),
  }),
};

/** ERNIE 4.5, dense: neighbours rotate together in all files. */
export const ERNIE45: Family = {
  name: 'ernie4_5',
  models: 'ERNIE 4.5 (dense)',
  modelTypes: ['ernie4_5'],
  ggufArchitectures: ['ernie4_5'],
  ropeLayout: { huggingFace: 'interleaved', gguf: 'interleaved' },
  defaults: { ropeTheta: 500_000, rmsNormEps: 1e-5, headDim: 128, tieWordEmbeddings: true },
  fromConfig: (json) => (json.flag('use_bias') ? { qkvBias: true, outputBias: true, mlpBias: true } : {}),
};
