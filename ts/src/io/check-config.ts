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
 * @throws {FormatError} names the file and the field
 */
export function checkConfig(config: ModelConfig, path: string): ModelConfig {
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
