/**
 * Families whose norms come after attention and MLP: the X of the paper is the stream itself.
 *
 * @module
 */

import { type Family, layersOf, slidingLayers } from './family.js';

/** OLMo 2: QK-norm over the whole width of queries and of keys. */
export const OLMO2: Family = {
  name: 'olmo2',
  models: 'OLMo 2',
  modelTypes: ['olmo2'],
  ggufArchitectures: ['olmo2'],
  ropeLayout: { huggingFace: 'half', gguf: 'half' },
  defaults: { rmsNormEps: 1e-5 },
  fromConfig: (json) => ({
    norms: 'after',
    qkNorm: 'width',
    ...(json.flag('attention_bias') ? { qkvBias: true, outputBias: true } : {}),
  }),
  fromGguf: (metadata) => {
    metadata.only('attention.sliding_window', 0); // OLMo 3, whose sliding layers have a RoPE of their own
    return { norms: 'after', qkNorm: 'width' };
  },
};

/** EXAONE 4: QK-norm of each head; in its hybrid models every fourth layer sees everything, and without RoPE. */
export const EXAONE4: Family = {
  name: 'exaone4',
  models: 'EXAONE 4',
  modelTypes: ['exaone4'],
  ggufArchitectures: ['exaone4'],
  ropeLayout: { huggingFace: 'half', gguf: 'half' },
  defaults: { rmsNormEps: 1e-5 },
  fromConfig: (json, base) => {
    const config = { norms: 'after', qkNorm: 'head' } as const;
    const slidingWindow = json.json.sliding_window === undefined ? 4096 : json.count('sliding_window');
    if (slidingWindow === undefined) return config;
    const pattern = json.count('sliding_window_pattern') ?? 4;
    const sliding = slidingLayers(json, base);
    const slides = (i: number) => sliding?.[i] ?? (i + 1) % pattern !== 0;
    return { ...config, ...layersOf(base, (i) => (slides(i) ? { slidingWindow } : { rope: 'none' })) };
  },
  fromGguf: (metadata, base) => {
    const config = { norms: 'after', qkNorm: 'head' } as const;
    const slidingWindow = metadata.window();
    if (slidingWindow === undefined) return config;
    const slides = metadata.windowPattern(base.numHiddenLayers) ?? ((i: number) => (i + 1) % 4 !== 0);
    return { ...config, ...layersOf(base, (i) => (slides(i) ? { slidingWindow } : { rope: 'none' })) };
  },
};
