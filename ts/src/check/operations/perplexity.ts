/**
 * Losses of windows with an embedded model.
 *
 * @module
 */

import { ShapeError } from '../../errors.js';
import { row } from '../../numerics/matrix.js';
import { logSumExp } from '../../sampling.js';
import type { CaseInputs } from '../case/inputs.js';
import type { Numbers } from '../case/tensor.js';
import { F32_ROUNDOFF } from '../compare/tolerance.js';
import type { CheckContext, ExpectedTensors, Operation } from '../operation.js';
import { largestDifference, MODEL_OPTIONS, modelAndCache, VARIATIONS } from './whole-model.js';

/** The operation `perplexity`. */
export const perplexity: Operation = {
  name: 'perplexity',
  summary: 'mean negative log-likelihood of windows, every key and value from the cache (teacher-forced)',
  specification: 'docs/numerics.md "Whole models"',
  options: [
    ...MODEL_OPTIONS,
    { name: 'windows', values: 'count of windows', optional: true },
    { name: 'windowLength', values: 'tokens of a window', optional: true },
  ],
  tensors: [
    {
      name: 'tokens',
      role: 'input',
      dtype: 'I32',
      shape: '[windows, windowLength]',
      when: 'if not the held-out text',
    },
    { name: 'window_nll', role: 'output', dtype: 'F32', shape: '[windows]', comparison: 'bound' },
  ],
  async run(inputs, context): Promise<ExpectedTensors> {
    const losses = await windowLosses(inputs, context, 0);
    let noise = 0;
    for (const variation of VARIATIONS) {
      noise = Math.max(noise, largestDifference(await windowLosses(inputs, context, variation), losses));
    }
    return {
      window_nll: {
        dtype: 'F32',
        values: losses,
        shape: [losses.length],
        dimensions: ['window'],
        bound: (index) => noise + F32_ROUNDOFF * Math.abs(losses[index]),
      },
    };
  },
};

export async function windowLosses(
  inputs: CaseInputs,
  context: CheckContext,
  variation: number,
): Promise<Float32Array> {
  const { windows, length, data } = await windowTokens(inputs, context);
  const losses = new Float32Array(windows);
  for (let w = 0; w < windows; w++) {
    const ids = Array.from(data.subarray(w * length, (w + 1) * length));
    const { model, cache } = await modelAndCache(inputs, context, variation);
    const logits = await model.forward(ids, cache, { mode: 'teacherForced', logits: 'all' });
    let sum = 0;
    for (let t = 0; t + 1 < length; t++) sum += logSumExp(row(logits, t)) - row(logits, t)[ids[t + 1]];
    losses[w] = sum / (length - 1);
  }
  return losses;
}

/** Tokens of the case, or of the held-out text. */
async function windowTokens(
  inputs: CaseInputs,
  context: CheckContext,
): Promise<{ windows: number; length: number; data: Numbers }> {
  if (!inputs.has('tokens')) {
    const [windows, length] = [inputs.count('windows'), inputs.count('windowLength')];
    return { windows, length, data: await context.heldoutTokens(windows * length) };
  }
  const { shape, data } = inputs.integers('tokens');
  if (shape.length !== 2) throw new ShapeError('perplexity', 'tokens', ['windows', 'windowLength'], shape);
  return { windows: shape[0], length: shape[1], data };
}
