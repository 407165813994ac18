/**
 * Everything that has to agree with the golden files. The suite in golden.test.ts runs the same laws for
 * each entry; a second engine becomes a second entry.
 */

import { CaseInputs, type CheckCase } from '../../src/check/inputs.js';
import { expectedTensor } from '../../src/check/make-case.js';
import type { CheckContext } from '../../src/check/operation.js';
import { findOperation } from '../../src/check/operations.js';
import type { Tensor } from '../../src/check/tensor.js';

export interface Implementation {
  readonly name: string;
  /** Operations that it computes. */
  computes(operation: string): boolean;
  /** Outputs of a case, by tensor name. */
  run(source: CheckCase, context: CheckContext): Promise<Readonly<Record<string, Tensor>>>;
}

const reference: Implementation = {
  name: 'reference',
  computes: () => true,
  async run(source, context) {
    const expected = await findOperation(source.operation).run(new CaseInputs(source), context);
    return Object.fromEntries(
      Object.entries(expected).map(([name, tensor]) => [name, expectedTensor(tensor)]),
    );
  },
};

export const IMPLEMENTATIONS: readonly Implementation[] = [reference];
