import type { CaseInputs } from '../case/inputs.js';
import type { Expected } from '../compare/compare.js';
import type { CheckContext, ExpectedTensors, Operation } from '../operation.js';
import { largestDifference, MODEL_OPTIONS, modelAndCache, VARIATIONS } from './whole-model.js';

/** The operation `decode`. */
export const decode: Operation = {
  name: 'decode',
  summary: 'greedy generation with an embedded model through a cache',
  specification: 'docs/numerics.md "Whole models"',
  options: MODEL_OPTIONS,
  tensors: [
    { name: 'prompt', role: 'input', dtype: 'I32', shape: '[tokens]' },
    { name: 'ids', role: 'output', dtype: 'I32', shape: '[generated]', comparison: 'exact' },
    { name: 'last_logits', role: 'output', dtype: 'F32', shape: '[vocabSize]', comparison: 'bound' },
    { name: 'top_gap', role: 'output', dtype: 'F32', shape: '[generated]', comparison: 'bound' },
  ],
  async run(inputs, context): Promise<ExpectedTensors> {
    const prompt = Array.from(inputs.integers('prompt').data);
    const dumped = inputs.has('ids') ? inputs.integers('ids').data : new Int32Array(64);
    const count = dumped.length;
    const steps = await generateGreedily(inputs, context, 0, prompt, count);
    const ids = Int32Array.from(steps, ({ first }) => first);
    const sameIds = ids.every((id, i) => id === dumped[i]);

    // The same tokens through moved models: how far logits may be off at each step.
    const noise = new Float64Array(count);
    for (const variation of VARIATIONS) {
      const moved = await generateGreedily(inputs, context, variation, prompt, count, ids);
      moved.forEach(({ logits }, i) => {
        noise[i] = Math.max(noise[i], largestDifference(logits, steps[i].logits));
      });
    }
    const gaps = Float32Array.from(steps, ({ logits, first, second }) => logits[first] - logits[second]);
    // After the first id that could have been another one, everything may be different.
    const firstUndecided = gaps.findIndex((gap, i) => gap <= 2 * noise[i]);
    const isUndecided = (index: number) => firstUndecided >= 0 && index >= firstUndecided;
    const outputs: Record<string, Expected> = {
      ids: { dtype: 'I32', values: ids, shape: [count], dimensions: ['step'], stored: true, isUndecided },
    };
    const diverged = (index: number) => !sameIds && isUndecided(index);
    const { logits } = steps[count - 1];
    return {
      ...outputs,
      top_gap: {
        dtype: 'F32',
        values: gaps,
        shape: [count],
        dimensions: ['step'],
        bound: (index) => 2 * noise[index],
        isUndecided: diverged,
      },
      last_logits: {
        dtype: 'F32',
        values: logits,
        shape: [logits.length],
        dimensions: ['id'],
        bound: () => noise[count - 1],
        isUndecided: () => diverged(count - 1),
      },
    };
  },
};

interface Step {
  readonly logits: Float32Array;
  /** Most likely and second most likely id. */
  readonly first: number;
  readonly second: number;
}

/**
 * Generates.
 *
 * @param given tokens that are fed in place of the most likely ones
 */
export async function generateGreedily(
  inputs: CaseInputs,
  context: CheckContext,
  variation: number,
  prompt: readonly number[],
  count: number,
  given?: Int32Array,
): Promise<Step[]> {
  const { model, cache } = await modelAndCache(inputs, context, variation);
  const steps: Step[] = [];
  let next = prompt;
  for (let i = 0; i < count; i++) {
    const logits = (await model.forward(next, cache)).data;
    const [first, second] = topTwo(logits);
    steps.push({ logits, first, second });
    next = [given?.[i] ?? first];
  }
  return steps;
}

/** Indices of the largest and second largest value; the first among equals. */
function topTwo(values: Float32Array): [number, number] {
  let first = 0;
  let second = -1;
  for (let i = 1; i < values.length; i++) {
    if (values[i] > values[first]) {
      second = first;
      first = i;
    } else if (second < 0 || values[i] > values[second]) {
      second = i;
    }
  }
  return [first, second];
}
