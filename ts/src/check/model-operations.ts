/**
 * The operations on whole layers and models: layer, decode, perplexity.
 *
 * @module
 */

import type { ComputedFactors } from '../cache/factors.js';
import { resolveCacheOptions } from '../cache/presets.js';
import { ConfigError, ShapeError } from '../errors.js';
import type { ModelConfig } from '../model/config.js';
import type { LanguageModel } from '../model/language-model.js';
import { ReferenceModel } from '../model/transformer.js';
import type { LayerWeights, ReferenceWeights } from '../model/weights.js';
import { rotateRows } from '../numerics/hadamard.js';
import { add, type Matrix, row, transpose } from '../numerics/matrix.js';
import { logSumExp } from '../sampling.js';
import type { Expected } from './compare.js';
import type { CaseInputs } from './inputs.js';
import type { CheckContext, ExpectedTensors, Operation, OptionDoc, TensorDoc } from './operation.js';
import { perturbedInputs } from './perturb.js';
import { expectedRows } from './storage-operations.js';
import type { Numbers } from './tensor.js';
import { F32_ROUNDOFF, spreadBound } from './tolerance.js';

/** Weight tensors of a dump and the names the model has for them. */
const LAYER_MATRICES = {
  w_q: 'wQ',
  w_k: 'wK',
  w_v: 'wV',
  w_o: 'wO',
  w_gate: 'wGate',
  w_up: 'wUp',
  w_down: 'wDown',
} as const;

/** SVD factors that a latent cache reads, where a dump brings its own. */
const LAYER_FACTORS = ['down_k', 'up_k', 'down_v', 'up_v'] as const;

/** Options of operations on embedded models. */
const MODEL_OPTIONS: readonly OptionDoc[] = [
  { name: 'model', values: 'books-mha | books-gqa' },
  { name: 'cache', values: 'a cache argument' },
];

const layer: Operation = {
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
  ) as Record<(typeof LAYER_MATRICES)[keyof typeof LAYER_MATRICES], Matrix>;
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

/** Moved models that say how far a correct implementation may be off; each costs one more run. */
export const VARIATIONS: readonly number[] = [1, 2];

const decode: Operation = {
  name: 'decode',
  summary: 'greedy generation with an embedded model through a cache',
  specification: 'docs/numerics.md "Whole models"',
  options: MODEL_OPTIONS,
  tensors: [
    { name: 'prompt', role: 'input', dtype: 'I32', shape: '[tokens]' },
    { name: 'ids', role: 'output', dtype: 'I32', shape: '[generated]', comparison: 'exact' },
    { name: 'last_logits', role: 'output', dtype: 'F32', shape: '[vocabSize]', comparison: 'bound' },
    { name: 'top_gap', role: 'output', dtype: 'F32', shape: '[generated]', comparison: 'bound' },
  ],
  async run(inputs, context): Promise<ExpectedTensors> {
    const prompt = Array.from(inputs.integers('prompt').data);
    const dumped = inputs.has('ids') ? inputs.integers('ids').data : new Int32Array(64);
    const count = dumped.length;
    const steps = await generateGreedily(inputs, context, 0, prompt, count);
    const ids = Int32Array.from(steps, ({ first }) => first);
    const sameIds = ids.every((id, i) => id === dumped[i]);

    // The same tokens through moved models: how far logits may be off at each step.
    const noise = new Float64Array(count);
    for (const variation of VARIATIONS) {
      const moved = await generateGreedily(inputs, context, variation, prompt, count, ids);
      moved.forEach(({ logits }, i) => {
        noise[i] = Math.max(noise[i], largestDifference(logits, steps[i].logits));
      });
    }
    const gaps = Float32Array.from(steps, ({ logits, first, second }) => logits[first] - logits[second]);
    // After the first id that could have been another one, everything may be different.
    const firstUndecided = gaps.findIndex((gap, i) => gap <= 2 * noise[i]);
    const isUndecided = (index: number) => firstUndecided >= 0 && index >= firstUndecided;
    const outputs: Record<string, Expected> = {
      ids: { dtype: 'I32', values: ids, shape: [count], dimensions: ['step'], stored: true, isUndecided },
    };
    const diverged = (index: number) => !sameIds && isUndecided(index);
    const { logits } = steps[count - 1];
    return {
      ...outputs,
      top_gap: {
        dtype: 'F32',
        values: gaps,
        shape: [count],
        dimensions: ['step'],
        bound: (index) => 2 * noise[index],
        isUndecided: diverged,
      },
      last_logits: {
        dtype: 'F32',
        values: logits,
        shape: [logits.length],
        dimensions: ['id'],
        bound: () => noise[count - 1],
        isUndecided: () => diverged(count - 1),
      },
    };
  },
};

interface Step {
  readonly logits: Float32Array;
  /** Most likely and second most likely id. */
  readonly first: number;
  readonly second: number;
}

/**
 * Generates.
 *
 * @param given tokens that are fed in place of the most likely ones
 */
export async function generateGreedily(
  inputs: CaseInputs,
  context: CheckContext,
  variation: number,
  prompt: readonly number[],
  count: number,
  given?: Int32Array,
): Promise<Step[]> {
  const { model, cache } = await modelAndCache(inputs, context, variation);
  const steps: Step[] = [];
  let next = prompt;
  for (let i = 0; i < count; i++) {
    const logits = (await model.forward(next, cache)).data;
    const [first, second] = topTwo(logits);
    steps.push({ logits, first, second });
    next = [given?.[i] ?? first];
  }
  return steps;
}

const perplexity: Operation = {
  name: 'perplexity',
  summary: 'mean negative log-likelihood of windows, every key and value from the cache (teacher-forced)',
  specification: 'docs/numerics.md "Whole models"',
  options: [
    ...MODEL_OPTIONS,
    { name: 'windows', values: 'count of windows', optional: true },
    { name: 'windowLength', values: 'tokens of a window', optional: true },
  ],
  tensors: [
    {
      name: 'tokens',
      role: 'input',
      dtype: 'I32',
      shape: '[windows, windowLength]',
      when: 'if not the held-out text',
    },
    { name: 'window_nll', role: 'output', dtype: 'F32', shape: '[windows]', comparison: 'bound' },
  ],
  async run(inputs, context): Promise<ExpectedTensors> {
    const losses = await windowLosses(inputs, context, 0);
    let noise = 0;
    for (const variation of VARIATIONS) {
      noise = Math.max(noise, largestDifference(await windowLosses(inputs, context, variation), losses));
    }
    return {
      window_nll: {
        dtype: 'F32',
        values: losses,
        shape: [losses.length],
        dimensions: ['window'],
        bound: (index) => noise + F32_ROUNDOFF * Math.abs(losses[index]),
      },
    };
  },
};

export async function windowLosses(
  inputs: CaseInputs,
  context: CheckContext,
  variation: number,
): Promise<Float32Array> {
  const { windows, length, data } = await windowTokens(inputs, context);
  const losses = new Float32Array(windows);
  for (let w = 0; w < windows; w++) {
    const ids = Array.from(data.subarray(w * length, (w + 1) * length));
    const { model, cache } = await modelAndCache(inputs, context, variation);
    const logits = await model.forward(ids, cache, { mode: 'teacherForced', logits: 'all' });
    let sum = 0;
    for (let t = 0; t + 1 < length; t++) sum += logSumExp(row(logits, t)) - row(logits, t)[ids[t + 1]];
    losses[w] = sum / (length - 1);
  }
  return losses;
}

/** Tokens of the case, or of the held-out text. */
async function windowTokens(
  inputs: CaseInputs,
  context: CheckContext,
): Promise<{ windows: number; length: number; data: Numbers }> {
  if (!inputs.has('tokens')) {
    const [windows, length] = [inputs.count('windows'), inputs.count('windowLength')];
    return { windows, length, data: await context.heldoutTokens(windows * length) };
  }
  const { shape, data } = inputs.integers('tokens');
  if (shape.length !== 2) throw new ShapeError('perplexity', 'tokens', ['windows', 'windowLength'], shape);
  return { windows: shape[0], length: shape[1], data };
}

const tokens: Operation = {
  name: 'tokens',
  summary: 'the first windows of the held-out text, in tokens of the embedded models',
  specification: 'docs/numerics.md "Whole models"',
  options: [
    { name: 'windows', values: 'count of windows' },
    { name: 'windowLength', values: 'tokens of a window' },
  ],
  tensors: [
    { name: 'tokens', role: 'output', dtype: 'I32', shape: '[windows * windowLength]', comparison: 'exact' },
  ],
  async run(inputs, context): Promise<ExpectedTensors> {
    const values = await context.heldoutTokens(inputs.count('windows') * inputs.count('windowLength'));
    return {
      tokens: { dtype: 'I32', values, shape: [values.length], dimensions: ['position'], stored: true },
    };
  },
};

const logits: Operation = {
  name: 'logits',
  summary: 'logits of an embedded model at some positions of some prompts, each in one pass',
  specification: 'docs/numerics.md "Whole models"',
  options: [
    { name: 'model', values: 'books-mha | books-gqa' },
    { name: 'cache', values: 'a cache argument (kv)', optional: true },
    { name: 'promptStarts', values: 'where the prompts come from', optional: true },
  ],
  tensors: [
    { name: 'tokens', role: 'input', dtype: 'I32', shape: '[prompts, length]' },
    { name: 'positions', role: 'input', dtype: 'I32', shape: '[positions]' },
    {
      name: 'logits',
      role: 'output',
      dtype: 'F32',
      shape: '[prompts, positions, vocabSize]',
      comparison: 'bound',
    },
  ],
  async run(inputs, context): Promise<ExpectedTensors> {
    const rows = await logitRows(inputs, context, 0);
    const noise = new Float64Array(rows.length);
    for (const variation of VARIATIONS) {
      (await logitRows(inputs, context, variation)).forEach((moved, i) => {
        noise[i] = Math.max(noise[i], largestDifference(moved, rows[i]));
      });
    }
    const [prompts] = inputs.tensor('tokens').shape;
    const vocabSize = rows[0].length;
    const values = new Float32Array(rows.length * vocabSize);
    rows.forEach((each, i) => {
      values.set(each, i * vocabSize);
    });
    return {
      logits: {
        dtype: 'F32',
        values,
        shape: [prompts, rows.length / prompts, vocabSize],
        dimensions: ['prompt', 'position', 'id'],
        bound: (index) => noise[Math.floor(index / vocabSize)],
      },
    };
  },
};

/** Logits of every prompt at every position, one array each. */
export async function logitRows(
  inputs: CaseInputs,
  context: CheckContext,
  variation: number,
): Promise<Float32Array[]> {
  const { shape, data } = inputs.integers('tokens');
  if (shape.length !== 2 || shape[0] < 1)
    throw new ShapeError('logits', 'tokens', ['prompts', 'length'], shape);
  const [prompts, length] = shape;
  const positions = Array.from(inputs.integers('positions').data);
  const outside = positions.find((position) => position < 0 || position >= length);
  if (outside !== undefined) throw new RangeError(`"positions" must be below ${length}, got ${outside}`);
  const rows: Float32Array[] = [];
  for (let p = 0; p < prompts; p++) {
    const { model, cache } = await modelAndCache(inputs, context, variation, 'kv');
    const ids = data.subarray(p * length, (p + 1) * length);
    const result = await model.forward(ids, cache, { logits: 'all' });
    for (const position of positions) rows.push(row(result, position));
  }
  return rows;
}

/** Operations on whole layers and models. */
export const MODEL_OPERATIONS: readonly Operation[] = [layer, tokens, logits, decode, perplexity];

async function modelAndCache(
  inputs: CaseInputs,
  context: CheckContext,
  variation: number,
  defaultCache?: string,
) {
  const { model: name, cache = defaultCache } = inputs.case.options;
  if (typeof name !== 'string') throw new ConfigError('model', name, 'the name of an embedded model');
  if (typeof cache !== 'string') throw new ConfigError('cache', cache, 'a cache argument');
  const model = await context.loadModel(name.replace(/\.gguf$/, ''), variation);
  return { model, cache: model.createCache(cache) };
}

/** Indices of the largest and second largest value; the first among equals. */
function topTwo(values: Float32Array): [number, number] {
  let first = 0;
  let second = -1;
  for (let i = 1; i < values.length; i++) {
    if (values[i] > values[first]) {
      second = first;
      first = i;
    } else if (second < 0 || values[i] > values[second]) {
      second = i;
    }
  }
  return [first, second];
}

/** Largest difference of two results of one length. */
export function largestDifference(a: Float32Array, b: Float32Array): number {
  let result = 0;
  for (let i = 0; i < a.length; i++) result = Math.max(result, Math.abs(a[i] - b[i]));
  return result;
}
