/**
 * What the operations on embedded models share.
 *
 * @module
 */

import { ConfigError } from '../../errors.js';
import type { CaseInputs } from '../case/inputs.js';
import type { CheckContext, OptionDoc } from '../operation.js';

/** Options of operations on embedded models. */
export const MODEL_OPTIONS: readonly OptionDoc[] = [
  { name: 'model', values: 'books-mha | books-gqa' },
  { name: 'cache', values: 'a cache argument' },
];

/** Moved models that say how far a correct implementation may be off; each costs one more run. */
export const VARIATIONS: readonly number[] = [1, 2];

export async function modelAndCache(
  inputs: CaseInputs,
  context: CheckContext,
  variation: number,
  defaultCache?: string,
) {
  const { model: name, cache = defaultCache } = inputs.case.options;
  if (typeof name !== 'string') throw new ConfigError('model', name, 'the name of an embedded model');
  if (typeof cache !== 'string') throw new ConfigError('cache', cache, 'a cache argument');
  const model = await context.loadModel(name.replace(/\.gguf$/, ''), variation);
  return { model, cache: model.createCache(cache) };
}

/** Largest difference of two results of one length. */
export function largestDifference(a: Float32Array, b: Float32Array): number {
  let result = 0;
  for (let i = 0; i < a.length; i++) result = Math.max(result, Math.abs(a[i] - b[i]));
  return result;
}
