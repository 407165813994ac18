import { describe, expect, it } from 'vitest';
import { ConfigError, DisposedError, NumericError, ShapeError } from '../../../src/errors.js';
import type { ModelConfig } from '../../../src/model/config.js';
import type { ReferenceWeights } from '../../../src/model/weights.js';
import { matrix } from '../../../src/numerics/matrix.js';
import { ReferenceModel } from '../../../src/reference-model.js';
import { randomTokens, randomWeights, TINY_CONFIG } from '../../helpers/tiny-model.js';
import { modelLaws } from '../../laws/model-laws.js';

// Every dot product is exact to an f32 ulp of its result; a handful of layers of them.
modelLaws('reference', (config, weights) => new ReferenceModel(config, weights), 2 ** -24 * 64);

const tokens = randomTokens(24);

async function logits(config: ModelConfig, weights: ReferenceWeights) {
  const model = new ReferenceModel(config, weights);
  return (await model.forward(tokens, model.createCache('kv?quantizer=identity'))).data;
}

const largestDifference = (a: Float32Array, b: Float32Array) =>
  Math.max(...a.map((value, i) => Math.abs(value - b[i])));

describe('the family', () => {
  const weights = randomWeights(TINY_CONFIG, 3);
  const { headDim, numAttentionHeads } = TINY_CONFIG;

  it('interleaved RoPE on permuted rows of Wq and Wk is half RoPE', async () => {
    const permuteRows = (w: ReferenceWeights['embedding']) => {
      const result = matrix(w.rows, w.columns);
      for (let head = 0; head < numAttentionHeads; head++) {
        for (let i = 0; i < headDim; i++) {
          const from = head * headDim + (i >> 1) + (i & 1) * (headDim / 2);
          const to = head * headDim + i;
          result.data.set(w.data.subarray(from * w.columns, (from + 1) * w.columns), to * w.columns);
        }
      }
      return result;
    };
    const permuted = {
      ...weights,
      layers: weights.layers.map((layer) => ({
        ...layer,
        wQ: permuteRows(layer.wQ),
        wK: permuteRows(layer.wK),
      })),
    };
    const interleaved = await logits({ ...TINY_CONFIG, ropeLayout: 'interleaved' }, permuted);
    expect(interleaved).toEqual(await logits(TINY_CONFIG, weights));
  });

  it('biases and QK-norm take part (Qwen)', async () => {
    const plain = await logits(TINY_CONFIG, weights);
    const vector = (length: number, value: number) => new Float32Array(length).fill(value);
    const width = numAttentionHeads * headDim;
    const none = { bQ: vector(width, 0), bK: vector(width, 0), bV: vector(width, 0) };
    const withExtra = (config: Partial<ModelConfig>, extra: object) => {
      const layers = weights.layers.map((layer) => ({ ...layer, ...extra }));
      return logits({ ...TINY_CONFIG, ...config }, { ...weights, layers });
    };
    for (const role of ['bQ', 'bK', 'bV']) {
      const biased = await withExtra({ qkvBias: true }, { ...none, [role]: vector(width, 0.3) });
      expect(largestDifference(biased, plain), role).toBeGreaterThan(1e-3);
    }
    const norms = { queryNorm: vector(headDim, 1), keyNorm: vector(headDim, 1) };
    expect(largestDifference(await withExtra({ qkNorm: 'head' }, norms), plain)).toBeGreaterThan(1e-3);
    expect(await withExtra({ qkvBias: true }, none)).toEqual(plain);
    // a tensor that the config does not know of would be ignored
    await expect(withExtra({}, none)).rejects.toThrow(/layer 0 bQ.*no tensor in this model/);
  });

  it('a tied output is the embedding', async () => {
    const tied = { ...weights, output: weights.embedding };
    const copied = { ...weights, output: matrix(257, 64, weights.embedding.data.slice()) };
    expect(await logits(TINY_CONFIG, tied)).toEqual(await logits(TINY_CONFIG, copied));
  });
});

describe('bad models', () => {
  const weights = randomWeights(TINY_CONFIG, 3);
  const make = (config: Partial<ModelConfig>, changed: Partial<ReferenceWeights> = {}) => {
    return () => new ReferenceModel({ ...TINY_CONFIG, ...config }, { ...weights, ...changed });
  };

  it('names what disagrees', () => {
    expect(make({ numKeyValueHeads: 3 })).toThrow(ConfigError);
    expect(make({ headDim: 15 })).toThrow(/headDim/);
    expect(make({ hiddenSize: 65 })).toThrow(/hiddenSize/);
    expect(make({ rmsNormEps: 0 })).toThrow(/rmsNormEps/);
    expect(make({ numHiddenLayers: 0 })).toThrow(RangeError);
    expect(make({ vocabSize: 300 })).toThrow(ShapeError);
    expect(make({ intermediateSize: 128 })).toThrow(/layer 0 wGate/);
    expect(make({}, { layers: weights.layers.slice(1) })).toThrow(/layers/);
    expect(make({}, { outputNorm: new Float32Array(3) })).toThrow(/outputNorm/);
    const broken = weights.layers.map((layer, i) =>
      i === 2 ? { ...layer, mlpNorm: layer.mlpNorm?.map((gain, c) => (c === 5 ? Number.NaN : gain)) } : layer,
    );
    expect(make({}, { layers: broken })).toThrow(NumericError);
    expect(make({}, { layers: broken })).toThrow(/layer 2 mlpNorm/);
  });

  it('is not usable after dispose', async () => {
    const model = make({})();
    const cache = model.createCache('kv');
    model.dispose();
    await expect(model.forward([1], cache)).rejects.toThrow(DisposedError);
  });
});
