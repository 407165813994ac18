/**
 * Phi-3 and Phi-4-mini: projections stored as one matrix, RoPE of part of a head, LongRoPE.
 *
 * @module
 */

import type { Family } from './family.js';

/** Phi-3, Phi-3.5 and Phi-4-mini. */
export const PHI3: Family = {
  name: 'phi3',
  models: 'Phi-3, Phi-3.5-mini, Phi-4-mini',
  modelTypes: ['phi3'],
  ggufArchitectures: ['phi3'],
  ropeLayout: { huggingFace: 'half', gguf: 'half' },
  defaults: { rmsNormEps: 1e-5 },
  fused: {
    huggingFace: [
      { name: 'self_attn.qkv_proj.weight', roles: ['wQ', 'wK', 'wV'] },
      { name: 'mlp.gate_up_proj.weight', roles: ['wGate', 'wUp'] },
    ],
    gguf: [
      { name: 'attn_qkv.weight', roles: ['wQ', 'wK', 'wV'] },
      { name: 'ffn_up.weight', roles: ['wGate', 'wUp'] },
    ],
  },
  fromConfig: (json) => ({ slidingWindow: json.count('sliding_window') }),
};
