/**
 * Logits of an embedded model.
 *
 * @module
 */

import { ShapeError } from '../../errors.js';
import { row } from '../../numerics/matrix.js';
import type { CaseInputs } from '../case/inputs.js';
import type { CheckContext, ExpectedTensors, Operation } from '../operation.js';
import { largestDifference, modelAndCache, VARIATIONS } from './whole-model.js';

/** The operation `logits`. */
export const logits: Operation = {
  name: 'logits',
  summary: 'logits of an embedded model at some positions of some prompts, each in one pass',
  specification: 'docs/numerics.md "Whole models"',
  options: [
    { name: 'model', values: 'books-mha | books-gqa' },
    { name: 'cache', values: 'a cache argument (kv)', optional: true },
    { name: 'promptStarts', values: 'where the prompts come from', optional: true },
  ],
  tensors: [
    { name: 'tokens', role: 'input', dtype: 'I32', shape: '[prompts, length]' },
    { name: 'positions', role: 'input', dtype: 'I32', shape: '[positions]' },
    {
      name: 'logits',
      role: 'output',
      dtype: 'F32',
      shape: '[prompts, positions, vocabSize]',
      comparison: 'bound',
    },
  ],
  async run(inputs, context): Promise<ExpectedTensors> {
    const rows = await logitRows(inputs, context, 0);
    const noise = new Float64Array(rows.length);
    for (const variation of VARIATIONS) {
      (await logitRows(inputs, context, variation)).forEach((moved, i) => {
        noise[i] = Math.max(noise[i], largestDifference(moved, rows[i]));
      });
    }
    const [prompts] = inputs.tensor('tokens').shape;
    const vocabSize = rows[0].length;
    const values = new Float32Array(rows.length * vocabSize);
    rows.forEach((each, i) => {
      values.set(each, i * vocabSize);
    });
    return {
      logits: {
        dtype: 'F32',
        values,
        shape: [prompts, rows.length / prompts, vocabSize],
        dimensions: ['prompt', 'position', 'id'],
        bound: (index) => noise[Math.floor(index / vocabSize)],
      },
    };
  },
};

/** Logits of every prompt at every position, one array each. */
export async function logitRows(
  inputs: CaseInputs,
  context: CheckContext,
  variation: number,
): Promise<Float32Array[]> {
  const { shape, data } = inputs.integers('tokens');
  if (shape.length !== 2 || shape[0] < 1)
    throw new ShapeError('logits', 'tokens', ['prompts', 'length'], shape);
  const [prompts, length] = shape;
  const positions = Array.from(inputs.integers('positions').data);
  const outside = positions.find((position) => position < 0 || position >= length);
  if (outside !== undefined) throw new RangeError(`"positions" must be below ${length}, got ${outside}`);
  const rows: Float32Array[] = [];
  for (let p = 0; p < prompts; p++) {
    const { model, cache } = await modelAndCache(inputs, context, variation, 'kv');
    const ids = data.subarray(p * length, (p + 1) * length);
    const result = await model.forward(ids, cache, { logits: 'all' });
    for (const position of positions) rows.push(row(result, position));
  }
  return rows;
}
