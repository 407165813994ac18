/**
 * QK-norm after RoPE (Hunyuan), computed so that a key is finished before RoPE, as in all other families.
 *
 * RoPE keeps the length of a head, so the norm may come before it; the gain may not. A score is
 *
 *     (G_q R q) . (G_k R k)  =  (G_q G_k R q) . (R k)       q, k normalized, R their rotations, G diagonal
 *
 * so queries take both gains, after RoPE, and keys take none: caches store them normalized.
 *
 * @module
 */

import type { ModelConfig } from './config.js';

/** Gains of QK-norm. */
interface Gains {
  readonly queryNorm?: Float32Array;
  readonly keyNorm?: Float32Array;
}

/** Whether queries are normalized after RoPE. */
export function normalizesAfterRope({ qkNorm }: Pick<ModelConfig, 'qkNorm'>): boolean {
  return qkNorm === 'headAfterRope';
}

/**
 * A layer with the gains of its QK-norm where the forward pass applies them: after RoPE both go to the queries.
 *
 * @param layer as a file has it
 */
export function withScoreGains<T extends Gains>(layer: T, config: Pick<ModelConfig, 'qkNorm'>): T {
  const { queryNorm, keyNorm } = layer;
  if (!normalizesAfterRope(config) || !queryNorm || !keyNorm) return layer;
  const both = queryNorm.map((gain, i) => gain * keyNorm[i]);
  return { ...layer, queryNorm: both, keyNorm: new Float32Array(keyNorm.length).fill(1) };
}
