/**
 * When a dump does not match: which known mistake explains all of it?
 *
 * A mistake is named only if recomputing with it makes every dumped output match, those that were right
 * before included. Random corruption fits nothing, and then nothing is said. On data that cannot tell two
 * mistakes apart both are named.
 *
 * @module
 */

import { XQuantError } from '../errors.js';
import type { CaseInputs } from './case/inputs.js';
import { compareTensor, type TensorReport } from './compare/compare.js';
import { cropCase, type TokenRange } from './crop.js';
import { KNOWN_MISTAKES } from './mistakes/index.js';
import type { Attempt } from './mistakes/mistake.js';
import type { CheckContext, ExpectedTensors } from './operation.js';
import { findOperation } from './operations/index.js';

/** Seconds after which no further mistake is tried, unless asked otherwise. */
export const DIAGNOSE_SECONDS = 20;

/** A mistake that explains a dump. */
export interface Diagnosis {
  readonly id: string;
  readonly title: string;
  readonly detail?: string;
  readonly specification: string;
  /** Tensors that did not match and do with the mistake. */
  readonly explains: readonly string[];
  /** Tokens of the dump that were looked at, if not all. */
  readonly tokens?: TokenRange;
}

/** What the search found, and whether it came to its end. */
export interface DiagnosisResult {
  readonly diagnoses: readonly Diagnosis[];
  /** Time ran out before every mistake was tried. */
  readonly stoppedEarly: boolean;
}

/**
 * Looks for the mistakes that explain a dump.
 *
 * @param reports of the outputs, at least one failing
 * @param seconds after which no further mistake is tried
 */
export async function diagnose(
  inputs: CaseInputs,
  reports: readonly TensorReport[],
  context: CheckContext,
  seconds = DIAGNOSE_SECONDS,
): Promise<DiagnosisResult> {
  const nothing = { diagnoses: [], stoppedEarly: false };
  const failing = reports
    .filter(({ name, verdict }) => verdict === 'fail' && inputs.has(name))
    .map(({ name }) => name);
  const { operation } = inputs.case;
  if (failing.length === 0 || !KNOWN_MISTAKES.some(({ operations }) => operations.includes(operation)))
    return nothing;
  const cropped = cropCase(inputs, reports);
  // The part that is looked at has to show the mismatch, or anything would fit.
  const baseline = await findOperation(operation).run(cropped.inputs, context);
  if (explains(cropped.inputs, baseline)) return nothing;

  const found: Diagnosis[] = [];
  const end = performance.now() + 1000 * seconds;
  for (const mistake of KNOWN_MISTAKES) {
    if (!mistake.operations.includes(operation)) continue;
    for (const attempt of mistake.attempts(cropped.inputs, context, baseline)) {
      if (performance.now() > end) return { diagnoses: found, stoppedEarly: true };
      if (!(await fits(attempt, cropped.inputs, baseline))) continue;
      const { id, title, specification } = mistake;
      found.push({
        id,
        title,
        detail: attempt.detail,
        specification,
        explains: failing,
        tokens: cropped.tokens,
      });
      break;
    }
  }
  return { diagnoses: found, stoppedEarly: false };
}

async function fits(attempt: Attempt, inputs: CaseInputs, baseline: ExpectedTensors): Promise<boolean> {
  let outputs: ExpectedTensors;
  try {
    outputs = await attempt.outputs();
  } catch (error) {
    // A mistake that cannot even be made on these inputs (a range beyond f16, say) is not the one.
    if (error instanceof XQuantError || error instanceof RangeError) return false;
    throw error;
  }
  return explains(inputs, { ...baseline, ...outputs });
}

/** Whether every dumped output is as expected. */
function explains(inputs: CaseInputs, expected: ExpectedTensors): boolean {
  return Object.entries(expected).every(([name, tensor]) => {
    const found = inputs.case.tensors.get(name);
    return (
      !found ||
      (compareTensor(name, tensor, found).failing === 0 && sameCount(tensor.values.length, name, inputs))
    );
  });
}

function sameCount(count: number, name: string, inputs: CaseInputs): boolean {
  const tensor = inputs.tensor(name);
  const elements = tensor.shape.reduce((product, size) => product * size, 1);
  return elements === count || tensor.bytes.length === count;
}
