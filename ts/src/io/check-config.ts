/**
 * Turns what `assertModelConfig` says about a file's numbers into an error that names the file.
 *
 * @module
 */

import { ConfigError, FormatError } from '../errors.js';
import { assertModelConfig, type ModelConfig } from '../model/config.js';

/**
 * Gives the config back if the forward pass can run it.
 *
 * @param slidingWindow of all layers, where `config.layers` does not say
 * @throws {FormatError} names the file and the field
 */
export function checkConfig(model: ModelConfig, path: string, slidingWindow?: number): ModelConfig {
  const config = withWindows(model, slidingWindow);
  try {
    assertModelConfig(config);
  } catch (cause) {
    if (cause instanceof ConfigError || cause instanceof RangeError || cause instanceof TypeError) {
      throw new FormatError(path, 'model config', cause.message, { cause });
    }
    throw cause;
  }
  return config;
}

/** Windows that cover the whole context say nothing, so they are left out. */
function withWindows(config: ModelConfig, slidingWindow?: number): ModelConfig {
  const { layers: given, ...rest } = config;
  const inEach = slidingWindow === undefined ? {} : { slidingWindow };
  const every = given ?? Array.from({ length: config.numHiddenLayers }, () => inEach);
  const layers = every.map(({ slidingWindow: window, ...layer }) =>
    window !== undefined && window < config.maxPositionEmbeddings
      ? { ...layer, slidingWindow: window }
      : layer,
  );
  return layers.some((layer) => Object.keys(layer).length > 0) ? { ...rest, layers } : rest;
}

// Real models have up to 130 layers or so.
const MAX_LAYERS = 2 ** 16;

/**
 * Requires a count of layers that memory may be allocated for.
 *
 * @throws {FormatError} names the file
 */
export function checkLayers(layers: number, path: string): number {
  if (Number.isInteger(layers) && layers >= 1 && layers <= MAX_LAYERS) return layers;
  throw new FormatError(path, 'layers', `must be a count from 1 to ${MAX_LAYERS}, got ${layers}`);
}

// Real heads have 64 to 256 channels.
const MAX_HEAD_DIM = 2 ** 16;

/**
 * Requires a head size that memory may be allocated for.
 *
 * @throws {FormatError} names the file
 */
export function checkHeadDim(headDim: number, path: string): void {
  if (Number.isInteger(headDim) && headDim >= 2 && headDim <= MAX_HEAD_DIM && headDim % 2 === 0) return;
  throw new FormatError(path, 'head size', `must be an even number up to ${MAX_HEAD_DIM}, got ${headDim}`);
}
