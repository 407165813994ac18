/**
 * One transformer block through a cache.
 *
 * @module
 */

import type { ComputedFactors } from '../../cache/factors.js';
import { resolveCacheOptions } from '../../cache/presets.js';
import { ConfigError } from '../../errors.js';
import type { ModelConfig } from '../../model/config.js';
import type { LanguageModel } from '../../model/language-model.js';
import { LAYER_TENSORS, MATRIX_ROLES, type MatrixRole } from '../../model/tensors.js';
import type { LayerWeights, ReferenceWeights } from '../../model/weights.js';
import { rotateRows } from '../../numerics/hadamard.js';
import { add, type Matrix, transpose } from '../../numerics/matrix.js';
import { ReferenceModel } from '../../reference-model.js';
import type { CaseInputs } from '../case/inputs.js';
import { expectedRows } from '../compare/expected.js';
import { perturbedInputs } from '../compare/perturb.js';
import { spreadBound } from '../compare/tolerance.js';
import type { Operation, TensorDoc } from '../operation.js';

/** Matrices of a dump and their roles in the model. */
const LAYER_MATRICES: Readonly<Record<string, MatrixRole>> = Object.fromEntries(
  MATRIX_ROLES.map((role) => [LAYER_TENSORS[role].golden, role]),
);

/** SVD factors that a latent cache reads, where a dump brings its own. */
const LAYER_FACTORS = ['down_k', 'up_k', 'down_v', 'up_v'] as const;

/** The operation `layer`. */
export const layer: Operation = {
  name: 'layer',
  summary: 'one transformer block, every key and value read back from the cache (teacher-forced)',
  specification: 'docs/numerics.md "Whole layers"',
  options: [
    { name: 'cache', values: 'a cache argument, for instance xquant:4@paper' },
    { name: 'heads', values: 'query heads' },
    { name: 'kvHeads', values: 'key and value heads' },
    { name: 'headDim', values: 'channels of a head' },
    { name: 'layout', values: 'half | interleaved' },
    { name: 'theta', values: 'base of the frequencies' },
    { name: 'rmsNormEps', values: 'epsilon of the norms (or: epsilon)' },
    { name: 'epsilon', values: 'the same', optional: true },
  ],
  tensors: [
    { name: 'hidden', role: 'input', dtype: 'F32', shape: '[tokens, hiddenSize]' },
    { name: 'attention_norm', role: 'input', dtype: 'F32', shape: '[hiddenSize]' },
    { name: 'mlp_norm', role: 'input', dtype: 'F32', shape: '[hiddenSize]' },
    ...Object.keys(LAYER_MATRICES).map(
      (name): TensorDoc => ({ name, role: 'input', dtype: 'F32', shape: '[outChannels, inChannels]' }),
    ),
    ...LAYER_FACTORS.map(
      (name): TensorDoc => ({
        name,
        role: 'input',
        dtype: 'F32',
        shape: name.startsWith('down') ? '[latentRank, hiddenSize]' : '[kvDim, latentRank]',
        when: 'latent caches; as the cache uses them, rotated if it rotates; computed if not there',
      }),
    ),
    { name: 'output', role: 'output', dtype: 'F32', shape: '[tokens, hiddenSize]', comparison: 'bound' },
  ],
  async run(inputs) {
    const baseline = await layerOutput(inputs);
    const names = ['hidden', 'attention_norm', 'mlp_norm', ...Object.keys(LAYER_MATRICES), ...LAYER_FACTORS];
    // A gain enters one product; its own length says nothing.
    const perturbed: Float32Array[] = [];
    for (const other of perturbedInputs(inputs, names, { attention_norm: 4, mlp_norm: 4 })) {
      perturbed.push((await layerOutput(other)).data);
    }
    return { output: expectedRows(baseline, spreadBound(baseline.data, perturbed, baseline.columns)) };
  },
  runOnce: async (inputs) => ({ output: (await layerOutput(inputs)).data }),
};

/** A model that a layer can be made of. */
export type LayerModel = LanguageModel & { readonly factors: ComputedFactors };

/**
 * The output of one block. No model has a function for a single layer, so this makes a model of one layer whose
 * embedding is the given stream: token t has the t-th row.
 *
 * @param create the implementation, by default the reference
 * @returns [tokens, hiddenSize]
 */
export async function layerOutput(
  inputs: CaseInputs,
  create: (config: ModelConfig, weights: ReferenceWeights) => LayerModel | Promise<LayerModel> = (
    config,
    weights,
  ) => new ReferenceModel(config, weights),
): Promise<Matrix> {
  const hidden = inputs.matrix('hidden');
  const weights = Object.fromEntries(
    Object.entries(LAYER_MATRICES).map(([name, role]) => [role, inputs.matrix(name, 'row', 'column')]),
  ) as Record<MatrixRole, Matrix>;
  const layerWeights: LayerWeights<Matrix> = {
    ...weights,
    attentionNorm: inputs.floats('attention_norm', ['channel']).data,
    mlpNorm: inputs.floats('mlp_norm', ['channel']).data,
  };
  const config: ModelConfig = {
    architecture: 'llama',
    hiddenSize: hidden.columns,
    intermediateSize: weights.wGate.rows,
    numHiddenLayers: 1,
    numAttentionHeads: inputs.count('heads'),
    numKeyValueHeads: inputs.count('kvHeads'),
    headDim: inputs.count('headDim'),
    vocabSize: hidden.rows,
    maxPositionEmbeddings: hidden.rows,
    rmsNormEps: inputs.number('rmsNormEps', inputs.case.options.epsilon as number | undefined),
    ropeTheta: inputs.number('theta'),
    ropeLayout: inputs.word('layout', ['half', 'interleaved']),
    tieWordEmbeddings: true,
  };
  const outputNorm = new Float32Array(hidden.columns).fill(1);
  const model = await create(config, {
    embedding: hidden,
    output: hidden,
    outputNorm,
    layers: [layerWeights],
  });
  const { cache } = inputs.case.options;
  if (typeof cache !== 'string') throw new ConfigError('cache', cache, 'a cache argument');
  presetFactors(inputs, model, cache);
  let output = hidden;
  await model.forward(
    Array.from({ length: hidden.rows }, (_, token) => token),
    model.createCache(cache),
    {
      mode: 'teacherForced',
      onTensor({ tensor, value }) {
        if (tensor === 'attentionOutput' || tensor === 'mlpOutput') output = add(output, value);
      },
    },
  );
  return output;
}

/** Hands the factors of a dump to the caches, which rotate them; the rotation is its own inverse. */
function presetFactors(inputs: CaseInputs, model: LayerModel, cache: string): void {
  if (!inputs.has('down_k')) return;
  const { rotation } = resolveCacheOptions(cache, model.config);
  for (const [name, suffix] of [
    ['key', 'k'],
    ['value', 'v'],
  ] as const) {
    const down = inputs.matrix(`down_${suffix}`, 'rank', 'channel');
    const up = inputs.matrix(`up_${suffix}`, 'channel', 'rank');
    model.factors.preset(0, name, {
      downProjection: transpose(rotateRows(transpose(down), rotation)),
      upProjection: rotateRows(up, rotation),
    });
  }
}
