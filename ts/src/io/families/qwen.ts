/**
 * Qwen 2, 2.5 and 3, dense.
 *
 * @module
 */

import type { JsonReader } from '../json-reader.js';
import { type BaseConfig, type Family, type FamilyConfig, layersOf, slidingLayers } from './family.js';

/** Qwen files state a window and switch it off beside it; if it is on, the last layers slide. */
function windows(json: JsonReader, base: BaseConfig): FamilyConfig {
  if (!json.flag('use_sliding_window')) return {};
  const slidingWindow = json.count('sliding_window') ?? 4096;
  const first = json.number('max_window_layers', 28);
  const sliding = slidingLayers(json, base);
  return layersOf(base, (i) => ((sliding?.[i] ?? i >= first) ? { slidingWindow } : {}));
}

/** Qwen 2 and 2.5: biases of queries, keys and values. */
export const QWEN2: Family = {
  name: 'qwen2',
  models: 'Qwen 2 and 2.5',
  modelTypes: ['qwen2'],
  ggufArchitectures: ['qwen2'],
  ropeLayout: { huggingFace: 'half', gguf: 'half' },
  fromConfig: (json, base) => ({ qkvBias: true, ...windows(json, base) }),
  fromGguf: () => ({ qkvBias: true }),
};

/** Qwen 3: a norm on each head of queries and keys. */
export const QWEN3: Family = {
  name: 'qwen3',
  models: 'Qwen 3',
  modelTypes: ['qwen3'],
  ggufArchitectures: ['qwen3'],
  ropeLayout: { huggingFace: 'half', gguf: 'half' },
  fromConfig: (json, base) => ({
    qkNorm: 'head',
    ...(json.flag('attention_bias') ? { qkvBias: true, outputBias: true } : {}),
    ...windows(json, base),
  }),
  fromGguf: () => ({ qkNorm: 'head' }),
};
