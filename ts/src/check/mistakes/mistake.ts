/**
 * What a known mistake is, and the helpers that all of them use.
 *
 * @module
 */

import type { CaseInputs } from '../case/inputs.js';
import type { Expected } from '../compare/compare.js';
import type { CheckContext, ExpectedTensors } from '../operation.js';
import { findOperation } from '../operations/index.js';

/** One way to make a mistake. */
export interface Attempt {
  /** What exactly: `group size 64`. */
  readonly detail?: string;
  /** The outputs of a kernel that makes it. */
  outputs(): ExpectedTensors | Promise<ExpectedTensors>;
}

/** A mistake that kernels are known to make. */
export interface KnownMistake {
  /** Stable name. */
  readonly id: string;
  /** What the kernel does, in one line. */
  readonly title: string;
  /** Where the specification says otherwise. */
  readonly specification: string;
  readonly operations: readonly string[];
  /**
   * @param inputs of the case, possibly of its first tokens only
   * @param right what a right kernel gives for them
   */
  attempts(inputs: CaseInputs, context: CheckContext, right: ExpectedTensors): Iterable<Attempt>;
}

/** For operations that run no model. */
export const NO_MODELS: CheckContext = {
  loadModel: () => Promise.reject(new RangeError('no model is needed here')),
  heldoutTokens: () => Promise.reject(new RangeError('no text is needed here')),
};

/** A mistaken result as something to compare with. */
export function exactly(
  values: Expected['values'],
  dtype: Expected['dtype'],
  dimension: string,
  stored = true,
): Expected {
  return { dtype, values, shape: [values.length], dimensions: [dimension], stored };
}

/** A mistaken result held to the largest bound that the right one has: its sums are as long and as large. */
export function within(right: Expected, values: Float32Array): Expected {
  const { bound } = right;
  if (!bound) return { ...right, values };
  let largest = 0;
  for (let i = 0; i < values.length; i++) largest = Math.max(largest, bound(i));
  return { ...right, values, bound: () => 2 * largest };
}

/**
 * The operation on changed inputs.
 *
 * @param right what it gives for the inputs as they are
 */
export async function rerun(
  changed: CaseInputs,
  context: CheckContext,
  right: ExpectedTensors,
): Promise<ExpectedTensors> {
  const { run, runOnce } = findOperation(changed.case.operation);
  if (!runOnce) return run(changed, context);
  const values = await runOnce(changed);
  return Object.fromEntries(
    Object.entries(values).map(([name, result]) => [name, within(right[name], result)]),
  );
}
