/**
 * Hunyuan, dense.
 *
 * @module
 */

import type { Family } from './family.js';

/**
 * Hunyuan dense, 0.5B to 7B: a norm on each head of queries and keys, after RoPE. Its "dynamic" RoPE scaling is a larger
 * theta for all lengths, which a GGUF file states as it is.
 */
export const HUNYUAN: Family = {
  name: 'hunyuan',
  models: 'Hunyuan (dense)',
  modelTypes: ['hunyuan_v1_dense'],
  ggufArchitectures: ['hunyuan-dense'],
  ropeLayout: { huggingFace: 'half', gguf: 'half' },
  defaults: { rmsNormEps: 1e-5 },
  fromConfig: (json, { headDim, ropeTheta }) => {
    json.only('use_cla', false); // keys and values of one layer for the next
    const rope = json.object('rope_scaling') ?? json.object('rope_parameters');
    const dynamic = (rope?.json.rope_type ?? rope?.json.type) === 'dynamic';
    const alpha = rope && dynamic ? rope.positive('alpha', 1) : 1;
    return {
      qkNorm: 'headAfterRope',
      ...(json.flag('attention_bias') ? { qkvBias: true, outputBias: true } : {}),
      ropeTheta: ropeTheta * alpha ** (headDim / (headDim - 2)),
    };
  },
  fromGguf: () => ({ qkNorm: 'headAfterRope' }),
};
