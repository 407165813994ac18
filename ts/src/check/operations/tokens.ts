import type { ExpectedTensors, Operation } from '../operation.js';

/** The operation `tokens`. */
export const tokens: Operation = {
  name: 'tokens',
  summary: 'the first windows of the held-out text, in tokens of the embedded models',
  specification: 'docs/numerics.md "Whole models"',
  options: [
    { name: 'windows', values: 'count of windows' },
    { name: 'windowLength', values: 'tokens of a window' },
  ],
  tensors: [
    { name: 'tokens', role: 'output', dtype: 'I32', shape: '[windows * windowLength]', comparison: 'exact' },
  ],
  async run(inputs, context): Promise<ExpectedTensors> {
    const values = await context.heldoutTokens(inputs.count('windows') * inputs.count('windowLength'));
    return {
      tokens: { dtype: 'I32', values, shape: [values.length], dimensions: ['position'], stored: true },
    };
  },
};
