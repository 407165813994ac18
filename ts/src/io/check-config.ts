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
