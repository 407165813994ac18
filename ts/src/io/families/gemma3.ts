/**
 * Gemma 3, text only.
 *
 * @module
 */

import { type BaseConfig, type Family, type FamilyConfig, layersOf, slidingLayers } from './family.js';

const COMMON: FamilyConfig = { norms: 'both', qkNorm: 'head', activation: 'gelu_tanh' };

/** Every sixth layer sees everything; the others slide, with a RoPE of their own. */
function layers(
  base: BaseConfig,
  slidingWindow: number,
  localTheta: number,
  slides: (layer: number) => boolean,
): FamilyConfig {
  return layersOf(base, (i) => (slides(i) ? { slidingWindow, rope: { ropeTheta: localTheta } } : {}));
}

/**
 * Gemma 3 in 270M and 1B. Norms before and after attention and MLP, GELU, embeddings times the root of their width,
 * and a norm on each head of queries and keys.
 */
export const GEMMA3: Family = {
  name: 'gemma3',
  models: 'Gemma 3 (text)',
  modelTypes: ['gemma3_text'],
  ggufArchitectures: ['gemma3'],
  ropeLayout: { huggingFace: 'half', gguf: 'half' },
  defaults: { ropeTheta: 1_000_000, headDim: 256, tieWordEmbeddings: true },
  hiddenAct: 'gelu_pytorch_tanh',
  gainsFromOne: true,
  fromConfig: (json, base) => {
    json.only('use_bidirectional_attention', false);
    for (const key of ['final_logit_softcapping', 'attn_logit_softcapping']) json.only(key);
    json.only('attention_bias', false);
    const pattern = json.count('sliding_window_pattern') ?? 6;
    const sliding = slidingLayers(json, base);
    const local = json.object('rope_parameters')?.object('sliding_attention');
    local?.only('rope_type', 'default');
    const localTheta = local?.has('rope_theta')
      ? local.positive('rope_theta')
      : json.positive('rope_local_base_freq', 10_000);
    return {
      ...COMMON,
      embeddingScale: Math.sqrt(base.hiddenSize),
      attentionScale: 1 / Math.sqrt(json.positive('query_pre_attn_scalar', 256)),
      ...layers(
        base,
        json.count('sliding_window') ?? 4096,
        localTheta,
        (i) => sliding?.[i] ?? (i + 1) % pattern !== 0,
      ),
    };
  },
  fromGguf: (metadata, base) => ({
    ...COMMON,
    embeddingScale: Math.sqrt(base.hiddenSize),
    // llama.cpp: the 27B model alone has another scale, which its file does not state.
    attentionScale:
      1 / Math.sqrt(base.numHiddenLayers === 62 ? base.hiddenSize / base.numAttentionHeads : base.headDim),
    ...layers(
      base,
      metadata.requiredWindow(),
      metadata.factor('rope.freq_base_swa') ?? 10_000,
      metadata.windowPattern(base.numHiddenLayers) ?? ((i) => (i + 1) % 6 !== 0),
    ),
  }),
};
