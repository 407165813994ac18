import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ConfigError } from '../../../src/errors.js';
import { assertModelConfig, type ModelConfig } from '../../../src/model/config.js';
import { withScoreGains } from '../../../src/model/qk-norm.js';
import { applyRope, ropeFrequencies } from '../../../src/model/rope.js';
import { dot, matrix } from '../../../src/numerics/matrix.js';
import { normalizeHeads } from '../../../src/numerics/rms-norm.js';

const headDim = 16;
const epsilon = 1e-5;
const qkNorm = 'headAfterRope';
const frequencies = ropeFrequencies({ ropeTheta: 10_000, headDim });
const head = fc.array(fc.integer({ min: -1000, max: 1000 }), { minLength: headDim, maxLength: headDim });

describe('QK-norm after RoPE', () => {
  it.each(['half', 'interleaved'] as const)('%s: scores are those of the definition', (layout) => {
    fc.assert(
      fc.property(head, head, head, head, fc.nat(10_000), fc.nat(10_000), (q, k, gq, gk, at, past) => {
        const rotate = (values: Float32Array, position: number) =>
          applyRope(matrix(1, headDim, values), position, frequencies, layout);
        const [query, key, queryNorm, keyNorm] = [q, k, gq, gk].map((each) =>
          Float32Array.from(each, (value) => value / 500),
        );
        const defined = dot(
          normalizeHeads(rotate(query, at), queryNorm, epsilon).data,
          normalizeHeads(rotate(key, past), keyNorm, epsilon).data,
        );
        const gains = withScoreGains({ queryNorm, keyNorm }, { qkNorm });
        const finished = normalizeHeads(matrix(1, headDim, key), gains.keyNorm, epsilon);
        const score = dot(
          normalizeHeads(rotate(query, at), gains.queryNorm, epsilon).data,
          rotate(finished.data, past).data,
        );
        // 16 terms of at most 4 * 4 * 4 * 4, a few roundings to f32 each
        expect(Math.abs(score - defined)).toBeLessThan(16 * 256 * 8 * 2 ** -24);
      }),
    );
  });

  it('leaves gains before RoPE alone', () => {
    const layer = { queryNorm: new Float32Array(headDim), keyNorm: new Float32Array(headDim) };
    expect(withScoreGains(layer, { qkNorm: 'head' })).toBe(layer);
  });

  it('is refused where RoPE scales what it rotates', () => {
    const config: ModelConfig = {
      architecture: 'hunyuan',
      hiddenSize: 32,
      intermediateSize: 32,
      numHiddenLayers: 1,
      numAttentionHeads: 2,
      numKeyValueHeads: 2,
      headDim,
      vocabSize: 32,
      maxPositionEmbeddings: 64,
      rmsNormEps: epsilon,
      ropeTheta: 10_000,
      ropeLayout: 'half',
      tieWordEmbeddings: true,
      qkNorm,
    };
    expect(() => assertModelConfig(config)).not.toThrow();
    expect(() => assertModelConfig({ ...config, ropeMagnitude: 1.2 })).toThrow(ConfigError);
    const layers = [{ rope: { ropeTheta: 1, ropeMagnitude: 1.2 } }];
    expect(() => assertModelConfig({ ...config, layers })).toThrow(/ropeMagnitude/);
  });
});
