/**
 * The families that run, and how a file finds its own.
 *
 * @module
 */

import { UnsupportedModelError } from '../../errors.js';
import { describeValue } from '../../printable.js';
import type { Family } from './family.js';
import { GEMMA3 } from './gemma3.js';
import { HUNYUAN } from './hunyuan.js';
import { ERNIE45, GRANITE, LLAMA, MINICPM, MINISTRAL3, MISTRAL, SMOLLM3 } from './llama.js';
import { EXAONE4, OLMO2 } from './olmo2.js';
import { PHI3 } from './phi3.js';
import { QWEN2, QWEN3 } from './qwen.js';

/** All families. */
export const FAMILIES: readonly Family[] = [
  LLAMA,
  MISTRAL,
  QWEN2,
  QWEN3,
  SMOLLM3,
  GRANITE,
  MINICPM,
  OLMO2,
  EXAONE4,
  PHI3,
  GEMMA3,
  ERNIE45,
  MINISTRAL3,
  HUNYUAN,
];

/** Names of the families. */
export const ARCHITECTURES: readonly string[] = FAMILIES.map(({ name }) => name);

const SUPPORTED = FAMILIES.map(({ name, models }) => `${name} (${models})`).join(', ');

/**
 * The family of a Hugging Face folder.
 *
 * @param modelType `model_type` of config.json
 * @throws {UnsupportedModelError} names the type
 */
export function familyOfModelType(modelType: unknown, path: string): Family {
  const family = FAMILIES.find(({ modelTypes }) => (modelTypes as readonly unknown[]).includes(modelType));
  if (!family) throw new UnsupportedModelError(path, `architecture ${describeValue(modelType)}`, SUPPORTED);
  return family;
}

/**
 * The family of a GGUF file.
 *
 * @param architecture `general.architecture`
 * @throws {UnsupportedModelError} names the architecture
 */
export function familyOfGguf(architecture: string, path: string): Family {
  const family = FAMILIES.find(({ ggufArchitectures }) => ggufArchitectures.includes(architecture));
  if (!family)
    throw new UnsupportedModelError(path, `architecture ${describeValue(architecture)}`, SUPPORTED);
  return family;
}
