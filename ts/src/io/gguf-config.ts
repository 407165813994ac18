/**
 * The metadata of a GGUF file as the config of the forward pass: sizes that all families share, and what their family
 * adds.
 *
 * @module
 */

import { FormatError, UnsupportedModelError } from '../errors.js';
import type { ModelConfig } from '../model/config.js';
import { MODEL_TENSORS } from '../model/tensors.js';
import { alignedCopy } from '../numerics/bytes.js';
import { checkConfig, checkHeadDim, checkLayers } from './check-config.js';
import type { Family } from './families/family.js';
import { familyOfGguf } from './families/index.js';
import type { GgufTensorInfo } from './gguf-header.js';
import type { GgufMetadata } from './gguf-metadata.js';
import {
  LONGROPE_CHANGE,
  limitedContext,
  type ScaledRope,
  yarnDivisors,
  yarnMagnitude,
} from './rope-scaling.js';
import type { ByteSource } from './source.js';

/** A tensor of a GGUF file, and the file that it is in. */
export interface SourcedTensor extends GgufTensorInfo {
  readonly source: ByteSource;
}

/** Divisors of the RoPE frequencies, stored as tensors: llama3 scaling, and the two of LongRoPE. [rotaryDim / 2] */
const ROPE_DIVISORS = 'rope_freqs.weight';
const SHORT_DIVISORS = 'rope_factors_short.weight';
const LONG_DIVISORS = 'rope_factors_long.weight';

/** Tensors that belong to the config. */
export const CONFIG_TENSORS: readonly string[] = [ROPE_DIVISORS, SHORT_DIVISORS, LONG_DIVISORS];

/**
 * Reads the config of a GGUF file.
 *
 * @param tensors of the file, or of all parts of it
 * @throws {FormatError} names the key that is missing or wrong
 * @throws {UnsupportedModelError} names the architecture or option
 */
export async function readGgufConfig(
  metadata: GgufMetadata,
  tensors: readonly SourcedTensor[],
): Promise<ModelConfig> {
  const { path } = metadata;
  const kind = metadata.textOf('general.type');
  if (kind !== undefined && kind !== 'model') {
    throw new UnsupportedModelError(path, `a file of general.type "${kind}"`, 'model');
  }
  const family = familyOfGguf(metadata.architecture, path);
  refuseOtherModels(metadata, family);

  const hiddenSize = metadata.requiredSize('embedding_length');
  const numAttentionHeads = metadata.requiredSize('attention.head_count');
  const headDim = metadata.size('attention.key_length') ?? hiddenSize / numAttentionHeads;
  checkHeadDim(headDim, path);
  metadata.only('attention.value_length', headDim);
  const rotaryDim = metadata.size('rope.dimension_count') ?? headDim;
  if (rotaryDim > headDim || rotaryDim < 2 || rotaryDim % 2 !== 0) {
    const reason = `must be an even number from 2 to ${headDim}, got ${rotaryDim}`;
    throw new FormatError(path, metadata.key('rope.dimension_count'), reason);
  }
  if (rotaryDim < headDim && family.ropeLayout.gguf !== 'half')
    metadata.only('rope.dimension_count', headDim);

  const named = (name: string) => tensors.find((tensor) => tensor.name === name);
  const embedding = named(MODEL_TENSORS.embedding.gguf);
  if (!embedding) throw new FormatError(path, MODEL_TENSORS.embedding.gguf, 'the tensor is missing');
  const maxPositionEmbeddings = metadata.requiredSize('context_length');
  const ropeTheta = metadata.number('rope.freq_base') ?? 10_000;
  const base = {
    hiddenSize,
    numHiddenLayers: checkLayers(metadata.requiredSize('block_count'), path),
    numAttentionHeads,
    headDim,
    maxPositionEmbeddings,
    ropeTheta,
    ...(await ropeScaling(metadata, tensors, { rotaryDim, ropeTheta, maxPositionEmbeddings })),
  };
  const own = family.fromGguf?.(metadata, base) ?? {};
  const biased = (suffix: string) => named(`blk.0.${suffix}.bias`) !== undefined;
  const config: ModelConfig = {
    architecture: family.name,
    ...base,
    intermediateSize: metadata.requiredSize('feed_forward_length'),
    numKeyValueHeads: metadata.size('attention.head_count_kv') ?? numAttentionHeads,
    vocabSize: metadata.size('vocab_size') ?? embedding.shape[0],
    rmsNormEps: metadata.requiredNumber('attention.layer_norm_rms_epsilon'),
    ropeLayout: family.ropeLayout.gguf,
    ...(rotaryDim === headDim ? {} : { rotaryDim }),
    tieWordEmbeddings: named(MODEL_TENSORS.output.gguf) === undefined,
    // GGUF says by its tensors whether there are biases.
    ...(biased('attn_q') ? { qkvBias: true } : {}),
    ...(biased('attn_output') ? { outputBias: true } : {}),
    ...(biased('ffn_down') ? { mlpBias: true } : {}),
    ...own,
  };
  // A file states its window and, rarely, which layers have it; families whose layers differ have used it already.
  const window = own.layers ? undefined : metadata.window();
  const pattern = metadata.windowPattern(base.numHiddenLayers);
  if (!window || !pattern) return checkConfig(config, path, window);
  const layers = Array.from({ length: base.numHiddenLayers }, (_, i) =>
    pattern(i) ? { slidingWindow: window } : {},
  );
  return checkConfig({ ...config, layers }, path);
}

/** What would change the result and no family here has; families read the factors that they have. */
function refuseOtherModels(metadata: GgufMetadata, family: Family): void {
  const { path } = metadata;
  const experts = metadata.number('expert_count');
  if (experts) throw new UnsupportedModelError(path, `a mixture of ${experts} experts`, 'dense models');
  metadata.only('attention.causal', true);
  for (const suffix of [
    'nextn_predict_layers',
    'attn_logit_softcapping',
    'final_logit_softcapping',
    'attention.clamp_kqv',
    'attention.max_alibi_bias',
    'attention.output_scale',
    'attention.shared_kv_layers',
    'pooling_type',
  ]) {
    metadata.only(suffix, 0);
  }
  metadata.only('use_parallel_residual', false);
  metadata.only('rope.dimension_sections');
  for (const suffix of ['logit_scale', 'residual_scale', 'embedding_scale', 'attention.scale']) {
    if (!family.ggufFactors?.includes(suffix)) metadata.only(suffix, 0, 1);
  }
  const growing = 'attention.temperature_scale'; // 1 would not mean none
  if (!family.ggufFactors?.includes(growing)) metadata.only(growing, 0);
}

/** Divisors and magnitude: stored (llama3, LongRoPE), computed (linear, YaRN), or none. */
async function ropeScaling(
  metadata: GgufMetadata,
  tensors: readonly SourcedTensor[],
  sizes: { rotaryDim: number; ropeTheta: number; maxPositionEmbeddings: number },
): Promise<ScaledRope> {
  const { rotaryDim, ropeTheta, maxPositionEmbeddings } = sizes;
  const stated = metadata.text('rope.scaling.type');
  const type = stated ?? 'none';
  const factor = metadata.factor('rope.scaling.factor') ?? metadata.factor('rope.scale_linear') ?? 1;
  const magnitude =
    metadata.factor('rope.scaling.attn_factor') ?? metadata.factor('rope.scaling.yarn_attn_factor') ?? 1;
  const original = metadata.size('rope.scaling.original_context_length') || maxPositionEmbeddings;
  const stored = await storedDivisors(tensors, ROPE_DIVISORS, rotaryDim, metadata.path);
  const scaled = (divisors: Float32Array | undefined, ropeMagnitude: number): ScaledRope => ({
    ...(divisors ? { ropeFrequencyDivisors: divisors } : {}),
    ...(ropeMagnitude === 1 ? {} : { ropeMagnitude }),
  });
  switch (type) {
    case 'none':
    case 'linear': {
      const short = await storedDivisors(tensors, SHORT_DIVISORS, rotaryDim, metadata.path);
      if (short) {
        return {
          ...scaled(short, magnitude),
          ...limitedContext(original, maxPositionEmbeddings, LONGROPE_CHANGE),
        };
      }
      // An old file may have a factor and no type.
      const linear = type === 'linear' || stated === undefined ? factor : 1;
      if (!stored && linear === 1) return scaled(undefined, magnitude);
      const divisors = stored ?? new Float32Array(rotaryDim / 2).fill(1);
      return scaled(
        divisors.map((divisor) => divisor * linear),
        magnitude,
      );
    }
    case 'yarn': {
      const parameters = {
        factor,
        betaFast: metadata.factor('rope.scaling.yarn_beta_fast') ?? 32,
        betaSlow: metadata.factor('rope.scaling.yarn_beta_slow') ?? 1,
        originalMaxPositionEmbeddings: original,
        truncate: true,
      };
      metadata.only('rope.scaling.yarn_ext_factor', 1, -1);
      // As llama.cpp: the weight of the logarithm, where there is one, divides.
      const weight = metadata.factor('rope.scaling.yarn_log_multiplier');
      const yarn = yarnMagnitude(factor) / (weight ? yarnMagnitude(factor, weight) : 1);
      return scaled(yarnDivisors(parameters, rotaryDim, ropeTheta), magnitude * yarn);
    }
    default:
      throw new UnsupportedModelError(
        metadata.path,
        `${metadata.key('rope.scaling.type')} "${type}"`,
        `none, linear, yarn, ${ROPE_DIVISORS}, ${SHORT_DIVISORS}`,
      );
  }
}

/** Divisors that are stored as a tensor. */
async function storedDivisors(
  tensors: readonly SourcedTensor[],
  name: string,
  rotaryDim: number,
  path: string,
): Promise<Float32Array | undefined> {
  const tensor = tensors.find((each) => each.name === name);
  if (!tensor) return undefined;
  if (tensor.type !== 'F32') throw new UnsupportedModelError(path, `type ${tensor.type} of "${name}"`, 'F32');
  if (tensor.shape.length !== 1 || tensor.shape[0] !== rotaryDim / 2) {
    const reason = `must have ${rotaryDim / 2} elements, got [${tensor.shape.join(', ')}]`;
    throw new FormatError(path, name, reason);
  }
  return new Float32Array(alignedCopy(await tensor.source.read(tensor.offset, tensor.byteLength!)));
}
