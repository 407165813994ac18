/**
 * A config.json as the config of the forward pass: sizes that all families share, and what their family adds.
 *
 * @module
 */

import { FormatError, UnsupportedModelError } from '../errors.js';
import type { ModelConfig } from '../model/config.js';
import { describeValue } from '../printable.js';
import { checkConfig, checkHeadDim, checkLayers } from './check-config.js';
import type { Family } from './families/family.js';
import { familyOfModelType } from './families/index.js';
import { isObject, type Json, JsonReader } from './json-reader.js';
import { ropeScaling } from './rope-scaling.js';

/**
 * Reads a config.json.
 *
 * @param json parsed
 * @param path for messages
 * @throws {FormatError} names the key that is missing or wrong
 * @throws {UnsupportedModelError} names the architecture or option
 */
export function readConfig(json: Json, path: string): ModelConfig {
  const family = familyOfModelType(json.model_type, path);
  const reader = new JsonReader(json, path);
  refuseOptions(reader, family);
  const { defaults = {} } = family;

  const hiddenSize = reader.number('hidden_size');
  const numAttentionHeads = reader.number('num_attention_heads');
  const headDim = reader.number('head_dim', defaults.headDim ?? hiddenSize / numAttentionHeads);
  checkHeadDim(headDim, path);
  const numHiddenLayers = checkLayers(reader.number('num_hidden_layers'), path);
  const rope = ropeParameters(reader);
  const ropeTheta = rope?.has('rope_theta')
    ? rope.positive('rope_theta')
    : reader.positive('rope_theta', defaults.ropeTheta ?? 10_000);
  const rotaryDim = rotated(reader, rope, headDim);
  const maxPositionEmbeddings = reader.number('max_position_embeddings');
  const original = reader.count('original_max_position_embeddings');
  const base = {
    hiddenSize,
    numHiddenLayers,
    numAttentionHeads,
    headDim,
    maxPositionEmbeddings,
    ropeTheta,
    ...ropeScaling(rope, { rotaryDim, ropeTheta, maxPositionEmbeddings, original }),
  };
  const { slidingWindow, ...own } = family.fromConfig?.(reader, base) ?? {};
  const config: ModelConfig = {
    architecture: family.name,
    ...base,
    intermediateSize: reader.number('intermediate_size'),
    numKeyValueHeads: reader.number('num_key_value_heads', numAttentionHeads),
    vocabSize: reader.number('vocab_size'),
    rmsNormEps: reader.number('rms_norm_eps', defaults.rmsNormEps ?? 1e-6),
    ropeLayout: family.ropeLayout.huggingFace,
    ...(rotaryDim === headDim ? {} : { rotaryDim }),
    tieWordEmbeddings: reader.flag('tie_word_embeddings', defaults.tieWordEmbeddings ?? false),
    ...own,
  };
  return checkConfig(config, path, slidingWindow);
}

/** transformers 5 moved theta and scaling into `rope_parameters`; where both are, the old name wins, as it does there. */
function ropeParameters(reader: JsonReader): JsonReader | undefined {
  const old = reader.object('rope_scaling');
  const parameters = old && Object.keys(old.json).length > 0 ? old : reader.object('rope_parameters');
  // Families with two kinds of layers have an entry for each.
  return parameters?.object('full_attention') ?? parameters;
}

/** Channels of a head that RoPE rotates. */
function rotated(reader: JsonReader, rope: JsonReader | undefined, headDim: number): number {
  const holder = rope?.has('partial_rotary_factor') ? rope : reader;
  const rotaryDim = Math.trunc(headDim * holder.positive('partial_rotary_factor', 1));
  if (rotaryDim >= 2 && rotaryDim <= headDim && rotaryDim % 2 === 0) return rotaryDim;
  const reason = `leaves ${rotaryDim} of ${headDim} channels, and must leave an even number from 2`;
  throw new FormatError(reader.path, 'partial_rotary_factor', reason);
}

/** Options that would change the result and that no family here has. */
function refuseOptions(reader: JsonReader, family: Family): void {
  const { json, path } = reader;
  reader.only('is_causal', true);
  reader.only(
    reader.has('hidden_activation') ? 'hidden_activation' : 'hidden_act',
    family.hiddenAct ?? 'silu',
  );
  for (const flag of ['attention_bias', 'mlp_bias', 'use_bias', 'use_sliding_window']) reader.flag(flag);
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
